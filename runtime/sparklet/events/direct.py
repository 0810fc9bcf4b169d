"""Direct invocations and Step Functions tasks: the event is one task; its answer is the output.

A failure is raised, so that ``Retry`` and ``Catch`` of a state machine can name its class.
"""

from collections.abc import Sequence
from typing import Any

from sparklet.errors import EventError
from sparklet.events import notices
from sparklet.events.task import Event, Outcome, Source, Task, Telling
from sparklet.model import BatchRef, ShardRef


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
    return notices.tell(event, outcomes, telling)
