"""Makes a DataFrame of the records in a stream's event: Spark reads the event as one JSON text, by SQL for each source.

The Kinesis Producer Library packs many small records into one aggregated record, which is split again here. Its format:

::

    F3 89 9A C2 | AggregatedRecord, a protocol buffers message | MD5 of the message, 16 bytes

    message AggregatedRecord { repeated string partition_key_table = 1;
                               repeated string explicit_hash_key_table = 2;
                               repeated Record records = 3; }
    message Record { required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
                     required bytes data = 3; repeated Tag tags = 4; }

This code runs in Spark's Python workers, which may have only the standard library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - its usual name
from pyspark.sql.avro.functions import from_avro
from pyspark.sql.types import StringType, StructField, StructType

from sparklet.job.errors import EventError
from sparklet.job.session import backquoted, has_class
from sparklet.job.spark_lines import package, text_of

MAGIC = b"\xf3\x89\x9a\xc2"
MAGIC_IN_BASE64 = "84maw"  # the beginning of each record in base64 that begins with MAGIC
DIGEST_BYTES = 16
MAX_KEY = 256  # characters that Kinesis allows in a partition key

VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5  # protocol buffers' wire types
PARTITION_KEYS, RECORDS = 1, 3  # fields of AggregatedRecord
KEY_INDEX, DATA = 1, 3  # fields of Record

UserRecord = tuple[str, bytes]  # partition key, data
Value = Union[int, bytes]  # noqa: UP007 - evaluated, and Python 3.9 knows no other syntax


class AggregateError(ValueError):
    """A record begins like an aggregated one but is malformed."""


def user_records(aggregate: bytes) -> list[UserRecord]:
    """Return the records in an aggregated record, in order; AggregateError if its digest or its message is wrong."""
    if not aggregate.startswith(MAGIC):
        raise AggregateError("it does not begin with the mark of an aggregated record")
    message, digest = aggregate[len(MAGIC) : -DIGEST_BYTES], aggregate[-DIGEST_BYTES:]
    md5 = hashlib.md5(message, usedforsecurity=False)  # the format's checksum
    if len(aggregate) < len(MAGIC) + DIGEST_BYTES or md5.digest() != digest:
        raise AggregateError("the aggregate's digest is wrong")
    keys: list[str] = []
    records: list[bytes] = []
    for number, value in _protobuf_fields(message):
        if number == PARTITION_KEYS:
            keys.append(_key(value))
        elif number == RECORDS:
            records.append(_bytes(value))
    return [_user_record(record, keys) for record in records]


def split_aggregate(aggregate: bytes | None) -> tuple[str | None, list[UserRecord]] | None:
    """Call ``user_records`` for Spark. Return the aggregate's fault or None, and its records; None for a null."""
    if aggregate is None:
        return None
    try:
        return None, user_records(bytes(aggregate))
    except AggregateError as error:
        return str(error), []


