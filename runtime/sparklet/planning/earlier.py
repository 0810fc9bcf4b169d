"""What earlier runs of a name have done, and what an input names twice: digests, on disk where they are many."""

import hashlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from types import TracebackType
from typing import Self

from sparklet.model import InputObject, Run, ShardState
from sparklet.planning.deployment import Deployment, scratch_error
from sparklet.planning.parts import shards_of

CACHE_KIB = 64 * 1024  # holds about two million


class Digests:
    """Objects that were met already."""

    def __init__(self) -> None:
        # "": a private file, created when the cache is full, gone with the connection or the process
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode = OFF",
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "CREATE TABLE met (digest BLOB PRIMARY KEY) WITHOUT ROWID",
            "BEGIN",
        ):
            self._file.execute(statement)

    def add(self, *name: str) -> bool:
        """Note an object, named by its address, version and the like; whether it is new."""
        return self._do("INSERT OR IGNORE INTO met VALUES (?)", name).rowcount == 1

    def discard(self, *name: str) -> None:
        """Forget an object."""
        self._do("DELETE FROM met WHERE digest = ?", name)

    def has(self, *name: str) -> bool:
        """Whether an object was noted."""
        return self._do("SELECT 1 FROM met WHERE digest = ?", name).fetchone() is not None

    def _do(self, statement: str, name: tuple[str, ...]) -> sqlite3.Cursor:
        try:
            return self._file.execute(statement, (_digest(name),))
        except sqlite3.OperationalError as error:
            raise scratch_error("the digests of objects", error) from error

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _digest(name: tuple[str, ...]) -> bytes:
    """Of all parts, each with its length, so that no two names run into the same bytes."""
    text = "".join(f"{len(part)}:{part}" for part in name)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def planned_objects(at: Deployment, run_id: str) -> Iterator[InputObject]:
    """The objects in all sealed parts of a run, in order, one part in memory at a time."""
    for part in at.ledger.runs.parts(run_id):
        for shard in shards_of(at, run_id, part):
            yield from shard.objects


def done_before(at: Deployment, name: str, run_id: str = "") -> Digests:
    """What runs of a name, but for ``run_id`` itself, have done, by address, version and ETag.

    An object that was cut into slices is done once all of them are; memory does not grow with the runs.
    """
    done = Digests()
    for earlier in at.ledger.runs.list():
        if earlier.name == name and earlier.run_id != run_id:
            _add(at, earlier, done)
    return done


def _add(at: Deployment, run: Run, done: Digests) -> None:
    """Note what a run has done. Slices of an object follow each other in the plan."""
    name: tuple[str, ...] = ()
    for name, items in groupby(_outcomes(at, run), key=lambda each: _name(each[0])):
        if all(succeeded for _, succeeded in items):
            done.add(*name)
    last = deque(at.ledger.runs.parts(run.run_id), maxlen=1)
    if last and last[0].position.slices:  # its planner was stopped before all slices of this object were planned
        done.discard(*name)


def _outcomes(at: Deployment, run: Run) -> Iterator[tuple[InputObject, bool]]:
    """Every object and slice of a run's plan, and whether its shard SUCCEEDED; both are read in order, side by side."""
    succeeded = (record.number for record in at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED))
    number = next(succeeded, None)
    for part in at.ledger.runs.parts(run.run_id):
        for shard in shards_of(at, run.run_id, part):
            while number is not None and number < shard.number:
                number = next(succeeded, None)
            for item in shard.objects:
                yield item, number == shard.number


def _name(item: InputObject) -> tuple[str, str, str]:
    return item.uri, item.version_id, item.etag
