"""Plans a run: input → shards → plan parts → ledger → messages. Begin to read ``sparklet.planning`` here.

``request`` reads a user's request, ``new_run`` checks it and enters the run, ``plan`` plans the run. ``inventory``
lists the input, and ``packing`` packs it into shards, once for all these steps. Planning needs constant memory, and can
be restarted at every step. For each part::

    write the part and the list of objects left out to S3 (names of this planner's own: not read until sealed)
    seal the part in the ledger (conditional: the checkpoint; the first planner wins, any other must stop)
    enter its shards (conditional) → send their messages → mark the part dispatched

After a crash the next planner dispatches the sealed parts that are not marked, and continues after the last one, which
ends with a whole shard. The plan is sealed only with the number of shards that all its parts have.
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
from sparklet.planning.plan_files import END, Line, count_in_files, left_out_file, part_lines, write_index
from sparklet.planning.schema_task import inferred_schema, schema_run
from sparklet.ports.deployment import Deployment

PART_SHARDS = 1000
PART_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """The totals of the sealed parts, and the position at which the last one ends."""

    parts: int = 0
    shards: int = 0
    objects: int = 0
    size_bytes: int = 0
    position: Position = field(default_factory=Position)
    skipped: Mapping[str, int] = field(default_factory=dict)  # left out, by reason
    sealed: bool = False
    whole: Mapping[str, int] = field(default_factory=dict)  # large objects that this planner could not cut, by reason

    def and_part(self, part: PartRecord) -> Self:
        """The progress after one more part."""
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
    """Plan the rest of a run, after the parts that earlier planners have sealed; return the run as it is then.

    ``packed`` is the input, if it was read already. ``stop`` is called after each part; if it returns True, planning
    stops, and the next call plans the rest. If the schema is to be inferred, ``wait`` is called with the run that
    infers it, until that run has ended; if it returns False, planning also stops. CheckpointConflictError if another
    planner works on this run, the run was cancelled, or a run that it replaces has not ended: nothing is lost or
    planned twice. PlanError if an incremental run of the same name has not ended, another run owns the output, a list
    was changed, or no schema can be inferred.
    """
    run = deployment.ledger.runs.get(run_id)
    if run.cancelled_s is not None:
        if run.sealed:
            return run
        raise CheckpointConflictError(f"the run {run_id} was cancelled; no more of it is planned")
    done = dispatch_sealed(deployment, run)
    if run.state is not RunState.PLANNING:
        return run
    # Once a part is sealed, its shards may have published, and no file in the output must be deleted any more. Tasks
    # write to folders of their own.
    if not done.parts and not run.is_task:
        take_outputs(deployment, run, empty=True)
    with closing(PackedInput()) as unread_input:
        # `packed` is the input from its beginning, so a plan that continues cannot use it.
        planning = _Planning(
            deployment, run, done, progress, packed if packed and not done.parts else unread_input, unread_input
        )
        parts = _parts(planning.lines, part_shards, part_bytes)
        # The sample is from the first part. It is sealed after the run has got its schema: no shard runs without one.
        first_parts = [part for part in (next(parts, None),) if part]
        needs_schema = run.params.get(SCHEMA) == INFER and not run.schema
        if first_parts and needs_schema and not _set_schema(deployment, run, first_parts[0], wait):
            return run
        for part in chain(first_parts, parts):
            planning.add(part)
            if stop():
                return deployment.ledger.runs.get(run_id)
        return planning.seal()


def _set_schema(deployment: Deployment, run: Run, lines: list[Line], wait: Callable[[Run], bool]) -> bool:
    """Set the run's schema, which another run infers; False if that run has not ended and ``wait`` returned False."""
    follower = plan(deployment, schema_run(deployment, run, lines).run_id)
    while (schema := inferred_schema(deployment, run, follower)) is None:
        if not wait(follower):
            return False
    deployment.ledger.runs.set_schema(run.run_id, schema)
    return True


