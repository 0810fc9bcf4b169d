"""Which shards an input object went into, and their states."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from sparklet.errors import PlanError
from sparklet.model import InputObject, PartRecord, Run, Shard, ShardRecord, ShardState
from sparklet.planning.plan_files import reasons_for, shards_of
from sparklet.ports.deployment import Deployment


@dataclass(frozen=True, slots=True)
class HoldingShard:
    """A shard that holds the object, or slices, versions or files of it."""

    shard: Shard
    items: tuple[InputObject, ...]  # the object, or what of it is in this shard
    record: ShardRecord | None  # None: the shard is not in the ledger yet


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """The shards of an input object."""

    uri: str
    shards: tuple[HoldingShard, ...]  # in order; none if it was left out, or did not exist when the run was planned
    left_out: tuple[str, ...] = ()  # why it, or a version of it, was left out; unknown if a pattern left it out


def object_status(deployment: Deployment, run_id: str, uri: str) -> ObjectStatus:
    """Find the shards of an object, or of ``ARCHIVE#FILE``, in the parts of the plan, one part in memory at a time.

    A file of an archive that is no input of its own is where that is.

    PlanError if the object is below no input of the run, and no list could have named it.
    """
    run = deployment.ledger.runs.get(run_id)
    archive = uri.partition("#")[0]
    below = any(
        uri.startswith(input_uri) if input_uri.endswith("/") else input_uri in (uri, archive)
        for input_uri in run.inputs
    )
    if not run.lists and not below:
        raise PlanError(f"{uri} lies under no input of {run_id}; its inputs are {', '.join(run.inputs)}")
    parts = list(deployment.ledger.runs.parts(run_id))
    shards = tuple(_holding(deployment, run, parts, uri))
    if not shards and archive != uri:
        shards = tuple(holding for holding in _holding(deployment, run, parts, archive) if not holding.items[0].member)
    return ObjectStatus(uri, shards, tuple(reasons_for(deployment, run, parts, uri)))


def _holding(deployment: Deployment, run: Run, parts: list[PartRecord], uri: str) -> Iterator[HoldingShard]:
    encoded_uri = json.dumps(uri).encode()[:-1]  # an archive is named by its files, too
    later = (
        part for part in deployment.ledger.runs.parts(run.run_id) if part.index >= len(parts)
    )  # shards split meanwhile
    for part in chain(parts, later):
        for shard in shards_of(deployment, run.run_id, part, encoded_uri):
            record = deployment.known_shard(run.run_id, shard.number)
            if record and record.state is ShardState.SPLIT:
                continue  # a later part has its inputs
            if items := tuple(item for item in shard.objects if uri in (item.uri, item.object_uri)):
                yield HoldingShard(shard, items, record)
