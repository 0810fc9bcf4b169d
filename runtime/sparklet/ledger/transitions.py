"""What may happen to a shard, a task and a run: pure functions, record and event → record. Read this page first.

A shard from left to right, one lease below the other::

    planned ─▶ PENDING ─ claim ─▶ RUNNING ─ renew, every 8 s ┬ win, publish, succeed ─▶ SUCCEEDED ─┐
                ▲ │                 │                        └ fail ─▶ FAILED ─────────────────────┤
                │ ├ abandon: FAILED │                                                              │
                │ └ by a check: split ─▶ SPLIT, and others PENDING in its place ─ join ─▶ SPLIT, and it is FAILED
                ├─ release, escalate: its attempt gives it back, perhaps to be split               │
                ├─ expire: its lease is over; FAILED without an attempt left                       │
                ├─ count_requeue: it was dispatched again                                          │
                └─ redrive: the next generation, of what SUCCEEDED only on demand ◀────────────────┘

A task of the API or a call of ``functions``: ``claim_task``, then the same ``succeed``, ``fail`` and ``release``; what
nobody delivers any more is ended by ``give_up``. Its lease is not renewed.

- **An attempt owns a shard by its id**, never by the clock: until another attempt has taken it, its late word counts.
- **A lease is over by the ledger's clock.** A claim takes it ``LEASE_GRACE_S`` later only; a check, which decides
  on the record that it has read and is refused if that has changed since, needs no such margin.
- **Nothing happens twice**: what an attempt says again, because an answer was lost, changes nothing.

A function returns the record itself if nothing is to change, and raises what the caller is told. It depends on nothing
but its arguments, so a store may apply it to a record of which only the fields it looks at are known.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sparklet.errors import CheckpointConflictError, LeaseLostError, LedgerError
from sparklet.ledger import rules
from sparklet.model import (
    HALVES,
    Claim,
    ClaimStatus,
    Failure,
    PartRecord,
    Record,
    Run,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
    TaskRecord,
)

R = TypeVar("R", bound=Record)
PENDING, RUNNING = ShardState.PENDING, ShardState.RUNNING
SUCCEEDED, FAILED = ShardState.SUCCEEDED, ShardState.FAILED


# --- what an attempt says ---


def claim(
    record: ShardRecord,
    ref: ShardRef,
    attempt_id: str,
    now_s: float,
    lease_s: float,
    max_attempts: int,
    log_stream: str = "",
    engine: str = "",
    escalate: str = "",
) -> Claim[ShardRecord]:
    """The answer to a claim, with the shard as it is after it; LedgerError if its generation is not open yet."""
    if ref.generation > record.generation:
        is_at = f"{rules.named(record)} is at generation {record.generation}"
        raise LedgerError(f"{is_at}, the message at {ref.generation}: try again")
    if ref.generation < record.generation:
        return Claim(ClaimStatus.STALE, record)
    # A message from before an escalation must not bring the shard back to a function, and one that is to be split is
    # nobody's until a check has done that.
    elsewhere = record.engine not in ("", engine) or bool(record.split)
    if refused := rules.refusal(record, attempt_id, now_s, elsewhere):
        return Claim(refused, record)
    # The last attempt was lost before it could end the shard, so the next claim does that in its place.
    if record.used_attempts >= max_attempts:
        after = _exhausted(_add_time(record), rules.last_failure(record), escalate, now_s)
        return Claim(ClaimStatus.EXHAUSTED if after.state.ended else ClaimStatus.HELD, after)
    taken = replace(_add_time(record), taken_from=record.state)
    return Claim(ClaimStatus.GRANTED, _claimed(taken, attempt_id, now_s, lease_s, log_stream))


def claim_task(
    record: TaskRecord, attempt_id: str, now_s: float, lease_s: float, max_attempts: int, log_stream: str
) -> Claim[TaskRecord]:
    """The answer to a claim, with the task as it is after it."""
    if refused := rules.refusal(record, attempt_id, now_s):
        return Claim(refused, record)
    if record.attempts >= max_attempts:
        return give_up(record, now_s, None, is_lost=False)
    return Claim(ClaimStatus.GRANTED, _claimed(record, attempt_id, now_s, lease_s, log_stream))


def _claimed(record: R, attempt_id: str, now_s: float, lease_s: float, log_stream: str) -> R:
    taken = replace(record, attempts=record.attempts + 1, attempt_id=attempt_id, state=RUNNING, started_s=now_s)
    taken = replace(taken, lease_end_s=now_s + lease_s, changed_s=now_s)
    return replace(taken, log_stream=rules.cut(log_stream, rules.LOG_STREAM_BYTES))


def renew(
    record: ShardRecord, attempt_id: str, now_s: float, lease_s: float, staged: ShardResult | None = None
) -> ShardRecord:
    """The lease ends later, and nothing else changes, so that a renewal is the cheapest write there is.

    With ``staged`` this attempt wins: its staged output is the one to publish, for good.
    """
    _owned(record, attempt_id)
    if staged is not None:
        # Readers may see some of the winner's files already: whoever comes later may publish those, never its own.
        if record.winner not in ("", attempt_id):
            raise rules.not_owned(record, attempt_id)
        record = replace(record, **rules.kept_of(record, staged), winner=attempt_id)
    return replace(record, lease_end_s=now_s + lease_s)


def succeed(record: R, attempt_id: str, now_s: float, result: ShardResult, inherited: bool = False) -> R:
    """RUNNING → SUCCEEDED; a cause that is ``inherited`` from a shard that was split is forgotten."""
    if _owned(record, attempt_id, SUCCEEDED):
        return record
    if inherited:
        record = replace(record, error_class="", error_message="")
    return replace(record, **rules.kept_of(record, result), state=SUCCEEDED, changed_s=now_s)


def fail(record: R, attempt_id: str, now_s: float, failure: Failure) -> R:
    """RUNNING → FAILED."""
    return record if _owned(record, attempt_id, FAILED) else _ended(record, FAILED, failure, now_s)


def release(record: R, attempt_id: str, now_s: float, failure: Failure, split: str = "") -> R:
    """RUNNING → PENDING; a shard with ``split`` nobody claims, until a check splits it. A conflict is counted."""
    if _owned(record, attempt_id, PENDING):
        return record
    released = _ended(record, PENDING, failure, now_s, split)
    if isinstance(released, ShardRecord) and rules.is_conflict(failure):
        return replace(released, conflicts=released.conflicts + 1)
    return released


def escalate(record: ShardRecord, attempt_id: str, now_s: float, failure: Failure, engine: str) -> ShardRecord:
    """RUNNING → PENDING for an engine."""
    return record if _owned(record, attempt_id, PENDING) else _ended(_anew(record, engine), PENDING, failure, now_s)


def _owned(record: Record, attempt_id: str, target_state: ShardState | None = None) -> bool:
    """Whether a record is as its attempt wants it already; LeaseLostError if it is not its own."""
    if record.state is RUNNING and record.attempt_id == attempt_id:
        return False
    if record.state is target_state and record.attempt_id == attempt_id:
        return True
    raise rules.not_owned(record, attempt_id)


# --- transitions that others request; None if the shard's state does not allow them ---


def expire(record: ShardRecord, now_s: float, max_attempts: int, escalate_to: str) -> ShardRecord | None:
    """RUNNING → PENDING, or FAILED without an attempt left."""
    if record.state is not RUNNING or record.lease_end_s > now_s:
        return None
    failure = rules.expired_failure(record)
    if record.used_attempts < max_attempts:
        return _ended(record, PENDING, failure, now_s)
    return _exhausted(record, failure, escalate_to, now_s)


def count_requeue(record: ShardRecord, now_s: float, unrun: bool, task_id: str) -> ShardRecord | None:
    """PENDING, and dispatched again."""
    # A message for a shard that is to be split would only be turned away.
    if record.state is not PENDING or record.split:
        return None
    counted = replace(_add_time(record), requeues=record.requeues + 1, unrun=record.unrun + unrun, changed_s=now_s)
    return replace(counted, task_id=task_id or record.task_id)


def abandon(record: ShardRecord, now_s: float, failure: Failure) -> ShardRecord | None:
    """PENDING → FAILED."""
    return _ended(_add_time(record), FAILED, failure, now_s) if record.state is PENDING else None


def give_up(record: TaskRecord, now_s: float, failure: Failure | None, is_lost: bool) -> Claim[TaskRecord]:
    """PENDING, or RUNNING by an attempt that ``is_lost`` or whose lease is over, → FAILED; None: by its last cause.

    The answer is that of a claim without an attempt left; LeaseLostError if an attempt holds it.
    """
    if record.state.ended:
        return Claim(ClaimStatus.DONE, record)
    if rules.is_held(record, now_s) and not is_lost:
        raise LeaseLostError(f"attempt {record.attempt_id} still holds {rules.named(record)}")
    return Claim(ClaimStatus.EXHAUSTED, _ended(record, FAILED, failure or rules.last_failure(record), now_s))


def redrive(record: ShardRecord, now_s: float, generation: int, engine: str, isolate: int) -> ShardRecord | None:
    """FAILED, or SUCCEEDED, whose output stays until another is published, → PENDING in a later generation."""
    # A redrive that is repeated after a crash passes over what it had moved already.
    if record.state not in (FAILED, SUCCEEDED) or record.generation >= generation:
        return None
    fresh = _add_time(_anew(record, engine or record.engine))
    # A FAILED shard keeps its winner: its output may be half published, and the next attempt goes on with the same
    # files.
    if record.state is SUCCEEDED:
        fresh = replace(fresh, winner="", redone=generation, error_class="", error_message="")
    return replace(fresh, state=PENDING, generation=generation, isolate=isolate, changed_s=now_s)


def split(record: ShardRecord) -> ShardRecord:
    """PENDING (or FAILED, of shards that are joined) → SPLIT: others have its inputs; the time it took is kept."""
    return replace(record, state=ShardState.SPLIT, split="")


def join(record: ShardRecord, failure: Failure) -> ShardRecord:
    """SPLIT → FAILED with all its inputs, as it was."""
    return _ended(record, FAILED, failure, record.changed_s)


def _exhausted(record: ShardRecord, failure: Failure, escalate_to: str, now_s: float) -> ShardRecord:
    """A shard without an attempt left: an engine goes on, or it is split, or it has FAILED."""
    if escalate_to and rules.outgrown(failure):
        return _ended(_anew(record, escalate_to), PENDING, failure, now_s)
    if rules.splits(record, failure):
        return _ended(record, PENDING, failure, now_s, HALVES)
    return _ended(record, FAILED, failure, now_s)


def _ended(record: R, state: ShardState, failure: Failure, now_s: float, split: str = "") -> R:
    stored_failure = rules.bounded_failure(failure)
    more: dict[str, Any] = {"split": split} if isinstance(record, ShardRecord) else {}
    record = replace(record, state=state, changed_s=now_s, **more)
    return replace(record, error_class=stored_failure.error_class, error_message=stored_failure.message)


def _add_time(record: ShardRecord) -> ShardRecord:
    """The record with its last attempt's time added to ``worked_s``, before the timestamps that show it change."""
    if not record.started_s:
        return record
    # When a lost attempt ended nobody knows: only the end of its lease is known.
    ended_s = record.lease_end_s if record.state is RUNNING else record.changed_s
    return replace(record, worked_s=record.worked_s + max(0.0, ended_s - record.started_s), started_s=0.0)


