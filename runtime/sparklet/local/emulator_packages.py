"""The emulator's own packages, fetched once, by their digests, into the user's cache.

ministack pins its botocore. In the user's environment it would pin theirs, and all that goes with it. So only the
emulator's process sees these packages, before all others, and hands them to none of the functions' processes.
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
from sparklet.local.lock import Lock, incoming
from sparklet.local.state import user_folder

EMULATOR = "from sparklet.local.emulator import main; main()"


def emulator_python(packages: Path, code: str, *arguments: str) -> list[str]:
    """The command that runs code with the emulator's packages, which lie where ``ensure_emulator`` says."""
    # By sys.path, not by PYTHONPATH, which the functions' processes would inherit.
    first = "import sys; sys.path.insert(0, sys.argv.pop(1))"
    return [sys.executable, "-P", "-c", f"{first}; {code}", str(packages), *arguments]


def packages_folder() -> Path:
    """Where the packages of this version are, for this Python and processor: some are compiled."""
    lock = resource("requirements/emulator.lock").read_bytes()
    name = f"{sysconfig.get_config_var('SOABI')}-{hashlib.sha256(lock).hexdigest()[:16]}"
    return user_folder("cache").resolve() / "emulator" / name


def ensure_emulator(say: Progress, offline: bool = False) -> Path:
    """The folder of the packages, which are fetched where they are not there yet; of several processes one does.

    LocalStackError, with the installer's last words, if they cannot be fetched (``offline``: are not there).
    """
    folder = packages_folder()
    if folder.exists():
        return folder
    if offline:
        raise LocalStackError(f"the emulator of AWS is not in {folder}; this is offline mode. Run once with network")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Lock(folder.parent / "lock") as lock:
            lock.exclusive(math.inf, lambda: say("another process is fetching the emulator of AWS; waiting for it"))
            if not folder.exists():
                say(f"fetching the emulator of AWS, once, into {folder}")
                with incoming(folder.parent) as draft:
                    _install(draft / "packages")
                    # In one step: a folder that is there is complete.
                    (draft / "packages").rename(folder)
    except OSError as error:
        raise LocalStackError(
            f"{folder.parent} cannot be written: {error.strerror}; SPARKLET_CACHE_DIR names another cache"
        ) from error
    return folder


def _install(target: Path) -> None:
    lock = resource("requirements/emulator.lock")
    command, remedy = _installer()
    # The lock file names every package with its digest; nothing else may be resolved.
    command += ["--target", str(target), "--no-deps", "--require-hashes", "--requirement", str(lock)]
    # What would contradict the lock file: the user's constraints, also those in a pyproject in this folder or above.
    env = {**os.environ, "PYTHONPATH": "", "PIP_CONSTRAINT": os.devnull, "UV_CONSTRAINT": "", "UV_SYSTEM_CERTS": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=target.parent)
    if done.returncode:
        raise LocalStackError(f"the emulator of AWS could not be fetched: {done.stderr.strip()[-1000:]}\n{remedy}")


def _installer() -> tuple[list[str], str]:
    """pip, or uv if the environment is uv's and has no pip; and the settings that give each the user's own index."""
    own_index = "An index of your own is taken from"
    if importlib.util.find_spec("pip"):
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-user"]
        return [sys.executable, "-P", "-m", "pip", "install", *options], f"{own_index} PIP_INDEX_URL or pip.conf"
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable]
        return command, f"{own_index} UV_DEFAULT_INDEX or uv.toml"
    raise LocalStackError("the emulator of AWS is fetched by pip or uv, and there is neither: python -m ensurepip")
