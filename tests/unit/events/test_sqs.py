"""SQS: one task a message, groups, envelopes, and what a bad message may not do."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError
from sparklet.events import Source, parse_event
from tests.unit.events.samples import eventbridge, s3, s3_test_event, sns_envelope, sqs

DEEP = "[" * 10_000 + "]" * 10_000
ODD: dict[str, list[Any]] = {
    "attributes": [None, [], {"ApproximateReceiveCount": "²"}, {"ApproximateReceiveCount": [1]}],
    "messageAttributes": [True, "sparklet-task", ["sparklet-task"], 7],
}


def test_only_a_fifo_queues_messages_belong_to_groups() -> None:
    fifo, standard = sqs("a", "{}", "g1"), sqs("b", "{}", "tenant-1", fifo=False)  # which promises no order

    assert [task.group for task in parse_event({"Records": [fifo, standard]})] == ["g1", ""]


@pytest.mark.parametrize("body", [json.dumps(s3_test_event()), sns_envelope(json.dumps(s3_test_event()))])
def test_the_test_event_of_s3_is_not_run(body: str) -> None:
    test, other = parse_event({"Records": [sqs("a", body), sqs("b", json.dumps(s3("s3:TestEvent")))]})

    assert "s3:TestEvent" in test.skip
    assert other.skip == ""


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        DEEP,
        '{"run_id"' + ":[" * 1000,
        '{"a": 1, "a": 2}',
        "x" * 1024 * 1024,
        '{"k":' * 10_000,
        json.dumps(eventbridge()),
        "\ud800",
        # what only mentions a test event
        *("s3:TestEvent", '{"Event": "s3:TestEvent"}', '["s3:TestEvent"]', '{"Message": "s3:TestEvent"}'),
    ],
)
def test_any_text_is_a_message_and_reaches_the_script_as_it_came(body: str) -> None:
    (task,) = parse_event({"Records": [sqs("a", body)]})

    assert (task.problem, task.skip, task.shard) == (None, "", None)
    assert task.event["Records"][0]["body"] is body


@pytest.mark.parametrize("body", [None, 7, ["x"], {"x": 1}, '{"run_id": "x", "shard": "seven"}'])
def test_a_body_that_cannot_be_read_fails_only_its_message(body: Any) -> None:
    bad, good = parse_event({"Records": [{**sqs("a", "", "g"), "body": body}, sqs("b", "fine", "g")]})

    assert isinstance(bad.problem, EventError)
    assert (bad.record_ids, bad.group) == (("a",), "g")
    assert good.problem is None


@pytest.mark.parametrize(("name", "odd"), [(name, odd) for name, values in ODD.items() for odd in values])
def test_strange_attributes_count_as_none(name: str, odd: Any) -> None:
    (task,) = parse_event({"Records": [{**sqs("a", ""), "attributes": {}, name: odd}]})

    assert (task.source, task.receive_count, task.group, task.request) == (Source.SQS, 1, "", None)


def test_an_unreportable_message_stops_the_batch() -> None:
    with pytest.raises(EventError, match="has no messageId, so its failure could not be reported"):
        parse_event({"Records": [sqs("a", "1"), sqs("", "2")]})
