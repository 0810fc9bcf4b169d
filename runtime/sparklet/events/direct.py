"""Direct invocations and Step Functions tasks: the event is one task; its answer is the output.

A failure is raised, so that ``Retry`` and ``Catch`` of a state machine can name its class. Of a shard's failures they
need to tell apart only three, whatever went wrong in it (its cause is in the message and in the ledger):

- ShardFailedError: FAILED, and each further asking says so again;
- ShardNotDoneError: it may be asked for again after a while;
- LeaseLostError: it may be asked for again once the lease of another attempt is over.

Anything else that is raised says that this worker can do no shard at all.

``{"sparklet": {"script": …, "event": …}}`` hands over an event of any source, to be done by that script. Who invokes
is told as of a direct event. Nothing within an event can say so, wherever it comes from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparklet.errors import EventError, LeaseLostError, ScriptError, ShardFailedError, ShardNotDoneError, SparkletError
from sparklet.events import notices
from sparklet.events.task import Event, Outcome, Source, Task, Telling
from sparklet.model import ClaimStatus, ShardRef, ShardState

MAX_FAILURES_TOLD = 5


def split(event: Event) -> tuple[Task, ...]:
    """One task; a shard of a run if the event names one."""
    if notices.is_test_event(event):
        return (Task(Source.DIRECT, event, skip=notices.NO_OBJECT),)
    try:
        return (Task(Source.DIRECT, event, shard=ShardRef.from_document(event)),)
    except EventError as problem:
        return (Task(Source.DIRECT, event, problem=problem),)


def chosen(event: Event) -> Mapping[str, Any] | None:
    """What a direct invocation says of the event that it hands over; None if it is an event itself."""
    wish = event.get("sparklet") if isinstance(event, dict) and len(event) == 1 else None
    return wish if isinstance(wish, dict) and {"script", "event"} <= wish.keys() else None


def handed_over(task: Task, wish: Mapping[str, Any]) -> Task:
    """A task of an event that was handed over: nobody's shard, and no task of the asynchronous API."""
    if task.shard:
        other = EventError("the event names a shard, which has its run's script: sparklet redrive RUN --script FILE")
        return replace(task, shard=None, problem=other)
    return replace(task, order=None, skip="", chosen=wish)


def _tell_all(outcomes: Sequence[Outcome]) -> Any:
    """The answers of several tasks, in order; what failed is raised, with the records that it was reported by."""
    failed = [f"{', '.join(each.task.record_ids[:1])}: {_shown(each.error)}" for each in outcomes if each.error]
    if failed:
        raise ScriptError(f"{len(failed)} of {len(outcomes)} tasks failed; {'; '.join(failed[:MAX_FAILURES_TOLD])}")
    return {"tasks": [dict(each.answer) for each in outcomes]}


def tell(event: Event, outcomes: Sequence[Outcome], telling: Telling) -> Any:
    """The task's answer; its failure is raised."""
    if len(outcomes) > 1 and chosen(event):
        return _tell_all(outcomes)
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
