"""What can happen to a shard, a task and a run: pure functions, record and event → record. Read this page first.

A shard from left to right, one lease below the other::

    planned ─▶ PENDING ─ claim ─▶ RUNNING ─ renew, every 8 s ┬ win, publish, succeed ─▶ SUCCEEDED ─┐
                ▲ │                 │                        └ fail ─▶ FAILED ─────────────────────┤
                │ ├ abandon: FAILED │                                                              │
                │ └ by a check: split ─▶ SPLIT, and others PENDING in its place ─ join ─▶ SPLIT, and it is FAILED
                ├─ release, escalate: its attempt gives it back, perhaps to be split               │
                ├─ expire: its lease is over; FAILED without an attempt left                       │
                ├─ count_requeue: it was dispatched again                                          │
                └─ redrive: the next generation, of what SUCCEEDED only on demand ◀────────────────┘

A task of the API or a call of ``functions``: ``claim_task``, then the same ``succeed``, ``fail`` and ``release``;
``give_up`` ends a task that will not be delivered any more. A task's lease is not renewed.

- **An attempt owns a shard by its id**, never by the clock: until another attempt has claimed the shard, also a late
  change by the attempt counts.
- **A lease is over by the ledger's clock.** A claim takes over a lease only ``LEASE_GRACE_S`` later. A check needs no
  such margin: it decides by the record that it has read, and its change is refused if the record has changed since.
- **Nothing happens twice**: if an attempt repeats a change, because an answer was lost, nothing changes.

A function returns the record itself if nothing is to change. Its exceptions reach the caller of the ledger. It depends
on nothing but its arguments, so a store may apply it to a record of which only the fields that it uses are known.
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


# --- changes by an attempt ---


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
    """The answer to a claim, with the shard as it is then. LedgerError if the message's generation is not open yet."""
    if ref.generation > record.generation:
        shard_is_at = f"{rules.name_of(record)} is at generation {record.generation}"
        raise LedgerError(f"{shard_is_at}, the message at {ref.generation}: try again")
    if ref.generation < record.generation:
        return Claim(ClaimStatus.STALE, record)
    # A message from before an escalation must not bring the shard back to a function. A shard that is to be split waits
    # for a check.
    is_for_another = record.engine not in ("", engine) or bool(record.split)
    if status := rules.refusal(record, attempt_id, now_s, is_for_another):
        return Claim(status, record)
    # The last attempt was lost before it could end the shard, so the next claim does that in its place.
    if record.used_attempts >= max_attempts:
        after = _after_last_attempt(_with_time_added(record), rules.last_failure(record), escalate, now_s)
        return Claim(ClaimStatus.EXHAUSTED if after.state.ended else ClaimStatus.HELD, after)
    taken = replace(_with_time_added(record), taken_from=record.state)
    return Claim(ClaimStatus.GRANTED, _with_claim(taken, attempt_id, now_s, lease_s, log_stream))


def claim_task(
    record: TaskRecord, attempt_id: str, now_s: float, lease_s: float, max_attempts: int, log_stream: str
) -> Claim[TaskRecord]:
    """The answer to a claim, with the task as it is then."""
    if status := rules.refusal(record, attempt_id, now_s):
        return Claim(status, record)
    if record.attempts >= max_attempts:
        return give_up(record, now_s, None, is_lost=False)
    return Claim(ClaimStatus.GRANTED, _with_claim(record, attempt_id, now_s, lease_s, log_stream))


def _with_claim(record: R, attempt_id: str, now_s: float, lease_s: float, log_stream: str) -> R:
    claimed = replace(record, attempts=record.attempts + 1, attempt_id=attempt_id, state=RUNNING, started_s=now_s)
    claimed = replace(claimed, lease_end_s=now_s + lease_s, changed_s=now_s)
    return replace(claimed, log_stream=rules.cut(log_stream, rules.LOG_STREAM_BYTES))


