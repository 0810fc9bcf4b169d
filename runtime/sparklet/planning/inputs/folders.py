"""The files of a folder on this machine, and which files of any folder belong to a table.

Only the log of a Delta, Hudi or Iceberg table says which of its files hold rows. Read as plain files, they also give
deleted and replaced rows; read as a table, they would give all rows to each shard.
"""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from sparklet.errors import ObjectForbiddenError, PlanError, UnplannableError
from sparklet.planning.inputs.selection import Filter, is_hidden, matches

FORMATS = {"_delta_log/": "delta", ".hoodie/": "hudi", "metadata/": "iceberg"}  # by the folder of the log
_LOG = re.compile(  # other files in metadata/, such as report.pdf.metadata.json, do not make a table
    r"/(_delta_log/(?=\d{20}\.)|\.hoodie/(?=hoodie\.properties$)"
    r"|metadata/(?=(?:v\d+|\d{5,}-[\da-f-]{36})(?:\.gz)?\.metadata\.json(?:\.gz)?$))"
)
MAX_LISTS = 16  # at a time
_LOG_BEGINNINGS = ("_delta_log/0", ".hoodie/hoodie.properties", "metadata/0", "metadata/v")


class TableFolders:
    """Refuses, while an input folder is listed, to plan the files of a table in the folder.

    The objects of a table follow each other in the listing, so only one table and the last planned object are kept. A
    table is allowed if a pattern excludes its log: so the user asks for its files as they are.
    """

    def __init__(self, folder: str, exclude: Sequence[str], last_planned: str = "") -> None:
        self._folder, self._exclude, self._last_planned = folder, exclude, last_planned
        # No address begins with a zero character.
        self._table = self._log = "\0"

    def note_listed(self, uri: str) -> None:
        """Note an object of the listing; UnplannableError if it shows that the last planned object is a table's."""
        if (log := _LOG.search(uri)) and not uri.startswith(self._table):
            # Names in the log that no file has: only a pattern that excludes the whole log matches them.
            names_in_log = {f"{uri[start : log.end()]}\0" for start in (log.start(1), len(self._folder))}
            if not any(matches(path, pattern) for path in names_in_log for pattern in self._exclude):
                self._table, self._log = uri[: log.start(1)], uri[: log.end()]
                # A table's data may be listed before its log: Iceberg's data/ comes before metadata/.
                self.note_planned(self._last_planned)

    def note_planned(self, uri: str) -> None:
        """Note a planned object; UnplannableError if it is in a table's folder and not part of the table's log."""
        self._last_planned = uri
        if not uri.startswith(self._table) or uri.startswith(self._log):
            return
        log, below = self._log[len(self._table) :], self._table[len(self._folder) :]
        left_out = f"leave the table out with --exclude '{below}**', " if below else ""
        raise UnplannableError(
            f"{self._table} is the folder of a {FORMATS[log].capitalize()} table, and only its {log} says which of its "
            f"files hold rows: read the whole table by spark.read.format('{FORMATS[log]}').load('{self._table}') in a "
            "script without an input (sparklet invoke), or by job.table('DATABASE.TABLE') if it is in the catalog; "
            f"{left_out}or take its files as they are, with deleted and replaced rows, by --exclude '**/{log}**'"
        )


def refuse_part_of_table(folder: str, exclude: Sequence[str], names: Callable[[str], Iterable[str]]) -> None:
    """UnplannableError if an input folder is a table's or lies in one; ``names`` lists those that begin with a text."""
    tables = TableFolders(folder, exclude, folder)
    # A bucket's root is left out: few have the permission to list it, and few buckets are a table.
    slashes = [*re.finditer("^/|(?<![:/])/", folder)][1:]
    prefixes = [folder[: slash.end()] + log for slash in slashes for log in _LOG_BEGINNINGS]

    def first_names(prefix: str) -> list[str]:
        with suppress(ObjectForbiddenError):  # the permission to list may be for the input's folder only
            # A page of S3's listing has 1,000 keys, and the first keys of a log suffice.
            return [*islice(names(prefix), 1000)]
        return []

    with ThreadPoolExecutor(MAX_LISTS) as lists:
        for uri in chain.from_iterable(lists.map(first_names, prefixes)):
            tables.note_listed(uri)


def local_files(path: Path, file_filter: Filter | None = None) -> Iterator[tuple[Path, str]]:
    """The files below a folder, or the file itself, each with its key relative to the folder.

    They come in the order in which S3 lists these keys. Links are followed. Files that ``file_filter`` leaves out are
    not opened. PlanError if the path does not exist, or a file cannot be read.
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
            tables.note_listed(folder + key)
            if file_filter.keeps(key):
                if not is_hidden(key):
                    tables.note_planned(folder + key)
                yield _checked_key(file, key)
    elif file_filter.keeps(path.name):
        yield _checked_key(path, path.name)


def _walk(folder: Path, prefix: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[tuple[Path, str]]:
    """The files of a folder and of the folders below it; ``ancestors`` has the identities of the folders above it."""
    identity = (folder.stat().st_dev, folder.stat().st_ino)
    if identity in ancestors:
        raise PlanError(f"the link {folder} leads back into a folder above it; remove it or name other inputs")
    for name in _names(folder):
        path, key = folder / name.rstrip("/"), prefix + name
        if name.endswith("/"):
            yield from _walk(path, key, (*ancestors, identity))
        else:
            yield path, key


def _names(folder: Path) -> list[str]:
    """A folder's entries in the order of whole keys; the names of folders end with a slash."""
    try:
        with os.scandir(folder) as entries:
            # S3 sorts whole keys: a-b.csv comes before a/x, though a comes before a-b.csv.
            return sorted(entry.name + "/" * _is_folder(entry) for entry in entries)
    except OSError as error:
        raise PlanError(f"the folder {folder} cannot be listed: {error.strerror}; make it readable") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself, which is refused as a file unless it is left out


def _checked_key(path: Path, key: str) -> tuple[Path, str]:
    """The file and its key; PlanError if the file cannot be read, or the key cannot be in UTF-8."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = "a link whose target does not exist" if path.is_symlink() else str(error.strerror)
        raise PlanError(
            f"the file {path} cannot be read: {reason}; repair it or leave it out with --exclude"
        ) from error
    if not stat.S_ISREG(mode):
        raise PlanError(f"{path} is neither a file nor a folder; leave it out with --exclude '{path.name}'")
    if not os.access(path, os.R_OK):
        raise PlanError(
            f"there is no permission to read the file {path}; make it readable or leave it out with --exclude"
        )
    encoding = sys.getfilesystemencoding()
    try:
        key.encode("utf-8" if encoding == "utf-8" else "ascii")
    except UnicodeEncodeError as error:
        what = "is not UTF-8; rename it" if encoding == "utf-8" else f"is read as {encoding} here; set PYTHONUTF8=1"
        raise PlanError(f"the name of {os.fsencode(path)!r} cannot be a key, since it {what}") from error
    return path, key
