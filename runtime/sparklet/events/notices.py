"""S3 notifications, SNS and EventBridge: asynchronous, so an event is one task, and a failure is raised.

Lambda then tries the event twice more and sends it to the function's failure destination or dead-letter queue. Only a
Step Functions task, of which such an event is the input, reads the answer.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sparklet.errors import EventError
from sparklet.events.task import Event, Format, Outcome, Source, Task, shape_of
from sparklet.job.event_objects import read_json

TEST_EVENT = "s3:TestEvent"
MAX_TEST_MESSAGE = 16 * 1024  # characters; S3's has some 300, in an SNS envelope some 1,500
NO_OBJECT = f"{TEST_EVENT}: S3 tests a new notification; there is no object"
MAX_DEPTH = 3  # S3 → SNS → SQS


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Return the task's answer, or raise its failure."""
    for outcome in outcomes:
        outcome.raise_failure()
    return dict(outcomes[0].answer) if outcomes else {}


def _one_task(source: Source, part: str, event: Mapping[str, Any]) -> tuple[Task, ...]:
    """One task for all records, each of which must have ``part``; it is skipped if all are S3's test messages."""
    for record in event["Records"]:
        if not isinstance(record.get(part), dict):
            raise EventError(f"a record of {source} has no {part}; it has {shape_of(record)}")
    messages = [record[part].get("Message") for record in event["Records"]] if source is Source.SNS else []
    reasons = [reason_to_skip(message) for message in messages]
    is_skipped = bool(reasons) and all(reasons)
    return (Task(source, event, skip=reasons[0] if is_skipped else ""),)


def is_eventbridge(event: Mapping[str, Any]) -> bool:
    """Whether this is an event of EventBridge: scheduled, custom, or of an AWS service."""
    return isinstance(event.get("detail-type"), str) and isinstance(event.get("source"), str) and "detail" in event


def reason_to_skip(text: object) -> str:
    """Why a message is skipped: it is the one by which S3 tests a new notification. "" for any other text."""
    if not isinstance(text, str) or TEST_EVENT not in text or len(text) > MAX_TEST_MESSAGE:
        return ""
    inner: object = text
    for _ in range(MAX_DEPTH):
        document = read_json(inner)
        if is_test_event(document):
            return NO_OBJECT
        inner = document.get("Message") if isinstance(document, dict) else None
    return ""


def is_test_event(document: object) -> bool:
    """Whether this is S3's test message itself."""
    return isinstance(document, dict) and document.get("Event") == TEST_EVENT and document.get("Service") == "Amazon S3"


S3 = Format(partial(_one_task, Source.S3, "s3"), respond)
SNS = Format(partial(_one_task, Source.SNS, "Sns"), respond)
EVENTBRIDGE = Format(lambda event: (Task(Source.EVENTBRIDGE, event),), respond)