def _user_record(record: bytes, keys: list[str]) -> UserRecord:
    fields = dict(_protobuf_fields(record))  # of a repeated field the last one counts
    index, data = fields.get(KEY_INDEX), fields.get(DATA)
    if not isinstance(index, int) or not isinstance(data, bytes) or index >= len(keys):
        raise AggregateError("the aggregate holds a record without partition key or data")
    return keys[index], data


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field; the value is 0 for fields of fixed size, which this format does not use."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        value: Value = 0
        if wire_type == VARINT:
            value, position = _varint(message, position)
        elif wire_type == LENGTH_DELIMITED:
            size, position = _varint(message, position)
            value = message[position : position + size]
            position += size
        elif wire_type in (EIGHT_BYTES, FOUR_BYTES):
            position += 8 if wire_type == EIGHT_BYTES else 4
        else:
            raise AggregateError(f"the aggregate has a field of the unknown type {wire_type}")
        if position > len(message):
            raise AggregateError("the aggregate ends in the middle of a field")
        yield number, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the number at ``position``, with seven bits in each byte, and the position after it."""
    value = 0
    # 64 bits take ten bytes. Without this limit a damaged message could be read as one number of its own length.
    for count, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise AggregateError("a number in the aggregated record does not end")


def _key(value: Value) -> str:
    """Return a partition key; AggregateError if it is too long: many records may repeat it, and fill the memory."""
    try:
        key = _bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise AggregateError("the aggregate has a partition key that is not UTF-8") from None
    if len(key) > MAX_KEY:
        raise AggregateError(f"the aggregate has a partition key of more than {MAX_KEY} characters")
    return key


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise AggregateError("the aggregate has a number where bytes must be")
    return value


Schema = Union[str, StructType, None]  # noqa: UP007 - evaluated, and Python 3.9 knows no other syntax
Decode = Callable[[DataFrame, Schema, Mapping[str, str]], tuple[DataFrame, "list[str] | None"]]


@dataclass(frozen=True)
class StreamSource:
    """The SQL that reads the records of one kind of stream."""

    schema: str  # of those parts of the event that are read
    rows: str  # makes a row ``r`` of each record
    data: str  # a record's bytes
    record: str  # a struct of a record's metadata, the column ``_record``
    label: str  # names a record in an error, by ``_record``
    number: str  # a record's label in ``commit_ids.labels``, by ``_record``
    aggregated: bool = False  # whether a record can be an aggregate of several records


KINESIS = StreamSource(
    schema="""Records ARRAY<STRUCT<eventID: STRING, eventSourceARN: STRING, kinesis: STRUCT<
        data: STRING, partitionKey: STRING, sequenceNumber: STRING, approximateArrivalTimestamp: DOUBLE>>>""",
    rows="explode(event.Records) AS r",
    data="unbase64(r.kinesis.data)",
    # Seconds as a DOUBLE have no exact milliseconds: these are rounded, since a cast would cut them off.
    record="""named_struct(
        'stream', r.eventSourceARN,
        'shard_id', substring_index(r.eventID, ':', 1),
        'sequence_number', r.kinesis.sequenceNumber,
        'sub_sequence_number', 0,
        'partition_key', r.kinesis.partitionKey,
        'arrival_time', timestamp_millis(CAST(round(r.kinesis.approximateArrivalTimestamp * 1000) AS BIGINT)))""",
    label="concat_ws(' ', 'Kinesis record', _record.sequence_number, 'of', _record.shard_id)",
    number="concat(_record.shard_id, ':', trim(LEADING '0' FROM _record.sequence_number))",
    aggregated=True,
)

KAFKA = StreamSource(
    schema="""records MAP<STRING, ARRAY<STRUCT<topic: STRING, partition: INT, offset: BIGINT, timestamp: BIGINT,
        timestampType: STRING, key: STRING, value: STRING, headers: ARRAY<MAP<STRING, ARRAY<INT>>>>>>""",
    rows="explode(flatten(map_values(event.records))) AS r",
    data="unbase64(r.value)",
    # Lambda writes the bytes of a header as signed numbers.
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
    number="concat(_record.topic, '-', _record.partition, ':', _record.offset)",
)

DYNAMODB = StreamSource(  # images stay JSON in DynamoDB's own form, {"id": {"N": "1"}}
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
    number="concat(':', trim(LEADING '0' FROM _record.sequence_number))",
)

SQS = StreamSource(
    schema="""Records ARRAY<STRUCT<messageId: STRING, body: STRING, eventSourceARN: STRING, attributes: STRUCT<
        SentTimestamp: STRING, MessageGroupId: STRING, ApproximateReceiveCount: STRING>>>""",
    rows="explode(event.Records) AS r",
    data="CAST(r.body AS BINARY)",
    record="""named_struct(
        'queue', r.eventSourceARN, 'message_id', r.messageId, 'group', r.attributes.MessageGroupId,
        'receive_count', CAST(r.attributes.ApproximateReceiveCount AS INT),
        'sent_time', timestamp_millis(CAST(r.attributes.SentTimestamp AS BIGINT)))""",
    label="concat('SQS message ', _record.message_id)",
    number="_record.message_id",
)

SOURCES: dict[str, StreamSource] = {
    "aws:sqs": SQS,
    "aws:kinesis": KINESIS,
    "aws:dynamodb": DYNAMODB,
    "aws:kafka": KAFKA,
    "SelfManagedKafka": KAFKA,
    "aws:SelfManagedKafka": KAFKA,
}


def source_of(event: Any) -> StreamSource:
    """Return the source of an event's batch of records; EventError if the event is not a batch of a stream or queue."""
    name = _source_name(event) if isinstance(event, dict) else None
    if name in SOURCES:
        return SOURCES[str(name)]
    if name:
        description = f"its source is {name}"
    elif isinstance(event, dict):
        description = f"it has the keys {', '.join(sorted(map(str, event))[:20]) or '(none)'}"
    else:
        description = "it is not an object"
    raise EventError(f"the event holds no records of a stream: {description}; job.records() reads {', '.join(SOURCES)}")


