"""The id of a direct commit, which its table keeps: the same for every delivery of the same work.

In a run it is made of run, shard and the write's label, never of the attempt. Elsewhere it is made of what identifies
the event (messages, the range of records, versions of objects), and of the writer (function, script, arguments): two
functions that one topic calls are two writers. An event that nothing identifies, such as a direct invocation's, is new
work each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sparklet.job.errors import TableError
from sparklet.job.event_objects import object_versions, text_at
from sparklet.job.fields import JobFields


def commit_id(job: JobFields, label: str) -> str:
    """Return the commit id of a job's direct write; in a shard also report the write to the worker.

    TableError if the table might already have rows of the shard, because the shard was redriven, or split off from
    another shard whose id these rows have. Staged writes of such shards are committed once.
    """
    if job.shard is not None:
        fields = job.event.get("sparklet") if isinstance(job.event, Mapping) else None
        if fields and fields.get("split_off"):
            raise TableError("a part of a split shard (--isolate) cannot commit at once: stage the write")
        if fields and fields.get("redone"):
            raise TableError("a redriven shard cannot commit at once: stage the write")
        # Before the first row: if the script is killed within the write, the worker must know that the table might
        # have rows.
        job.outcome.give("direct", True)
        # The identity contains the time of the run, so a run of the same id in another ledger has other commits.
        return f"{(fields or {}).get('identity') or job.run_id}/{job.shard}/{label}"
    work = named_work(job.event)
    if work is None:
        return f"once/{uuid.uuid4().hex}/{label}"
    return _result_id(job, work, label)


def _result_id(job: JobFields, work: Sequence[Any], label: str) -> str:
    """Return an id for what this writer makes of the work; it begins with the kind of the work's source."""
    writer = [os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""), Path(sys.argv[0]).name, job.args, job.params]
    text = json.dumps([writer, work], sort_keys=True, default=str)
    return f"{work[0]}/{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}/{label}"


def records_by_chain(job: JobFields, label: str) -> dict[str, tuple[str, set[int]]]:
    """Return the records of a direct write's batch: for each chain the stream's shard and the records' numbers.

    A chain is named like a commit id. It lists the records of a shard that one writer has committed to a table
    (``tables.chains``).

    {} if the event is not a batch, or has a task's id; in a run; and in a window, where rows may be made of earlier
    batches.
    """
    batch = records_of(job.event)
    if job.shard is not None or batch is None or "window" in job.event or text_at(job.event, "sparklet", "task"):
        return {}
    kind, stream, numbers_by_shard = batch
    return {
        _result_id(job, (kind, stream, shard), label): (shard, numbers) for shard, numbers in numbers_by_shard.items()
    }


def named_work(event: Any) -> tuple[str, Any] | None:
    """Return the kind of an event's source, and what identifies the event's work; None if nothing identifies it."""
    if not isinstance(event, Mapping):
        return None
    if task := text_at(event, "sparklet", "task"):
        return "task", [task, event]  # clients choose these ids: another body is other work
    # Object versions come before the ids of the messages that bring them: S3 may send a version in two messages.
    if versions := object_versions(event):
        return "s3", versions
    work: tuple[str, Any] | None = None
    if (batch := records_of(event)) and batch[0] != MESSAGES:
        kind, stream, numbers_by_shard = batch
        ranges = {shard: [min(numbers), max(numbers)] for shard, numbers in numbers_by_shard.items()}
        work = kind, [stream, ranges]
    elif isinstance(event.get("Records"), list) and event["Records"]:
        work = _message_ids(event["Records"])
    elif "window" in event:
        work = "window", []
    elif isinstance(event.get("detail-type"), str) and (event_id := text_at(event, "id")):
        work = "eventbridge", [event_id, text_at(event, "account"), text_at(event, "region")]
    elif request := text_at(event, "requestContext", "requestId"):
        work = "api", [request, text_at(event, "requestContext", "apiId")]
    # The last call of a window may bring no records, and so the window is a part of the name.
    if work and "window" in event:
        window = [event.get(name) for name in ("eventSourceARN", "shardId", "window", "isFinalInvokeForWindow")]
        source_kind, identity = work
        work = source_kind, [identity, window]
    return work


def work_time_s(job: JobFields) -> float | None:
    """Return when the job's run was created, or its event happened, in seconds since 1970; None if this is unknown."""
    event = job.event if isinstance(job.event, Mapping) else {}
    if job.shard is not None:
        # The identity ends in the time when the run was created, in milliseconds as hex.
        created = (text_at(event, "sparklet", "identity") or "").rpartition("_")[2]
        return int(created, 16) / 1000 if re.fullmatch("[0-9a-f]{9,12}", created) else None
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    texts = (text_at(first, *path) for path in _TIME_PATHS)
    return next(filter(None, map(_seconds, texts)), None)


