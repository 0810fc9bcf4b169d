"""Plans a run: input → shards → plan parts → ledger → messages. Begin to read ``sparklet.planning`` here.

``request`` reads what a user requests, ``new_run`` checks it and enters the run, ``plan`` plans it. ``packing`` makes
shards of the input, once for all of them; ``inventory`` lists it. Planning needs constant memory, and is restartable at
every step. For each part::

    write the part and the list of what was left out to S3 (under names of this planner's own: garbage until sealed)
    seal it in the ledger (conditional: the checkpoint; the first planner wins, any other must stop)
    enter its shards (conditional) → send their messages → mark it dispatched

After a crash the next planner dispatches the sealed parts that are not marked, and continues after the last one, at a
shard's boundary. The plan is sealed with the number of shards that all its parts hold, or not at all.
"""

import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Self

from sparklet.errors import CheckpointConflictError
from sparklet.job.fields import INFER, SCHEMA
from sparklet.model import MAX_SENT_BYTES, Dispatch, PartRecord, Position, Run, RunState, ShardRecord
from sparklet.planning import routes
from sparklet.planning.output_claims import take_outputs
from sparklet.planning.packing import PackedInput
from sparklet.planning.plan_files import END, Line, beside, named, part_lines, write_index
from sparklet.planning.schema_task import inferred_schema, schema_run
from sparklet.ports.deployment import Deployment

PART_SHARDS = 1000
PART_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """What the sealed parts hold together, and where the last one ends."""

    parts: int = 0
    shards: int = 0
    objects: int = 0
    size_bytes: int = 0
    position: Position = field(default_factory=Position)
    skipped: Mapping[str, int] = field(default_factory=dict)  # left out, by reason
    sealed: bool = False
    whole: Mapping[str, int] = field(default_factory=dict)  # large objects that this planner could not cut, by reason

    def and_part(self, part: PartRecord) -> Self:
        """The progress with one more part."""
        return replace(
            self,
            parts=self.parts + 1,
            shards=self.shards + part.shard_count,
            objects=self.objects + part.object_count,
            size_bytes=self.size_bytes + part.size_bytes,
            position=part.position,
            skipped=dict(Counter(self.skipped) + Counter(part.skipped)),
        )


Progress = Callable[[PlanProgress], None]


