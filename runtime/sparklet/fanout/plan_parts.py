"""Sealed plan parts, read again whole or not at all."""

from collections.abc import Iterator

from sparklet.errors import EventError, ObjectNotFoundError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.model import PartRecord, Shard, ShardRecord


def part_lines(at: Deployment, run_id: str, part: PartRecord) -> list[bytes]:
    """A part's lines; PlanError if there are not as many as were sealed: what is looked for could have been on one."""
    uri = at.part_uri(run_id, part.part)
    try:
        lines = at.store.get(uri).splitlines(keepends=True)
    except ObjectNotFoundError as error:
        raise PlanError(f"the plan part {uri} is gone, so nobody knows what shards of {run_id} held") from error
    if len(lines) != part.shard_count:
        raise PlanError(f"the plan part {uri} is damaged: it holds {len(lines)} lines, {part.shard_count} were sealed")
    return lines


def shard_of(at: Deployment, run_id: str, part: PartRecord, line: bytes) -> Shard:
    """A line of a part as its shard; PlanError if it is none."""
    try:
        return Shard.from_line(line)
    except EventError as error:
        raise PlanError(f"the plan part {at.part_uri(run_id, part.part)} is damaged: {error}") from error


def planned_shard(at: Deployment, record: ShardRecord) -> Shard:
    """A shard by its own line alone; PlanError if that is not what was planned."""
    uri = at.part_uri(record.run_id, record.part)
    try:
        return record.planned(at.store.get(uri, record.offset, record.length))
    except EventError as error:
        raise PlanError(f"the plan part {uri} is damaged at byte {record.offset}: {error}") from error


def shards_of(at: Deployment, run_id: str, part: PartRecord) -> Iterator[Shard]:
    """The shards of a part, in order."""
    for line in part_lines(at, run_id, part):
        yield shard_of(at, run_id, part, line)
