"""Files of the project that the local mode needs: a wheel has them beside this module, a checkout in their place."""

from pathlib import Path

from sparklet.errors import LocalStackError


def resource(path: str) -> Path:
    """The file that lies at ``path`` in a checkout, such as ``sam/template.yaml``.

    Raises
    ------
    LocalStackError
        If neither this installation nor a checkout has it.
    """
    beside = Path(__file__).with_name(Path(path).name)
    in_checkout = Path(__file__).resolve().parents[3] / path
    for candidate in (beside, in_checkout):
        if candidate.is_file():
            return candidate
    raise LocalStackError(f"{path} came neither with this installation nor with a checkout; install Sparklet anew")