def renew(
    record: ShardRecord, attempt_id: str, now_s: float, lease_s: float, staged: ShardResult | None = None
) -> ShardRecord:
    """Let the lease end later. Nothing else changes, so that a renewal is as cheap as a write can be.

    With ``staged`` this attempt wins: its staged output is the one to publish, for good.
    """
    if record.state is not RUNNING or record.attempt_id != attempt_id:
        raise rules.not_owned(record, attempt_id)
    if staged is not None:
        # Readers may see some of the winner's files already: later attempts publish the rest of these, never their own.
        if record.winner not in ("", attempt_id):
            raise rules.not_owned(record, attempt_id)
        record = replace(record, **rules.stored_result(record, staged), winner=attempt_id)
    return replace(record, lease_end_s=now_s + lease_s)


def succeed(record: R, attempt_id: str, now_s: float, result: ShardResult, inherited: bool = False) -> R:
    """RUNNING → SUCCEEDED. A cause that is ``inherited`` from the shard that this one was split off is removed."""
    if _is_repeated(record, attempt_id, SUCCEEDED):
        return record
    if inherited:
        record = replace(record, error_class="", error_message="")
    return replace(record, **rules.stored_result(record, result), state=SUCCEEDED, changed_s=now_s)


def fail(record: R, attempt_id: str, now_s: float, failure: Failure) -> R:
    """RUNNING → FAILED."""
    return record if _is_repeated(record, attempt_id, FAILED) else _with_failure(record, FAILED, failure, now_s)


def release(record: R, attempt_id: str, now_s: float, failure: Failure, split: str = "") -> R:
    """RUNNING → PENDING. With ``split`` no attempt claims the shard until a check splits it. A conflict is counted."""
    if _is_repeated(record, attempt_id, PENDING):
        return record
    released = _with_failure(record, PENDING, failure, now_s, split)
    if isinstance(released, ShardRecord) and rules.is_conflict(failure):
        return replace(released, conflicts=released.conflicts + 1)
    return released


def escalate(record: ShardRecord, attempt_id: str, now_s: float, failure: Failure, engine: str) -> ShardRecord:
    """RUNNING → PENDING for an engine."""
    if _is_repeated(record, attempt_id, PENDING):
        return record
    return _with_failure(_for_engine(record, engine), PENDING, failure, now_s)


def _is_repeated(record: Record, attempt_id: str, target_state: ShardState) -> bool:
    """Whether the attempt has changed the record to this state before; LeaseLostError if it does not own the record."""
    if record.state is RUNNING and record.attempt_id == attempt_id:
        return False
    if record.state is target_state and record.attempt_id == attempt_id:
        return True
    raise rules.not_owned(record, attempt_id)


# --- transitions that others request; None if the shard's state does not allow them ---


def expire(record: ShardRecord, now_s: float, max_attempts: int, escalate_to: str) -> ShardRecord | None:
    """RUNNING → PENDING if the lease is over; if no attempt is left, see ``_after_last_attempt``."""
    if record.state is not RUNNING or record.lease_end_s > now_s:
        return None
    failure = rules.expired_failure(record)
    if record.used_attempts < max_attempts:
        return _with_failure(record, PENDING, failure, now_s)
    return _after_last_attempt(record, failure, escalate_to, now_s)


def count_requeue(record: ShardRecord, now_s: float, unrun: bool, task_id: str) -> ShardRecord | None:
    """Count that a PENDING shard was dispatched again."""
    # The claim of a shard that is to be split would be refused.
    if record.state is not PENDING or record.split:
        return None
    counted = replace(_with_time_added(record), requeues=record.requeues + 1, unrun=record.unrun + unrun)
    return replace(counted, changed_s=now_s, task_id=task_id or record.task_id)


def abandon(record: ShardRecord, now_s: float, failure: Failure) -> ShardRecord | None:
    """PENDING → FAILED."""
    return _with_failure(_with_time_added(record), FAILED, failure, now_s) if record.state is PENDING else None


