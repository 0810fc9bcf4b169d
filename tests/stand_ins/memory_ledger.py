"""The ledger in dictionaries, changed under one lock."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType

from sparklet.clock import SystemClock
from sparklet.errors import CheckpointConflictError, LedgerError, ShardNotFoundError
from sparklet.ledger import rules
from sparklet.ledger.isolation import after_failure, isolates
from sparklet.model import (
    Claim,
    ClaimStatus,
    Counts,
    Failure,
    Isolation,
    PartRecord,
    Run,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
)
from sparklet.ports import Clock

PAGE_SHARDS = 1000


class MemoryRuns:
    """``Runs`` in dictionaries."""

    def __init__(self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]]) -> None:
        self._clock, self._lock, self.records = clock, lock, shards
        self.entered: dict[str, Run] = {}
        self._parts: dict[str, dict[int, PartRecord]] = {}
        self._retired: set[str] = set()
        self._deleted: set[str] = set()
        self._unfinalized: set[str] = set()

    def create(self, run: Run) -> None:
        """Enter a run."""
        with self._lock:
            if run.run_id in self.entered or run.run_id in self._deleted:
                raise rules.id_taken(run.run_id, run.run_id in self._deleted)
            self.entered[run.run_id] = run
            self._parts[run.run_id] = {}
            self._unfinalized.add(run.run_id)

    def get(self, run_id: str) -> Run:
        """The run."""
        with self._lock:
            if run_id not in self.entered:
                raise rules.no_run(run_id)
            return self.entered[run_id]

    def list(self) -> Iterator[Run]:
        """All runs, newest first."""
        with self._lock:
            runs = sorted(self.entered.values(), key=lambda r: (r.created_s, r.run_id), reverse=True)
        return iter(runs)

    def unfinalized(self) -> Iterator[Run]:
        """Runs that may still need work, newest first."""
        return (run for run in self.list() if run.run_id in self._unfinalized)

    def finalize(self, run: Run) -> bool:
        """Note that an ended run needs no more work."""
        with self._lock:
            stands = self.entered.get(run.run_id)
            if stands and stands.state.ended and stands.generation == run.generation:
                self._unfinalized.discard(run.run_id)
            return run.run_id not in self._unfinalized

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part."""
        with self._lock:
            run = self.get(run_id)
            if run.state is not RunState.PLANNING or run.cancelled_s is not None:
                raise CheckpointConflictError(
                    f"the plan of run {run_id} takes no more parts: it is {rules.status_of(run)}"
                )
            if part.index in self._parts[run_id]:
                raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
            self._parts[run_id][part.index] = part

    def extend(self, run: Run, part: PartRecord) -> bool:
        """Add a part of bad objects to a sealed plan, unless that has moved on; a part of ``MemoryAttempts.split``."""
        fits = run.state is RunState.RUNNING and run.shard_count == part.first_shard
        if not fits or part.index in self._parts[run.run_id]:
            return False
        self._parts[run.run_id][part.index] = part
        self.entered[run.run_id] = replace(run, shard_count=part.next_shard)
        return True

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order."""
        with self._lock:
            self.get(run_id)
            parts = sorted(self._parts[run_id].values(), key=lambda p: p.index)
        return iter(parts)

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that a part's shards are entered and their messages sent."""
        with self._lock:
            self.get(run_id)
            if index not in self._parts[run_id]:
                raise LedgerError(f"run {run_id} has no sealed part {index}")
            self._parts[run_id][index] = replace(self._parts[run_id][index], dispatched=True)

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """No shard will be added any more."""
        with self._lock:
            run = self.get(run_id)
            if run.sealed and run.shard_count == shard_count:
                return
            planned = max((p.next_shard for p in self._parts[run_id].values()), default=shard_count)
            if run.state is not RunState.PLANNING or planned != shard_count:
                raise CheckpointConflictError(
                    f"the plan of run {run_id} cannot be sealed with {shard_count} shards: "
                    f"it is {run.state} with {run.shard_count}, its parts hold {planned}"
                )
            sealed = replace(run, state=RunState.RUNNING, shard_count=shard_count, skipped=dict(skipped))
            self.entered[run_id] = replace(sealed, object_count=object_count, size_bytes=size_bytes)

    def start_generation(
        self, run_id: str, generation: int, script: ScriptRef, *, stays_cancelled: bool = False
    ) -> Run:
        """Open the next generation."""
        with self._lock:
            run = self.get(run_id)
            cancelling = run.cancelled_s is not None and not run.state.ended
            if run.generation != generation - 1 or not run.sealed or cancelling or run_id in self._retired:
                raise rules.no_generation(run, generation, run_id in self._retired)
            opened = replace(run, scripts=(*run.scripts, script), state=RunState.RUNNING)
            cancelled_s = run.cancelled_s if stays_cancelled else None
            self.entered[run_id] = replace(opened, ended_s=None, cancelled_s=cancelled_s, notified_s=None)
            self._unfinalized.add(run_id)
            return self.entered[run_id]

    def finish(self, run_id: str, generation: int, state: RunState, counted: int | None = None) -> Run:
        """Record how a run ended."""
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        with self._lock:
            run = self.get(run_id)
            fits = (run.cancelled_s is not None) is (state is RunState.CANCELLED)
            fits &= counted is None or run.shard_count in (None, counted)
            if run.generation == generation and not run.state.ended and fits:
                self.entered[run_id] = replace(run, state=state, ended_s=self._clock.now_s())
            return self.entered[run_id]

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of a generation's end was sent."""
        with self._lock:
            run = self.get(run_id)
            if run.generation == generation and run.state.ended:
                self.entered[run_id] = replace(run, notified_s=self._clock.now_s())

    def set_schema(self, run_id: str, schema: str) -> Run:
        """Keep the first schema, while the run is planned."""
        with self._lock:
            run = self.get(run_id)
            if run.schema is None and run.state is RunState.PLANNING:
                self.entered[run_id] = replace(run, schema=schema)
            return self.entered[run_id]

    def cancel(self, run_id: str) -> Run:
        """Note that the run is to end."""
        with self._lock:
            run = self.get(run_id)
            if run.cancelled_s is None and not run.state.ended:
                self.entered[run_id] = replace(run, cancelled_s=self._clock.now_s())
            return self.entered[run_id]

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good."""
        with self._lock:
            run = self.get(run_id)
            if not run.state.ended:
                raise rules.not_ended(run)
            self._retired.add(run_id)
            return run

    def delete(self, run_id: str) -> int:
        """Forget a retired run."""
        with self._lock:
            if run_id not in self._retired:
                raise rules.not_retired(self.get(run_id))
            self._retired.remove(run_id)
            self._deleted.add(run_id)
            self._unfinalized.discard(run_id)
            del self.entered[run_id]
            return len(self.records.pop(run_id, {})) + len(self._parts.pop(run_id, {})) + 1


class MemoryAttempts:
    """``Attempts`` in a dictionary: every method is one atomic step."""

    def __init__(
        self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]], runs: MemoryRuns
    ) -> None:
        self._clock, self._lock, self.records, self._runs = clock, lock, shards, runs

    # --- workers ---

    def claim(
        self,
        ref: ShardRef,
        attempt_id: str,
        lease_s: float,
        max_attempts: int,
        log_stream: str = "",
        *,
        engine: str = "",
        escalate: str = "",
    ) -> Claim:
        """Take the shard and count the attempt."""
        with self._lock:
            record, now_s = self._get(ref.run_id, ref.shard), self._clock.now_s()
            if answer := rules.refusal(record, ref, attempt_id, now_s, engine):
                return answer
            if record.attempts >= max_attempts:
                ended = self._exhaust(record, rules.exhausted_failure(record), escalate)
                if ended.state.ended or ended.engine != record.engine:
                    return Claim(ClaimStatus.EXHAUSTED if ended.state.ended else ClaimStatus.HELD, ended)
                record = ended
            log = rules.cut(log_stream, rules.LOG_STREAM_BYTES)
            record = replace(record, attempts=record.attempts + 1, attempt_id=attempt_id, taken_from=record.state)
            record = replace(record, state=ShardState.RUNNING, settled=False)
            claimed = replace(record, lease_end_s=now_s + lease_s, changed_s=now_s, started_s=now_s, log_stream=log)
            return Claim(ClaimStatus.GRANTED, self.put(claimed))

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now; with ``staged`` this attempt has won."""
        with self._lock:
            record = self._get(run_id, number)
            if record.attempt_id != attempt_id or record.state is not ShardState.RUNNING:
                raise rules.not_owned(record, attempt_id)
            if staged is not None:
                if record.winner not in ("", attempt_id):
                    raise rules.not_owned(record, attempt_id)
                record = _with_result(replace(record, winner=attempt_id), staged)
            self.put(replace(record, lease_end_s=self._clock.now_s() + lease_s))

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        """RUNNING → SUCCEEDED."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.SUCCEEDED):
                done = replace(record, state=ShardState.SUCCEEDED, changed_s=self._clock.now_s())
                self.put(_with_result(done, result))

    def settle(self, record: ShardRecord, result: ShardResult) -> None:
        """RUNNING, its lease over, until it is split."""
        with self._lock:
            now_s = self._clock.now_s()
            if owned := self._owned(record.run_id, record.number, record.attempt_id, ShardState.RUNNING):
                done = replace(owned, settled=True, lease_end_s=now_s, changed_s=now_s)
                self.put(_with_result(done, result))

    def split(self, rest: ShardRecord, part: PartRecord, bad: Sequence[ShardRecord]) -> bool:
        """A settled shard → SUCCEEDED, and its bad objects FAILED."""
        with self._lock:
            record, run = self._get(rest.run_id, rest.number), self._runs.get(rest.run_id)
            still = record.attempt_id == rest.attempt_id and record.state is ShardState.RUNNING and record.settled
            if not still or not self._runs.extend(run, part):
                return False
            line = {name: getattr(rest, name) for name in ("part", "offset", "length", "object_count", "size_bytes")}
            done = replace(record, state=ShardState.SUCCEEDED, settled=False, **line)
            self.put(replace(done, **asdict(Isolation())))
            for each in bad:
                self.put(each)
            return True

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.FAILED):
                self._end(record, ShardState.FAILED, failure)

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "") -> None:
        """RUNNING → PENDING."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.PENDING):
                assert engine == record.engine
                self._end(record, ShardState.PENDING, failure)

    def isolate(self, record: ShardRecord, failure: Failure, found: Isolation) -> None:
        """RUNNING → PENDING, and the next attempt goes by what was found."""
        with self._lock:
            if owned := self._owned(record.run_id, record.number, record.attempt_id, ShardState.PENDING):
                self._end(_isolating(owned, found), ShardState.PENDING, failure)

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        """RUNNING → PENDING for an engine."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.PENDING):
                self._end(_moved(record, engine), ShardState.PENDING, failure)

    def _owned(self, run_id: str, number: int, attempt_id: str, wanted: ShardState) -> ShardRecord | None:
        """The shard if the attempt owns it, None if it is as wanted already, else LeaseLostError."""
        record = self._get(run_id, number)
        if record.attempt_id == attempt_id and record.state is ShardState.RUNNING:
            return record
        if record.attempt_id == attempt_id and record.state is wanted:
            return None
        raise rules.not_owned(record, attempt_id)

    # --- checker, dead-letter messages, redrive ---

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over."""
        with self._lock:
            if not self._unmoved(record, ShardState.RUNNING) or record.lease_end_s > self._clock.now_s():
                return None
            if record.attempts < max_attempts:
                return self._end(record, ShardState.PENDING, rules.expired_failure(record))
            return self._exhaust(record, rules.expired_failure(record), escalate)

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        """Count a message sent again for a PENDING shard."""
        with self._lock:
            if not self._unmoved(record, ShardState.PENDING):
                return None
            requeues, now_s = record.requeues + 1, self._clock.now_s()
            counted = replace(record, requeues=requeues, unrun=record.unrun + unrun, changed_s=now_s)
            return self.put(replace(counted, task_id=task_id or record.task_id))

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that will not be claimed."""
        with self._lock:
            if not self._unmoved(record, ShardState.PENDING):
                return False
            self._end(record, ShardState.FAILED, failure)
            return True

    def redrive(
        self, run_id: str, number: int, generation: int, engine: str = "", isolate: int = 0
    ) -> ShardRecord | None:
        """FAILED → PENDING in a later generation."""
        with self._lock:
            record = self._get(run_id, number)
            if record.state is not ShardState.FAILED or record.generation >= generation:
                return None
            fresh = replace(_moved(record, engine or record.engine), state=ShardState.PENDING, generation=generation)
            fresh = fresh if record.winner else replace(fresh, **asdict(Isolation()))
            return self.put(replace(fresh, isolate=isolate, changed_s=self._clock.now_s()))

    def _exhaust(self, record: ShardRecord, failure: Failure, escalate: str) -> ShardRecord:
        if engine := rules.next_engine(record, failure, escalate):
            return self._end(_moved(record, engine), ShardState.PENDING, failure)
        if isolates(record, failure):
            found = after_failure(record, failure)
            if isinstance(found, Isolation):
                return self._end(_isolating(record, found), ShardState.PENDING, failure)
            failure = found
        return self._end(record, ShardState.FAILED, failure)

    def _unmoved(self, record: ShardRecord, state: ShardState) -> bool:
        """Whether the shard still is as it was read, and in ``state``."""
        return record.state is state and self._get(record.run_id, record.number) == record

    def _end(self, record: ShardRecord, state: ShardState, failure: Failure) -> ShardRecord:
        kept = rules.bounded_failure(failure)
        ended = replace(record, state=state, error_class=kept.error_class, error_message=kept.message)
        return self.put(replace(ended, changed_s=self._clock.now_s()))

    def put(self, record: ShardRecord) -> ShardRecord:
        self.records[record.run_id][record.number] = record
        return record

    def _get(self, run_id: str, number: int) -> ShardRecord:
        return _found(self.records, run_id, number)


class MemoryShards:
    """``Shards`` in a dictionary."""

    def __init__(
        self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]], runs: MemoryRuns
    ) -> None:
        self._clock, self._lock, self.records, self._runs = clock, lock, shards, runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter shards as PENDING; how many were new."""
        new = 0
        for record in shards:
            with self._lock:
                known = self.records.setdefault(record.run_id, {})
                if record.number not in known:
                    known[record.number] = self._fresh(record)
                    new += 1
        return new

    def _fresh(self, record: ShardRecord) -> ShardRecord:
        place = record.run_id, record.number, record.part, record.offset, record.length
        size = record.object_count, record.size_bytes
        of_run = {"engine": record.engine, "isolate": record.isolate}
        return ShardRecord(*place, *size, record.generation, changed_s=self._clock.now_s(), **of_run)  # type: ignore[arg-type]

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard."""
        with self._lock:
            return _found(self.records, run_id, number)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number; each page as it is when it is read."""
        with self._lock:
            self._runs.get(run_id)
            numbers = sorted(self.records.get(run_id, {}))
        for start in range(0, len(numbers), PAGE_SHARDS):
            with self._lock:
                page = [self.records[run_id][n] for n in numbers[start : start + PAGE_SHARDS]]
            yield from (r for r in page if state is None or r.state is state)

    def count(self, run_id: str) -> Counts:
        """Shards by state."""
        with self._lock:
            self._runs.get(run_id)
            states = [r.state for r in self.records.get(run_id, {}).values()]
        return Counts(*(states.count(s) for s in ShardState))

    def glance(self, run_id: str) -> Counts:
        """Shards by state; SUCCEEDED is 0 until the plan is sealed."""
        counts = self.count(run_id)
        return counts if self._runs.get(run_id).sealed else replace(counts, succeeded=0)

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """Shards RUNNING with a lease end, or PENDING unchanged since, before ``before_s``."""
        if state not in (ShardState.RUNNING, ShardState.PENDING):
            raise ValueError(f"a {state} shard does not expire")
        for record in self.list(run_id, state):
            since_s = record.lease_end_s if state is ShardState.RUNNING else record.changed_s
            if since_s < before_s:
                yield record

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards PENDING, RUNNING or FAILED that have changed since."""
        waits = state is ShardState.PENDING
        return (r for r in self.list(run_id, state) if r.changed_s >= since_s and not (waits and r.engine))

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards of engines."""
        return (record for record in self.list(run_id, ShardState.PENDING) if record.engine)


class MemoryLedger:
    """A ``Ledger`` in memory; ``clock`` decides when leases end."""

    def __init__(self, clock: Clock | None = None) -> None:
        time, lock = clock or SystemClock(), threading.RLock()
        shards: dict[str, dict[int, ShardRecord]] = {}
        self.runs = MemoryRuns(time, lock, shards)
        self.attempts = MemoryAttempts(time, lock, shards, self.runs)
        self.shards = MemoryShards(time, lock, shards, self.runs)


def _found(shards: Mapping[str, Mapping[int, ShardRecord]], run_id: str, number: int) -> ShardRecord:
    record = shards.get(run_id, {}).get(number)
    if record is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    return record


def _moved(record: ShardRecord, engine: str) -> ShardRecord:
    return replace(record, engine=engine, attempts=0, requeues=0, unrun=0)


def _isolating(record: ShardRecord, isolation: Isolation) -> ShardRecord:
    return replace(_moved(record, record.engine), **asdict(isolation))


def _with_result(record: ShardRecord, result: ShardResult) -> ShardRecord:
    kept = rules.bounded_result(result)
    found = {name: getattr(kept, name) for name in ("rows", "output_bytes", "outputs", "memory_mb", "schemas")}
    return replace(record, **found)
