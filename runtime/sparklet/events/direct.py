"""Direct invocations and Step Functions tasks: the event is one task; its answer is the output.

A failure is raised, so that ``Retry`` and ``Catch`` of a state machine can name its class. Of a shard's failures they
need to tell apart only three, whatever went wrong in it (its cause is in the message and in the ledger):

- ShardFailedError: FAILED, and each further asking says so again;
- ShardNotDoneError: it may be asked for again after a while;
- LeaseLostError: it may be asked for again once the lease of another attempt is over.

Anything else that is raised says that this worker can do no shard at all.
"""

from collections.abc import Sequence
from typing import Any

from sparklet.errors import EventError, LeaseLostError, ShardFailedError, ShardNotDoneError, SparkletError
from sparklet.events import notices
from sparklet.events.task import Event, Outcome, Source, Task, Telling
from sparklet.model import BatchRef, ClaimStatus, ShardRef, ShardState


def split(event: Event) -> tuple[Task, ...]:
    """One task; a shard of a run, or a batch of objects, if the event names one."""
    if notices.is_test_event(event):
        return (Task(Source.DIRECT, event, skip=notices.NO_OBJECT),)
    try:
        return (Task(Source.DIRECT, event, shard=ShardRef.from_document(event), batch=BatchRef.from_document(event)),)
    except EventError as problem:
        return (Task(Source.DIRECT, event, problem=problem),)


def tell(event: Event, outcomes: Sequence[Outcome], telling: Telling) -> Any:
    """The task's answer; its failure is raised."""
    for outcome in outcomes:
        if outcome.task.shard is not None:
            return _tell_shard(outcome.task.shard, outcome)
    return notices.tell(event, outcomes, telling)


def _tell_shard(ref: ShardRef, outcome: Outcome) -> Any:
    """A shard's answer, the same each time it is asked for: a shard that was FAILED before is a failure, too."""
    error, answer, name = outcome.error, outcome.answer, f"shard {ref.shard} of run {ref.run_id}"
    if error is None:
        if answer.get("state") == ShardState.FAILED and answer.get("claim") != ClaimStatus.STALE:
            raise ShardFailedError(f"{name} has FAILED before: {answer.get('error') or 'its cause is not known'}")
        return dict(answer)
    if outcome.acknowledged:
        raise ShardFailedError(f"{name} has FAILED: {_shown(error)}") from error
    if error.retryable and not isinstance(error, LeaseLostError):
        raise ShardNotDoneError(f"{name} has not ended: {_shown(error)}") from error
    raise error


def _shown(error: SparkletError) -> str:
    return f"{type(error).__name__}: {error}"
