"""Which objects are input: the patterns that select them, and the reasons why objects are left out."""

import hashlib
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from sparklet.model import InputObject, Position
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import scratch

SUMMARIES = ("_metadata", "_common_metadata")  # Parquet's, without rows; longer names are data to Spark
MAY_BE_HIDDEN = re.compile(r"(^|/)[_.]|_COPYING_")  # a quick check, which most names do not pass


class Reason(StrEnum):
    """Why an object is left out."""

    FOLDER_MARKER = "an empty object that stands for a folder"
    EMPTY = "empty"
    HIDDEN = "hidden: Spark skips names that begin with _ or a dot"
    OLDER = "not modified since the time given"
    ARCHIVED = "archived, to be restored before it can be read"
    DELETE_MARKER = "a delete marker"
    NOT_LATEST = "not the latest version"
    DUPLICATE = "named before in this input"
    MISSING = "named but not there"
    DONE = "done by an earlier run of this name"
    NOT_INCLUDED = "not matched by any --include"
    EXCLUDED = "matched by --exclude"


@dataclass(frozen=True, slots=True)
class Found:
    """An object of the input, and the position of planning once the object is in a shard."""

    item: InputObject
    position: Position
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out before it, by reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry of a source: an object, an object with the reason why it is left out, or an item."""

    after: str  # the place in the source, see Position
    uri: str
    info: ObjectInfo | None
    reason: str = ""
    resumed: bool = False  # slices of it are in shards already, so it is accepted
    item: InputObject | None = None  # items are always planned
    partition: tuple[str, ...] = ()


@dataclass
class Filter:
    """Decides which keys are input, and counts those that are not.

    ``*``, ``?``, ``[abc]`` and ``[!abc]`` match within one segment of a key, as in ``fnmatch``; the segment ``**``
    matches any number of segments. A pattern without ``/`` is compared with the file name alone, at any depth:
    ``*.csv`` finds ``2013/01.csv``. A key must match one of the patterns ``include``, if there are any, and none of the
    patterns ``exclude``.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skipped: Mapping[str, int] = field(
        default_factory=dict
    )  # how many keys were left out, by reason; a mapping is never changed

    def keeps(self, name: str) -> bool:
        """Whether a key, without its prefix, is input; if not, it is counted."""
        if self.include and not any(matches(name, pattern) for pattern in self.include):
            return self.skip(Reason.NOT_INCLUDED)
        if any(matches(name, pattern) for pattern in self.exclude):
            return self.skip(Reason.EXCLUDED)
        return True

    def skip(self, reason: str) -> bool:
        """Count a key that is left out for this reason; return False."""
        # A new mapping each time: objects that were found before keep the earlier mappings.
        self.skipped = {**self.skipped, reason: self.skipped.get(reason, 0) + 1}
        return False


def is_hidden(name: str) -> bool:
    """Whether Spark skips an object when it reads the folder, by the key below the folder, see ``HadoopFSUtils``."""
    return MAY_BE_HIDDEN.search(name) is not None and any(
        # To Spark a folder such as _day=1 is a partition.
        (segment.startswith("_") and "=" not in segment) or segment.startswith(".") or segment.endswith("._COPYING_")
        for segment in name.split("/")
        if not segment.startswith(SUMMARIES) or segment in SUMMARIES
    )


def matches(name: str, pattern: str) -> bool:
    """Whether a key, without its prefix, matches a pattern."""
    if "/" not in pattern:
        return fnmatchcase(name.rsplit("/", 1)[-1], pattern)
    return _all_match(name.split("/"), pattern.removeprefix("/").split("/"))


def _all_match(segments: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the patterns match all segments. Each pattern is compared with each segment once at most."""
    ends = {0}  # how many segments the patterns so far can match
    *earlier, last = patterns
    for pattern in earlier:
        if pattern == "**":
            ends = set(range(min(ends, default=len(segments)), len(segments)))
        else:
            ends = {end + 1 for end in ends if fnmatchcase(segments[end], pattern)} - {len(segments)}
    if last == "**":
        return bool(ends)
    return len(segments) - 1 in ends and fnmatchcase(segments[-1], last)


CACHE_KIB = 64 * 1024  # holds about two million


class Digests:
    """A set of names of objects, as digests; it is in a file once it is large."""

    def __init__(self) -> None:
        # "" is a private file, created when the cache is full, and deleted with the connection or the process.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            # The file does not outlive the process, so it needs no journal. One transaction that is never committed
            # writes nothing as long as the digests fit into the cache.
            "PRAGMA journal_mode = OFF",
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "CREATE TABLE digests (digest BLOB PRIMARY KEY) WITHOUT ROWID",
            "BEGIN",
        ):
            self._file.execute(statement)

    def add(self, *name: str) -> bool:
        """Add an object by its address, version and the like; return whether it is new."""
        return self._execute("INSERT OR IGNORE INTO digests VALUES (?)", name).rowcount == 1

    def discard(self, *name: str) -> None:
        """Remove an object."""
        self._execute("DELETE FROM digests WHERE digest = ?", name)

    def has(self, *name: str) -> bool:
        """Whether an object was added."""
        return self._execute("SELECT 1 FROM digests WHERE digest = ?", name).fetchone() is not None

    def _execute(self, statement: str, name: tuple[str, ...]) -> sqlite3.Cursor:
        text = "".join(f"{len(part)}:{part}" for part in name)  # no two names have the same text
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        with scratch("the digests of objects", sqlite3.OperationalError):
            return self._file.execute(statement, (digest,))

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