def give_up(record: TaskRecord, now_s: float, failure: Failure | None, is_lost: bool) -> Claim[TaskRecord]:
    """An open task → FAILED, with its last cause if ``failure`` is None; the claim is EXHAUSTED, DONE if it had ended.

    LeaseLostError if an attempt still holds the task: its lease is not over, and it is not known as lost (``is_lost``).
    """
    if record.state.ended:
        return Claim(ClaimStatus.DONE, record)
    if rules.is_held(record, now_s) and not is_lost:
        raise LeaseLostError(f"attempt {record.attempt_id} still holds {rules.name_of(record)}")
    return Claim(ClaimStatus.EXHAUSTED, _with_failure(record, FAILED, failure or rules.last_failure(record), now_s))


def redrive(record: ShardRecord, now_s: float, generation: int, engine: str, isolate: int) -> ShardRecord | None:
    """FAILED or SUCCEEDED → PENDING in a later generation. Earlier output stays until new output is published."""
    # A redrive that is repeated after a crash leaves the shards that it had redriven already.
    if record.state not in (FAILED, SUCCEEDED) or record.generation >= generation:
        return None
    redriven = _with_time_added(_for_engine(record, engine or record.engine))
    # A FAILED shard keeps its winner: its output may be half published, and the next attempt goes on with the same
    # files.
    if record.state is SUCCEEDED:
        redriven = replace(redriven, winner="", redone=generation, error_class="", error_message="")
    return replace(redriven, state=PENDING, generation=generation, isolate=isolate, changed_s=now_s)


def split(record: ShardRecord) -> ShardRecord:
    """PENDING → SPLIT: other shards have its inputs. FAILED shards that are joined become SPLIT, too."""
    return replace(record, state=ShardState.SPLIT, split="")


def join(record: ShardRecord, failure: Failure) -> ShardRecord:
    """SPLIT → FAILED: the shard has all its inputs again."""
    return _with_failure(record, FAILED, failure, record.changed_s)


def _after_last_attempt(record: ShardRecord, failure: Failure, escalate_to: str, now_s: float) -> ShardRecord:
    """The shard after its last attempt has failed: PENDING for an engine, PENDING for a split, or FAILED."""
    if escalate_to and rules.outgrown(failure):
        return _with_failure(_for_engine(record, escalate_to), PENDING, failure, now_s)
    if rules.splits(record, failure):
        return _with_failure(record, PENDING, failure, now_s, HALVES)
    return _with_failure(record, FAILED, failure, now_s)


def _with_failure(record: R, state: ShardState, failure: Failure, now_s: float, split: str = "") -> R:
    stored_failure = rules.bounded_failure(failure)
    more: dict[str, Any] = {"split": split} if isinstance(record, ShardRecord) else {}
    record = replace(record, state=state, changed_s=now_s, **more)
    return replace(record, error_class=stored_failure.error_class, error_message=stored_failure.message)


def _with_time_added(record: ShardRecord) -> ShardRecord:
    """The record with its last attempt's time added to ``worked_s``, for a change that overwrites its times."""
    if not record.started_s:
        return record
    # It is not known when a lost attempt ended, only when its lease did.
    ended_s = record.lease_end_s if record.state is RUNNING else record.changed_s
    return replace(record, worked_s=record.worked_s + max(0.0, ended_s - record.started_s), started_s=0.0)


def _for_engine(record: ShardRecord, engine: str) -> ShardRecord:
    """The shard for this engine ("": for functions), its attempts counted from 0 again."""
    return replace(record, engine=engine, attempts=0, requeues=0, unrun=0, conflicts=0)


# --- a run ---


