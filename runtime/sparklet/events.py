"""Lambda event → tasks, and what became of them → the answer that the event's source wants.

A task is what one script execution is asked for: one SQS message, one batch of a stream, or one direct
event. A new source is one more entry in ``_SPLITTERS`` (and its way to report failures in ``answer``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sparklet.errors import EventError, SparkletError
from sparklet.model import ShardRef

Event = Any
"""An event as Lambda decoded it: any JSON value."""

LONGEST_SHARD_BODY = 4096  # characters; a shard message has a few hundred, so nothing longer is decoded


class Source(StrEnum):
    """Where an event came from; decides how failures are reported."""

    SQS = "aws:sqs"
    KINESIS = "aws:kinesis"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Task:
    """What one event, or one record of it, asks a worker to do."""

    source: Source
    event: Event  # exactly what Lambda received, cut to the records of this task
    record_ids: tuple[str, ...] = ()  # what a failure is reported by: message id, sequence numbers
    receipt: str = ""  # SQS: changes the message's visibility
    receive_count: int = 1  # SQS: how often the message was delivered
    shard: ShardRef | None = None  # set if the task is a shard of a run
    problem: EventError | None = None  # set if the record cannot be a task at all


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    task: Task
    error: SparkletError | None = None
    acknowledged: bool = True  # the source may forget the record
    answer: Mapping[str, Any] = field(default_factory=dict)  # what a direct invocation is told


def parse_event(event: Event) -> tuple[Task, ...]:
    """Split an event into its tasks, in order.

    Raises
    ------
    EventError
        If it has records of a source that is not known here, or of several sources. A single record that
        cannot be read does not raise: its task carries the ``problem``, so that the others are done.
    """
    if not isinstance(event, dict) or "Records" not in event:
        return (_direct(event),)
    records = event["Records"]
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise EventError(f"the event's Records must be a list of objects, not {_seen(records)}")
    if not records:
        return ()
    sources = {str(r.get("eventSource", r.get("EventSource", "no eventSource"))) for r in records}
    if len(sources) > 1:
        raise EventError(f"the event mixes records of several sources: {', '.join(sorted(sources))}")
    (source,) = sources
    if source not in _SPLITTERS:
        raise EventError(
            f"records come from {source!r}; sources known here: {', '.join(_SPLITTERS)}, or a direct event"
        )
    return _SPLITTERS[source](event, records)


def answer(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """What the handler returns; a failed direct invocation raises its error instead.

    SQS: the ids of the messages that come back. Kinesis: the first sequence number that was not done.
    Direct: the task's own answer.
    """
    if not isinstance(event, dict) or "Records" not in event:
        (outcome,) = outcomes
        if outcome.error is not None:
            raise outcome.error
        return dict(outcome.answer)
    failed = [outcome.task for outcome in outcomes if not outcome.acknowledged]
    identifiers: list[str] = []
    for task in failed:
        identifiers += task.record_ids[:1] if task.source is Source.KINESIS else task.record_ids
    if failed and failed[0].source is Source.KINESIS:
        identifiers = [min(identifiers, key=int)]
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


def _direct(event: Event) -> Task:
    try:
        return Task(Source.DIRECT, event, shard=ShardRef.from_document(event))
    except EventError as problem:
        return Task(Source.DIRECT, event, problem=problem)


def _split_sqs(event: Mapping[str, Any], records: list[dict[str, Any]]) -> tuple[Task, ...]:
    """One task a message."""
    return tuple(_sqs_task({**event, "Records": [record]}, record) for record in records)


def _sqs_task(event: Event, record: Mapping[str, Any]) -> Task:
    message_id = record.get("messageId")
    if not isinstance(message_id, str) or not message_id:
        raise EventError(
            f"an SQS record has no messageId, so its failure could not be reported; it has {_seen(record)}"
        )
    attributes = record.get("attributes")
    count = attributes.get("ApproximateReceiveCount", "1") if isinstance(attributes, dict) else "1"
    shard, problem = None, None
    try:
        shard = _shard_ref(record.get("body"))
    except EventError as error:
        problem = error
    return Task(
        Source.SQS,
        event,
        record_ids=(message_id,),
        receipt=str(record.get("receiptHandle", "")),
        receive_count=int(count) if str(count).isdecimal() else 1,
        shard=shard,
        problem=problem,
    )


def _shard_ref(body: object) -> ShardRef | None:
    """The shard a message names; None for a message of anybody else."""
    if not isinstance(body, str) or len(body) > LONGEST_SHARD_BODY or '"run_id"' not in body:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return ShardRef.from_document(document)


def _split_kinesis(event: Mapping[str, Any], records: list[dict[str, Any]]) -> tuple[Task, ...]:
    """One task a batch: a stream is read in order, so one failure holds up what comes after it."""
    numbers = []
    for record in records:
        kinesis = record.get("kinesis")
        number = kinesis.get("sequenceNumber") if isinstance(kinesis, dict) else None
        if not isinstance(number, str) or not number.isdecimal():
            raise EventError(f"a Kinesis record has no sequenceNumber; it has {_seen(record)}")
        numbers.append(number)
    return (Task(Source.KINESIS, event, record_ids=tuple(numbers)),)


def _seen(value: object) -> str:
    """What was found instead, for an error: names and types, never contents."""
    if isinstance(value, dict):
        return "the keys " + (", ".join(sorted(str(k)[:40] for k in list(value)[:20])) or "(none)")
    return f"a {type(value).__name__}"


_SPLITTERS: Mapping[str, Callable[[Mapping[str, Any], list[dict[str, Any]]], tuple[Task, ...]]] = {
    Source.SQS: _split_sqs,
    Source.KINESIS: _split_kinesis,
}
