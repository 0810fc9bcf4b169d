"""The files of a plan: parts, which have the shards and never change, and lists of the objects that were left out.

A run with ``dispatch`` map also has an index, which the Map state reads. The planner writes it before it seals the
plan, as JSON Lines, with a line for each shard that is for functions::

    runs/<run_id>/index.jsonl    {"run_id": "daily-7", "shard": 0, "generation": 0}

Shards that a Map leaves PENDING are sent by the checker through the queue (docs/decisions/0017). The file
``map-of-<identity>`` beside the index has the run's first dispatcher: an execution, or the queue.
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
MAX_LINES = 100_000  # objects that one file names; the counts are always complete


class Line(NamedTuple):
    """A shard as a line of a plan part."""

    body: bytes
    number: int
    object_count: int
    size_bytes: int
    estimated_bytes: int
    position: Position = Position()  # where planning continues after it
    skipped: Mapping[str, int] = {}  # objects left out up to this position, by reason

    @classmethod
    def of(cls, shard: Shard, body: bytes) -> Self:
        """The line of a shard that is planned already."""
        return cls(body, shard.number, len(shard.objects), shard.size_bytes, shard.estimated_bytes)


def shards_of(deployment: Deployment, run_id: str, part: PartRecord, containing: bytes = b"") -> Iterator[Shard]:
    """The shards of a part, in order, whose lines contain these bytes; PlanError if not as many lines were sealed."""
    uri = deployment.part_uri(run_id, part.part)
    try:
        lines = deployment.store.get(uri).splitlines(keepends=True)
    except ObjectNotFoundError as error:
        raise PlanError(f"the plan part {uri} is gone, and with it the objects of shards of {run_id}") from error
    if len(lines) != part.shard_count:
        raise PlanError(f"the plan part {uri} is damaged: it holds {len(lines)} lines, {part.shard_count} were sealed")
    for line in lines:
        if containing in line:  # faster than to parse each line
            yield shard_of(deployment, run_id, part, line)


def part_lines(deployment: Deployment, run_id: str, part: PartRecord) -> list[Line]:
    """The lines of a sealed part; PlanError if the file has other shards than were sealed."""
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
    """The shard of a part's line; PlanError if the line is damaged."""
    try:
        return Shard.from_line(line)
    except EventError as error:
        raise PlanError(
            f"the plan part {deployment.part_uri(run_id, part.part)} is damaged: {error}; {ANOTHER_RUN}"
        ) from error


def planned_shard(deployment: Deployment, record: ShardRecord) -> Shard:
    """The shard of a record, from its line of the plan part; PlanError if that is not the shard that was planned."""
    uri = deployment.part_uri(record.run_id, record.part)
    # Only this range is read: a part may have 4 MiB.
    return record.planned(deployment.store.get(uri, record.offset, record.length), uri)


def planned_objects(deployment: Deployment, run_id: str) -> Iterator[InputObject]:
    """The objects in all sealed parts of a run, in order, one part in memory at a time."""
    for part in deployment.ledger.runs.parts(run_id):
        for shard in shards_of(deployment, run_id, part):
            yield from shard.objects


# --- what was left out ---


@dataclass
class LeftOut:
    """The objects left out since the last part, in the order of the listing; in a file on disk once they are many."""

    _file: "tempfile.SpooledTemporaryFile[bytes]" = field(
        default_factory=lambda: tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, prefix="sparklet-skipped-")  # noqa: SIM115
    )
    _taken_bytes: int = 0

    def add(self, uri: str, version_id: str, reason: str) -> None:
        """Add an object."""
        version = {"version_id": version_id} if version_id else {}
        with scratch("the names of objects left out"):
            # `take` has moved the position to the end of what it has read.
            self._file.seek(0, 2)
            self._file.write(json.dumps({"uri": uri, **version, "reason": reason}).encode() + b"\n")

    def take(self, count: int) -> bytes:
        """The next ``count`` objects, a line each; of very many only the first ones, and the number of the others."""
        self._file.seek(self._taken_bytes)
        lines = list(islice(self._file, min(count, MAX_LINES)))
        more = sum(1 for _ in islice(self._file, count - len(lines)))
        self._taken_bytes = self._file.tell()
        if more:
            lines.append(json.dumps({"more": more}).encode() + b"\n")
        return b"".join(lines)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def count_in_files(skipped: Mapping[str, int]) -> int:
    """How many of the objects that were left out are named in files: all but those that patterns leave out."""
    return sum(count for reason, count in skipped.items() if reason not in (Reason.NOT_INCLUDED, Reason.EXCLUDED))


def left_out_file(part: str) -> str:
    """The name of the file with the objects that were left out before a plan part ended."""
    return part.replace("part-", "skipped-", 1)


def reasons_for(deployment: Deployment, run: Run, parts: list[PartRecord], uri: str) -> Iterator[str]:
    """The reasons why an object, or versions of it, were left out of a plan."""
    files = [left_out_file(part.part) for part in parts if count_in_files(part.skipped)]
    # The last file exists only if objects were left out after the last part.
    if count_in_files(run.skipped) > sum(count_in_files(part.skipped) for part in parts):
        files.append(END)
    encoded_uri = json.dumps(uri).encode()
    for name in files:
        for line in deployment.store.get(deployment.part_uri(run.run_id, name)).splitlines():
            if encoded_uri in line and (document := json.loads(line)).get("uri") == uri:
                yield str(document["reason"])


INDEX, MAP_OF, BY_QUEUE = "index.jsonl", "map-of-", "queue"


def write_index(deployment: Deployment, run: Run) -> None:
    """Write the index of a plan whose shards are all entered, in constant memory. A repetition does no harm."""
    with tempfile.TemporaryDirectory(prefix="sparklet-index-") as folder:
        path = Path(folder, INDEX)
        with scratch("the index of a plan"), path.open("w", encoding="utf-8") as file:
            for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
                if record.is_for_functions:
                    file.write(record.ref.to_body() + "\n")
        deployment.store.upload(path, deployment.run_uri(run.run_id, INDEX))


def index_info(deployment: Deployment, run: Run) -> ObjectInfo | None:
    """The size of the index and the time when it was written, just before a Map could begin; None if there is none."""
    with suppress(ObjectNotFoundError):
        return deployment.store.head(deployment.run_uri(run.run_id, INDEX))
    return None


def claim_dispatch(deployment: Deployment, run: Run, who: str) -> bool:
    """Record ``who``, an execution or ``BY_QUEUE``, as the run's dispatcher, unless one is recorded already.

    Return whether ``who`` is the recorded dispatcher.
    """
    uri = deployment.run_uri(run.run_id, f"{MAP_OF}{run.identity}")
    put_once(deployment.store, (uri, who.encode()))
    return deployment.store.get(uri) == who.encode()


def inline_items(deployment: Deployment, run: Run) -> list[Any]:
    """The items of an index if they are few enough for an inline Map, else []."""
    if run.numbers > MAX_INLINE:
        return []
    body = deployment.store.get(deployment.run_uri(run.run_id, INDEX))
    return [json.loads(line) for line in body.splitlines()]