def _anew(record: ShardRecord, engine: str) -> ShardRecord:
    return replace(record, engine=engine, attempts=0, requeues=0, unrun=0, conflicts=0)


# --- a run ---


def seal(
    run: Run, last: PartRecord | None, shards: int, objects: int, size_bytes: int, skipped: Mapping[str, int]
) -> Run:
    """PLANNING → RUNNING, with the shards of all parts; ``last`` is the last part."""
    if run.shard_count == shards:
        return run
    # Another planner may have sealed more than this one has seen: the parts decide, not what a planner remembers.
    planned = last.next_shard if last else shards
    if run.state is not RunState.PLANNING or planned != shards:
        raise CheckpointConflictError(
            f"the plan of run {run.run_id} cannot be sealed with {shards} shards: "
            f"it is {run.state}, sealed with {run.shard_count}, and its parts hold {planned}"
        )
    sealed = replace(run, state=RunState.RUNNING, shard_count=shards, skipped=dict(skipped))
    return replace(sealed, object_count=objects, size_bytes=size_bytes)


def set_schema(run: Run, schema: str) -> Run:
    """The first schema is kept, while the run is planned."""
    return replace(run, schema=schema) if run.schema is None and run.state is RunState.PLANNING else run


def start_generation(run: Run, generation: int, script: ScriptRef, *, stays_cancelled: bool) -> Run:
    """RUNNING again, in the next generation."""
    cancelling = run.cancelled_s is not None and not run.state.ended  # it would end what was redriven
    if run.generation != generation - 1 or not run.sealed or cancelling or run.retired_s is not None:
        status = "being deleted" if run.retired_s is not None else rules.status_of(run)
        raise LedgerError(
            f"generation {generation} of run {run.run_id} cannot start: it is at {run.generation}, "
            f"its plan {'sealed' if run.sealed else 'not sealed'}, and it is {status}"
        )
    opened = replace(run, scripts=(*run.scripts, script), state=RunState.RUNNING, ended_s=None, notified_s=None)
    return opened if stays_cancelled else replace(opened, cancelled_s=None)


