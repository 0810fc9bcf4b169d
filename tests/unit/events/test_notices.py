"""S3, SNS, EventBridge and direct events: one task an event, a failure is raised."""

import json
from typing import Any

import pytest

from sparklet.errors import ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from tests.unit.events.samples import eventbridge, every_source, s3, s3_test_event, scheduled, sns

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
