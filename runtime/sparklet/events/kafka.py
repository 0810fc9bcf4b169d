"""Amazon MSK and self-managed Kafka: one task a batch, of all its partitions.

Most mappings know no partial failure: whatever the function answers is success, so a failure must be raised,
and the whole batch comes again. In *provisioned mode* a mapping may have
``FunctionResponseTypes: [ReportBatchItemFailures]``; it wants, for each partition to be read again, its name
in the event and an offset of the event: ``{"itemIdentifier": {"partition": "topic-0", "offset": 15}}``.
Nothing in an event says which mapping it is, so the operator does (``SPARKLET_KAFKA_FAILURES``); reporting to
one that does not listen would lose the batch, so raising is the default.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sparklet.errors import EventError
from sparklet.events.task import Event, Format, Outcome, Source, Task, seen


def is_kafka(event: Mapping[str, Any]) -> bool:
    """Whether this is a batch of MSK or of a cluster of one's own."""
    return event.get("eventSource") in (Source.MSK, Source.KAFKA) and "records" in event


def _split(source: Source, event: Event) -> tuple[Task, ...]:
    starts = _starts(event["records"])
    return (Task(source, event, tuple(f"{name}:{offset}" for name, offset in starts.items())),) if starts else ()


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Nothing failed, or every partition from its first offset in the batch."""
    if all(outcome.acknowledged for outcome in outcomes):
        return {"batchItemFailures": []}
    starts = _starts(event["records"])
    identifiers = [{"partition": name, "offset": offset} for name, offset in starts.items()]
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


def _starts(records: object) -> dict[str, int]:
    """Each partition's first offset in the batch."""
    if not isinstance(records, dict):
        raise EventError(f"a Kafka event's records must be lists by topic and partition, not {seen(records)}")
    starts = {}
    for name, batch in records.items():
        if not isinstance(batch, list) or not all(isinstance(record, dict) for record in batch):
            raise EventError(f"a Kafka event's partition must be a list of objects, not {seen(batch)}")
        offsets = [record.get("offset") for record in batch]
        if not all(type(offset) is int and offset >= 0 for offset in offsets):
            raise EventError("a Kafka record has no offset, so its failure could not be reported")
        if offsets:
            starts[name] = min(offsets)
    return starts


MSK = Format(partial(_split, Source.MSK), respond)
KAFKA = Format(partial(_split, Source.KAFKA), respond)
