"""The emulator's own packages, fetched once, by their digests, into the user's cache.

ministack pins the version of botocore. Installed in the user's environment, it would pin the user's botocore, too. So
only the emulator's process imports these packages, before all others; the functions' processes do not inherit them.
"""

import hashlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from sparklet.errors import LocalStackError
from sparklet.local.environment import resource
from sparklet.local.ivy import Progress
from sparklet.local.lock import Lock, incoming_folder
from sparklet.local.state import user_folder

EMULATOR = "from sparklet.local.emulator import main; main()"


def emulator_python(packages: Path, code: str, *arguments: str) -> list[str]:
    """The command that runs code with the emulator's ``packages``, the folder that ``ensure_emulator`` returns."""
    # By sys.path, since the functions' processes would inherit PYTHONPATH.
    preamble = "import sys; sys.path.insert(0, sys.argv.pop(1))"
    return [sys.executable, "-P", "-c", f"{preamble}; {code}", str(packages), *arguments]


def packages_folder() -> Path:
    """The folder for this version's packages. Some are compiled, so each Python and processor has its own folder."""
    lock = resource("requirements/emulator.lock").read_bytes()
    name = f"{sysconfig.get_config_var('SOABI')}-{hashlib.sha256(lock).hexdigest()[:16]}"
    return user_folder("cache").resolve() / "emulator" / name


def ensure_emulator(progress: Progress, offline: bool = False) -> Path:
    """Fetch the packages if they are not in their folder yet; return that folder. Of several callers one fetches.

    LocalStackError, with the installer's output, if the packages cannot be fetched, or are missing in ``offline`` mode.
    """
    folder = packages_folder()
    if folder.exists():
        return folder
    if offline:
        raise LocalStackError(
            f"the emulator of AWS is not in {folder}, and offline mode forbids to fetch it: run once with a network"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Lock(folder.parent / "lock") as lock:
            waiting_text = "another process is fetching the emulator of AWS; waiting for it"
            lock.exclusive(math.inf, lambda: progress(waiting_text))
            if not folder.exists():
                progress(f"fetching the emulator of AWS, once, into {folder}")
                with incoming_folder(folder.parent) as draft:
                    _install(draft / "packages")
                    # In one step, so that a folder that exists is complete.
                    (draft / "packages").rename(folder)
    except OSError as error:
        raise LocalStackError(
            f"{folder.parent} cannot be written: {error.strerror}; choose another cache folder with SPARKLET_CACHE_DIR"
        ) from error
    return folder


def _install(target: Path) -> None:
    lock = resource("requirements/emulator.lock")
    command, remedy = _installer()
    # The lock file names every package with its digest; nothing else may be resolved.
    command += ["--target", str(target), "--no-deps", "--require-hashes", "--requirement", str(lock)]
    # Without the user's constraints, which might contradict the lock file. A pyproject.toml may hold some, too, so the
    # installer runs in another folder than the user's.
    env = {**os.environ, "PYTHONPATH": "", "PIP_CONSTRAINT": os.devnull, "UV_CONSTRAINT": "", "UV_SYSTEM_CERTS": "true"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=target.parent)
    if result.returncode:
        raise LocalStackError(f"the emulator of AWS could not be fetched: {result.stderr.strip()[-1000:]}\n{remedy}")


def _installer() -> tuple[list[str], str]:
    """The command of pip, or of uv if there is no pip; and a hint on the settings that name the user's own index."""
    own_index = "Your own package index is read from"
    if importlib.util.find_spec("pip"):
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-user"]
        return [sys.executable, "-P", "-m", "pip", "install", *options], f"{own_index} PIP_INDEX_URL or pip.conf"
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        return command, f"{own_index} UV_DEFAULT_INDEX or uv.toml"
    raise LocalStackError("the emulator of AWS is fetched by pip or uv, and neither is installed: python -m ensurepip")