def _source_name(event: dict[str, Any]) -> Any:
    """Return the event source of the records; None if the event has no records."""
    records = event.get("Records")
    if not isinstance(records, list):  # Kafka's batches name their source once
        return event.get("eventSource") if isinstance(event.get("records"), dict) else None
    if records:
        return records[0].get("eventSource") if isinstance(records[0], dict) else None
    # The last event of a tumbling window can be without records; then its ARN has the service.
    service = str(event.get("eventSourceARN", "")).split(":")[2:3]
    return f"aws:{service[0]}" if service else None


CORRUPT, CAUSE, RECORD = "_corrupt_record", "_cause", "_record"
MODES = ("FAILFAST", "PERMISSIVE")
MALFORMED = "_malformed"  # the column in which Spark's own readers put what they cannot read
AVRO = "org.apache.spark.sql.avro.AvroDataToCatalyst"
AVRO_END = bytes(8 * [0xFF])

SPLIT_TYPE = "STRUCT<fault: STRING, records: ARRAY<STRUCT<partition_key: STRING, data: BINARY>>>"
WHOLE_RECORD = "array(named_struct('data', _data, 'record', _record, 'fault', _fault))"
PARTS_OF_AGGREGATE = """transform(_split.records, (part, i) -> named_struct(
    'data', part.data,
    'record', named_struct('stream', _record.stream, 'shard_id', _record.shard_id,
        'sequence_number', _record.sequence_number, 'sub_sequence_number', i,
        'partition_key', part.partition_key, 'arrival_time', _record.arrival_time),
    'fault', CAST(NULL AS STRING)))"""

# The clauses of a CASE that gives a record's first fault.
NOT_UTF_8 = "WHEN _text IS NULL THEN 'it is not UTF-8'"
NOT_FITTING = f"WHEN _parsed IS NULL OR _parsed.{MALFORMED} IS NOT NULL THEN 'it does not fit the schema'"

# The text is put into an array and into an object: no text of several documents is valid in both.
ONE_IN_ARRAY = "json_array_length(concat('[', _text, ',1]')) <=> 2"
ONE_IN_OBJECT = """json_object_keys(concat('{"a":', _text, ',"b":1}')) <=> array('a', 'b')"""
NOT_ONE_JSON = f"WHEN NOT ({ONE_IN_ARRAY} AND {ONE_IN_OBJECT}) THEN 'it is not one JSON document'"


def stream_records(
    spark: SparkSession,
    event: Any,
    format: str = "json",  # noqa: A002 - Spark's own word for it
    schema: Schema = None,
    mode: str = "FAILFAST",
    metadata: bool = False,
    options: Mapping[str, str] | None = None,
    cause: bool = False,
    left_out: Sequence[str] = (),
) -> DataFrame:
    """See ``Job.records``; ``left_out``: the labels of records that are left out."""
    source = source_of(event)
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(FORMATS)}")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    if cause and mode == "FAILFAST":
        raise ValueError("cause=True needs mode='PERMISSIVE': with FAILFAST the first cause fails the job")
    if (schema is None) != (format == "raw"):
        raise ValueError("raw records have no schema" if schema else f"{format} needs a schema: none is inferred")
    if source is DYNAMODB and format != "raw":
        raise EventError("DynamoDB's images are read with format='raw': value is the new image, as DynamoDB writes it")
    records = without_records(_records(spark, event, source), event, left_out)
    decoded, names = FORMATS[format](records, schema, options or {})
    return _output_columns(decoded, names, source, mode, metadata, cause)


def without_records(frame: DataFrame, event: Any, labels: Sequence[str]) -> DataFrame:
    """Return the frame without the rows that are made of these records of the event.

    Spark finds the column ``_record`` of a frame made by selections, filters and explosions. It fails with
    AnalysisException after joins and aggregates.
    """
    if not labels:
        return frame
    texts = ", ".join("'{}'".format(label.replace("\\", "\\\\").replace("'", "\\'")) for label in labels)
    return frame.where(f"NOT {source_of(event).number} IN ({texts})")


