"""What earlier runs of a name have done: objects that lie wholly in shards that SUCCEEDED."""

from collections import deque
from collections.abc import Iterator
from itertools import groupby

from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory.digests import Digests
from sparklet.fanout.plan_parts import shards_of
from sparklet.model import InputObject, Run, ShardState


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
