"""Pack ``sparklet.job`` into a zip or a wheel: ``python -m sparklet.job.bundle [sparklet-job.zip | FOLDER/]``.

The zip is for ``spark-submit --py-files``, EMR or Glue's ``--extra-py-files``; nothing else of Sparklet needs to be
installed there. For a folder (a name that ends in ``/``, or one that exists) it is the wheel ``sparklet-job`` instead.
The same sources give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import sparklet

SOURCES = ("__init__.py", "job/*.py", "job/databases/*.py", "job/tables/*.py")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first moment a zip knows: no build time in the file
DISTRIBUTION = "sparklet_job"

WHEEL = """\
Wheel-Version: 1.0
Generator: sparklet.job.bundle
Root-Is-Purelib: true
Tag: py3-none-any
"""
METADATA = """\
Metadata-Version: 2.1
Name: sparklet-job
Version: {version}
Summary: What a PySpark script imports from Sparklet: the same script on Lambda, a laptop, EMR and Glue
License: Apache-2.0
Requires-Python: >=3.9
Provides-Extra: spark
Requires-Dist: pyspark>=3.3; extra == "spark"
Description-Content-Type: text/plain

The package sparklet.job alone. It needs pyspark, which a Spark brings; sparklet-job[spark] installs it, too. Do not
install it together with sparklet, which has the same files.
"""


def write_bundle(target: Path) -> list[str]:
    """Write the zip, replacing ``target``; returns the names in it."""
    files = _files()
    write_zip(target, files)
    return list(files)


def write_wheel(folder: Path) -> Path:
    """Write the wheel into ``folder``, which is made if it is missing; returns its path."""
    version = sparklet.__version__
    info = f"{DISTRIBUTION}-{version}.dist-info"
    files = {
        **_files(),
        f"{info}/METADATA": METADATA.format(version=version).encode(),
        f"{info}/WHEEL": WHEEL.encode(),
    }
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{DISTRIBUTION}-{version}-py3-none-any.whl"
    write_zip(target, files)
    return target


def _files() -> dict[str, bytes]:
    package = Path(sparklet.__file__).parent
    paths = sorted(path for pattern in SOURCES for path in package.glob(pattern))
    return {f"sparklet/{path.relative_to(package).as_posix()}": path.read_bytes() for path in paths}


def write_zip(target: Path | IO[bytes], files: Mapping[str, bytes]) -> None:
    """Write files by their names."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.external_attr = 0o644 << 16
            bundle.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def main() -> None:
    """Write what the command line names."""
    given = sys.argv[1] if len(sys.argv) > 1 else "sparklet-job.zip"
    if given.endswith("/") or Path(given).is_dir():
        print(write_wheel(Path(given)))
    else:
        print(f"{given}: {len(write_bundle(Path(given)))} files")


if __name__ == "__main__":
    main()
