"""Batches of streams as DataFrames, on real Spark; the events have the shapes of Lambda's documentation."""

import json
from datetime import date
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors import streams
from sparklet.job import EventError, Job
from tests.aggregated import AWS_MADE, AWS_MADE_OF, MAGIC, aggregate
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.streams.conftest import JOB_FAILED, encoded, kinesis
from tests.unit.events import samples

pytestmark = SESSION_HERE

READING = "sensor STRING, celsius DOUBLE"
AVRO = json.dumps(
    {
        "type": "record",
        "name": "Reading",
        "namespace": "org.example",
        "fields": [{"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"]}],
    }
)


def kafka(*values: bytes | None, source: str = "aws:kafka") -> Job:
    """A job with a batch over two partitions; every second record is in the second partition."""
    offsets = [*range(15, 15 + len(values))]
    event = samples.kafka({"mytopic-0": offsets[::2], "mytopic-1": offsets[1::2]}, source)
    for record in (*event["records"]["mytopic-0"], *event["records"]["mytopic-1"]):
        value = values[record["offset"] - 15]
        record |= {"key": encoded(b"k"), "value": None if value is None else encoded(value)}
        record["headers"] = [{"headerKey": [104, -1, 0]}]
    return Job(event=event)


def tuples(frame: DataFrame) -> list[tuple[Any, ...]]:
    """The rows of a frame as tuples, with ``bytes`` in place of ``bytearray``."""
    return [tuple(bytes(value) if isinstance(value, bytearray) else value for value in row) for row in frame.collect()]


# Decoded records


def test_json_is_decoded_by_its_schema(spark: SparkSession) -> None:
    job = kinesis(b'{"day": "17/01/2020", "k": {"z": [1, 2]}, "more": 1}\n', '{"name": "grün"}'.encode())

    found = job.records(
        spark, "json", "day DATE, k STRUCT<z: ARRAY<INT>>, name STRING", options={"dateFormat": "dd/MM/yyyy"}
    )

    assert tuples(found) == [(date(2020, 1, 17), ([1, 2],), None), (None, None, "grün")]


def test_csv_is_decoded_by_its_schema(spark: SparkSession) -> None:
    job = kinesis(b"1;a", b'2;"b\nc"\r\n', b"3;\n")

    found = job.records(spark, "csv", "`an id` INT, `a.name` STRING", options={"sep": ";"})

    assert found.columns == ["an id", "a.name"]
    assert tuples(found) == [(1, "a"), (2, "b\nc"), (3, None)]


def test_avro_is_decoded_with_the_writers_schema(spark: SparkSession) -> None:
    found = kinesis(b"\x02\x02\x04hi", b"\x04\x00").records(spark, "avro", AVRO)

    assert tuples(found) == [(1, "hi"), (2, None)]


def test_raw_records_are_their_bytes(spark: SparkSession) -> None:
    assert tuples(kinesis(b"\x00\xff", b"").records(spark, "raw")) == [(b"\x00\xff",), (b"",)]


def test_kinesis_records_come_with_their_metadata(spark: SparkSession) -> None:
    found = kinesis(b"x").records(spark, "raw", metadata=True)

    stream = "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
    assert tuples(found.selectExpr("_record.*", "unix_millis(_record.arrival_time)").drop("arrival_time")) == [
        (stream, "shardId-000000000006", "100", 0, "1", 1545084650987)
    ]


@pytest.mark.parametrize("source", ["aws:kafka", "SelfManagedKafka", "aws:SelfManagedKafka"])
def test_kafka_records_of_all_partitions_have_their_metadata(spark: SparkSession, source: str) -> None:
    found = kafka(b'{"n": 1}', b'{"n": 2}', None, source=source).records(spark, "json", "n INT", metadata=True)

    place = found.selectExpr("n", "_record.topic", "_record.partition", "_record.offset")
    assert sorted(tuples(place), key=lambda row: row[3]) == [
        (1, "mytopic", 0, 15),
        (2, "mytopic", 1, 16),
        (None, "mytopic", 0, 17),  # an empty value marks a deletion, so it is not corrupt
    ]
    more = found.selectExpr("_record.key", "_record.timestamp_type", "unix_millis(_record.timestamp)").distinct()
    assert tuples(more) == [(b"k", "CREATE_TIME", 1545084650987)]
    (header,) = found.selectExpr("inline(_record.headers)").distinct().collect()
    assert (header.key, bytes(header.value)) == ("headerKey", b"h\xff\x00")