def plan(
    deployment: Deployment,
    run_id: str,
    progress: Progress = lambda _: None,
    packed: PackedInput | None = None,
    *,
    wait: Callable[[Run], bool] = lambda _: False,
    part_shards: int = PART_SHARDS,
    part_bytes: int = PART_BYTES,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Plan the rest of a run, behind the parts that earlier planners have sealed; return the run as it is then.

    ``packed`` is the input, if it was read already. ``stop`` is called after each part: if it returns True, planning
    stops, and the next call plans the rest. So it does if another run infers the schema first and has not ended
    when ``wait(that run)`` returns. CheckpointConflictError if another planner works on this run, the run was
    cancelled, or a run that it replaces has not ended: nothing is lost or planned twice. PlanError if an incremental
    run of the same name has not ended, another run owns the output, a list was changed, or no schema can be inferred.
    """
    run = deployment.ledger.runs.get(run_id)
    if run.cancelled_s is not None:
        if run.sealed:
            return run
        raise CheckpointConflictError(f"the run {run_id} was cancelled; no more of it is planned")
    done = sealed_until_now(deployment, run)
    if run.state is not RunState.PLANNING:
        return run
    # Once a part is sealed its shards may have published: then nothing in the output may be deleted any more.
    if not done.parts and not run.is_task:  # those write to folders of their own
        take_outputs(deployment, run, empty=True)
    with closing(PackedInput()) as fresh:
        # `packed` begins where the input does, so it is of no use to a plan that goes on.
        planning = _Planning(deployment, run, done, progress, packed if packed and not done.parts else fresh, fresh)
        parts = _parts(planning.lines, part_shards, part_bytes)
        # The sample is of the first part, which is sealed only once the run has its schema: so no shard runs without.
        first = [part for part in (next(parts, None),) if part]
        if (
            first
            and run.params.get(SCHEMA) == INFER
            and not run.schema
            and not _keep_schema(deployment, run, first[0], wait)
        ):
            return run
        for part in chain(first, parts):
            planning.add(part)
            if stop():
                return deployment.ledger.runs.get(run_id)
        return planning.seal()


def _keep_schema(deployment: Deployment, run: Run, lines: list[Line], wait: Callable[[Run], bool]) -> bool:
    """Keep the schema that a run of its own infers; False if that has not ended and ``wait`` did not wait for it."""
    follower = plan(deployment, schema_run(deployment, run, lines).run_id)
    while (schema := inferred_schema(deployment, run, follower)) is None:
        if not wait(follower):
            return False
    deployment.ledger.runs.set_schema(run.run_id, schema)
    return True


def _parts(lines: Iterator[Line], max_shards: int, max_bytes: int) -> Iterator[list[Line]]:
    """Parts of at most ``max_shards``; one is full once its lines have ``max_bytes``."""
    part: list[Line] = []
    line_bytes = 0
    for line in lines:
        part.append(line)
        line_bytes += len(line.body)
        if len(part) == max_shards or line_bytes >= max_bytes:
            yield part
            part, line_bytes = [], 0
    if part:
        yield part


class _Planning:
    """One planner at work: what it has sealed, and the input from which it plans the rest."""

    def __init__(
        self,
        deployment: Deployment,
        run: Run,
        done: PlanProgress,
        progress: Progress,
        packed: PackedInput,
        fresh: PackedInput,
    ) -> None:
        self._at, self._run, self._done, self._progress = deployment, run, done, progress
        self._planner_id = secrets.token_hex(4)
        self._skipped: Counter[str] = Counter()  # by this planner, until its last sealed part
        self._source, lines = packed, packed.lines(deployment, run)
        if lines is None:
            self._source, lines = fresh, fresh.lines_after(deployment, run, done.position, done.shards)
        self.lines = lines

    def add(self, lines: list[Line]) -> None:
        """Write, seal and dispatch one part."""
        name = f"part-{self._done.parts:05d}-{self._planner_id}.jsonl"
        last = lines[-1]
        # Lines count from this planner's beginning, parts from the part before, so that their sum survives planners.
        skipped = dict(Counter(last.skipped) - self._skipped)
        part = PartRecord(
            index=self._done.parts,
            part=name,
            first_shard=self._done.shards,
            shard_count=len(lines),
            object_count=sum(line.object_count for line in lines),
            size_bytes=sum(line.size_bytes for line in lines),
            position=last.position,
            skipped=skipped,
        )
        body = b"".join(line.body for line in lines)
        self._at.store.put(self._at.part_uri(self._run.run_id, name), body, create_only=True)
        if skipped:
            self._write_left_out(beside(name), skipped)
        # The checkpoint: a second planner is refused here, before it has entered a shard or sent a message. After a
        # kill behind it the next planner enters and sends the part again.
        self._at.ledger.runs.add_part(self._run.run_id, part)
        self._done, self._skipped = self._done.and_part(part), Counter(last.skipped)
        dispatch_part(self._at, self._run, part, lines)
        self._progress(self._done)

    def seal(self) -> Run:
        """Seal the plan with what all parts hold."""
        done, run_id = self._done, self._run.run_id
        # What was left out behind the last shard is in no part.
        at_end = Counter(self._source.found.skipped) - self._skipped
        self._write_left_out(END, at_end)
        skipped = dict(Counter(done.skipped) + at_end)
        if self._run.dispatch is Dispatch.MAP:
            write_index(self._at, self._run)  # a sealed plan has it, so a Map that begins finds it
        self._at.ledger.runs.seal_plan(run_id, done.shards, done.objects, done.size_bytes, skipped)
        self._progress(replace(done, skipped=skipped, sealed=True, whole=dict(self._source.whole)))
        return self._at.ledger.runs.get(run_id)

    def _write_left_out(self, name: str, skipped: Mapping[str, int]) -> None:
        if lines := self._source.left_out.take(named(skipped)):
            self._at.store.put(self._at.part_uri(self._run.run_id, name), lines)


# --- a sealed part: its shards are entered before their messages are sent, so no message names an unknown shard ---


def send_messages(
    deployment: Deployment,
    run: Run,
    records: Iterable[ShardRecord],
    *,
    by_check: bool = False,
    lines: Mapping[int, bytes] | None = None,
) -> int:
    """Send the messages of those shards that are for functions; how many.

    ``lines``: of the plan, by the shards' numbers; short ones are sent along.

    Those of a run with a cap are sent by its checks alone (``by_check``), see ``runs.dispatch``; those of a
    cancelled run not at all. All records are drawn in any case, since the iterator may do work.
    """
    sent = {number: line.decode() for number, line in (lines or {}).items() if len(line) <= MAX_SENT_BYTES}
    refs = (record.ref for record in records if record.is_for_functions)
    bodies = (replace(ref, line=sent.get(ref.shard, "")).to_body() for ref in refs)
    if run.cancelled_s is None and (by_check or not run.options.max_concurrency):
        return deployment.queue.send(bodies)
    deque(bodies, maxlen=0)
    return 0


def records_of(run_id: str, part: str, lines: Iterable[Line], **alike: Any) -> Iterator[ShardRecord]:
    """The shards of a plan part, as they are entered."""
    offset = 0
    for line in lines:
        size = line.object_count, line.size_bytes
        yield ShardRecord(run_id, line.number, part, offset, len(line.body), *size, **alike)
        offset += len(line.body)


def dispatch_part(deployment: Deployment, run: Run, part: PartRecord, lines: Sequence[Line]) -> None:
    """Enter a sealed part's shards, send their messages, unless a Map has them, and note that; it may be repeated."""
    records: Sequence[ShardRecord] = list(records_of(run.run_id, part.part, lines, isolate=int(run.options.isolate)))
    # By size and options alone: a planner that repeats this must send the same shards to the same workers.
    if any(names := [routes.of_size(run.options, line.estimated_bytes)[1] for line in lines]):
        records = routes.routed(records, names)
    deployment.ledger.shards.add(records)
    if run.dispatch is Dispatch.QUEUE:
        send_messages(deployment, run, records, lines={line.number: line.body for line in lines})
    # A kill before this mark repeats both writes. That is safe: entering is conditional, and a claim refuses the second
    # message of a shard.
    deployment.ledger.runs.mark_dispatched(run.run_id, part.index)


def sealed_until_now(deployment: Deployment, run: Run) -> PlanProgress:
    """What the sealed parts hold; those that are not dispatched yet are dispatched first."""
    done = PlanProgress()
    for part in deployment.ledger.runs.parts(run.run_id):
        if not part.dispatched:
            dispatch_part(deployment, run, part, part_lines(deployment, run.run_id, part))
        done = done.and_part(part)
    return done