def seal(
    run: Run, last: PartRecord | None, shards: int, objects: int, size_bytes: int, skipped: Mapping[str, int]
) -> Run:
    """PLANNING → RUNNING, if ``last``, the last part, ends with the last of these shards."""
    if run.shard_count == shards:
        return run
    # Another planner may have sealed more parts than this one knows of: the parts decide.
    planned_shards = last.next_shard if last else shards
    if run.state is not RunState.PLANNING or planned_shards != shards:
        raise CheckpointConflictError(
            f"the plan of run {run.run_id} cannot be sealed with {shards} shards: "
            f"it is {run.state}, sealed with {run.shard_count}, and its parts hold {planned_shards}"
        )
    sealed = replace(run, state=RunState.RUNNING, shard_count=shards, skipped=dict(skipped))
    return replace(sealed, object_count=objects, size_bytes=size_bytes)


def set_schema(run: Run, schema: str) -> Run:
    """Set the run's schema, unless the run has one or its plan is sealed."""
    return replace(run, schema=schema) if run.schema is None and run.state is RunState.PLANNING else run


def start_generation(run: Run, generation: int, script: ScriptRef, *, stays_cancelled: bool) -> Run:
    """The run RUNNING again, in its next generation."""
    # A cancel that is still going on would also end the shards that are redriven.
    cancelling = run.cancelled_s is not None and not run.state.ended
    if run.generation != generation - 1 or not run.sealed or cancelling or run.retired_s is not None:
        status = "being deleted" if run.retired_s is not None else rules.status_of(run)
        raise LedgerError(
            f"generation {generation} of run {run.run_id} cannot start: the run is at generation {run.generation}, "
            f"its plan is {'sealed' if run.sealed else 'not sealed'}, and the run is {status}"
        )
    opened = replace(run, scripts=(*run.scripts, script), state=RunState.RUNNING, ended_s=None, notified_s=None)
    return opened if stays_cancelled else replace(opened, cancelled_s=None)


def follow(run: Run, follower: Run, generation: int) -> Run:
    """Name a follower in its parent's record; CheckpointConflictError if the parent has ended, or has changed."""
    is_of_this_generation = run.generation == generation or not follower.kind.of_generation
    if is_of_this_generation and follower.number <= run.followers.get(follower.kind, -1):
        return run
    if run.state.ended or run.cancelled_s is not None or run.generation != generation:
        parent_is = f"the run {run.run_id} is {rules.status_of(run)} at generation {run.generation}"
        raise CheckpointConflictError(f"{parent_is}; {follower.run_id} does not follow it any more")
    return replace(run, followers={**run.followers, follower.kind: follower.number})


def finish(run: Run, generation: int, state: RunState, now_s: float, counted_shards: int | None) -> Run:
    """End a run as ``state``, once in a generation; CANCELLED only, and always, if it was cancelled.

    It stays open if it now has another number of shards than ``counted_shards``.
    """
    agrees_with_cancel = (run.cancelled_s is not None) is (state is RunState.CANCELLED)
    # A split may have added shards since they were counted.
    is_count_current = counted_shards is None or run.shard_count in (None, counted_shards)
    if run.generation != generation or run.state.ended or not (agrees_with_cancel and is_count_current):
        return run
    return replace(run, state=state, ended_s=now_s)


def notify(run: Run, generation: int, now_s: float) -> Run:
    """Note that the notice of this generation's end was sent."""
    return replace(run, notified_s=now_s) if run.generation == generation and run.state.ended else run


def cancel(run: Run, now_s: float) -> Run:
    """Note that a run that has not ended is to end."""
    return run if run.cancelled_s is not None or run.state.ended else replace(run, cancelled_s=now_s)


def retire(run: Run, now_s: float) -> Run:
    """Close an ended run for good; LedgerError if it has not ended."""
    if not run.state.ended:
        status = rules.status_of(run)
        raise LedgerError(f"the run {run.run_id} has not ended, it is {status}; cancel it first: sparklet cancel")
    return run if run.retired_s is not None else replace(run, retired_s=now_s)
