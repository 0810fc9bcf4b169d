"""Jars on paths from which Java takes their classes into a class-data archive.

Java 17 compares the path of a jar with the one in the jar's URL. Where the URL spells it otherwise, a space as ``%20``,
Java takes none of the jar's classes from an archive, and does not say so. Java resolves symbolic links first, so hard
links are made of such jars, or copies where they lie on another file system, in a folder whose path needs no spelling.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

MIN_FREE_BYTES = 2 * 2**30
OTHERWISE = Path("/var/tmp")  # noqa: S108 - a folder of the user's own in it


def is_plain(path: Path) -> bool:
    """Whether a URL spells the path as it is."""
    return quote(str(path), safe="/@+,=~") == str(path)


def linked_jars(jars: Sequence[Path | str], folder: Path, otherwise: Path = OTHERWISE) -> list[Path]:
    """The jars, those on other than plain paths by links below ``folder``; as they are if no links can be made.

    ``otherwise`` is a folder that everybody may write to, for links where ``folder`` is on such a path itself.
    """
    try:
        folder = folder if is_plain(folder) else _own(otherwise / f"sparklet-{os.getuid()}")
        for place in folder.glob("*"):
            if (place / "source").is_symlink() and not (place / "source").exists():  # or links would keep deleted jars
                shutil.rmtree(place, ignore_errors=True)
        return [jar if is_plain(jar) else _linked(jar, folder) for jar in (Path(jar).resolve() for jar in jars)]
    except OSError:
        return list(map(Path, jars))


def _own(folder: Path) -> Path:
    """The folder, which nobody else may write to; OSError if somebody might."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o170022 != 0o040000:
        raise PermissionError(f"{folder} is not a folder that only this user may write to")
    return folder


def _linked(jar: Path, folder: Path) -> Path:
    found = jar.stat()
    name = sha256(os.fsencode(f"{jar}\0{found.st_size}\0{found.st_mtime_ns}")).hexdigest()[:16]
    link = folder / name / jar.name
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (link.parent / "source").symlink_to(jar)
        draft = link.with_name(f".{os.getpid()}")
        try:
            os.link(jar, draft)
        except OSError:  # another file system, or a jar of another user's
            if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
                raise
            shutil.copy2(jar, draft)
        draft.replace(link)
    return link
