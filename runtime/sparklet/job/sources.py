"""Where the records of a stream's event lie, told to Spark, which reads the event by itself.

Each source is SQL over the event as one JSON text: which part of the event to read, which rows to make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparklet.job.errors import EventError


@dataclass(frozen=True)
class StreamSource:
    """How the records of one kind of stream are read.

    Parameters
    ----------
    schema
        What is read of the event; the rest of it is passed over.
    rows
        SQL that makes a row ``r`` of each record.
    data
        SQL for a record's bytes.
    record
        SQL for what is known of a record beside its bytes, a struct.
    label
        SQL that names a record of this source in an error; ``_record`` is the struct.
    """

    schema: str
    rows: str
    data: str
    record: str
    label: str
    aggregated: bool = False  # a record may hold several, see ``aggregates``


KINESIS = StreamSource(
    schema="""Records ARRAY<STRUCT<eventID: STRING, eventSourceARN: STRING, kinesis: STRUCT<
        data: STRING, partitionKey: STRING, sequenceNumber: STRING, approximateArrivalTimestamp: DOUBLE>>>""",
    rows="explode(event.Records) AS r",
    data="unbase64(r.kinesis.data)",
    record="""named_struct(
        'stream', r.eventSourceARN,
        'shard_id', substring_index(r.eventID, ':', 1),
        'sequence_number', r.kinesis.sequenceNumber,
        'sub_sequence_number', 0,
        'partition_key', r.kinesis.partitionKey,
        'arrival_time', timestamp_millis(CAST(round(r.kinesis.approximateArrivalTimestamp * 1000) AS BIGINT)))""",
    label="concat_ws(' ', 'Kinesis record', _record.sequence_number, 'of', _record.shard_id)",
    aggregated=True,
)

KAFKA = StreamSource(
    schema="""records MAP<STRING, ARRAY<STRUCT<topic: STRING, partition: INT, offset: BIGINT, timestamp: BIGINT,
        timestampType: STRING, key: STRING, value: STRING, headers: ARRAY<MAP<STRING, ARRAY<INT>>>>>>""",
    rows="explode(flatten(map_values(event.records))) AS r",
    data="unbase64(r.value)",
    record="""named_struct(
        'topic', r.topic,
        'partition', r.partition,
        'offset', r.offset,
        'timestamp', timestamp_millis(r.timestamp),
        'timestamp_type', r.timestampType,
        'key', unbase64(r.key),
        'headers', transform(flatten(transform(r.headers, h -> map_entries(h))), h -> named_struct(
            'key', h.key,
            'value', unhex(array_join(transform(h.value, b -> lpad(hex(b & 255), 2, '0')), '')))))""",
    label="concat('Kafka record ', _record.topic, '-', _record.partition, '@', _record.offset)",
)

DYNAMODB = StreamSource(  # images stay JSON as DynamoDB writes it, {"id": {"N": "1"}}
    schema="""Records ARRAY<STRUCT<eventID: STRING, eventName: STRING, eventSourceARN: STRING, dynamodb: STRUCT<
        Keys: STRING, NewImage: STRING, OldImage: STRING, SequenceNumber: STRING,
        ApproximateCreationDateTime: DOUBLE>>>""",
    rows="explode(event.Records) AS r",
    data="CAST(r.dynamodb.NewImage AS BINARY)",
    record="""named_struct(
        'stream', r.eventSourceARN,
        'event_id', r.eventID,
        'event_name', r.eventName,
        'sequence_number', r.dynamodb.SequenceNumber,
        'keys', r.dynamodb.Keys,
        'old_image', r.dynamodb.OldImage,
        'creation_time', timestamp_millis(CAST(round(r.dynamodb.ApproximateCreationDateTime * 1000) AS BIGINT)))""",
    label="concat('DynamoDB record ', _record.sequence_number)",
)

SOURCES: dict[str, StreamSource] = {
    "aws:kinesis": KINESIS,
    "aws:dynamodb": DYNAMODB,
    "aws:kafka": KAFKA,
    "SelfManagedKafka": KAFKA,
}


def source_of(event: Any) -> StreamSource:
    """The source that an event's batch of records comes from; depends on nothing else.

    Raises
    ------
    EventError
        If it is no event of a stream.
    """
    name = _source_name(event) if isinstance(event, dict) else None
    if name in SOURCES:
        return SOURCES[str(name)]
    what = f"the keys {', '.join(sorted(map(str, event))[:20]) or '(none)'}" if isinstance(event, dict) else "no object"
    seen = f"its source is {name}" if name else f"it has {what}"
    raise EventError(
        f"the event holds no records of a stream: {seen}; job.records() reads the events of {', '.join(SOURCES)}"
    )


def _source_name(event: dict[str, Any]) -> Any:
    records = event.get("Records")
    if not isinstance(records, list):  # Kafka's batches name their source once
        return event.get("eventSource") if isinstance(event.get("records"), dict) else None
    if records:
        return records[0].get("eventSource") if isinstance(records[0], dict) else None
    service = str(event.get("eventSourceARN", "")).split(":")[2:3]  # the end of an empty tumbling window
    return f"aws:{service[0]}" if service else None
