"""Lambda event → tasks, and what became of them → the answer that the event's source wants.

A task is what one script execution is asked for: one SQS message, one batch of a stream, or one event. Each
source has a module that reads its events and knows how it is told of failures; a new source is one more
entry in ``_FORMATS``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparklet.errors import EventError
from sparklet.events import api, direct, kafka, notices, sqs, streams
from sparklet.events.task import NAME, Event, Format, KafkaFailures, Order, Outcome, Source, Task, Telling, seen

__all__ = ["Event", "KafkaFailures", "Order", "Outcome", "Source", "Task", "answer", "parse_event"]

_FORMATS: Mapping[Source, Format] = {
    Source.SQS: Format(sqs.split, sqs.tell),
    Source.KINESIS: streams.KINESIS,
    Source.DYNAMODB: streams.DYNAMODB,
    Source.S3: notices.S3,
    Source.SNS: notices.SNS,
    Source.MSK: kafka.MSK,
    Source.KAFKA: kafka.KAFKA,
    Source.EVENTBRIDGE: notices.EVENTBRIDGE,
    Source.API: Format(api.split, api.tell),
    Source.DIRECT: Format(direct.split, direct.tell),
}
_OF_RECORDS = (Source.SQS, Source.KINESIS, Source.DYNAMODB, Source.S3, Source.SNS)


def parse_event(event: Event) -> tuple[Task, ...]:
    """Split an event into its tasks, in order.

    Raises
    ------
    EventError
        If it has records of a source that is not known here, or of several sources. A single record that
        cannot be read does not raise: its task carries the ``problem``, so that the others are done.

    An event that a direct invocation hands over is split as its source's are.
    """
    if (chosen := direct.chosen(event)) is None:
        return _FORMATS[_source_of(event)].split(event)
    given = chosen["event"]
    return tuple(direct.handed_over(task, chosen) for task in _FORMATS[_source_of(given)].split(given))


def answer(event: Event, outcomes: Sequence[Outcome], *, kafka_failures: KafkaFailures = "raise") -> Any:
    """What the handler returns, as the event's source wants it; see the source's module.

    SQS: the ids of the messages that come back. Streams: the first sequence number that was not done. API:
    a response. All others: the task's own answer, or its error, raised.
    """
    return _FORMATS[_source_of(event)].tell(event, outcomes, Telling(kafka_failures))


def _source_of(event: Event) -> Source:
    if not isinstance(event, dict):
        return Source.DIRECT
    if "Records" in event:
        return _source_of_records(event, event["Records"])
    if kafka.is_kafka(event):
        return Source(event["eventSource"])
    if notices.is_eventbridge(event):
        return Source.EVENTBRIDGE
    if api.is_request(event):
        return Source.API
    named = event.get("eventSource")
    if isinstance(named, str) and named.startswith("aws:"):
        raise EventError(f"the event comes from {_shown(named)}, which is not known here; it has {seen(event)}")
    return Source.DIRECT


def _source_of_records(event: Mapping[str, Any], records: object) -> Source:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise EventError(f"the event's Records must be a list of objects, not {seen(records)}")
    if not records:
        return streams.source_of_window(event) or Source.SQS
    named = {_shown(record.get("eventSource", record.get("EventSource"))) for record in records}
    if len(named) > 1:
        some = ", ".join(sorted(named)[:5])
        raise EventError(f"the event mixes records of several sources: {some}; a mapping sends one source's")
    (name,) = named
    if name not in _OF_RECORDS:
        known = ", ".join(_OF_RECORDS)
        raise EventError(
            f"records come from {name}; sources known here: {known}, or an event without Records; "
            f"the first has {seen(records[0])}"
        )
    return Source(name)


def _shown(name: object) -> str:
    """A source's name, unless it is no name at all."""
    if name is None:
        return "no eventSource"
    return name if isinstance(name, str) and NAME.fullmatch(name) else f"an eventSource that is {seen(name)}"
