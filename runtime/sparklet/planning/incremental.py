"""What earlier runs of a name have done, what an input names twice, and the lock on the name of incremental runs.

An incremental run asks what earlier runs of its name have done, so only one run of a name is open at a time. A name's
locks are numbered files, each created once and never deleted; each holds the id of the run that took it. The next lock
can be taken once that run has ended; if two runs try, the conditional put lets one succeed. No clock decides, and a
planner that dies keeps its run's lock until that run ends.
"""

import hashlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote

from sparklet.errors import ObjectChangedError, PlanError
from sparklet.model import InputObject, Run, RunState, ShardState
from sparklet.planning.commit_files import uncommitted
from sparklet.planning.parts import shards_of
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment, scratch_error

CACHE_KIB = 64 * 1024  # holds about two million


class Digests:
    """Names of objects that were met already; a file holds them once they are many."""

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
        """Add an object, named by its address, version and the like; whether it is new."""
        return self._do("INSERT OR IGNORE INTO met VALUES (?)", name).rowcount == 1

    def discard(self, *name: str) -> None:
        """Forget an object."""
        self._do("DELETE FROM met WHERE digest = ?", name)

    def has(self, *name: str) -> bool:
        """Whether an object was added."""
        return self._do("SELECT 1 FROM met WHERE digest = ?", name).fetchone() is not None

    def _do(self, statement: str, name: tuple[str, ...]) -> sqlite3.Cursor:
        try:
            return self._file.execute(statement, (_digest(name),))
        except sqlite3.OperationalError as error:
            raise scratch_error("the digests of objects", error) from error

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def _digest(name: tuple[str, ...]) -> bytes:
    """The digest of all parts, each with its length, so that no two names make the same bytes."""
    text = "".join(f"{len(part)}:{part}" for part in name)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def planned_objects(at: Deployment, run_id: str) -> Iterator[InputObject]:
    """The objects in all sealed parts of a run, in order, one part in memory at a time."""
    for part in at.ledger.runs.parts(run_id):
        for shard in shards_of(at, run_id, part):
            yield from shard.objects


def done_before(at: Deployment, name: str, run_id: str = "") -> Digests:
    """What runs of a name, except ``run_id`` itself, have done, by address, version and ETag.

    An object that was cut into slices is done once all of them are; memory does not grow with the runs.
    """
    done = Digests()
    for earlier in at.ledger.runs.list():
        if earlier.name == name and earlier.run_id != run_id:
            _add(at, earlier, done)
    return done


def _add(at: Deployment, run: Run, done: Digests) -> None:
    """Add what a run has done. Slices of an object follow each other in the plan."""
    name: tuple[str, ...] = ()
    for name, items in groupby(_outcomes(at, run), key=itemgetter(0)):
        if all(succeeded for _, succeeded in items):
            done.add(*name)
    last = deque(at.ledger.runs.parts(run.run_id), maxlen=1)
    if last and last[0].position.slices:  # its planner was stopped before all slices of this object were planned
        done.discard(*name)


def _outcomes(at: Deployment, run: Run) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """Every object and slice of a run's plan, and whether its shard SUCCEEDED; both are read in order, side by side.

    What a shard has written for a table is not done before it is committed.
    """
    left_out = uncommitted(at, run)
    records = at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)
    succeeded = (record.number for record in records if record.number not in left_out)
    number = next(succeeded, None)
    for part in at.ledger.runs.parts(run.run_id):
        for shard in shards_of(at, run.run_id, part):
            while number is not None and number < shard.number:
                number = next(succeeded, None)
            for item in shard.objects:
                yield (item.uri, item.version_id, item.etag), number == shard.number


# --- the lock on a name ---


def refuse_another_open(at: Deployment, name: str, run_id: str) -> None:
    """PlanError if an earlier run of the name is open: what it will have done is not known yet."""
    for run in at.ledger.runs.list():
        if run.name == name and run.run_id != run_id and not run.state.ended:
            raise PlanError(_busy(name, run.run_id))


def take_run_lock(at: Deployment, run: Run) -> None:
    """Take the lock on the run's name, unless the run has it already.

    If another run has it, this one ends as FAILED with nothing planned, and PlanError.
    """
    folder = f"{at.runs_uri}_locks/{quote(run.name, safe='')}/"  # no run id begins with an underscore
    while True:
        last = deque(at.store.list(folder), maxlen=1)
        holder = _holder(at, last[0]) if last else None
        if holder and holder.run_id == run.run_id:
            return
        if holder and not holder.state.ended:
            at.ledger.runs.finish(run.run_id, run.generation, RunState.FAILED)
            raise PlanError(f"{_busy(run.name, holder.run_id)}; {run.run_id} has ended with nothing planned")
        number = int(last[0].uri.rpartition("/")[2]) + 1 if last else 1
        try:
            at.store.put(f"{folder}{number:08d}", run.identity.encode(), create_only=True)
        except ObjectChangedError:
            continue  # another run was faster


def _holder(at: Deployment, lock: ObjectInfo) -> Run | None:
    """The run that took a lock; None if it was deleted, or is another ledger's. Earlier versions wrote its id alone."""
    run_id, _, time = at.store.get(lock.uri).decode().partition("_")
    known = at.known_run(run_id)
    mine = known and (known.identity == f"{run_id}_{time}" if time else lock.modified_s >= known.created_s)
    return known if mine else None


def _busy(name: str, run_id: str) -> str:
    return f"the run {run_id}, also named {name!r}, has not ended: wait for it, or stop it (sparklet cancel {run_id})"
