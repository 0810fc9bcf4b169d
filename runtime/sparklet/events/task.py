"""What flows between an event's source and a worker: the task, and what became of it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, Literal, NoReturn

from sparklet.errors import EventError, SparkletError
from sparklet.model import ShardRef

Event = Any
"""An event as Lambda decoded it: any JSON value."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._:-]{0,31}")
"""A key or a source that an error may show: anything else may be data that is used as a key."""
MOST_NAMES = 20

KafkaFailures = Literal["raise", "report"]
"""How a failed Kafka batch is told, see ``sparklet.events.kafka``."""


class Source(StrEnum):
    """Where an event came from; decides how failures are reported."""

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
class Order:
    """A task of the asynchronous API: what it is called there, and the queue its message came by."""

    task_id: str
    queue_arn: str
    accepted_s: float = 0.0  # when the queue took the message; 0: it does not say


@dataclass(frozen=True, slots=True)
class Task:
    """What one event, or one record of it, asks a worker to do."""

    source: Source
    event: Event  # exactly what Lambda received, cut to the records of this task
    record_ids: tuple[str, ...] = ()  # what a failure is reported by: message id, sequence numbers, offsets
    receipt: str = ""  # SQS: changes the message's visibility
    receive_count: int = 1  # SQS: how often the message was delivered
    group: str = ""  # SQS FIFO: tasks of one group are done in order, and none after one that failed
    shard: ShardRef | None = None  # set if the task is a shard of a run
    order: Order | None = None  # set if the asynchronous API asked for it: its state is kept under its id
    problem: EventError | None = None  # set if the record cannot be a task at all
    chosen: Mapping[str, Any] | None = None  # script, args and env of a direct invocation that hands over this event
    skip: str = ""  # why there is nothing to run for it: it is logged and acknowledged


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task."""

    task: Task
    error: SparkletError | None = None
    acknowledged: bool = True  # the source may forget the record
    answer: Mapping[str, Any] = field(
        default_factory=dict
    )  # what who waits for it is told; the script's own in "answer"
    state: Mapping[str, Any] | None = None  # of a stream's window, as the script wants to find it next time


@dataclass(frozen=True, slots=True)
class Telling:
    """What the operator set about answers."""

    kafka_failures: KafkaFailures = "raise"


@dataclass(frozen=True, slots=True)
class Format:
    """How the events of one source are read, and how it wants to be told what became of them."""

    split: Callable[[Event], tuple[Task, ...]]
    tell: Callable[[Event, Sequence[Outcome], Telling], Any]


def raise_failure(outcome: Outcome) -> NoReturn:
    """Raise what went wrong: for the sources that have no other way to be told."""
    raise outcome.error or EventError("a task came back without saying why")


def text_of(value: object) -> str:
    """A text, "" for anything else: even the ``str`` of a value from outside may fail, if it is deep or huge."""
    return value if isinstance(value, str) else ""


def seen(value: object) -> str:
    """What was found instead, for an error: names and types, never contents."""
    if isinstance(value, dict):
        names = sorted(key for key in islice(value, MOST_NAMES) if isinstance(key, str) and NAME.fullmatch(key))
        others = f" and {len(value) - len(names)} more" if len(value) > len(names) else ""
        return f"the keys {', '.join(names) or '(none)'}{others}"
    return f"a {type(value).__name__}"
