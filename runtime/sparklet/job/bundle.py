"""Pack what scripts import into one file: ``python -m sparklet.job.bundle [sparklet-job.zip]``.

The zip goes to ``spark-submit --py-files``, to EMR or to Glue's ``--extra-py-files``; nothing
else of Sparklet needs to be installed there. The same sources give the same bytes.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import sparklet

SOURCES = ("__init__.py", "job/*.py")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first moment a zip knows: no build time in the file


def write_bundle(target: Path) -> list[str]:
    """Write the zip, replacing ``target``; returns the names in it."""
    package = Path(sparklet.__file__).parent
    files = sorted(path for pattern in SOURCES for path in package.glob(pattern))
    names = [f"sparklet/{path.relative_to(package).as_posix()}" for path in files]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, path in zip(names, files):  # noqa: B905 - strict= is not in Python 3.9
            bundle.writestr(zipfile.ZipInfo(name, EARLIEST), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return names


def main() -> None:
    """Write the bundle that the command line names."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "sparklet-job.zip")
    print(f"{target}: {len(write_bundle(target))} files")


if __name__ == "__main__":
    main()
