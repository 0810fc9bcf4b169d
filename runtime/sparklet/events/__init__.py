"""Lambda event → tasks, and their outcomes → the response for the event's source.

A *task* is one execution of a script: for one SQS message, one batch of a stream, or one event. Enter here:
``parse_event`` finds the event's source and splits it, ``answer`` builds the response. Each source has a module with
two functions, ``split`` and ``respond``, which a ``Format`` joins; ``_FORMATS`` lists them. The modules, their tasks
and their responses:

=========== ==================================================== ==================================================
``sqs``     a task for each message, or for a batch (``joined``) the messages that Lambda must deliver again
``streams`` a task for each batch of Kinesis, DynamoDB or Kafka  the first record, or the partitions, to read again
``notices`` a task for each event of S3, SNS or EventBridge      the answer; a failure is raised, so Lambda retries
``api``     a task for each request of API Gateway or a URL      an HTTP response, also for a failure
``direct``  a task for each invocation                           the answer; a failure is raised
=========== ==================================================== ==================================================
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
_RECORD_SOURCES = (Source.SQS, Source.KINESIS, Source.DYNAMODB, Source.S3, Source.SNS)


def parse_event(event: Event) -> tuple[Task, ...]:
    """Split an event, or the event that a direct invocation hands over, into its tasks, in order.

    Raises EventError if its records come from an unknown source or from several. A single record that cannot be read
    raises no error: its task has the ``problem``, and the other tasks are done.
    """
    source = _source_of(event)
    if source is Source.DIRECT and (choice := direct.choice_of(event)):
        inner_event = choice["event"]
        return tuple(direct.with_choice(task, choice) for task in _FORMATS[_source_of(inner_event)].split(inner_event))
    return _FORMATS[source].split(event)


def answer(event: Event, outcomes: Sequence[Outcome], *, kafka_failures: KafkaFailures = "raise") -> Any:
    """Return the handler's response to the event's source, or raise the task's error; see the source's module."""
    source = _source_of(event)
    # Without provisioned mode Lambda ignores the response of a Kafka mapping, and would treat the batch as done.
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
        first_source = sources[0]
        is_known = isinstance(first_source, str) and first_source in _RECORD_SOURCES
        if not is_known or sources.count(first_source) < len(sources):
            raise _source_error(sources, records[0])
        return Source(first_source)
    if streams.is_kafka(event):
        return Source.MSK if event["eventSource"] == Source.MSK else Source.KAFKA
    if notices.is_eventbridge(event):
        return Source.EVENTBRIDGE
    if api.is_request(event):
        return Source.API
    source = event.get("eventSource")
    if isinstance(source, str) and source.startswith("aws:"):
        raise EventError(f"the event comes from the unknown source {_source_text(source)}; it has {shape_of(event)}")
    return Source.DIRECT


def _source_error(sources: Sequence[object], first_record: Mapping[str, Any]) -> EventError:
    names = sorted({_source_text(name) for name in sources})
    if len(names) > 1:
        return EventError(f"the event mixes records of several sources: {', '.join(names[:5])}; a mapping has one")
    expected_sources = ", ".join(_RECORD_SOURCES)
    return EventError(
        f"records come from {names[0]}, not from {expected_sources}; the first has {shape_of(first_record)}"
    )


def _source_text(name: object) -> str:
    """A source in an error: its name; if a record has none, or a value that may be data, words for that."""
    if name is None:
        return "no eventSource"
    return name if isinstance(name, str) and NAME.fullmatch(name) else f"an eventSource that is {shape_of(name)}"
