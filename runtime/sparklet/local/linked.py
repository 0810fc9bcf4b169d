"""Jars on paths from which Java takes their classes into a class-data archive.

Java 17 compares the path of a jar with the one in the jar's URL. Where the URL spells it otherwise, a space as ``%20``,
Java takes none of the jar's classes from an archive, and does not say so. Java resolves symbolic links first, so hard
links are made of such jars, or copies where they lie on another file system, in a folder whose path needs no spelling.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

MIN_FREE_BYTES = 2 * 2**30
OTHERWISE = Path("/var/tmp")  # noqa: S108 - a folder of the user's own in it
SOURCE = "source"  # a file that names the folder which the jars beside it are from


def is_plain(path: Path) -> bool:
    """Whether a URL spells the path as it is."""
    return quote(str(path), safe="/@+,=~") == str(path)


def linked_jars(jars: Sequence[Path], folder: Path, otherwise: Path = OTHERWISE) -> list[Path]:
    """The jars, in their order, those on other than plain paths by links below ``folder``, which are made if need be.

    Parameters
    ----------
    otherwise
        A folder that everybody may write to, for links where ``folder`` itself is on such a path.

    Where no links can be made the jars are as they were: all works, with a slower start.
    """
    jars = [jar.resolve() for jar in jars]
    try:
        if not is_plain(folder):
            folder = _own(otherwise / f"sparklet-{os.getuid()}")
        _forget_what_is_gone(folder)
        return [jar if is_plain(jar) else _linked(jar, folder) for jar in jars]
    except OSError:
        return jars


def _own(folder: Path) -> Path:
    """The folder, which nobody else may write to; OSError if somebody might."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"{folder} is not this user's own")
    return folder


def _linked(jar: Path, folder: Path) -> Path:
    place = folder / sha256(os.fsencode(jar.parent)).hexdigest()[:16]
    link, wanted = place / jar.name, jar.stat()
    with contextlib.suppress(FileNotFoundError):
        found = link.stat()
        if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return link
    place.mkdir(parents=True, exist_ok=True)
    (place / SOURCE).write_text(str(jar.parent))
    draft = place / f".{jar.name}.{os.getpid()}"
    try:
        os.link(jar, draft)
    except OSError:  # another file system, or a jar of another user's
        if shutil.disk_usage(place).free < MIN_FREE_BYTES:
            raise
        shutil.copy2(jar, draft)
    draft.replace(link)
    return link


def _forget_what_is_gone(folder: Path) -> None:
    """Delete the links of folders that are no more: they would keep the jars."""
    for source in folder.glob(f"*/{SOURCE}"):
        if not Path(source.read_text()).is_dir():
            shutil.rmtree(source.parent, ignore_errors=True)