def _parts(lines: Iterator[Line], max_shards: int, max_bytes: int) -> Iterator[list[Line]]:
    """Parts of at most ``max_shards`` lines; a part is also full once its lines have ``max_bytes``."""
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
    """The work of one planner: its progress, and the input from which it plans the rest."""

    def __init__(
        self,
        deployment: Deployment,
        run: Run,
        done: PlanProgress,
        progress: Progress,
        packed: PackedInput,
        unread_input: PackedInput,
    ) -> None:
        self._deployment, self._run, self._done, self._progress = deployment, run, done, progress
        self._planner_id = secrets.token_hex(4)
        self._skipped: Counter[str] = Counter()  # objects that this planner left out, up to its last sealed part
        self._source, lines = packed, packed.lines(deployment, run)
        if lines is None:
            self._source, lines = unread_input, unread_input.lines_after(deployment, run, done.position, done.shards)
        self.lines = lines

    def add(self, lines: list[Line]) -> None:
        """Write, seal and dispatch one part."""
        name = f"part-{self._done.parts:05d}-{self._planner_id}.jsonl"
        last = lines[-1]
        # Lines count from this planner's beginning, parts from the part before, so that parts can be added up.
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
        self._deployment.store.put(self._deployment.part_uri(self._run.run_id, name), body, create_only=True)
        if skipped:
            self._write_left_out(left_out_file(name), skipped)
        # The checkpoint: here a second planner is refused, before it has entered a shard or sent a message. If this
        # one is killed later, the next planner enters the shards and sends the messages again.
        self._deployment.ledger.runs.add_part(self._run.run_id, part)
        self._done, self._skipped = self._done.and_part(part), Counter(last.skipped)
        dispatch_part(self._deployment, self._run, part, lines)
        self._progress(self._done)

    def seal(self) -> Run:
        """Seal the plan with the totals of all parts."""
        done, run_id = self._done, self._run.run_id
        # Objects that were left out after the last shard are in no part.
        at_end = Counter(self._source.found.skipped) - self._skipped
        self._write_left_out(END, at_end)
        skipped = dict(Counter(done.skipped) + at_end)
        if self._run.dispatch is Dispatch.MAP:
            write_index(self._deployment, self._run)  # before the plan is sealed, after which a Map can begin
        self._deployment.ledger.runs.seal_plan(run_id, done.shards, done.objects, done.size_bytes, skipped)
        self._progress(replace(done, skipped=skipped, sealed=True, whole=dict(self._source.whole)))
        return self._deployment.ledger.runs.get(run_id)

    def _write_left_out(self, name: str, skipped: Mapping[str, int]) -> None:
        if lines := self._source.left_out.take(count_in_files(skipped)):
            self._deployment.store.put(self._deployment.part_uri(self._run.run_id, name), lines)


# --- a sealed part: its shards are entered before their messages are sent, so no message names an unknown shard ---


def send_messages(
    deployment: Deployment,
    run: Run,
    records: Iterable[ShardRecord],
    *,
    by_check: bool = False,
    lines: Mapping[int, bytes] | None = None,
) -> int:
    """Send the messages of the shards that are for functions; return how many were sent.

    ``lines`` has lines of the plan by the shards' numbers; the messages also have the short ones. If the run limits its
    concurrency, only its checks send messages (``by_check``), see ``runs.dispatch``; for a cancelled run none are sent.
    All ``records`` are iterated in any case, since the iterator may do work.
    """
    short_lines = {number: line.decode() for number, line in (lines or {}).items() if len(line) <= MAX_SENT_BYTES}
    refs = (record.ref for record in records if record.is_for_functions)
    bodies = (replace(ref, line=short_lines.get(ref.shard, "")).to_body() for ref in refs)
    if run.cancelled_s is None and (by_check or not run.options.max_concurrency):
        return deployment.queue.send(bodies)
    deque(bodies, maxlen=0)
    return 0


def records_of(run_id: str, part: str, lines: Iterable[Line], **common_fields: Any) -> Iterator[ShardRecord]:
    """The records with which the shards of a plan part are entered."""
    offset = 0
    for line in lines:
        size = line.object_count, line.size_bytes
        yield ShardRecord(run_id, line.number, part, offset, len(line.body), *size, **common_fields)
        offset += len(line.body)


def dispatch_part(deployment: Deployment, run: Run, part: PartRecord, lines: Sequence[Line]) -> None:
    """Enter a sealed part's shards, send their messages, unless a Map has them, and mark the part dispatched.

    A repetition does no harm.
    """
    records: Sequence[ShardRecord] = list(records_of(run.run_id, part.part, lines, isolate=int(run.options.isolate)))
    # Only size and options decide: a planner that repeats this must send the same shards to the same workers.
    if any(names := [routes.of_size(run.options, line.estimated_bytes)[1] for line in lines]):
        records = routes.with_engines(records, names)
    deployment.ledger.shards.add(records)
    if run.dispatch is Dispatch.QUEUE:
        send_messages(deployment, run, records, lines={line.number: line.body for line in lines})
    # If the planner is killed before this mark, the next one repeats both writes. That is safe: shards are entered
    # conditionally, and of two messages for a shard only one leads to a granted claim.
    deployment.ledger.runs.mark_dispatched(run.run_id, part.index)


def dispatch_sealed(deployment: Deployment, run: Run) -> PlanProgress:
    """Dispatch the sealed parts that are not dispatched yet; return the progress up to the last part."""
    done = PlanProgress()
    for part in deployment.ledger.runs.parts(run.run_id):
        if not part.dispatched:
            dispatch_part(deployment, run, part, part_lines(deployment, run.run_id, part))
        done = done.and_part(part)
    return done
