"""Incremental runs: what earlier runs of their name have done, and the lock on that name.

An incremental run plans what earlier runs of its name have not done, so only one run of a name is open at a time. A
name's locks are numbered files, each created once, never deleted, and holding the id of the run that took it. The next
lock can be taken once that run has ended; if two runs try, the conditional put lets one succeed. No clock decides.
"""

from collections import deque
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote

from sparklet.errors import ObjectChangedError, PlanError
from sparklet.inputs.digests import Digests
from sparklet.model import Run, RunState, ShardState
from sparklet.planning.commit_files import uncommitted
from sparklet.planning.plan_files import shards_of
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment


def done_before(at: Deployment, name: str, run_id: str = "") -> Digests:
    """What other runs of the name have done, by address, version and ETag; a cut object is done with its last slice."""
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
    """Every object and slice of a run's plan, and whether its shard SUCCEEDED and its writes are committed."""
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
    """Take the lock on the run's name; if another open run has it, this one ends as FAILED, with PlanError."""
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