def _records(spark: SparkSession, event: Any, source: StreamSource) -> DataFrame:
    """Return the records as rows of their bytes (``_data``), metadata (``_record``) and fault (``_fault``)."""
    text = json.dumps(event)
    rows = (
        _one_text(spark, text)
        .selectExpr(f"from_json(event, '{source.schema}', map('mode', 'FAILFAST')) AS event")
        .selectExpr(source.rows)
        .selectExpr(f"{source.data} AS _data", f"{source.record} AS _record", "CAST(NULL AS STRING) AS _fault")
    )
    # Aggregates are split only if there might be some, since this starts Python workers.
    return _with_split_aggregates(rows) if source.aggregated and MAGIC_IN_BASE64 in text else rows


def _one_text(spark: SparkSession, text: str) -> DataFrame:
    """Return one row with one column ``event``, made in the JVM: ``createDataFrame`` would start a Python worker."""
    jvm: Any = spark._jvm
    rows = jvm.java.util.Collections.singletonList(text)
    dataset = spark._jsparkSession.createDataset(rows, jvm.org.apache.spark.sql.Encoders.STRING())
    return DataFrame(dataset.toDF(), spark).withColumnRenamed("value", "event")


def _with_split_aggregates(rows: DataFrame) -> DataFrame:
    """Return the rows, with the records of each aggregate as rows of their own."""
    aggregate = F.expr(f"IF(startswith(_data, X'{MAGIC.hex()}'), _data, NULL)")
    # The function is marked as not deterministic, so that Spark computes it only once. It does without Arrow, which
    # the Python workers of other platforms may lack.
    split = F.udf(split_aggregate, SPLIT_TYPE, useArrow=False).asNondeterministic()
    return (
        rows.withColumn("_split", split(aggregate))
        .withColumn("_fault", F.col("_split.fault"))
        .selectExpr(f"explode(IF(_split IS NULL OR _fault IS NOT NULL, {WHOLE_RECORD}, {PARTS_OF_AGGREGATE})) AS one")
        .selectExpr("one.data AS _data", "one.record AS _record", "one.fault AS _fault")
    )


def _output_columns(
    decoded: DataFrame, names: list[str] | None, source: StreamSource, mode: str, metadata: bool, cause: bool
) -> DataFrame:
    """Select the caller's columns: fields of ``_parsed``, or the bytes; FAILFAST fails the job at a corrupt record."""
    if mode == "FAILFAST":  # by a filter, since Spark may drop a column that nobody uses, but never a filter
        failure = f"concat({source.label}, ' is corrupt: ', _fault, '; mode PERMISSIVE keeps such records')"
        decoded = decoded.where(f"CASE WHEN _fault IS NULL THEN true ELSE CAST(raise_error({failure}) AS BOOLEAN) END")
    is_good = F.col("_fault").isNull()
    if names is None:
        columns = [F.when(is_good, F.col("_data")).alias("value")]
    else:
        columns = [F.when(is_good, F.col("_parsed").getField(name)).alias(name) for name in names]
    if mode == "PERMISSIVE":
        columns.append(F.when(~is_good, F.col("_data")).alias(CORRUPT))
    if cause:
        columns.append(F.col("_fault").alias(CAUSE))
    if metadata:
        columns.append(F.col("_record"))
    return decoded.select(*columns)


def _json(records: DataFrame, schema: Schema, options: Mapping[str, str]) -> tuple[DataFrame, list[str]]:
    """Decode records that are one JSON document each; ``from_json`` alone would ignore all but the first document."""
    fields, names = _fields(records, schema)
    parsed = F.from_json("_text", fields, _reader_options(options))
    frame = _with_text(records).withColumn("_parsed", parsed)
    return _with_fault(frame, f"{NOT_UTF_8} {NOT_ONE_JSON} {NOT_FITTING}"), names


