"""Sealed plan parts: what they hold together, and each read again, whole or not at all."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from sparklet.errors import EventError, ObjectNotFoundError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.model import PartRecord, Position, Shard, ShardRecord


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the sealed parts hold together; the last one says where to go on."""

    parts: int = 0
    shards: int = 0
    objects: int = 0
    size_bytes: int = 0
    position: Position = field(default_factory=Position)
    skipped: Mapping[str, int] = field(default_factory=dict)

    def and_part(self, part: PartRecord) -> Self:
        """With one part more."""
        return type(self)(
            parts=self.parts + 1,
            shards=self.shards + part.shard_count,
            objects=self.objects + part.object_count,
            size_bytes=self.size_bytes + part.size_bytes,
            position=part.position,
            skipped=sum_of(self.skipped, part.skipped),
        )


def sum_of(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Numbers by reason, added up."""
    return dict(Counter(counts) + Counter(more))


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
