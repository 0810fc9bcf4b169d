"""SQS, standard and FIFO: a task for each message or batch; the response names the messages to deliver again.

The mapping must have ``FunctionResponseTypes: [ReportBatchItemFailures]``: without it Lambda ignores the response and
deletes every message of the batch. Sparklet's own messages and S3's test messages are recognized; the script reads all
others. A message with the attribute ``sparklet-task`` is a task request of the asynchronous API (sam/api.yaml): its
body is an event as in a direct invocation, and the attribute is the task's id, or ``*`` for the message's own id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sparklet.errors import EventError
from sparklet.events.notices import reason_to_skip
from sparklet.events.task import Event, Outcome, Source, Task, TaskRequest, shape_of
from sparklet.job.event_objects import group_of, read_json, returning_messages, text_at
from sparklet.model import MAX_SENT_BYTES, TASK_ID, ShardRef

MAX_SHARD_BODY = 300 + 2 * MAX_SENT_BYTES  # characters: a shard's reference and its quoted line; no shard is longer
TASK_ATTRIBUTE = "sparklet-task"
OWN_ID = "*"
MAX_KEYS = 100  # of the event beside its records; every task's event repeats them


def split(event: Mapping[str, Any]) -> tuple[Task, ...]:
    """Return one task for each message; a message that cannot be read becomes a task with a problem."""
    if len(event) > MAX_KEYS:
        raise EventError(f"an SQS event has {len(event)} keys beside its records; Lambda sends none")
    return tuple(_task({**event, "Records": [record]}, record) for record in event["Records"])


def respond(event: Event, outcomes: Sequence[Outcome]) -> Any:
    """Name exactly the messages that were not done, each id once, in the order of the batch."""
    returned_ids = {
        message_id for outcome in outcomes if not outcome.acknowledged for message_id in outcome.task.record_ids
    }
    failed_ids = dict.fromkeys(
        record["messageId"] for record in event["Records"] if record["messageId"] in returned_ids
    )
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed_ids]}


def joined(tasks: Sequence[Task]) -> list[Task]:
    """Join the tasks of messages that only the script reads into one task.

    In a FIFO queue only neighbours are joined, since the order counts.
    """
    # A standard queue has no order to keep, so the script's messages can be made neighbours.
    if not any(task.group for task in tasks):
        tasks = sorted(tasks, key=_stays_alone)
    sequences = ((stays_alone, [*neighbours]) for stays_alone, neighbours in groupby(tasks, _stays_alone))
    return [
        task for stays_alone, neighbours in sequences for task in (neighbours if stays_alone else [as_one(neighbours)])
    ]


def _stays_alone(task: Task) -> bool:
    """Whether Sparklet itself must handle this message: as a shard, a task request, a problem, or one to skip."""
    return bool(task.shard or task.request or task.problem or task.skip)


def as_one(messages: Sequence[Task], **keys: Any) -> Task:
    """Join the tasks of messages to one task; ``keys`` are added to its event."""
    first, records = messages[0], [record for message in messages for record in message.event["Records"]]
    return replace(
        first,
        event={**first.event, "Records": records, **keys},
        record_ids=tuple(message.record_ids[0] for message in messages),
        receive_count=max(message.receive_count for message in messages),
        messages=tuple(messages),
    )


def failed_messages(task: Task, failed: Mapping[str, str], answer: Any = None) -> dict[str, str]:
    """The messages that a script reports as failed, by id, with the causes, and later ones of their FIFO groups.

    ``failed`` are those of ``Job.fail_message``; the script's ``answer`` may name more, as ``batchItemFailures``.
    EventError if one of them is not the task's.
    """
    items = (answer.get("batchItemFailures") if isinstance(answer, dict) else None) or []
    names = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in items]
    # If the response has an unknown id, Lambda delivers the whole batch again.
    if unknown := [str(name) for name in (*names, *failed) if name not in task.record_ids]:
        raise EventError(
            f"the script reported the message {unknown[0][:100]!r} as failed, which is not in its event, so SQS "
            "delivers all messages again"
        )
    causes = {str(name): "the script's batchItemFailures name it" for name in names}
    return returning_messages(task.event["Records"], {**causes, **failed})


def _task(event: Event, record: Mapping[str, Any]) -> Task:
    message_id, body = text_at(record, "messageId"), record.get("body")
    if not message_id:
        raise EventError(
            f"an SQS record has no messageId, so its failure could not be reported; it has {shape_of(record)}"
        )
    shard, request, problem, skip = None, None, None, ""
    try:
        if request := task_request_of(record):
            event = _request_body(body)
        else:
            if not isinstance(body, str):
                raise EventError(f"an SQS message's body must be text, not {shape_of(body)}")
            names_shard = len(body) <= MAX_SHARD_BODY and '"run_id"' in body
            shard = ShardRef.from_document(read_json(body)) if names_shard else None
            skip = "" if shard else reason_to_skip(body)
    except EventError as error:
        problem = error
    return Task(
        Source.SQS,
        event,
        record_ids=(message_id,),
        receipt=text_at(record, "receiptHandle"),
        receive_count=_count(record, "ApproximateReceiveCount"),
        group="" if shard else group_of(record),  # shards' queue is a standard one
        shard=shard,
        request=request,
        problem=problem,
        skip=skip,
    )


def task_request_of(record: Mapping[str, Any]) -> TaskRequest | None:
    """The task request in a message or dead-letter message; None if it has none. EventError if its id is malformed."""
    attributes = record.get("messageAttributes")
    if not isinstance(attributes, dict) or TASK_ATTRIBUTE not in attributes:
        return None
    attribute = text_at(record, "messageAttributes", TASK_ATTRIBUTE, "stringValue")
    task_id = text_at(record, "messageId") if attribute == OWN_ID else attribute
    if not TASK_ID.fullmatch(task_id):
        raise EventError("a task's id must be 1 to 128 letters, digits, '.', '_' or '-'")
    sent_ms = _count(record, "SentTimestamp", max_digits=15)
    accepted_s = sent_ms / 1000 if sent_ms > 1 else 0.0  # 1 stands for a missing time
    return TaskRequest(task_id, text_at(record, "eventSourceARN"), accepted_s)


def _request_body(body: object) -> dict[str, Any]:
    document = read_json(body)
    if not isinstance(document, dict) or not isinstance(document.get("sparklet", {}), dict):
        found = shape_of(document or body)
        raise EventError(f"a task's body, and its value of sparklet, must be JSON objects; the body is {found}")
    return document


def _count(record: Mapping[str, Any], name: str, max_digits: int = 9) -> int:
    """A count or a time among the message's attributes; 1 if it is missing or malformed."""
    text = text_at(record, "attributes", name)
    # ``int`` also takes digits of other alphabets, and fails at more than 4,300 digits.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= max_digits else 1
