"""Which shard an input object went into, and where that stands."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sparklet.errors import PlanError, ShardNotFoundError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.inventory import Inventory
from sparklet.model import PartRecord, Position, Run, Shard, ShardRecord


@dataclass(frozen=True, slots=True)
class ObjectFate:
    """Where an input object stands."""

    uri: str
    shard: Shard | None  # the shard that holds it; None: no shard does (left out, or not there when it was planned)
    record: ShardRecord | None  # where that shard stands; None: it is not in the ledger yet


def object_fate(at: Deployment, run_id: str, uri: str) -> ObjectFate:
    """Find the shard of an object, reading only the plan part it must be in.

    Raises
    ------
    PlanError
        If the object lies under no input of the run.
    """
    run = at.ledger.get_run(run_id)
    position = Inventory(at.store, run.inputs).position_of(uri)
    if position is None:
        raise PlanError(f"{uri} lies under no input of {run_id}; its inputs are {', '.join(run.inputs)}")
    for part in _parts_around(at, run, position):
        for line in at.store.get(at.part_uri(run_id, part.part)).splitlines(keepends=True):
            if _mentions(line, uri):
                shard = Shard.from_line(line)
                return ObjectFate(uri, shard, _record(at, run_id, shard.number))
    return ObjectFate(uri, None, None)


def _parts_around(at: Deployment, run: Run, wanted: Position) -> Iterator[PartRecord]:
    """The parts that an object at ``wanted`` can be in: positions follow the listing, so that is one part."""
    before = (0, "")
    for part in at.ledger.parts(run.run_id):
        last = (part.position.source, part.position.after)
        if before < (wanted.source, wanted.after) <= last:
            yield part
        before = last


def _mentions(line: bytes, uri: str) -> bool:
    """Whether a line of a plan part lists an object; the cheap question first."""
    return json.dumps(uri).encode() in line and any(o.uri == uri for o in Shard.from_line(line).objects)


def _record(at: Deployment, run_id: str, number: int) -> ShardRecord | None:
    try:
        return at.ledger.get_shard(run_id, number)
    except ShardNotFoundError:
        return None
