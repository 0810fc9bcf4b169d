"""Build an environment from its lock file: run by `make venv`, quick when nothing changed.

`.venv` has Spark's default line, from dev.lock; `.venv-spark-4.1` is the same with that Spark, from dev-spark-4.1.lock.

Only the standard library: this runs before anything is installed.
"""

import sys

if sys.version_info < (3, 11):  # before anything an older Python cannot parse or import
    sys.exit(
        "Sparklet needs Python 3.11 or newer, and %s is %d.%d. Say which to use: make PYTHON=/path/to/python3.11 …"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

import fcntl
import hashlib
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.resolve()
PROJECT = REQUIREMENTS.parent
VENV = PROJECT / (sys.argv[1] if sys.argv[1:] else ".venv")
LOCK = REQUIREMENTS / f"dev{VENV.name.removeprefix('.venv')}.lock"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".sparklet-stamp"
MIN_FREE_BYTES = 3 * 1024**3
STILL_THERE_EVERY_S = 10.0


def fingerprint() -> str:
    """What the environment was made from; the path is part of it, since a moved venv is broken."""
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    parts = [sys.version, str(PROJECT), repr(declared["build-system"]), repr(declared["project"])]
    parts += [path.read_text() for path in (LOCK, Path(__file__))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def step(what: str, *command: str | Path) -> None:
    """Say what happens, do it, say now and then that it goes on; stop with a remedy if it fails."""
    print(f"→ {what}", flush=True)
    started_s = time.monotonic()
    process = subprocess.Popen([*map(str, command)], cwd=PROJECT)
    while True:
        try:
            code = process.wait(timeout=STILL_THERE_EVERY_S)
            break
        except subprocess.TimeoutExpired:
            print(f"  … at it for {time.monotonic() - started_s:.0f} s", flush=True)
    if code:
        sys.exit(f"{what}: failed (its messages are above). Nothing half-made is used: run the same command again.")
    print(f"  done in {time.monotonic() - started_s:.0f} s", flush=True)


def venv_is_ours() -> bool:
    """Whether the venv works and belongs to this Python and this path."""
    if not PYTHON.exists():
        return False
    code = "import sys, pip; print(sys.version, sys.prefix, sep='\\0', end='')"
    answer = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout == f"{sys.version}\0{VENV}"


def build() -> None:
    """Create or update the environment."""
    if not venv_is_ours():
        free_bytes = shutil.disk_usage(PROJECT).free
        if free_bytes < MIN_FREE_BYTES:
            sys.exit(f"{PROJECT}: {free_bytes / 1024**3:.1f} GiB free, 3 are needed for the environment. Make room.")
        step(f"create {VENV.name} with Python {sys.version.split()[0]}", sys.executable, "-m", "venv", "--clear", VENV)
    step(
        "install the installer (uv) and the build tools",
        *pip("install", "--quiet", "--require-hashes", "-r", REQUIREMENTS / "bootstrap.lock"),
    )
    # Build isolation would fetch build tools without hashes; ours come from bootstrap.lock.
    step(
        f"install {LOCK.name} (some 650 MB; pyspark, half of it, is built here)",
        *uv("sync", "--system-certs", "--require-hashes", "--no-build-isolation", LOCK),
    )
    step(
        "install Sparklet itself, editable",
        *uv("install", "--no-deps", "--no-build-isolation", "--quiet", "--editable", PROJECT),
    )


def pip(*arguments: str | Path) -> list[str | Path]:
    """The command for the venv's pip; by module, since a script's first line cannot hold a path with a space."""
    return [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def uv(verb: str, *arguments: str | Path) -> list[str | Path]:
    """The command for the venv's uv, working on that venv."""
    return [PYTHON, "-m", "uv", "pip", verb, "--python", PYTHON, *arguments]


def main() -> None:
    """Bring the environment up to date with its lock file, one process at a time."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted and PYTHON.exists():
            return
        STAMP.unlink(missing_ok=True)
        build()
        STAMP.write_text(wanted)
        print(f"environment ready: {VENV.name}", flush=True)


main()
