"""Lambda event → tasks → what the source is told: which source it is, and SQS with shards."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from sparklet.model import ShardRef
from tests.unit.events.samples import kinesis, sqs

REF = ShardRef("flights-1", shard=7, generation=0, part="part-00000-ab.jsonl", offset=120, length=80)


def test_sqs_gives_one_task_a_message_with_the_event_cut_to_it() -> None:
    event: dict[str, Any] = {"Records": [sqs("a", "1"), sqs("b", "2")], "other": True}

    first, second = parse_event(event)

    assert first.event == {"Records": [event["Records"][0]], "other": True}
    assert second.record_ids == ("b",)
    assert second.receipt == "receipt-b"
    assert second.receive_count == 3


def test_shard_messages_are_recognised_in_sqs_and_direct_events() -> None:
    (from_sqs,) = parse_event({"Records": [sqs("a", REF.to_body())]})
    (direct,) = parse_event(json.loads(REF.to_body()))

    assert from_sqs.shard == REF
    assert direct.shard == REF
    assert direct.source is Source.DIRECT


def test_a_broken_shard_message_fails_only_its_own_record() -> None:
    broken = json.dumps({"run_id": "x", "shard": "seven"})

    bad, good = parse_event({"Records": [sqs("a", broken), sqs("b", REF.to_body())]})

    assert bad.problem is not None
    assert good.problem is None
    assert good.shard == REF


def test_a_direct_event_of_any_shape_is_one_task() -> None:
    events: list[Any] = [{}, [], "text", 7, None, {"a": 1}]
    for event in events:
        (task,) = parse_event(event)
        assert task.event == event


def test_an_empty_batch_gives_no_task() -> None:
    assert parse_event({"Records": []}) == ()
    assert answer({"Records": []}, []) == {"batchItemFailures": []}


@pytest.mark.parametrize(
    ("records", "seen"),
    [
        ([{"eventSource": "aws:unheard-of"}], "aws:unheard-of"),
        ([{"foo": 1}], "no eventSource"),
        ([sqs("a", ""), kinesis("1")], "several sources"),
        ("text", "a str"),
        ([1], "a list"),
        ([{"eventSource": "aws:kinesis"}], "eventSource"),
        ([{"eventSource": "aws:sqs", "body": "secret"}], "the keys body, eventSource"),
    ],
)
def test_an_unknown_shape_is_refused_with_what_was_seen(records: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen) as error:
        parse_event({"Records": records})

    assert "secret" not in str(error.value)


def test_an_acknowledged_failure_is_not_reported() -> None:
    event = {"Records": [sqs("a", "1")]}
    (task,) = parse_event(event)

    assert answer(event, [Outcome(task, ScriptFailedError("s", 1))]) == {"batchItemFailures": []}