def test_dynamodbs_images_are_kept_as_json(spark: SparkSession) -> None:
    put, removed = samples.dynamodb("111"), samples.dynamodb("222")
    keys, image = put["dynamodb"]["Keys"], put["dynamodb"]["NewImage"]
    removed["eventName"] = "REMOVE"
    removed["dynamodb"] |= {"OldImage": removed["dynamodb"].pop("NewImage"), "ApproximateCreationDateTime": 1428537600}

    found = Job(event={"Records": [put, removed]}).records(spark, "raw", metadata=True)

    rows = found.selectExpr("string(value) AS new", "_record.*").collect()
    assert [(row.event_name, row.sequence_number, json.loads(row.keys)) for row in rows] == [
        ("INSERT", "111", keys),
        ("REMOVE", "222", keys),
    ]
    assert (json.loads(rows[0].new), rows[0].old_image) == (image, None)
    assert (rows[1].new, json.loads(rows[1].old_image)) == (None, image)


def test_the_end_of_a_window_has_no_records(spark: SparkSession) -> None:
    job = Job(event=samples.window(state={"n": 2}, final=True))

    assert job.records(spark, "json", READING, metadata=True).count() == 0


# Aggregated records


def test_an_aggregated_record_is_split_into_its_records(spark: SparkSession) -> None:
    mixed = kinesis(AWS_MADE, b'{"sensor": "alone"}', aggregate([]))

    found = mixed.records(spark, "json", READING, metadata=True)

    expected = [(json.loads(data)["sensor"], key, "100", number) for number, (key, data) in enumerate(AWS_MADE_OF)]
    names = ("partition_key", "sequence_number", "sub_sequence_number")
    assert tuples(found.select("sensor", *(f"_record.{name}" for name in names))) == [
        *expected,
        ("alone", "1", "101", 0),
    ]


def test_a_malformed_aggregate_is_a_corrupt_record(spark: SparkSession) -> None:
    broken = AWS_MADE[:-1] + b"!"
    job = kinesis(AWS_MADE, broken, MAGIC)

    kept = job.records(spark, "raw", mode="PERMISSIVE")

    assert tuples(kept.where("_corrupt_record IS NOT NULL")) == [(None, broken), (None, MAGIC)]
    assert kept.count() == len(AWS_MADE_OF) + 2
    with pytest.raises(JOB_FAILED, match="Kinesis record 101 of shardId-000000000006 is corrupt: the aggregate's"):
        job.records(spark, "raw").count()


# Corrupt records are never lost

BAD_JSON = [
    b'{"n": 2}{"n": 3}',
    b'[{"n": 4}, {"n": 5}]',
    b"",
    b" \n",
    b"null",
    b"5",
    b"[]",
    b'{"n": "x"}',
    b'{"n": 1.5}',
    b'{"n": 99999999999}',
    b'{"s": "\xff"}',
    b'{"n": 1} x',
    b'{"n": 1',
    b'{"n": 7}, 2]',
    b'{"n": 8}, "b": 1} x',
]
BAD_CSV = [b"3", b"4,a,b", b"x,y", b"", b"\n", b"5,a\n6,b\n", b"7,\xff"]
BAD_AVRO = [b"", b"\x02", b"\x04\x00\x00", b"\x02\x02\x04h", b"\x02\x02\xff\xff\xff\xff\xff\xff\xff\xff\x7fhi"]
CASES = [
    ("json", "n INT, s STRING", b'{"n": 1, "s": "t"}', BAD_JSON),
    ("csv", "n INT, s STRING", b"1,t", BAD_CSV),
    ("avro", AVRO, b"\x02\x02\x02t", BAD_AVRO),
]
in_each_format = pytest.mark.parametrize(("format_", "schema", "good", "bad"), CASES, ids=["json", "csv", "avro"])


