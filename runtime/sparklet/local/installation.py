"""Files and packages of this installation of Sparklet, and the command that installs a missing one."""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sparklet.errors import LocalStackError


def resource(path: str) -> Path:
    """The file that lies at ``path`` in a checkout, such as ``sam/template.yaml``; a wheel has it beside this module.

    LocalStackError if neither this installation nor a checkout has it.
    """
    beside = Path(__file__).with_name(Path(path).name)
    in_checkout = Path(__file__).resolve().parents[3] / path
    for candidate in (beside, in_checkout):
        if candidate.is_file():
            return candidate
    raise LocalStackError(f"{path} came neither with this installation nor with a checkout; install Sparklet anew")


def install_command(extra: str = "local") -> str:
    """The command that installs Sparklet with an extra, from where this installation came: a file, git, or an index."""
    try:
        origin = json.loads(distribution("sparklet").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    vcs = origin.get("vcs_info", {}).get("vcs", "")
    url = f"{vcs}+{origin['url']}" if vcs else origin.get("url", "")
    return shlex.join(["pip", "install", f"sparklet[{extra}]" + (f" @ {url}" if url else "")])


def missing(package: str) -> str:
    """The message for a user who lacks a package of the local mode."""
    return f"the package {package} is missing, which the local stack needs: {install_command()}"
