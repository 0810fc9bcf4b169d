"""SQS, standard and FIFO: one task a message; the ids of those that come back are reported.

The mapping must have ``FunctionResponseTypes: [ReportBatchItemFailures]``: without it Lambda reads no answer
and deletes every message of the batch. What a message carries (a shard, an S3 notification, an SNS or
EventBridge envelope, anything else) is the script's to read; here only Sparklet's own messages and
S3's test messages are told apart.

A message with the attribute ``sparklet-task`` is a task of the asynchronous API (sam/api.yaml sends it): its body is an
event as in a direct invocation. The attribute is the id that the client chose, or ``*`` for the message's own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparklet.errors import EventError
from sparklet.events.notices import found_test_event
from sparklet.events.task import Event, Order, Outcome, Source, Task, Telling, seen, text_of
from sparklet.model import TASK_ID, ShardRef

LONGEST_SHARD_BODY = 4096  # characters; a shard message has a few hundred, so nothing longer is decoded
TASK_ATTRIBUTE = "sparklet-task"
OWN_ID = "*"
MOST_KEYS = 100  # of the event beside its records: they are in every task's event


def split(event: Mapping[str, Any]) -> tuple[Task, ...]:
    """One task a message; a message that cannot be read is a problem of its own only."""
    if len(event) > MOST_KEYS:
        raise EventError(f"an SQS event has {len(event)} keys beside its records; Lambda sends none")
    return tuple(_task({**event, "Records": [record]}, record) for record in event["Records"])


def tell(event: Event, outcomes: Sequence[Outcome], telling: Telling) -> Any:
    """Exactly the messages that were not done, in the order of the batch."""
    failed = [outcome.task.record_ids[0] for outcome in outcomes if not outcome.acknowledged]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _task(event: Event, record: Mapping[str, Any]) -> Task:
    message_id = record.get("messageId")
    if not isinstance(message_id, str) or not message_id:
        raise EventError(f"an SQS record has no messageId, so its failure could not be reported; it has {seen(record)}")
    body, known = record.get("body"), _mapping(record, "attributes")
    if TASK_ATTRIBUTE in _mapping(record, "messageAttributes"):
        return _ordered(event, record, known)
    shard, problem = None, None
    try:
        shard = _shard_ref(body)
    except EventError as error:
        problem = error
    return Task(
        Source.SQS,
        event,
        record_ids=(message_id,),
        receipt=text_of(record.get("receiptHandle")),
        receive_count=_count(known.get("ApproximateReceiveCount")),
        group=_group(record, known),
        shard=shard,
        problem=problem,
        skip=found_test_event(body) if isinstance(body, str) else "",
    )


def order_of(record: Mapping[str, Any]) -> Order | None:
    """The task of the asynchronous API that a message, or a dead letter, is about; None if it is about none.

    Raises
    ------
    EventError
        If its id is none.
    """
    named = _mapping(record, "messageAttributes").get(TASK_ATTRIBUTE)
    if named is None:
        return None
    chosen = named.get("stringValue") if isinstance(named, dict) else None
    task_id = record.get("messageId") if chosen == OWN_ID else chosen
    if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
        raise EventError("a task's id must be 1 to 128 letters, digits, '.', '_' or '-'")
    sent_ms = _count(_mapping(record, "attributes").get("SentTimestamp"), most_digits=15)
    return Order(task_id, text_of(record.get("eventSourceARN")), sent_ms / 1000 if sent_ms > 1 else 0.0)


def _ordered(event: Event, record: Mapping[str, Any], attributes: Mapping[str, Any]) -> Task:
    """A task of the asynchronous API; its event is the message's body, with the id under ``sparklet.task``."""
    order, problem, asked = None, None, event
    try:
        order = order_of(record)
        asked = json.loads(text_of(record.get("body")))
        wish = asked.get("sparklet", {}) if isinstance(asked, dict) else None
        if not isinstance(wish, dict):
            raise EventError(f"a task's body must be a JSON object, and so its sparklet, not {seen(asked)}")
        asked["sparklet"] = {**wish, "task": order.task_id if order else ""}
    except EventError as error:
        problem = error
    except (ValueError, RecursionError):
        problem = EventError("a task's body is no JSON object")
    return Task(
        Source.SQS,
        asked,
        record_ids=(record["messageId"],),
        receipt=text_of(record.get("receiptHandle")),
        receive_count=_count(attributes.get("ApproximateReceiveCount")),
        order=order,
        problem=problem,
    )


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a record has under a name; nothing if it is no object."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _group(record: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """The message group of a FIFO queue. A standard queue's is for fairness and promises no order."""
    group = attributes.get("MessageGroupId")
    is_fifo = text_of(record.get("eventSourceARN")).endswith(".fifo")
    return group if is_fifo and isinstance(group, str) else ""


def _count(value: object, most_digits: int = 9) -> int:
    text = text_of(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= most_digits else 1


def _shard_ref(body: object) -> ShardRef | None:
    """The shard a message names; None for a message of anybody else."""
    if not isinstance(body, str):
        raise EventError(f"an SQS message's body must be text, not {seen(body)}")
    if len(body) > LONGEST_SHARD_BODY or '"run_id"' not in body:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return ShardRef.from_document(document)