@in_each_format
def test_permissive_keeps_the_bytes_of_every_corrupt_record(
    spark: SparkSession, format_: str, schema: str, good: bytes, bad: list[bytes]
) -> None:
    found = kinesis(good, *bad, good).records(spark, format_, schema, mode="PERMISSIVE")

    assert tuples(found) == [(1, "t", None), *((None, None, each) for each in bad), (1, "t", None)]


@in_each_format
def test_failfast_names_the_corrupt_record(
    spark: SparkSession, format_: str, schema: str, good: bytes, bad: list[bytes]
) -> None:
    found = kinesis(good, bad[0]).records(spark, format_, schema)

    for use in (found.count, found.select().count, found.where(f"{found.columns[0]} < 0").collect, found.collect):
        with pytest.raises(JOB_FAILED, match="Kinesis record 101 of shardId-000000000006 is corrupt"):
            use()


def test_a_corrupt_kafka_record_is_named_by_its_offset(spark: SparkSession) -> None:
    with pytest.raises(JOB_FAILED, match="Kafka record mytopic-1@16 is corrupt: it is not one JSON document"):
        kafka(b'{"n": 1}', b"{").records(spark, "json", "n INT").collect()


# Plans and Python workers


def test_records_are_read_lazily_and_kept_out_of_plans(spark: SparkSession) -> None:
    tracker = spark.sparkContext.statusTracker()
    before = set(tracker.getJobIdsForGroup(None))

    found = kinesis(b"\xff a secret", AWS_MADE).records(spark, "json", READING, metadata=True)

    assert set(tracker.getJobIdsForGroup(None)) == before
    plan = found._jdf.queryExecution().toString()
    assert "secret" not in plan
    assert encoded(b"\xff a secret") not in plan


@pytest.mark.parametrize(("data", "python"), [(b"{}", False), (AWS_MADE, True)])
def test_python_workers_are_started_for_aggregated_records_only(spark: SparkSession, data: bytes, python: bool) -> None:
    plan = kinesis(data).records(spark, "json", READING)._jdf.queryExecution().toString()

    assert ("BatchEvalPython" in plan) is python


def test_a_batch_of_six_megabytes_is_read(spark: SparkSession) -> None:
    streams = [b'{"sensor": "%s", "celsius": %d}' % (b"y" * 200, number) for number in range(10_000)]

    summed = kinesis(*streams).records(spark, "json", READING).selectExpr("count(*)", "sum(celsius)")

    assert tuples(summed) == [(10_000, sum(range(10_000)))]


# Refused before anything is read


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        ({"a": 1}, "it has the keys a"),
        ([], "not an object"),
        ({"Records": []}, "it has the keys Records"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "its source is aws:s3"),
        ({"Records": ["x"]}, "it has the keys Records"),
    ],
)
def test_an_event_without_a_stream_is_refused(spark: SparkSession, event: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen):
        Job(event=event).records(spark, "raw")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"format": "xml", "schema": "a INT"}, "one of json, csv, avro, raw"),
        ({"format": "json"}, "json needs a schema"),
        ({"format": "raw", "schema": "a INT"}, "raw records have no schema"),
        ({"schema": "a INT", "mode": "DROPMALFORMED"}, "it must be one of FAILFAST, PERMISSIVE"),
        ({"schema": "_record INT"}, "a name that job.records\\(\\) uses itself"),
        ({"format": "avro", "schema": "a INT"}, "Avro schema is not JSON"),
        ({"format": "avro", "schema": '{"type": "string"}'}, "of a record's schema"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    spark: SparkSession, arguments: dict[str, Any], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        kinesis(b"x").records(spark, **arguments)


def test_an_error_without_spark_avro_names_the_remedy(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "AVRO", "org.example.NotThere")

    with pytest.raises(EventError, match="put its jar into SPARKLET_JARS, or on a cluster use --packages"):
        kinesis(b"x").records(spark, "avro", AVRO)