def follow(run: Run, follower: Run, generation: int) -> Run:
    """Name a follower in its parent's record; refused once the parent has ended, was cancelled or redriven."""
    is_of_now = run.generation == generation or not follower.kind.of_generation
    if is_of_now and follower.number <= run.followers.get(follower.kind, -1):
        return run
    if run.state.ended or run.cancelled_s is not None or run.generation != generation:
        is_at = f"the run {run.run_id} is {rules.status_of(run)} at generation {run.generation}"
        raise CheckpointConflictError(f"{is_at}; {follower.run_id} does not follow it any more")
    return replace(run, followers={**run.followers, follower.kind: follower.number})


def finish(run: Run, generation: int, state: RunState, now_s: float, counted: int | None) -> Run:
    """A run ends once in a generation: CANCELLED exactly if it was cancelled, and with all shards it has."""
    fits = (run.cancelled_s is not None) is (state is RunState.CANCELLED)
    fits &= counted is None or run.shard_count in (None, counted)  # a split has added shards since
    if run.generation != generation or run.state.ended or not fits:
        return run
    return replace(run, state=state, ended_s=now_s)


def notify(run: Run, generation: int, now_s: float) -> Run:
    """The notice of a generation's end was sent."""
    return replace(run, notified_s=now_s) if run.generation == generation and run.state.ended else run


def cancel(run: Run, now_s: float) -> Run:
    """The run is to end."""
    return run if run.cancelled_s is not None or run.state.ended else replace(run, cancelled_s=now_s)


def retire(run: Run, now_s: float) -> Run:
    """An ended run is closed for good."""
    if not run.state.ended:
        status = rules.status_of(run)
        raise LedgerError(f"the run {run.run_id} has not ended, it is {status}; cancel it first: sparklet cancel")
    return run if run.retired_s is not None else replace(run, retired_s=now_s)
