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
"""Keys and sources that an error may quote: others may be data that is used as a key."""
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
    """The work for one event, or for one record of it."""

    source: Source
    event: Event  # what Lambda received, with the records of this task only; of a task request: its body
    record_ids: tuple[str, ...] = ()  # for reporting a failure: message id, sequence numbers, offsets
    receipt: str = ""  # SQS: changes the message's visibility
    receive_count: int = 1  # SQS: how often the message was delivered
    group: str = ""  # SQS FIFO: tasks of one group are done in order, and none after one that failed
    shard: ShardRef | None = None  # set if the task is a shard of a run
    request: TaskRequest | None = None  # set if it comes from the asynchronous API
    problem: EventError | None = None  # set if the record cannot be read
    chosen: Mapping[str, Any] | None = None  # script, args and env of a direct invocation that hands over this event
    skip: str = ""  # why no script runs for it: logged and acknowledged
    messages: tuple["Task", ...] = ()  # SQS: of a batch that is one task, those of its messages

    @property
    def invocation(self) -> str:
        """The name that a client gave its direct invocation, to find the lines of its log; "" for none."""
        name = (self.chosen or {}).get("invocation")
        return name if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a task."""

    task: Task  # of a batch of which some messages come back: the task of these
    error: SparkletError | None = None
    acknowledged: bool = True  # the source may delete the record; if not, there is an error
    answer: Mapping[str, Any] = field(default_factory=dict)  # for a synchronous caller; "answer" in it is the script's
    state: Mapping[str, Any] | None = None  # of a stream's window, for its next call
    parts: tuple[Task, ...] = ()  # of a batch of messages: what is to be done instead of it

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
    """A wrong value in an error: names and types, never contents."""
    if isinstance(value, dict):
        names = sorted(key for key in islice(value, MAX_NAMES) if isinstance(key, str) and NAME.fullmatch(key))
        others = f" and {len(value) - len(names)} more" if len(value) > len(names) else ""
        return f"the keys {', '.join(names) or '(none)'}{others}"
    return f"a {type(value).__name__}"
