"""Pack what scripts import into a zip: ``python -m sparklet.job.bundle [sparklet-job.zip]``.

It is for ``spark-submit --py-files``, EMR or Glue's ``--extra-py-files``, where nothing else of Sparklet is installed.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import sparklet

SOURCES = ("__init__.py", "job/**/*.py", "connectors/*.py", "connectors/*/*.py")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def write_bundle(target: Path) -> list[str]:
    """Write the zip, replacing ``target``. Return the names in it."""
    package = Path(sparklet.__file__).parent
    paths = sorted(path for pattern in SOURCES for path in package.glob(pattern))
    path_by_name = {f"sparklet/{path.relative_to(package).as_posix()}": path for path in paths}
    target.write_bytes(packed(path_by_name))
    return sorted(path_by_name)


def packed(path_by_name: Mapping[str, Path]) -> bytes:
    """Return a zip of files, given by their names in it. Equal files give equal bytes; every user can read them."""
    with zipfile.ZipFile(body := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(path_by_name.items()):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return body.getvalue()


def main() -> None:
    """Write the zip that the command line names."""
    target = sys.argv[1] if len(sys.argv) > 1 else "sparklet-job.zip"
    if not target.endswith(".zip"):
        sys.exit(f"{target} is not the name of a zip: name the file to write, such as sparklet-job.zip")
    print(f"{target}: {len(write_bundle(Path(target)))} files")


if __name__ == "__main__":
    main()
