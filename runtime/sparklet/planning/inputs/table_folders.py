"""Folders of Delta, Hudi and Iceberg tables: which of their files hold rows, only the table's log knows.

Read as files, they give deleted and replaced rows again; read by the table's reader, each shard has all rows.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice

from sparklet.errors import ObjectForbiddenError, UnplannableError
from sparklet.planning.inputs.selection import matches

FORMATS = {"_delta_log/": "delta", ".hoodie/": "hudi", "metadata/": "iceberg"}  # by the folder of the log
_LOG = re.compile(  # others' files in metadata/, such as report.pdf.metadata.json, make no table
    r"/(_delta_log/(?=\d{20}\.)|\.hoodie/(?=hoodie\.properties$)"
    r"|metadata/(?=(?:v\d+|\d{5,}-[\da-f-]{36})(?:\.gz)?\.metadata\.json(?:\.gz)?$))"
)
MAX_LISTS = 16  # at a time
_LOG_BEGINNINGS = ("_delta_log/0", ".hoodie/hoodie.properties", "metadata/0", "metadata/v")


class TableFolders:
    """Refuses an input folder of which files of a table are planned, while it is listed.

    A folder's objects are listed one after the other, so one table and the last planned object are all that is kept.
    With a pattern that excludes a table's log the user asks for its files.
    """

    def __init__(self, folder: str, exclude: Sequence[str], planned: str = "") -> None:
        self._folder, self._exclude, self._planned = folder, exclude, planned
        # No address begins with this.
        self._table = self._log = "\0"

    def sees(self, uri: str) -> None:
        """Note an object of the listing; UnplannableError if it makes the object planned last a table's."""
        if (log := _LOG.search(uri)) and not uri.startswith(self._table):
            in_log = {f"{uri[start : log.end()]}\0" for start in (log.start(1), len(self._folder))}  # any name
            if not any(matches(path, pattern) for path in in_log for pattern in self._exclude):
                self._table, self._log = uri[: log.start(1)], uri[: log.end()]
                # A table's data may be listed before its log, as Iceberg's data/ is before metadata/.
                self.plans(self._planned)

    def plans(self, uri: str) -> None:
        """Note an object that is planned; UnplannableError if it is a table's, and not of its log."""
        self._planned = uri
        if not uri.startswith(self._table) or uri.startswith(self._log):
            return
        log, below = self._log[len(self._table) :], self._table[len(self._folder) :]
        left_out = f"leave the table out with --exclude '{below}**', " if below else ""
        raise UnplannableError(
            f"{self._table} is the folder of a table of {FORMATS[log].capitalize()}, and which of its files hold rows, "
            f"only its {log} tells: read all of it by spark.read.format('{FORMATS[log]}').load('{self._table}') in a "
            "script without an input (sparklet invoke), or by job.table('DATABASE.TABLE') if it is in the catalog; "
            f"{left_out}or take its files as they are, with deleted and replaced rows, by --exclude '**/{log}**'"
        )


def refuse_part_of_table(folder: str, exclude: Sequence[str], names: Callable[[str], Iterable[str]]) -> None:
    """UnplannableError if an input folder is a table's or lies in one; ``names``: all that begin with an address."""
    tables = TableFolders(folder, exclude, folder)
    slashes = [*re.finditer("^/|(?<![:/])/", folder)][1:]  # few may list a bucket from its root, and few are a table
    prefixes = [folder[: slash.end()] + log for slash in slashes for log in _LOG_BEGINNINGS]

    def first_names(prefix: str) -> list[str]:
        with suppress(ObjectForbiddenError):  # the right to list may end at the input
            # A page of S3's listing has 1,000 keys, and a log is known by its first ones.
            return [*islice(names(prefix), 1000)]
        return []

    with ThreadPoolExecutor(MAX_LISTS) as lists:
        for uri in chain.from_iterable(lists.map(first_names, prefixes)):
            tables.sees(uri)
