"""What Sparklet may delete on this machine: folders that it made, known by a marker or by names that it alone gives.

A path may be another than the one that was meant: an empty variable, ``.``, a link, somebody's own ``tmp``. Nothing
else of ``runtime/`` deletes trees (ruff refuses ``shutil.rmtree``); objects are deleted ``within`` a prefix alone.
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
    """SettingsError unless Sparklet made the folder, or it is empty or not there; nothing is changed."""
    try:
        held = next(folder.iterdir(), None) if folder.exists() else None
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used: {error.strerror}; name another folder ({option})") from error
    if held and not (folder / MARKER).exists():
        raise SettingsError(f"{folder} holds {held.name}, and Sparklet did not make it; name a new folder ({option})")


def make_own(folder: Path, option: str, mode: int = 0o777) -> None:
    """Make a folder, or take an empty one, and mark it; one that is there keeps its mode. See ``refuse_foreign``."""
    refuse_foreign(folder, option)
    folder.mkdir(mode, parents=True, exist_ok=True)
    (folder / MARKER).touch()


def delete_own(folder: Path) -> None:
    """``delete_tree`` for a folder of Sparklet's own; ValueError if neither its name nor a marker above it says so."""
    if not (_NAMES.fullmatch(folder.name) or (folder.name and (folder.parent / MARKER).exists())):
        raise ValueError(f"{folder} is not a folder of Sparklet's own, and is not deleted")
    delete_tree(folder)


def delete_tree(folder: Path) -> None:
    """Delete a folder of any depth, read-only folders included; no link is followed. It never raises.

    Folders within folders are moved up, so no path gets too long. Remaining files are logged.
    """
    if folder.is_symlink() or not folder.exists():
        return
    # A random prefix, since the folder may hold any other name already.
    mark, numbers, folders = os.urandom(8).hex(), itertools.count(), [folder]
    with contextlib.suppress(OSError):
        for path in folders:
            # A script may have left folders that not even their owner can list.
            path.chmod(0o700)
            for entry in list(path.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    entry.chmod(0o700)  # or it cannot be moved
                    folders.append(entry.rename(folder / f"{mark}{next(numbers)}"))
    with contextlib.suppress(RecursionError):  # of folders that could not be moved
        shutil.rmtree(folder, ignore_errors=True)  # noqa: TID251 - the one place
    if stays := [f"{path.relative_to(folder)}" for path in itertools.islice(folder.rglob("*"), 3)]:
        _log.warning("%s could not be deleted completely, %a is left", folder, stays)
