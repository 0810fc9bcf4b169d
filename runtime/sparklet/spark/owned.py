"""Deletes folders on this machine, but only those that Sparklet made, which have a marker or a name of its own.

A path can be wrong: an empty variable, ``.``, a link, somebody's own ``tmp``. No other module of ``runtime/`` deletes
folders (ruff refuses ``shutil.rmtree``). Objects in S3 are only deleted ``within`` a prefix.
"""

import contextlib
import itertools
import logging
import os
import re
import shutil
from pathlib import Path

from sparklet.errors import SettingsError
from sparklet.model import PUBLISHED

MARKER = ".made-by-sparklet"
_NAMES = re.compile(rf"(?:sparklet|task|jvm)-.+|{PUBLISHED.pattern}")
_log = logging.getLogger(__name__)


def refuse_foreign(folder: Path, option: str) -> None:
    """Raise SettingsError if the folder has content and was not made by Sparklet."""
    try:
        entry = next(folder.iterdir(), None) if folder.exists() else None
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used: {error.strerror}; name another folder ({option})") from error
    if entry and not (folder / MARKER).exists():
        raise SettingsError(f"{folder} holds {entry.name}, and Sparklet did not make it; name a new folder ({option})")


def make_own(folder: Path, option: str, mode: int = 0o777) -> None:
    """Make a folder and mark it; an existing empty folder is marked and keeps its mode. See ``refuse_foreign``."""
    refuse_foreign(folder, option)
    folder.mkdir(mode, parents=True, exist_ok=True)
    (folder / MARKER).touch()


def delete_own(folder: Path) -> None:
    """Delete a folder that Sparklet made; ValueError if neither its name nor a marker in its parent shows that."""
    if not (_NAMES.fullmatch(folder.name) or (folder.name and (folder.parent / MARKER).exists())):
        raise ValueError(f"{folder} is not a folder of Sparklet's own, and is not deleted")
    delete_tree(folder)


def delete_tree(folder: Path) -> None:
    """Delete a folder with all its content, also read-only folders. Links are not followed. Never raises.

    Inner folders are moved up, so that no path gets too long. Files that could not be deleted are logged.
    """
    if folder.is_symlink() or not folder.exists():
        return
    # A random prefix, since the folder may hold any other name already.
    mark, numbers, folders = os.urandom(8).hex(), itertools.count(), [folder]
    with contextlib.suppress(OSError):
        for path in folders:
            # A script may have taken away its own permission to list a folder.
            path.chmod(0o700)
            for entry in list(path.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    entry.chmod(0o700)  # without it the folder could not be moved
                    folders.append(entry.rename(folder / f"{mark}{next(numbers)}"))
    with contextlib.suppress(RecursionError):  # if folders could not be moved, they may be too deep
        shutil.rmtree(folder, ignore_errors=True)  # noqa: TID251 - only here
    if remaining := [f"{path.relative_to(folder)}" for path in itertools.islice(folder.rglob("*"), 3)]:
        _log.warning("%s could not be deleted completely, %a is left", folder, remaining)