def _csv(records: DataFrame, schema: Schema, options: Mapping[str, str]) -> tuple[DataFrame, list[str]]:
    """Decode records that are one CSV line each; ``from_csv`` alone would ignore all but the first line."""
    fields, names = _fields(records, schema)
    columns = ", ".join(f"{backquoted(field.name)} {field.dataType.simpleString()}" for field in fields)
    quote, escape = ("\\" + (options.get(name) or default) for name, default in (("quote", '"'), ("escape", "\\")))
    # A line break within quotes does not end the line.
    quoted_text = f"(?s){quote}([^{quote}{escape}]|{escape}.|{quote}{quote})*{quote}"
    frame = _with_text(records).withColumn("_line", F.regexp_replace("_text", r"\r?\n$", ""))
    frame = frame.withColumn("_parsed", F.from_csv("_line", columns, _reader_options(options)))
    frame = frame.withColumn("_several", F.regexp_replace("_line", quoted_text, "").rlike("[\r\n]"))
    not_one_line = "WHEN _several THEN 'it is more than one line' WHEN trim(_line) = '' THEN 'it is empty'"
    return _with_fault(frame, f"{NOT_UTF_8} {not_one_line} {NOT_FITTING}"), names


def _avro(records: DataFrame, schema: Schema, options: Mapping[str, str]) -> tuple[DataFrame, list[str]]:
    """Decode records that are one Avro datum each, without a header.

    Eight known bytes are appended to the datum, and both are read as the two fields of one Avro record, since Avro
    writes fields one after the other. So a datum that is too short or too long is found, and a datum that cannot be
    read is null as a whole; ``from_avro`` alone would make all its fields null.
    """
    spark = records.sparkSession
    if not has_class(spark._jvm, AVRO):
        needed = f"--packages {package('spark-avro', spark.version)}"
        raise EventError(f"Avro records need spark-avro: put its jar into SPARKLET_JARS, or on a cluster use {needed}")
    end = {"type": "fixed", "name": "sparklet_end", "size": len(AVRO_END)}
    with_end = F.concat("_data", F.lit(AVRO_END))
    parsed = from_avro(with_end, _avro_pair(schema, end), {**options, "mode": "PERMISSIVE"})
    frame = records.withColumn("_pair", parsed).selectExpr("*", "_pair.datum AS _parsed")
    has_end = f"_pair.end <=> X'{AVRO_END.hex()}'"
    frame = _with_fault(frame, f"WHEN _parsed IS NULL OR NOT {has_end} THEN 'it does not fit the schema'")
    return frame, frame.select("_parsed.*").columns


def _avro_pair(schema: Schema, end: Mapping[str, Any]) -> str:
    """Return the Avro schema of a record of two fields, the datum and the end; ValueError for a wrong schema."""
    try:
        datum = json.loads(schema) if isinstance(schema, str) else None
    except ValueError as error:
        raise ValueError(f"the Avro schema is not JSON: {error}") from error
    if not isinstance(datum, dict) or datum.get("type") != "record":
        raise ValueError("an Avro schema must be the JSON text of a record's schema")
    fields = [{"name": "datum", "type": datum}, {"name": "end", "type": end}]
    return json.dumps({"type": "record", "name": "sparklet_pair", "fields": fields})


def _with_text(records: DataFrame) -> DataFrame:
    """Add the bytes as text, ``_text``; null if they are not UTF-8: no character is replaced silently."""
    return records.selectExpr("*", f"{text_of('_data', records.sparkSession.version)} AS _text")


def _with_fault(frame: DataFrame, cases: str) -> DataFrame:
    """Set ``_fault`` to each record's first fault, by WHEN clauses. A null (a deletion in Kafka) has no such fault."""
    return frame.withColumn("_fault", F.expr(f"coalesce(_fault, CASE WHEN _data IS NULL THEN NULL {cases} END)"))


def _fields(records: DataFrame, schema: Schema) -> tuple[StructType, list[str]]:
    """Return the schema with an added column for what Spark cannot read, and the names of the schema's columns."""
    struct = records.sparkSession.createDataFrame([], schema).schema
    if reserved := {CORRUPT, CAUSE, RECORD, MALFORMED}.intersection(struct.names):
        raise ValueError(f"the schema has a column {sorted(reserved)[0]}, a name that job.records() uses itself")
    return StructType([*struct.fields, StructField(MALFORMED, StringType())]), struct.names


def _reader_options(options: Mapping[str, str]) -> dict[str, str]:
    # No option of the script replaces these two. Spark's own FAILFAST would miss errors in columns that nobody uses.
    return {**options, "mode": "PERMISSIVE", "columnNameOfCorruptRecord": MALFORMED}


FORMATS: Mapping[str, Decode] = {"json": _json, "csv": _csv, "avro": _avro, "raw": lambda records, *_: (records, None)}
