"""What earlier runs of a name have done: an incremental run leaves it out.

So only one incremental run of a name is open at a time; see ``output_claims``.
"""

from collections import deque
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from sparklet.model import OF_SPLIT, InputObject, Run, RunState, ShardState, Slice
from sparklet.planning.commit_files import uncommitted
from sparklet.planning.inputs.digests import Digests
from sparklet.planning.plan_files import shards_of
from sparklet.ports.deployment import Deployment

RunStatus = tuple[str, int, RunState]  # identity, generation, state


def done_before(deployment: Deployment, name: str, run_id: str = "") -> Digests:
    """What other runs of the name have done, by address, version and ETag; a cut object is done with its last slice."""
    done = Digests()
    for earlier in others_of_name(deployment, name, run_id):
        _add(deployment, earlier, done)
    return done


def earlier_runs(deployment: Deployment, name: str, run_id: str = "") -> list[RunStatus]:
    """The other runs of the name: while they are the same, so is what they have done."""
    return [(run.identity, run.generation, run.state) for run in others_of_name(deployment, name, run_id)]


def others_of_name(deployment: Deployment, name: str, run_id: str) -> Iterator[Run]:
    """The other runs of a run's name."""
    return (run for run in deployment.ledger.runs.list() if run.name == name and run.run_id != run_id)


def _add(deployment: Deployment, run: Run, done: Digests) -> None:
    """Add what a run has done. Slices of an object follow each other in the plan."""
    name: tuple[str, ...] = ()
    for name, items in groupby(_outcomes(deployment, run), key=itemgetter(0)):
        if all(succeeded for _, succeeded in items):
            done.add(*name)
    last = deque(deployment.ledger.runs.parts(run.run_id), maxlen=1)
    if last and last[0].position.slices:  # its planner was stopped before all slices of this object were planned
        done.discard(*name)


def _outcomes(deployment: Deployment, run: Run) -> Iterator[tuple[tuple[str, str, str], bool]]:
    """Every object and slice of a run's plan, and whether its shard has an output and its writes are committed."""
    left_out = uncommitted(deployment, run)
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.has_output)
    done = (record.number for record in records if record.number not in left_out)
    # Ledger and plan are both read in the order of numbers, so one pass joins them without keeping the shards.
    number, parts = next(done, None), list(deployment.ledger.runs.parts(run.run_id))
    apart = dict[tuple[str, str, str, Slice | None], bool]()
    for part in parts:  # split off from shards whose lines follow each other as the slices of an object do
        for shard in shards_of(deployment, run.run_id, part) if part.part.startswith(OF_SPLIT) else ():
            record = deployment.ledger.shards.get(run.run_id, shard.number)
            # What a split shard held is in other shards: its pieces, or, of pieces that were joined, the one they came
            # from. One of the two loops meets these.
            if record.state is not ShardState.SPLIT:
                is_done = shard.number not in left_out and record.has_output
                for item in shard.objects:  # an archive is done if all files of it are
                    apart[_of_object(item)] = apart.get(_of_object(item), True) and is_done
    for part in parts:
        for shard in () if part.part.startswith(OF_SPLIT) else shards_of(deployment, run.run_id, part):
            while number is not None and number < shard.number:
                number = next(done, None)
            for item in shard.objects:
                is_done = number == shard.number or apart.get(_of_object(item), False)
                yield (item.uri, item.version_id, item.etag), is_done


def _of_object(item: InputObject) -> tuple[str, str, str, Slice | None]:
    return item.object_uri, item.version_id, item.etag, item.slice
