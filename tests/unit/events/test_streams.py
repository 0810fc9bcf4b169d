"""Kinesis, DynamoDB Streams and Kafka: batches, bad records, windows."""

from collections.abc import Callable
from typing import Any

import pytest

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from tests.unit.events.samples import aggregated, dynamodb, kafka, kinesis, window

FAILED = ScriptFailedError("s3://b/x.py", 1)
Record = Callable[[str], dict[str, Any]]
both = pytest.mark.parametrize(
    ("record", "source"), [(kinesis, Source.KINESIS), (dynamodb, Source.DYNAMODB)], ids=["kinesis", "dynamodb"]
)


def broken(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its sequence number but without its content."""
    part = "kinesis" if "kinesis" in record else "dynamodb"
    return {**record, part: {**record[part], "data": "no base64!", "Keys": "none"}}


def identifiers(response: Any) -> list[str]:
    return [failure["itemIdentifier"] for failure in response["batchItemFailures"]]


@both
def test_a_batch_is_one_task(record: Record, source: Source) -> None:
    event = {"Records": [record("111"), record("222")]}

    (task,) = parse_event(event)

    assert (task.source, task.record_ids, task.event) == (source, ("111", "222"), event)


@both
def test_a_bad_record_is_returned_and_earlier_records_are_done(record: Record, source: Source) -> None:
    event = {"Records": [record("1"), record("2"), broken(record("3")), record("4")]}

    good, bad = parse_event(event)

    assert (good.record_ids, good.problem) == (("1", "2"), None)
    assert good.event["Records"] == event["Records"][:2]
    assert bad.record_ids == ("3", "4")
    assert "record 3 of 4" in str(bad.problem)
    (first,) = parse_event({"Records": event["Records"][2:]})
    assert first.problem is not None and first.record_ids == ("3", "4")
    back = Outcome(bad, bad.problem, acknowledged=False)
    assert identifiers(answer(event, [Outcome(good), back])) == ["3"]
    assert identifiers(answer(event, [Outcome(good, FAILED, acknowledged=False), back])) == ["1"]


@both
@pytest.mark.parametrize("number", [None, "", "12a", 12, "-1"])
def test_a_record_that_could_not_be_reported_stops_the_batch(record: Record, source: Source, number: Any) -> None:
    with pytest.raises(EventError, match=f"a record of {source} has no [sS]equenceNumber"):
        parse_event({"Records": [record("1"), record(number)]})


def test_an_error_shows_no_content_of_a_record() -> None:
    (task,) = parse_event({"Records": [kinesis("1", "my secret!")]})

    assert "secret" not in str(task.problem)
    assert "not base64 (10 characters)" in str(task.problem)


def test_an_aggregated_record_is_reported_by_kinesis_number() -> None:
    event = {"Records": [kinesis("11", aggregated()), kinesis("12")]}

    (task,) = parse_event(event)

    assert task.record_ids == ("11", "12")
    assert identifiers(answer(event, [Outcome(task, FAILED, acknowledged=False)])) == ["11"]


# --- tumbling windows ---


@pytest.mark.parametrize(
    ("before", "outcome", "failed", "after"),
    [
        ({"1": 282}, {"state": {"1": 300}}, [], {"1": 300}),
        ({"1": 282}, {}, [], {"1": 282}),  # a script that keeps no state leaves the old one
        ({}, {}, [], {}),
        (None, {}, [], {}),
        ("odd", {}, [], {}),
        ({"n": 1}, {"error": FAILED, "acknowledged": False, "state": {"n": 99}}, ["1"], {"n": 1}),
    ],
)
def test_the_windows_state_is_returned_beside_the_failures(before: Any, outcome: Any, failed: Any, after: Any) -> None:
    event = window(kinesis("1"), state=before)
    (task,) = parse_event(event)

    response = answer(event, [Outcome(task, **outcome)])

    assert response == {"batchItemFailures": [{"itemIdentifier": each} for each in failed], "state": after}


@pytest.mark.parametrize(("service", "source"), [("kinesis", Source.KINESIS), ("dynamodb", Source.DYNAMODB)])
def test_the_end_of_a_window_without_records_is_a_task(service: str, source: Source) -> None:
    event = window(state={"n": 1}, final=True, service=service)

    (task,) = parse_event(event)

    assert (task.source, task.event, task.record_ids) == (source, event, ())
    assert answer(event, [Outcome(task, state={})]) == {"batchItemFailures": [], "state": {}}
    with pytest.raises(ScriptFailedError):  # only an error makes Lambda try again
        answer(event, [Outcome(task, FAILED, acknowledged=False)])


def test_a_window_end_with_an_unreadable_record_is_not_done() -> None:
    event = window(kinesis("1"), kinesis("2", "?"), state={"n": 1}, final=True)

    (task,) = parse_event(event)

    assert task.problem is not None
    response = answer(event, [Outcome(task, task.problem, acknowledged=False)])
    assert response == {"batchItemFailures": [{"itemIdentifier": "1"}], "state": {"n": 1}}


# --- Kafka (MSK or self-managed): failures are raised or reported ---


@pytest.mark.parametrize(
    ("name", "source"),
    [("aws:kafka", Source.MSK), ("SelfManagedKafka", Source.KAFKA), ("aws:SelfManagedKafka", Source.KAFKA)],
)
def test_a_batch_of_several_partitions_is_one_task(name: str, source: Source) -> None:
    event = kafka({"mytopic-0": [15, 16], "other-topic-11": [3]}, name)

    (task,) = parse_event(event)

    assert (task.source, task.event) == (source, event)
    assert task.record_ids == ("mytopic-0:15", "other-topic-11:3")
    assert answer(event, [Outcome(task)]) == {"batchItemFailures": []}


def test_a_failure_is_raised_unless_reports_are_configured() -> None:
    # The shape: https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html
    event = kafka({"mytopic-0": [16, 15], "mytopic-1": [3], "mytopic-2": []})
    (task,) = parse_event(event)

    with pytest.raises(ScriptFailedError):
        answer(event, [Outcome(task, FAILED, acknowledged=False)])
    response = answer(event, [Outcome(task, FAILED, acknowledged=False)], kafka_failures="report")

    assert response == {
        "batchItemFailures": [
            {"itemIdentifier": {"partition": "mytopic-0", "offset": 15}},
            {"itemIdentifier": {"partition": "mytopic-1", "offset": 3}},
        ]
    }


@pytest.mark.parametrize(
    ("records", "seen"),
    [
        ([], "not a list"),
        ({"t-0": {}}, "list of objects, not the keys"),
        ({"t-0": ["x"]}, "list of objects"),
        ({"t-0": [{}]}, "has no offset"),
        ({"t-0": [{"offset": -1}]}, "has no offset"),
        ({"t-0": [{"offset": True}]}, "has no offset"),
        ({"t-0": [{"offset": "15"}]}, "has no offset"),
    ],
)
def test_a_kafka_batch_that_could_not_be_reported_is_refused(records: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen):
        parse_event({**kafka({}), "records": records})
