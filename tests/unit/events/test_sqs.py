"""SQS: one task for each message, FIFO groups, envelopes, and bad messages that must not affect others."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError
from sparklet.events import Source, parse_event
from sparklet.model import MAX_SENT_BYTES, InputObject, Shard, ShardRef
from tests.unit.events.samples import eventbridge, s3, s3_test_event, sns_envelope, sqs

DEEP = "[" * 10_000 + "]" * 10_000
ODD: dict[str, list[Any]] = {
    "attributes": [None, [], {"ApproximateReceiveCount": "²"}, {"ApproximateReceiveCount": [1]}],
    "messageAttributes": [True, "sparklet-task", ["sparklet-task"], 7],
}


def test_only_a_fifo_queues_messages_belong_to_groups() -> None:
    fifo, standard = sqs("a", "{}", "g1"), sqs("b", "{}", "tenant-1", fifo=False)  # a standard queue promises no order

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
def test_any_text_is_a_message_and_reaches_the_script_unchanged(body: str) -> None:
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
def test_invalid_attributes_are_ignored(name: str, odd: Any) -> None:
    (task,) = parse_event({"Records": [{**sqs("a", ""), "attributes": {}, name: odd}]})

    assert (task.source, task.receive_count, task.group, task.request) == (Source.SQS, 1, "", None)


def test_an_unreportable_message_stops_the_batch() -> None:
    with pytest.raises(EventError, match="has no messageId, so its failure could not be reported"):
        parse_event({"Records": [sqs("a", "1"), sqs("", "2")]})


@pytest.mark.parametrize("name", ["a", '"', "\\", "é", "漢", "\n"])
def test_the_longest_plan_line_that_is_sent_is_read_as_a_shard(name: str) -> None:
    """A line is ASCII, so within a message it is at most twice as long."""
    objects = [InputObject(f"s3://bucket/{name * 20}/{number}.csv", 10, "e") for number in range(500)]
    lines = (Shard(0, tuple(objects[:count])).to_line() for count in range(1, 500))
    line = max((each for each in lines if len(each) <= MAX_SENT_BYTES), key=len)
    ref = ShardRef("r" * 60, 10**8, 10**6, "part-00000-0123456789ab.jsonl", 10**12, len(line), line.decode())

    (task,) = parse_event({"Records": [sqs("a", ref.to_body())]})

    assert task.shard == ref
