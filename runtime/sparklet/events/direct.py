"""Direct invocations and Step Functions tasks: the event is one task, and the task's answer is the output.

A failure is raised, so that ``Retry`` and ``Catch`` of a state machine can name its class. A shard fails with
ShardFailedError, ShardNotDoneError or LeaseLostError; their messages and the ledger have the cause. Any other error
means that this worker cannot do any shard.

``{"sparklet": {"script": …, "event": …}}`` hands over an event of any source to that script. Only the invocation itself
can hand over an event, never an event inside it.
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
    """Return one task, which is a shard of a run if the event names one."""
    if notices.is_test_event(event):
        return (Task(Source.DIRECT, event, skip=notices.NO_OBJECT),)
    try:
        return (Task(Source.DIRECT, event, shard=ShardRef.from_document(event)),)
    except EventError as problem:
        return (Task(Source.DIRECT, event, problem=problem),)


def choice_of(event: Event) -> Mapping[str, Any] | None:
    """The script and the event that a direct invocation hands over; None if the invocation hands over no event."""
    choice = event.get("sparklet") if isinstance(event, dict) and len(event) == 1 else None
    return choice if isinstance(choice, dict) and {"script", "event"} <= choice.keys() else None


def with_choice(task: Task, choice: Mapping[str, Any]) -> Task:
    """A task of an event that was handed over, with the script that was chosen; never a shard or a task request."""
    if task.shard:
        no_shard = "the event names a shard, which has its run's script; to repeat the shard with another script: "
        return replace(task, shard=None, problem=EventError(f"{no_shard}sparklet redrive RUN --script FILE"))
    return replace(task, request=None, skip="", chosen=choice)


def _respond_to_all(outcomes: Sequence[Outcome]) -> Any:
    """Return the answers of several tasks, in order, or raise one error that names the records of failed tasks."""
    failed = [
        f"{', '.join(outcome.task.record_ids[:1])}: {_class_and_message(outcome.error)}"
        for outcome in outcomes
        if outcome.error
    ]
    if failed:
        raise ScriptError(f"{len(failed)} of {len(outcomes)} tasks failed; {'; '.join(failed[:MAX_FAILURES_SHOWN])}")
    return {"tasks": [dict(outcome.answer) for outcome in outcomes]}


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Return the task's answer, or raise its failure."""
    if len(outcomes) > 1 and choice_of(event):
        return _respond_to_all(outcomes)
    for outcome in outcomes:
        if outcome.task.shard is not None:
            return _respond_to_shard(outcome.task.shard, outcome)
    return notices.respond(event, outcomes)


def _respond_to_shard(ref: ShardRef, outcome: Outcome) -> Any:
    """Return a shard's answer or raise its failure, the same each time: also if the shard has FAILED before."""
    error, answer, name = outcome.error, outcome.answer, f"shard {ref.shard} of run {ref.run_id}"
    if error is None:
        # With a STALE claim the event is about an older generation, and the shard's state about the present one.
        if answer.get("state") == ShardState.FAILED and answer.get("claim") != ClaimStatus.STALE:
            raise ShardFailedError(f"{name} has FAILED before: {answer.get('error') or 'its cause is not known'}")
        return dict(answer)
    if outcome.acknowledged:
        raise ShardFailedError(f"{name} has FAILED: {_class_and_message(error)}") from error
    # The state machine's ``Retry`` treats these two classes differently: a shard that another attempt holds can be
    # claimed only once that attempt's lease is over.
    if error.retryable and not isinstance(error, LeaseLostError):
        raise ShardNotDoneError(f"{name} has not ended: {_class_and_message(error)}") from error
    raise error


def _class_and_message(error: SparkletError) -> str:
    return f"{type(error).__name__}: {error}"