_TIME_PATHS = (
    ("attributes", "SentTimestamp"),  # SQS
    ("Sns", "Timestamp"),
    ("eventTime",),  # S3
    ("time",),  # EventBridge
    ("window", "start"),
)


def _seconds(text: str) -> float | None:
    """Return a time, in milliseconds or in ISO format, as seconds since 1970; None if it is neither."""
    try:
        if text.isdigit():
            return int(text) / 1000
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (OverflowError, ValueError):
        return None


MESSAGES = "sqs"  # the kind of source of SQS messages
KEPT_DAYS = 15  # how long the ids of messages are kept; a queue keeps messages for 14 days at most
_ID_PATHS = {"aws:sqs": (("eventSourceARN",), ("messageId",)), "aws:sns": (("Sns", "TopicArn"), ("Sns", "MessageId"))}


def _message_ids(records: list[Any]) -> tuple[str, Any] | None:
    """Return the kind of source, and queue or topic and id of each message; None if one is missing."""
    source = text_at(records[0], "eventSource") or text_at(records[0], "EventSource")
    ids = [[text_at(record, *path) for path in _ID_PATHS.get(source, ())] for record in records]
    return (source[4:], ids) if source in _ID_PATHS and all(map(all, ids)) else None


def messages_of(event: Any) -> dict[int, list[str]]:
    """Return the ids of SQS messages by number; a message has the same number in each delivery. {} for other sources.

    A number begins with the time. If S3 sends a notification in two messages, both have the same number.
    """
    ids_by_number: dict[int, list[str]] = {}
    for record in event.get("Records", ()):
        if record["eventSource"] == "aws:sqs":
            versions = object_versions({"Records": [record]}) or [("", "", "", record["messageId"])]
            _, _, happened, *_ = versions[0]
            time_s = _seconds(happened) or int(record["attributes"]["SentTimestamp"]) / 1000
            digest = hashlib.sha256(json.dumps(versions).encode()).digest()[:16]
            # Numbers are in the order of time, so that the ranges of a chain's commits hardly overlap, and a batch
            # reads few files of the chain.
            number = (int(time_s * 1000) << 128) + int.from_bytes(digest, "big")
            ids_by_number.setdefault(number, []).append(record["messageId"])
    return ids_by_number


def labels(event: Any, shard: str, numbers: Collection[int]) -> list[str]:
    """Return the labels of records: ids of SQS messages, or ``SHARD:NUMBER``, as ``streams.StreamSource.number``."""
    messages = messages_of(event) if numbers else {}
    return [label for number in sorted(numbers) for label in messages.get(number) or [f"{shard}:{number}"]]


def failed_numbers(job: JobFields) -> set[int]:
    """Return the numbers of messages that the script reported as failed.

    SQS delivers these messages again, so no commit may contain them.
    """
    failed_ids = job.outcome.totals.get("failed", {}).keys()
    if not failed_ids:
        return set()
    # Messages with the same number are the same work, which has failed only if all of them have failed.
    return {number for number, ids in messages_of(job.event).items() if failed_ids >= {*ids}}


def records_of(event: Any) -> tuple[str, str, dict[str, set[int]]] | None:
    """Return the kind of a batch's source, the stream's name, and the records' numbers by shard, partition or queue.

    A DynamoDB stream's shard is "". None if the event is not a batch of records, or if a record has no number.
    """
    records: Any = event.get("records" if "records" in event else "Records") if isinstance(event, Mapping) else None
    numbers: dict[str, set[int]] = {}
    try:
        if isinstance(records, Mapping):
            kind, stream = "kafka", text_at(event, "eventSourceArn") or text_at(event, "bootstrapServers")
            for record in (record for batch in records.values() for record in batch):
                numbers.setdefault(f"{record['topic']}-{record['partition']}", set()).add(int(record["offset"]))
        else:
            kind, stream = text_at(records[0], "eventSource")[4:], text_at(records[0], "eventSourceARN")
            if kind == MESSAGES:
                return (kind, stream, {stream.rpartition(":")[2]: {*messages_of(event)}}) if stream else None
            number_field = {"kinesis": "sequenceNumber", "dynamodb": "SequenceNumber"}[kind]
            for record in records:
                # A Kinesis event names its shard only in the ids of its records.
                shard = record["eventID"].partition(":")[0] if kind == "kinesis" else ""
                numbers.setdefault(shard, set()).add(int(record[kind][number_field]))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return (kind, stream, numbers) if stream and numbers else None
