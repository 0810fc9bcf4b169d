"""What all sources share: the task, its outcome, and the format that joins a source's two functions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from sparklet.errors import EventError, SparkletError
from sparklet.model import ShardRef

Event = Any
"""An event as Lambda decoded it: any JSON value."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._:-]{0,31}")
"""Keys and sources of this form may be quoted in an error; other keys may be data."""
MAX_NAMES = 20


class Source(StrEnum):
    """The source of an event; decides how failures are reported."""

    SQS = "aws:sqs"
    KINESIS = "aws:kinesis"
    DYNAMODB = "aws:dynamodb"
    S3 = "aws:s3"
    SNS = "aws:sns"
    MSK = "aws:kafka"
    KAFKA = "SelfManagedKafka"
    EVENTBRIDGE = "eventbridge"
    API = "api"  # API Gateway (REST and HTTP) and function URLs
    DIRECT = "direct"  # an invocation by SDK, command line or Step Functions


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task of the asynchronous API: its id and the queue of its message."""

    task_id: str
    queue_arn: str
    accepted_s: float = 0.0  # when the queue received the message; 0: unknown


@dataclass(frozen=True, slots=True)
class Task:
    """The work for one event, or for one of its records."""

    source: Source
    event: Event  # what Lambda received, with this task's records only; for a task request, the message's body
    record_ids: tuple[str, ...] = ()  # by which a failure is reported: message id, sequence numbers, offsets
    receipt: str = ""  # SQS: changes the message's visibility
    receive_count: int = 1  # SQS: how often the message was delivered
    group: str = ""  # SQS FIFO: tasks of one group are done in order, and none after a failed one
    shard: ShardRef | None = None  # set if the task is a shard of a run
    request: TaskRequest | None = None  # set if the task comes from the asynchronous API
    problem: EventError | None = None  # set if the record cannot be read
    chosen: Mapping[str, Any] | None = None  # script, args and env of a direct invocation that hands over this event
    skip: str = ""  # why no script runs: this is logged, and the record acknowledged
    messages: tuple["Task", ...] = ()  # SQS: if a whole batch is one task, the tasks of its messages

    @property
    def invocation(self) -> str:
        """The name by which a client finds the log lines of its direct invocation; "" if it gave none."""
        name = (self.chosen or {}).get("invocation")
        return name if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a task."""

    task: Task  # if some messages of a batch are to be delivered again, the task of these messages
    error: SparkletError | None = None
    acknowledged: bool = True  # whether the source may delete the record; if not, there is an error
    answer: Mapping[str, Any] = field(default_factory=dict)  # for a synchronous caller; "answer" in it is the script's
    state: Mapping[str, Any] | None = None  # the state of a stream's window, for the window's next call
    parts: tuple[Task, ...] = ()  # the tasks to do in place of a batch of messages

    def raise_failure(self) -> None:
        """Raise the task's error, if there is one: for sources whose responses cannot report failures."""
        if self.error is not None:
            raise self.error


@dataclass(frozen=True, slots=True)
class Format:
    """Splits the events of one source and builds its response."""

    split: Callable[[Event], tuple[Task, ...]]
    respond: Callable[[Event, Sequence[Outcome]], Any]


def shape_of(value: object) -> str:
    """Describe a wrong value for an error: its type, or a dict's keys, but never its contents."""
    if isinstance(value, dict):
        names = sorted(key for key in islice(value, MAX_NAMES) if isinstance(key, str) and NAME.fullmatch(key))
        more = f" and {len(value) - len(names)} more" if len(value) > len(names) else ""
        return f"the keys {', '.join(names) or '(none)'}{more}"
    return f"a {type(value).__name__}"
