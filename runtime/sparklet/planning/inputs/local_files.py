"""Local files as input: the command line uploads them before a run is planned."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from sparklet.errors import PlanError
from sparklet.planning.inputs.selection import Filter, is_hidden
from sparklet.planning.inputs.table_folders import TableFolders, refuse_part_of_table


def local_files(path: Path, file_filter: Filter | None = None) -> Iterator[tuple[Path, str]]:
    """The files below a folder, or the file itself, each with its key relative to the folder.

    The order is that of an S3 listing of those keys. Links are followed. Files that ``file_filter`` leaves out are not
    opened. PlanError if the path is not there, or a file cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise PlanError(f"the input {path} is not there; check its spelling (you are in {Path.cwd()})") from None
    except OSError as error:
        raise PlanError(f"the input {path} cannot be read: {error.strerror}") from error
    file_filter = file_filter or Filter()
    if stat.S_ISDIR(mode):
        folder = f"{path.resolve()}/".replace("//", "/")
        refuse_part_of_table(
            folder, file_filter.exclude, lambda name: map(str, Path(name).parent.glob(f"{Path(name).name}*"))
        )
        tables = TableFolders(folder, file_filter.exclude)
        for file, key in _walk(path, "", ()):
            tables.sees(folder + key)
            if file_filter.keeps(key):
                if not is_hidden(key):
                    tables.plans(folder + key)
                yield _checked(file, key)
    elif file_filter.keeps(path.name):
        yield _checked(path, path.name)


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, str]]:
    """One folder and those below it; ``above`` are the identities of the folders it lies in."""
    identity = (folder.stat().st_dev, folder.stat().st_ino)
    if identity in above:
        raise PlanError(f"the link {folder} leads back into a folder above it; remove it or name other inputs")
    for name in _names(folder):
        path, key = folder / name.rstrip("/"), prefix + name
        if name.endswith("/"):
            yield from _walk(path, key, (*above, identity))
        else:
            yield path, key


def _names(folder: Path) -> list[str]:
    """A folder's entries, folders with a slash at the end, so that their order is that of whole keys."""
    try:
        with os.scandir(folder) as entries:
            # S3 sorts whole keys: a-b.csv comes before a/x, though the name a comes before a-b.csv.
            return sorted(entry.name + "/" * _is_folder(entry) for entry in entries)
    except OSError as error:
        raise PlanError(f"the folder {folder} cannot be listed: {error.strerror}; make it readable") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself: refused as a file, unless it is left out


def _checked(path: Path, key: str) -> tuple[Path, str]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = "a link to nothing" if path.is_symlink() else str(error.strerror)
        raise PlanError(
            f"the file {path} cannot be read: {reason}; repair it or leave it out with --exclude"
        ) from error
    if not stat.S_ISREG(mode):
        raise PlanError(f"{path} is neither file nor folder; leave it out with --exclude '{path.name}'")
    if not os.access(path, os.R_OK):
        raise PlanError(f"the file {path} may not be read; make it readable or leave it out with --exclude")
    encoding = sys.getfilesystemencoding()
    try:
        key.encode("utf-8" if encoding == "utf-8" else "ascii")
    except UnicodeEncodeError as error:
        what = "is not UTF-8; rename it" if encoding == "utf-8" else f"is read as {encoding} here; set PYTHONUTF8=1"
        raise PlanError(f"the name of {os.fsencode(path)!r} cannot be a key, since it {what}") from error
    return path, key
