"""A user's own libraries as the workers need them: a requirements file becomes a folder, or a zip beside the script."""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparklet.app.costs import WorkerSize
from sparklet.app.reporter import size_text
from sparklet.errors import PlanError, SettingsError
from sparklet.job.bundle import packed
from sparklet.model import LIBRARIES, MIB

TAGS = {"x86_64": "x86_64", "arm64": "aarch64"}
GLIBC = 34  # 2.34: Amazon Linux 2023, as the worker's image
PYTHON = "3.11"  # of the image
MAX_BYTES = 1024 * MIB  # unpacked: they share /tmp with the shard


@contextmanager
def packed_requirements(requirements: Path, size: WorkerSize) -> Iterator[Path]:
    """A py-file with what a requirements file names, for the workers' Python and processor.

    Raises
    ------
    SettingsError
        With pip's last words, if a library has no wheel for the workers.
    PlanError
        If they have more than MAX_BYTES, or the file is not there.
    """
    if not requirements.is_file():
        raise PlanError(f"--requirements {requirements}: there is no such file")
    architecture, python = size.architecture, PYTHON
    if size.is_local:
        by_machine = {tag: name for name, tag in TAGS.items()}
        architecture = by_machine.get(platform.machine(), platform.machine())
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="sparklet-requirements-") as name:
        install_requirements(folder := Path(name) / "libraries", requirements, architecture, python)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        if (size_bytes := sum(path.stat().st_size for path in paths)) > MAX_BYTES:
            raise PlanError(
                f"the libraries of {requirements} have {size_text(size_bytes)}, more than {size_text(MAX_BYTES)}: put "
                "them into the image (docs/guide/image.md)"
            )
        (libraries := Path(name) / LIBRARIES).write_bytes(
            packed({path.relative_to(folder).as_posix(): path for path in paths})
        )
        yield libraries


def install_requirements(target: Path, requirements: Path, architecture: str, python: str) -> None:
    """The requirements as the workers need them; SettingsError with pip's last words."""
    machine = TAGS.get(architecture, architecture)
    # pip compares tags by their names alone: a wheel for an older glibc is found only if its tag is named, too.
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "-r", str(requirements)]
    command += [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SettingsError(f"pip could not install {requirements}: {done.stderr.strip()[-1000:]}")
