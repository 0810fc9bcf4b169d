"""An SQS batch as one task: which messages are joined, which stay apart, and which are returned as failed."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError, ScriptError
from sparklet.events import Outcome, answer, parse_event
from sparklet.events.sqs import TASK_ATTRIBUTE, as_one, failed_messages, joined
from sparklet.model import ShardRef
from tests.unit.events.samples import s3_test_event, sqs

SHARD = ShardRef("run-1", 7, 0, "part-00000-a.jsonl", 0, 10).to_body()
REQUEST = {**sqs("r", '{"day": 1}'), "messageAttributes": {TASK_ATTRIBUTE: {"stringValue": "*", "dataType": "String"}}}


def test_the_event_of_a_joined_batch_is_lambdas_event() -> None:
    late = sqs("b", "y")
    late["attributes"]["ApproximateReceiveCount"] = "5"
    event = {"Records": [sqs("a", "x"), late], "more": 1}

    (task,) = joined(parse_event(event))

    assert task.event == event
    assert (task.record_ids, task.receive_count) == (("a", "b"), 5)


def test_shards_requests_and_unreadable_messages_are_not_joined() -> None:
    own = [sqs("s", SHARD), REQUEST, {**sqs("p", ""), "body": None}, sqs("t", json.dumps(s3_test_event()))]
    event = {"Records": [sqs("a", "x"), own[0], own[1], sqs("b", "y"), own[2], own[3], sqs("c", "z")]}

    batch, shard, request, problem, test = joined(parse_event(event))

    assert batch.record_ids == ("a", "b", "c")
    assert shard.shard and request.request and problem.problem and test.skip
    assert [len(task.messages) for task in (shard, request, problem, test)] == [0] * 4


def test_no_message_of_a_fifo_queue_overtakes_another() -> None:
    bad = {**sqs("b", "", "g"), "body": None}

    tasks = joined(parse_event({"Records": [sqs("a", "1", "g"), bad, sqs("c", "2", "g"), sqs("d", "3", "h")]}))

    assert [task.record_ids for task in tasks] == [("a",), ("b",), ("c", "d")]


def test_single_messages_come_back_in_the_batchs_order() -> None:
    event = {"Records": [sqs("a", "x"), sqs("s", SHARD), sqs("b", "y"), sqs("c", "z")]}
    batch, shard = joined(parse_event(event))
    failed = ScriptError("x")

    partly = Outcome(as_one(batch.messages[2:]), failed, acknowledged=False)
    told = answer(event, [partly, Outcome(shard, failed, acknowledged=False)])
    wholly = answer(event, [Outcome(batch, failed, acknowledged=False), Outcome(shard)])

    assert told == {"batchItemFailures": [{"itemIdentifier": "s"}, {"itemIdentifier": "c"}]}
    assert wholly == {"batchItemFailures": [{"itemIdentifier": each} for each in "abc"]}


@pytest.mark.parametrize(
    ("failed", "given", "expected"),
    [
        ({"b": "bad"}, None, {"b": "bad"}),
        ({}, {"batchItemFailures": [{"itemIdentifier": "c"}]}, {"c": "the script's batchItemFailures name it"}),
        ({}, {"batchItemFailures": []}, {}),
        ({}, {"batchItemFailures": None}, {}),
        ({}, {"total": 7}, {}),
        ({}, ["batchItemFailures"], {}),
    ],
)
def test_a_scripts_answer_may_fail_messages_as_in_lambda(failed: Any, given: Any, expected: Any) -> None:
    (task,) = joined(parse_event({"Records": [sqs(each, each) for each in "abc"]}))

    assert failed_messages(task, failed, given) == expected


@pytest.mark.parametrize("name", ["d", "", None, 7, ["a"]])
def test_an_unknown_id_is_an_error(name: Any) -> None:
    (task,) = joined(parse_event({"Records": [sqs(each, each) for each in "abc"]}))

    wrong: list[list[Any]] = [[{"itemIdentifier": "a"}, {"itemIdentifier": name}], ["a"], [{}]]
    for items in wrong:
        with pytest.raises(EventError, match="not in its event, so SQS delivers all"):
            failed_messages(task, {}, {"batchItemFailures": items})
