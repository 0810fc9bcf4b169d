"""The ledger in dictionaries, changed under one lock."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from sparklet.clock import SystemClock
from sparklet.errors import ShardNotFoundError
from sparklet.ledger.memory_runs import MemoryRuns
from sparklet.ledger.rules import (
    LOG_STREAM_BYTES,
    bounded_failure,
    bounded_result,
    cut,
    exhausted_failure,
    lapse_failure,
    not_owned,
    refusal,
)
from sparklet.model import Claim, ClaimStatus, Counts, Failure, ShardRecord, ShardRef, ShardResult, ShardState
from sparklet.ports import Clock

PAGE_SHARDS = 1000


class MemoryAttempts:
    """``Attempts`` in a dictionary: every method is one atomic step."""

    def __init__(self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]]) -> None:
        self._clock, self._lock, self._shards = clock, lock, shards

    # --- workers ---

    def claim(self, ref: ShardRef, attempt_id: str, lease_s: float, max_attempts: int, log_stream: str = "") -> Claim:
        """Take the shard and count the attempt."""
        with self._lock:
            record, now_s = self._get(ref.run_id, ref.shard), self._clock.now_s()
            if answer := refusal(record, ref, attempt_id, now_s):
                return answer
            if record.attempts >= max_attempts:
                return Claim(ClaimStatus.EXHAUSTED, self._end(record, ShardState.FAILED, exhausted_failure(record)))
            claimed = replace(
                record,
                state=ShardState.RUNNING,
                attempts=record.attempts + 1,
                attempt_id=attempt_id,
                lease_end_s=now_s + lease_s,
                changed_s=now_s,
                started_s=now_s,
                log_stream=cut(log_stream, LOG_STREAM_BYTES),
            )
            return Claim(ClaimStatus.GRANTED, self._put(claimed))

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now; with ``staged`` this attempt has won."""
        with self._lock:
            record = self._get(run_id, number)
            if record.attempt_id != attempt_id or record.state is not ShardState.RUNNING:
                raise not_owned(record, attempt_id)
            if staged is not None:
                if record.winner not in ("", attempt_id):
                    raise not_owned(record, attempt_id)
                record = _with_result(replace(record, winner=attempt_id), staged)
            self._put(replace(record, lease_end_s=self._clock.now_s() + lease_s))

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        """RUNNING → SUCCEEDED."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.SUCCEEDED):
                done = replace(record, state=ShardState.SUCCEEDED, changed_s=self._clock.now_s())
                self._put(_with_result(done, result))

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.FAILED):
                self._end(record, ShardState.FAILED, failure)

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → PENDING."""
        with self._lock:
            if record := self._owned(run_id, number, attempt_id, ShardState.PENDING):
                self._end(record, ShardState.PENDING, failure)

    def _owned(self, run_id: str, number: int, attempt_id: str, wanted: ShardState) -> ShardRecord | None:
        """The shard if the attempt owns it, None if it is as wanted already, else LeaseLostError."""
        record = self._get(run_id, number)
        if record.attempt_id == attempt_id and record.state is ShardState.RUNNING:
            return record
        if record.attempt_id == attempt_id and record.state is wanted:
            return None
        raise not_owned(record, attempt_id)

    # --- checker, dead-letter messages, redrive ---

    def lapse(self, record: ShardRecord, max_attempts: int) -> ShardRecord | None:
        """End a lease that is over."""
        with self._lock:
            if not self._unmoved(record, ShardState.RUNNING) or record.lease_end_s > self._clock.now_s():
                return None
            state = ShardState.PENDING if record.attempts < max_attempts else ShardState.FAILED
            return self._end(record, state, lapse_failure(record))

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False) -> ShardRecord | None:
        """Count a message sent again for a PENDING shard."""
        with self._lock:
            if not self._unmoved(record, ShardState.PENDING):
                return None
            requeues, now_s = record.requeues + 1, self._clock.now_s()
            return self._put(replace(record, requeues=requeues, unrun=record.unrun + unrun, changed_s=now_s))

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that nobody will claim."""
        with self._lock:
            if not self._unmoved(record, ShardState.PENDING):
                return False
            self._end(record, ShardState.FAILED, failure)
            return True

    def redrive(self, run_id: str, number: int, generation: int) -> ShardRecord | None:
        """FAILED → PENDING in a later generation."""
        with self._lock:
            record = self._get(run_id, number)
            if record.state is not ShardState.FAILED or record.generation >= generation:
                return None
            fresh = replace(record, state=ShardState.PENDING, generation=generation, attempts=0, requeues=0, unrun=0)
            return self._put(replace(fresh, changed_s=self._clock.now_s()))

    def _unmoved(self, record: ShardRecord, state: ShardState) -> bool:
        """Whether the shard still is as it was read, and in ``state``."""
        return record.state is state and self._get(record.run_id, record.number) == record

    def _end(self, record: ShardRecord, state: ShardState, failure: Failure) -> ShardRecord:
        kept = bounded_failure(failure)
        ended = replace(record, state=state, error_class=kept.error_class, error_message=kept.message)
        return self._put(replace(ended, changed_s=self._clock.now_s()))

    def _put(self, record: ShardRecord) -> ShardRecord:
        self._shards[record.run_id][record.number] = record
        return record

    def _get(self, run_id: str, number: int) -> ShardRecord:
        return _found(self._shards, run_id, number)


class MemoryShards:
    """``Shards`` in a dictionary."""

    def __init__(
        self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]], runs: MemoryRuns
    ) -> None:
        self._clock, self._lock, self._shards, self._runs = clock, lock, shards, runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter shards as PENDING; how many were new."""
        new = 0
        for record in shards:
            with self._lock:
                known = self._shards.setdefault(record.run_id, {})
                if record.number not in known:
                    known[record.number] = self._fresh(record)
                    new += 1
        return new

    def _fresh(self, record: ShardRecord) -> ShardRecord:
        place = record.run_id, record.number, record.part, record.offset, record.length
        size = record.object_count, record.size_bytes
        return ShardRecord(*place, *size, record.generation, changed_s=self._clock.now_s())

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard."""
        with self._lock:
            return _found(self._shards, run_id, number)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number; each page as it is when it is asked for."""
        with self._lock:
            self._runs.get(run_id)
            numbers = sorted(self._shards.get(run_id, {}))
        for start in range(0, len(numbers), PAGE_SHARDS):
            with self._lock:
                page = [self._shards[run_id][n] for n in numbers[start : start + PAGE_SHARDS]]
            yield from (r for r in page if state is None or r.state is state)

    def count(self, run_id: str) -> Counts:
        """Shards by state."""
        with self._lock:
            self._runs.get(run_id)
            states = [r.state for r in self._shards.get(run_id, {}).values()]
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


class MemoryLedger:
    """A ``Ledger`` in memory; ``clock`` decides when leases end."""

    def __init__(self, clock: Clock | None = None) -> None:
        time, lock = clock or SystemClock(), threading.RLock()
        shards: dict[str, dict[int, ShardRecord]] = {}
        self.runs = MemoryRuns(time, lock, shards)
        self.attempts = MemoryAttempts(time, lock, shards)
        self.shards = MemoryShards(time, lock, shards, self.runs)


def _found(shards: Mapping[str, Mapping[int, ShardRecord]], run_id: str, number: int) -> ShardRecord:
    record = shards.get(run_id, {}).get(number)
    if record is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    return record


def _with_result(record: ShardRecord, result: ShardResult) -> ShardRecord:
    kept = bounded_result(result)
    return replace(record, rows=kept.rows, output_bytes=kept.output_bytes, outputs=kept.outputs)
