"""Kinesis, DynamoDB Streams and Kafka: one task for a batch, since a stream is read in order.

Kinesis and DynamoDB: the response has the first sequence number that was not done; the mapping must have
``FunctionResponseTypes: [ReportBatchItemFailures]``, or Lambda treats any response as success. An aggregated (KPL)
record has one sequence number, so it is one record here. A mapping with a tumbling window sends the window's state, and
every response must return it.

Amazon MSK and self-managed Kafka: one task for a batch, with all its partitions. By default a failure is raised, and
the whole batch is delivered again, because most mappings treat any response as success. A mapping in *provisioned
mode* can have ``ReportBatchItemFailures``; then the response names each partition to read again, with an offset:
``{"itemIdentifier": {"partition": "topic-0", "offset": 15}}``. The event does not name its mapping, so the operator
sets ``SPARKLET_KAFKA_FAILURES=report``.
"""

import binascii
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sparklet.errors import EventError
from sparklet.events.task import Event, Format, Outcome, Source, Task, shape_of
from sparklet.job.event_objects import text_at

SELF_MANAGED = (Source.KAFKA, "aws:SelfManagedKafka")  # AWS documents the first; samples of Powertools have the second


def _split(
    source: Source, part: str, number_key: str, problem_of: Callable[[Any], str], event: Event
) -> tuple[Task, ...]:
    """Return one task for the records before the first bad one, and one with the problem for the rest."""
    records = event["Records"]
    numbers = tuple(_sequence_number(source, part, number_key, record) for record in records)
    reasons = [problem_of(record[part]) for record in records]
    bad_indexes = [index for index, reason in enumerate(reasons) if reason]
    if not bad_indexes:
        return (Task(source, event, numbers),)
    first_bad = bad_indexes[0]
    # The last call for a window must have all its records, so the records before the bad one wait as well.
    cut = 0 if event.get("isFinalInvokeForWindow") else first_bad
    problem = EventError(f"record {first_bad + 1} of {len(records)} of {source} cannot be read: {reasons[first_bad]}")
    rest = Task(source, {**event, "Records": records[cut:]}, numbers[cut:], problem=problem)
    if cut == 0:
        return (rest,)
    return Task(source, {**event, "Records": records[:cut]}, numbers[:cut]), rest


def _sequence_number(source: Source, part: str, key: str, record: Mapping[str, Any]) -> str:
    inner = record.get(part)
    number = text_at(inner, key)
    if not number.isdecimal():
        shape = shape_of(inner if isinstance(inner, dict) else record)
        raise EventError(f"a record of {source} has no {key}, so its failure could not be reported; it has {shape}")
    return number


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Name the first sequence number that was not done; add the window's state if there is a window."""
    failed = next((outcome for outcome in outcomes if not outcome.acknowledged), None)
    if failed is not None and not failed.task.record_ids:
        failed.raise_failure()  # the end of a window without records: only an error makes Lambda try again
    # Lambda delivers everything from the lowest number again, so one number is enough.
    numbers = failed.task.record_ids[:1] if failed is not None else ()
    response: dict[str, Any] = {"batchItemFailures": [{"itemIdentifier": number} for number in numbers]}
    if "window" in event:
        response["state"] = _state(event, outcomes)
    return response


def _state(event: Event, outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """The window's state from the script, else from the event; without a state Lambda treats the call as failed."""
    states = [outcome.state for outcome in outcomes if outcome.acknowledged and outcome.state is not None]
    if states:
        return dict(states[-1])
    earlier_state = event.get("state")
    return earlier_state if isinstance(earlier_state, dict) else {}


def source_of_window(event: Mapping[str, Any]) -> Source | None:
    """The source of an event that has a window but no records; None if the event has no window."""
    if "window" not in event:
        return None
    return Source.DYNAMODB if ":dynamodb:" in text_at(event, "eventSourceARN") else Source.KINESIS


def _data_problem(kinesis: Mapping[str, Any]) -> str:
    """Why a Kinesis record cannot be read; "" if it can."""
    data = kinesis.get("data")
    if not isinstance(data, str):
        return f"its data must be base64 text, not {shape_of(data)}"
    try:
        binascii.a2b_base64(data.encode("ascii"), strict_mode=True)
    except ValueError:
        return f"its data is not base64 ({len(data)} characters)"
    return ""


def _keys_problem(change: Mapping[str, Any]) -> str:
    """Why a record of a DynamoDB stream cannot be read; "" if it can."""
    return "" if isinstance(change.get("Keys"), dict) else f"it has no Keys; it has {shape_of(change)}"


KINESIS = Format(partial(_split, Source.KINESIS, "kinesis", "sequenceNumber", _data_problem), respond)
DYNAMODB = Format(partial(_split, Source.DYNAMODB, "dynamodb", "SequenceNumber", _keys_problem), respond)


def is_kafka(event: Mapping[str, Any]) -> bool:
    """Whether this is a batch from MSK or from a self-managed cluster."""
    return event.get("eventSource") in (Source.MSK, *SELF_MANAGED) and "records" in event


def _split_kafka(source: Source, event: Event) -> tuple[Task, ...]:
    first_offsets = _first_offsets(event["records"])
    if not first_offsets:
        return ()
    return (Task(source, event, tuple(f"{name}:{offset}" for name, offset in first_offsets.items())),)


def respond_to_kafka(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Name no failures, or every partition with its first offset in the batch."""
    if all(outcome.acknowledged for outcome in outcomes):
        return {"batchItemFailures": []}
    # One task has all partitions, and nobody knows how far its script has come in each.
    offsets = _first_offsets(event["records"])
    failures = [{"itemIdentifier": {"partition": name, "offset": offset}} for name, offset in offsets.items()]
    return {"batchItemFailures": failures}


def _first_offsets(records: object) -> dict[str, int]:
    """Each partition's first offset in the batch."""
    if not isinstance(records, dict):
        raise EventError(f"a Kafka event's records must be lists by topic and partition, not {shape_of(records)}")
    first_offsets = {}
    for name, batch in records.items():
        if not isinstance(batch, list) or not all(isinstance(record, dict) for record in batch):
            raise EventError(f"a Kafka event's partition must be a list of objects, not {shape_of(batch)}")
        offsets = [record.get("offset") for record in batch]
        if not all(type(offset) is int and offset >= 0 for offset in offsets):
            raise EventError("a Kafka record has no offset, so its failure could not be reported")
        if offsets:
            first_offsets[name] = min(offsets)
    return first_offsets


MSK = Format(partial(_split_kafka, Source.MSK), respond_to_kafka)
KAFKA = Format(partial(_split_kafka, Source.KAFKA), respond_to_kafka)
