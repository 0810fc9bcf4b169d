"""Lambda event → tasks, and their outcomes → the response for the event's source.

A *task* is one execution of a script: for one SQS message, one batch of a stream, or one event. Enter here:
``parse_event`` finds the event's source and splits it, ``answer`` builds the response. Each source has a module with
two functions, ``split`` and ``respond``, which a ``Format`` joins; ``_FORMATS`` names them all:

=========== =========================================== ==========================================================
``sqs``     a task a message, or ``joined`` a batch     the messages that come back; shards and task requests
``streams`` a task a batch of Kinesis, DynamoDB, Kafka  the first record that was not done, or partitions
``notices`` a task an event of S3, SNS, EventBridge     an error is raised, so that Lambda tries again
``api``     a task a request of API Gateway or a URL    an HTTP response, whatever happened
``direct``  a task an invocation                        the answer, or an error
=========== =========================================== ==========================================================
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparklet.errors import EventError
from sparklet.events import api, direct, notices, sqs, streams
from sparklet.events.task import NAME, Event, Format, Outcome, Source, Task, TaskRequest, shape_of
from sparklet.settings import KafkaFailures

__all__ = ["Event", "Outcome", "Source", "Task", "TaskRequest", "answer", "parse_event"]

_FORMATS: Mapping[Source, Format] = {
    Source.SQS: Format(sqs.split, sqs.respond),
    Source.KINESIS: streams.KINESIS,
    Source.DYNAMODB: streams.DYNAMODB,
    Source.S3: notices.S3,
    Source.SNS: notices.SNS,
    Source.MSK: streams.MSK,
    Source.KAFKA: streams.KAFKA,
    Source.EVENTBRIDGE: notices.EVENTBRIDGE,
    Source.API: Format(api.split, api.respond),
    Source.DIRECT: Format(direct.split, direct.respond),
}
_OF_RECORDS = (Source.SQS, Source.KINESIS, Source.DYNAMODB, Source.S3, Source.SNS)


def parse_event(event: Event) -> tuple[Task, ...]:
    """Split an event, or the event that a direct invocation hands over, into its tasks, in order.

    Raises EventError if its records come from an unknown source or from several. A single record that cannot be read
    raises nothing: its task has the ``problem``, and the others are done.
    """
    source = _source_of(event)
    if source is Source.DIRECT and (chosen := direct.chosen(event)):
        inner_event = chosen["event"]
        return tuple(direct.handed_over(task, chosen) for task in _FORMATS[_source_of(inner_event)].split(inner_event))
    return _FORMATS[source].split(event)


def answer(event: Event, outcomes: Sequence[Outcome], *, kafka_failures: KafkaFailures = "raise") -> Any:
    """The handler's response for the event's source, or the task's error, raised; see the source's module."""
    source = _source_of(event)
    # Without provisioned mode Lambda reads no response of a Kafka mapping, and would take the batch for done.
    if source in (Source.MSK, Source.KAFKA) and kafka_failures == "raise":
        for outcome in outcomes:
            outcome.raise_failure()
    return _FORMATS[source].respond(event, outcomes)


def _source_of(event: Event) -> Source:
    if not isinstance(event, dict):
        return Source.DIRECT
    if "Records" in event:
        records = event["Records"]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise EventError(f"the event's Records must be a list of objects, not {shape_of(records)}")
        if not records:
            return streams.source_of_window(event) or Source.SQS
        sources = [record.get("eventSource", record.get("EventSource")) for record in records]
        if not isinstance(sources[0], str) or sources[0] not in _OF_RECORDS or sources.count(sources[0]) < len(sources):
            raise _unknown_source(sources, records[0])
        return Source(sources[0])
    if streams.is_kafka(event):
        return Source.MSK if event["eventSource"] == Source.MSK else Source.KAFKA
    if notices.is_eventbridge(event):
        return Source.EVENTBRIDGE
    if api.is_request(event):
        return Source.API
    named = event.get("eventSource")
    if isinstance(named, str) and named.startswith("aws:"):
        raise EventError(f"the event comes from the unknown source {_shown(named)}; it has {shape_of(event)}")
    return Source.DIRECT


def _unknown_source(sources: Sequence[object], first_record: Mapping[str, Any]) -> EventError:
    names = sorted({_shown(name) for name in sources})
    if len(names) > 1:
        return EventError(f"the event mixes records of several sources: {', '.join(names[:5])}; a mapping has one")
    expected_sources = ", ".join(_OF_RECORDS)
    return EventError(
        f"records come from {names[0]}, not from {expected_sources}; the first has {shape_of(first_record)}"
    )


def _shown(name: object) -> str:
    """A source's name if it is one, else its type."""
    if name is None:
        return "no eventSource"
    return name if isinstance(name, str) and NAME.fullmatch(name) else f"an eventSource that is {shape_of(name)}"
