"""The modules beside a local script that it imports, packed to come along as Python finds them there.

``python job.py`` and spark-submit have the script's folder on the path, so ``import helpers`` means the file or the
package of this name beside the script, before any other.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from sparklet.errors import PlanError
from sparklet.job.bundle import packed
from sparklet.model import MIB
from sparklet.spark.script import Script

# By the worker, whatever lies beside the script.
SERVED = frozenset({"pyspark", "py4j", "sparklet", "awsglue", "awsgluedq"})
MAX_FILES, MAX_MIB = 2000, 50


def modules_beside(script: Path, body: bytes, brought: Collection[str] = ()) -> bytes | None:
    """A zip archive of the modules that a script imports from its folder, also by each other; None without any.

    Parameters
    ----------
    brought
        Names of modules that come along anyhow, by ``--py-files``.

    Raises
    ------
    PlanError
        If the modules have more than MAX_FILES files, or MAX_MIB.
    """
    folder, files, names = script.parent, dict[str, Path](), [*Script(body).imports]
    known = {*SERVED, *brought}
    while names:
        if (name := names.pop()) in known:
            continue
        known.add(name)
        for path in _files_of(folder, name):
            files[path.relative_to(folder).as_posix()] = path
            if path.suffix == ".py":
                names += Script(path.read_bytes()).imports
            if len(files) > MAX_FILES:
                raise _too_large(script, name, f"more than {MAX_FILES} files")
    if sum(path.stat().st_size for path in files.values()) > MAX_MIB * MIB:
        largest = max(files, key=lambda name: files[name].stat().st_size)
        raise _too_large(script, largest, f"more than {MAX_MIB} MiB")
    return packed(files) if files else None


def _files_of(folder: Path, name: str) -> Iterator[Path]:
    """The files of a module, or of a package with all that is in it; one without ``__init__.py`` is Python's last."""
    package, module = folder / name, folder / f"{name}.py"
    if module.is_file() and not (package / "__init__.py").is_file():
        yield module
        return
    inside = [path for path in sorted(package.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    if any(path.suffix == ".py" for path in inside):
        yield from inside


def _too_large(script: Path, name: str, what: str) -> PlanError:
    return PlanError(
        f"what {script} imports from its folder has {what}, {name} among it: keep data apart from modules, or bring "
        "the modules by --py-files"
    )
