"""S3, SNS, EventBridge and direct events: one task an event, a failure is raised."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from tests.unit.events.samples import eventbridge, every_source, s3, s3_test_event, scheduled, sns

FAILED = ScriptFailedError("s3://b/x.py", 1)
EVENTS = [
    (s3(), Source.S3),
    (sns("Hello from SNS!"), Source.SNS),
    (sns(json.dumps(s3())), Source.SNS),
    (eventbridge(), Source.EVENTBRIDGE),
    (scheduled(), Source.EVENTBRIDGE),
    (every_source()["eventbridge custom"], Source.EVENTBRIDGE),
    ({"orders": [1, 2]}, Source.DIRECT),
]


@pytest.mark.parametrize(("event", "source"), EVENTS)
def test_the_event_is_one_task_and_its_failure_is_raised(event: Any, source: Source) -> None:
    (task,) = parse_event(event)

    assert (task.source, task.event, task.skip) == (source, event, "")
    assert answer(event, [Outcome(task, answer={"state": "SUCCEEDED"})]) == {"state": "SUCCEEDED"}
    with pytest.raises(ScriptFailedError):  # Retry and Catch of a state machine name this class
        answer(event, [Outcome(task, FAILED, acknowledged=False)])


def test_a_step_functions_task_returns_the_scripts_answer() -> None:
    (task,) = parse_event({"orders": [1, 2]})

    told = answer({"orders": [1, 2]}, [Outcome(task, answer={"state": "SUCCEEDED", "rows": 2, "answer": [3, 4]})])

    assert told == {"state": "SUCCEEDED", "rows": 2, "answer": [3, 4]}


@pytest.mark.parametrize("event", [s3_test_event(), sns(json.dumps(s3_test_event()))])
def test_the_test_event_of_s3_is_not_run(event: Any) -> None:
    (task,) = parse_event(event)

    assert task.skip.startswith("s3:TestEvent: S3 tests a new notification")


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        ({"Records": [{"eventSource": "aws:s3", "body": "secret"}]}, "has no s3; it has the keys body, eventSource"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": "secret"}]}, "a record of aws:sns has no Sns"),
        ({"Records": [{"eventSource": "aws:ses"}]}, "records come from aws:ses, not from aws:sqs,"),
        ({"Records": [{"eventSource": ["secret"]}]}, "an eventSource that is a list"),
        ({"Records": [{"eventSource": "secret " * 1000}]}, "an eventSource that is a str"),
        ({"eventSource": "aws:mq", "messages": []}, "comes from the unknown source aws:mq"),
    ],
)
def test_an_unknown_shape_is_refused_with_what_was_seen(event: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen) as error:
        parse_event(event)

    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 400
