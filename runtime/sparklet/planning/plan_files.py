"""The files of a plan: parts, which hold shards and never change, and beside them the names of what was left out.

A run with ``dispatch`` map has an index, too, which the Map state reads. The planner writes it before it seals the
plan, as JSON Lines, with a line for each shard that a function does::

    runs/<run_id>/index.jsonl    {"run_id": "daily-7", "shard": 0, "generation": 0}

Whatever a Map leaves PENDING, the checker sends through the queue (docs/decisions/0017). ``map-of-<identity>`` beside
the index says who dispatches the run first: an execution, or the queue.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self

from sparklet.errors import EventError, ObjectNotFoundError, PlanError
from sparklet.model import MAX_INLINE, InputObject, PartRecord, Position, Run, Shard, ShardRecord, ShardState
from sparklet.planning.inputs.selection import Reason
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment, put_once, scratch

ANOTHER_RUN = "start the run again under another id"
END = "skipped-end.jsonl"
IN_MEMORY_BYTES = 1024 * 1024
MAX_LINES = 100_000  # objects named in one file; the counts are always complete


class Line(NamedTuple):
    """A shard as a line of a plan part."""

    body: bytes
    number: int
    object_count: int
    size_bytes: int
    estimated_bytes: int
    position: Position = Position()  # where planning continues after it
    skipped: Mapping[str, int] = {}  # objects left out until there, by reason

    @classmethod
    def of(cls, shard: Shard, body: bytes) -> Self:
        """A shard that is planned already."""
        return cls(body, shard.number, len(shard.objects), shard.size_bytes, shard.estimated_bytes)


def shards_of(deployment: Deployment, run_id: str, part: PartRecord, naming: bytes = b"") -> Iterator[Shard]:
    """The shards of a part whose lines hold ``naming``, in order; PlanError if there are not as many as were sealed."""
    uri = deployment.part_uri(run_id, part.part)
    try:
        lines = deployment.store.get(uri).splitlines(keepends=True)
    except ObjectNotFoundError as error:
        raise PlanError(f"the plan part {uri} is gone, and with it the objects of shards of {run_id}") from error
    if len(lines) != part.shard_count:
        raise PlanError(f"the plan part {uri} is damaged: it holds {len(lines)} lines, {part.shard_count} were sealed")
    for line in lines:
        if naming in line:  # faster than parsing it
            yield shard_of(deployment, run_id, part, line)


def part_lines(deployment: Deployment, run_id: str, part: PartRecord) -> list[Line]:
    """A sealed part, read again; PlanError if it is not what was sealed."""
    uri = deployment.part_uri(run_id, part.part)
    bodies = deployment.store.get(uri).splitlines(keepends=True)
    lines = [Line.of(shard_of(deployment, run_id, part, body), body) for body in bodies]
    if [line.number for line in lines] != list(range(part.first_shard, part.next_shard)):
        planned = f"{part.shard_count} shards from {part.first_shard} on"
        raise PlanError(
            f"the plan part {uri} is damaged: it holds {len(lines)} shards, {planned} were sealed; {ANOTHER_RUN}"
        )
    return lines


def shard_of(deployment: Deployment, run_id: str, part: PartRecord, line: bytes) -> Shard:
    """A line of a part as its shard; PlanError if it is none."""
    try:
        return Shard.from_line(line)
    except EventError as error:
        raise PlanError(
            f"the plan part {deployment.part_uri(run_id, part.part)} is damaged: {error}; {ANOTHER_RUN}"
        ) from error


def planned_shard(deployment: Deployment, record: ShardRecord) -> Shard:
    """A shard, read by its own line alone; PlanError if that is not what was planned."""
    uri = deployment.part_uri(record.run_id, record.part)
    # A range of the part, which may have 4 MiB, for the sake of one line
    return record.planned(deployment.store.get(uri, record.offset, record.length), uri)


def planned_objects(deployment: Deployment, run_id: str) -> Iterator[InputObject]:
    """The objects in all sealed parts of a run, in order, one part in memory at a time."""
    for part in deployment.ledger.runs.parts(run_id):
        for shard in shards_of(deployment, run_id, part):
            yield from shard.objects


# --- what was left out ---


@dataclass
class LeftOut:
    """Objects left out since the last part, in the order of the listing; on disk once they are many."""

    _file: "tempfile.SpooledTemporaryFile[bytes]" = field(
        default_factory=lambda: tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, prefix="sparklet-skipped-")  # noqa: SIM115
    )
    _taken_bytes: int = 0

    def add(self, uri: str, version_id: str, reason: str) -> None:
        """Add one."""
        version = {"version_id": version_id} if version_id else {}
        with scratch("the names of objects left out"):
            # `take` leaves the position where it has read to.
            self._file.seek(0, 2)
            self._file.write(json.dumps({"uri": uri, **version, "reason": reason}).encode() + b"\n")

    def take(self, count: int) -> bytes:
        """The next ``count`` of them, as lines; of very many only the first, and the number of the others."""
        self._file.seek(self._taken_bytes)
        lines = list(islice(self._file, min(count, MAX_LINES)))
        more = sum(1 for _ in islice(self._file, count - len(lines)))
        self._taken_bytes = self._file.tell()
        if more:
            lines.append(json.dumps({"more": more}).encode() + b"\n")
        return b"".join(lines)

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def named(skipped: Mapping[str, int]) -> int:
    """How many of these are named in files: all but those that patterns leave out."""
    return sum(count for reason, count in skipped.items() if reason not in (Reason.NOT_INCLUDED, Reason.EXCLUDED))


def beside(part: str) -> str:
    """The file of what was left out before a plan part."""
    return part.replace("part-", "skipped-", 1)


def reasons_for(deployment: Deployment, run: Run, parts: list[PartRecord], uri: str) -> Iterator[str]:
    """Why an object, or a version of it, was left out of a plan."""
    files = [beside(part.part) for part in parts if named(part.skipped)]
    # The file of the end is there only if something was left out behind the last part.
    if named(run.skipped) > sum(named(part.skipped) for part in parts):
        files.append(END)
    encoded_uri = json.dumps(uri).encode()
    for name in files:
        for line in deployment.store.get(deployment.part_uri(run.run_id, name)).splitlines():
            if encoded_uri in line and (document := json.loads(line)).get("uri") == uri:
                yield str(document["reason"])


INDEX, MAP_OF, BY_QUEUE = "index.jsonl", "map-of-", "queue"


def write_index(deployment: Deployment, run: Run) -> None:
    """Write the index of a plan whose shards are all entered, in constant memory; it may be repeated."""
    with tempfile.TemporaryDirectory(prefix="sparklet-index-") as folder:
        path = Path(folder, INDEX)
        with scratch("the index of a plan"), path.open("w", encoding="utf-8") as file:
            for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
                if record.is_for_functions:
                    file.write(record.ref.to_body() + "\n")
        deployment.store.upload(path, deployment.run_uri(run.run_id, INDEX))


def index_info(deployment: Deployment, run: Run) -> ObjectInfo | None:
    """How large the index is, and when it was written, just before a Map could begin; None if nobody has written it."""
    with suppress(ObjectNotFoundError):
        return deployment.store.head(deployment.run_uri(run.run_id, INDEX))
    return None


def dispatches_first(deployment: Deployment, run: Run, who: str) -> bool:
    """Whether an execution, or ``BY_QUEUE``, is the first that asks, and so dispatches the run; it may ask again."""
    uri = deployment.run_uri(run.run_id, f"{MAP_OF}{run.identity}")
    put_once(deployment.store, (uri, who.encode()))
    return deployment.store.get(uri) == who.encode()


def inline_items(deployment: Deployment, run: Run) -> list[Any]:
    """The items of an index, if they are few enough for an inline Map; else none."""
    if run.numbers > MAX_INLINE:
        return []
    body = deployment.store.get(deployment.run_uri(run.run_id, INDEX))
    return [json.loads(line) for line in body.splitlines()]
