"""From a Lambda event to tasks and to the response: recognizing the source, and SQS messages of shards."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from sparklet.model import ShardRef
from tests.unit.events.samples import eventbridge, every_source, kafka, kinesis, s3, s3_test_event, scheduled, sns, sqs

FAILED = ScriptFailedError("s3://b/x.py", 1)
ANY: list[Any] = [{}, [], "text", 7, None]
EVENTS = [
    (s3(), Source.S3),
    (sns("Hello from SNS!"), Source.SNS),
    (sns(json.dumps(s3())), Source.SNS),
    (eventbridge(), Source.EVENTBRIDGE),
    (scheduled(), Source.EVENTBRIDGE),
    (every_source()["eventbridge custom"], Source.EVENTBRIDGE),
    ({"orders": [1, 2]}, Source.DIRECT),  # a Step Functions task
    *((each, Source.DIRECT) for each in ANY),
]
REF = ShardRef("flights-1", shard=7, generation=0, part="part-00000-ab.jsonl", offset=120, length=80)


def of(records: Any) -> dict[str, Any]:
    return {"Records": records}


def test_each_sqs_message_is_a_task_with_an_event_of_one_record() -> None:
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


@pytest.mark.parametrize("event", [{"Records": []}, kafka({})])
def test_an_empty_batch_gives_no_task(event: Any) -> None:
    assert parse_event(event) == ()
    assert answer(event, []) == {"batchItemFailures": []}


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        (of([{"eventSource": "aws:unheard-of"}]), "aws:unheard-of"),
        (of([{"foo": 1}]), "no eventSource"),
        (of([sqs("a", ""), kinesis("1")]), "several sources"),
        (of("text"), "a str"),
        (of([1]), "a list"),
        (of([{"eventSource": "aws:kinesis"}]), "eventSource"),
        (of([{"eventSource": "aws:sqs", "body": "secret"}]), "the keys body, eventSource"),
        (of([{"eventSource": "aws:s3", "body": "secret"}]), "has no s3; it has the keys body, eventSource"),
        (of([{"EventSource": "aws:sns", "Sns": "secret"}]), "a record of aws:sns has no Sns"),
        (of([{"eventSource": "aws:ses"}]), "records come from aws:ses, not from aws:sqs,"),
        (of([{"eventSource": ["secret"]}]), "an eventSource that is a list"),
        (of([{"eventSource": "secret " * 1000}]), "an eventSource that is a str"),
        ({"eventSource": "aws:mq", "messages": []}, "comes from the unknown source aws:mq"),
    ],
)
def test_an_event_of_unknown_shape_is_refused_and_quoted(event: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen) as error:
        parse_event(event)

    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 400


# --- S3, SNS, EventBridge and direct events: each event is one task, and a failure is raised ---


@pytest.mark.parametrize(("event", "source"), EVENTS)
def test_the_event_is_one_task_and_its_failure_is_raised(event: Any, source: Source) -> None:
    (task,) = parse_event(event)

    assert (task.source, task.event, task.skip) == (source, event, "")
    told = {"state": "SUCCEEDED", "rows": 2, "answer": [3, 4]}
    assert answer(event, [Outcome(task, answer=told)]) == told
    with pytest.raises(ScriptFailedError):  # Retry and Catch of a state machine name this class
        answer(event, [Outcome(task, FAILED, acknowledged=False)])


@pytest.mark.parametrize("event", [s3_test_event(), sns(json.dumps(s3_test_event()))])
def test_the_test_event_of_s3_is_not_run(event: Any) -> None:
    (task,) = parse_event(event)

    assert task.skip.startswith("s3:TestEvent: S3 tests a new notification")
