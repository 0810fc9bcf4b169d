"""Direct invocations and Step Functions tasks: the event is one task; its answer is the output.

A failure is raised, so that ``Retry`` and ``Catch`` of a state machine can name its class. A shard fails with
ShardFailedError, ShardNotDoneError or LeaseLostError, the cause in the message and in the ledger; any other error means
that this worker cannot do any shard.

``{"sparklet": {"script": …, "event": …}}`` hands over an event of any source to that script. Only the invocation itself
can do so, never an event inside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparklet.errors import EventError, LeaseLostError, ScriptError, ShardFailedError, ShardNotDoneError, SparkletError
from sparklet.events import notices
from sparklet.events.task import Event, Outcome, Source, Task
from sparklet.model import ClaimStatus, ShardRef, ShardState

MAX_FAILURES_SHOWN = 5


def split(event: Event) -> tuple[Task, ...]:
    """One task; a shard of a run if the event names one."""
    if notices.is_test_event(event):
        return (Task(Source.DIRECT, event, skip=notices.NO_OBJECT),)
    try:
        return (Task(Source.DIRECT, event, shard=ShardRef.from_document(event)),)
    except EventError as problem:
        return (Task(Source.DIRECT, event, problem=problem),)


def chosen(event: Event) -> Mapping[str, Any] | None:
    """The script and event that a direct invocation hands over; None if it is an event itself."""
    choice = event.get("sparklet") if isinstance(event, dict) and len(event) == 1 else None
    return choice if isinstance(choice, dict) and {"script", "event"} <= choice.keys() else None


def handed_over(task: Task, choice: Mapping[str, Any]) -> Task:
    """A task of an event that was handed over: it is neither a shard nor a task request."""
    if task.shard:
        other = EventError("the event names a shard, which has its run's script: sparklet redrive RUN --script FILE")
        return replace(task, shard=None, problem=other)
    return replace(task, request=None, skip="", chosen=choice)


def _respond_to_all(outcomes: Sequence[Outcome]) -> Any:
    """The answers of several tasks, in order; raises one error with the records of all failed tasks."""
    failed = [
        f"{', '.join(outcome.task.record_ids[:1])}: {_shown(outcome.error)}" for outcome in outcomes if outcome.error
    ]
    if failed:
        raise ScriptError(f"{len(failed)} of {len(outcomes)} tasks failed; {'; '.join(failed[:MAX_FAILURES_SHOWN])}")
    return {"tasks": [dict(outcome.answer) for outcome in outcomes]}


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """The task's answer; its failure is raised."""
    if len(outcomes) > 1 and chosen(event):
        return _respond_to_all(outcomes)
    for outcome in outcomes:
        if outcome.task.shard is not None:
            return _respond_of_shard(outcome.task.shard, outcome)
    return notices.respond(event, outcomes)


def _respond_of_shard(ref: ShardRef, outcome: Outcome) -> Any:
    """A shard's answer, the same each time: a shard that was FAILED before is a failure, too."""
    error, answer, name = outcome.error, outcome.answer, f"shard {ref.shard} of run {ref.run_id}"
    if error is None:
        # A reference of an older generation says nothing of the shard as it is now.
        if answer.get("state") == ShardState.FAILED and answer.get("claim") != ClaimStatus.STALE:
            raise ShardFailedError(f"{name} has FAILED before: {answer.get('error') or 'its cause is not known'}")
        return dict(answer)
    if outcome.acknowledged:
        raise ShardFailedError(f"{name} has FAILED: {_shown(error)}") from error
    # The state machine's ``Retry`` tells these two by their names: what another attempt holds may be free once its
    # lease is over.
    if error.retryable and not isinstance(error, LeaseLostError):
        raise ShardNotDoneError(f"{name} has not ended: {_shown(error)}") from error
    raise error


def _shown(error: SparkletError) -> str:
    return f"{type(error).__name__}: {error}"
