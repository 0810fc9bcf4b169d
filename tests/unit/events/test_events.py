"""Lambda event → tasks → what the source is told: which source it is, and SQS with shards."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from sparklet.model import ShardRef
from tests.unit.events.samples import every_source, kinesis, sqs

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


@pytest.mark.parametrize("body", ["", "no json", "[1]", '{"run_id": 1', '"run_id"' + "[" * 10_000, "x" * 1_000_000])
def test_a_message_of_anybody_else_is_a_plain_task(body: str) -> None:
    (task,) = parse_event({"Records": [sqs("a", body)]})

    assert task.shard is None
    assert task.problem is None
    assert task.event["Records"][0]["body"] == body


@pytest.mark.parametrize(
    "change",
    [
        {"generation": -1},
        {"offset": "0"},
        {"length": True},
        {"part": "../x"},
        {"part": 3},
        {"run_id": "A B"},
        {"shard": 1.5},
    ],
)
def test_a_shard_message_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    document = {**json.loads(REF.to_body()), **change}

    with pytest.raises(EventError):
        ShardRef.from_document(document)


@pytest.mark.parametrize("event", every_source().values(), ids=every_source())
def test_every_sources_event_is_tasks_that_can_be_answered(event: Any) -> None:
    tasks = parse_event(event)

    assert tasks
    assert all(task.problem is None for task in tasks)
    assert answer(event, [Outcome(task) for task in tasks]) is not None


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


def test_exactly_the_failed_messages_are_reported() -> None:
    event = {"Records": [sqs("a", "1"), sqs("b", "2"), sqs("c", "3")]}
    a, b, c = parse_event(event)

    told = answer(event, [Outcome(a), Outcome(b, ScriptFailedError("s", 1), acknowledged=False), Outcome(c)])

    assert told == {"batchItemFailures": [{"itemIdentifier": "b"}]}


def test_an_acknowledged_failure_is_not_reported() -> None:
    event = {"Records": [sqs("a", "1")]}
    (task,) = parse_event(event)

    assert answer(event, [Outcome(task, ScriptFailedError("s", 1))]) == {"batchItemFailures": []}


def test_a_direct_failure_is_raised() -> None:
    (task,) = parse_event({"a": 1})

    with pytest.raises(ScriptFailedError):
        answer({"a": 1}, [Outcome(task, ScriptFailedError("s", 1), acknowledged=False)])


@given(
    st.builds(
        ShardRef,
        st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
        *[st.integers(0, 10**9)] * 2,
        st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=60),
        *[st.integers(0, 10**12)] * 2,
    )
)
def test_a_shard_message_reads_back_as_it_was_written(ref: ShardRef) -> None:
    (task,) = parse_event({"Records": [sqs("a", ref.to_body())]})

    assert task.shard == ref
