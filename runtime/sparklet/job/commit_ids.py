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
    """The commit id of a direct write of a ``Job``, of which the worker is told; TableError where rows may be there.

    They may be in a shard that was split off (under the id of the one that was split), and in one that is done again.
    What a run stages is committed once.
    """
    if job.shard is not None:
        names = job.event.get("sparklet") if isinstance(job.event, Mapping) else None
        if names and names.get("split_off"):
            raise TableError("a part of a split shard (--isolate) may not commit at once: stage the write")
        if names and names.get("redone"):
            raise TableError("a redriven shard may not commit at once: stage the write")
        # Before the first row: the script may be killed within the write, and the worker must know that rows may be
        # there.
        job.outcome.give("direct", True)
        # The identity has the time of the run, so a run of the same id in another ledger has other commits.
        return f"{(names or {}).get('identity') or job.run_id}/{job.shard}/{label}"
    named = named_work(job.event)
    if named is None:
        return f"once/{uuid.uuid4().hex}/{label}"
    return written_by(job, named, label)


def written_by(job: JobFields, named: Sequence[Any], label: str) -> str:
    """A name for one writer's result of the named work; it begins with the work's kind."""
    writer = [os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""), Path(sys.argv[0]).name, job.args, job.params]
    text = json.dumps([writer, named], sort_keys=True, default=str)
    return f"{named[0]}/{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}/{label}"


def records_by_chain(job: JobFields, label: str) -> dict[str, tuple[str, set[int]]]:
    """The batch's records for a direct write, by chain: the name of the stream's shard and the records' numbers.

    Empty if the event is not a batch, also in a run, and in a window, whose rows may be made of earlier batches.
    """
    counted = records_of(job.event)
    if job.shard is not None or counted is None or "window" in job.event or text_at(job.event, "sparklet", "task"):
        return {}
    kind, stream, numbers = counted
    return {
        written_by(job, (kind, stream, name), label): (name, record_numbers) for name, record_numbers in numbers.items()
    }


def named_work(event: Any) -> tuple[str, Any] | None:
    """The kind of an event's source, and what identifies the work there; None if nothing does."""
    if not isinstance(event, Mapping):
        return None
    if task := text_at(event, "sparklet", "task"):
        return "task", [task, event]  # clients choose these ids: another body is other work
    # Before the messages that bring them: S3 may tell of one version in two messages.
    if versions := object_versions(event):
        return "s3", versions
    named: tuple[str, Any] | None = None
    if (counted := records_of(event)) and counted[0] != MESSAGES:
        kind, stream, numbers = counted
        named = (
            kind,
            [stream, {name: [min(record_numbers), max(record_numbers)] for name, record_numbers in numbers.items()}],
        )
    elif isinstance(event.get("Records"), list) and event["Records"]:
        named = _messages(event["Records"])
    elif "window" in event:
        named = "window", []
    elif isinstance(event.get("detail-type"), str) and (event_id := text_at(event, "id")):
        named = "eventbridge", [event_id, text_at(event, "account"), text_at(event, "region")]
    elif request := text_at(event, "requestContext", "requestId"):
        named = "api", [request, text_at(event, "requestContext", "apiId")]
    if named and "window" in event:  # its last call may bring no records
        window = [event.get(name) for name in ("eventSourceARN", "shardId", "window", "isFinalInvokeForWindow")]
        named = named[0], [named[1], window]
    return named


def named_at_s(job: JobFields) -> float | None:
    """When a ``Job``'s run began, or its event happened, in seconds since 1970; None if the event does not say."""
    event = job.event if isinstance(job.event, Mapping) else {}
    if job.shard is not None:
        # The identity ends in the time when the run was created, in milliseconds as hex.
        created = (text_at(event, "sparklet", "identity") or "").rpartition("_")[2]
        return int(created, 16) / 1000 if re.fullmatch("[0-9a-f]{9,12}", created) else None
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    texts = (text_at(*arguments) for arguments in ((first, *path) for path in _DATES))
    return next(filter(None, map(_seconds, texts)), None)


_DATES = (
    ("attributes", "SentTimestamp"),  # SQS
    ("Sns", "Timestamp"),
    ("eventTime",),  # S3
    ("time",),  # EventBridge
    ("window", "start"),
)


def _seconds(text: str) -> float | None:
    try:
        if text.isdigit():
            return int(text) / 1000
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (OverflowError, ValueError):
        return None


MESSAGES = "sqs"  # the kind of their batches
KEPT_DAYS = 15  # their ids are; a queue keeps messages for 14 days at most
_PATHS = {"aws:sqs": (("eventSourceARN",), ("messageId",)), "aws:sns": (("Sns", "TopicArn"), ("Sns", "MessageId"))}


def _messages(records: list[Any]) -> tuple[str, Any] | None:
    source = text_at(records[0], "eventSource") or text_at(records[0], "EventSource")
    names = [[text_at(record, *path) for path in _PATHS.get(source, ())] for record in records]
    return (source[4:], names) if source in _PATHS and all(map(all, names)) else None


def messages_of(event: Any) -> dict[int, list[str]]:
    """The ids of SQS messages, by numbers that are the same in each delivery; {} for a batch of another source.

    A number begins with the time. Two messages of one notification, as S3 sends them at times, have one number.
    """
    ids_by_number: dict[int, list[str]] = {}
    for record in event.get("Records", ()):
        if record["eventSource"] == "aws:sqs":
            named = object_versions({"Records": [record]}) or [("", "", "", record["messageId"])]
            time_s = _seconds(named[0][2]) or int(record["attributes"]["SentTimestamp"]) / 1000
            digest = hashlib.sha256(json.dumps(named).encode()).digest()[:16]
            # In the order of time, so that ranges of a chain's links hardly overlap, and a batch reads few links.
            number = (int(time_s * 1000) << 128) + int.from_bytes(digest, "big")
            ids_by_number.setdefault(number, []).append(record["messageId"])
    return ids_by_number


def labels(event: Any, shard: str, numbers: Collection[int]) -> list[str]:
    """The labels of records: the ids of SQS messages, or shard and number of others, as in ``streams.records``."""
    messages = messages_of(event) if numbers else {}
    return [label for n in sorted(numbers) for label in messages.get(n) or [f"{shard}:{n}"]]


def failed_numbers(job: JobFields) -> set[int]:
    """The messages that the script has failed so far: they come back, so no commit may have them."""
    failed = job.outcome.totals.get("failed", {}).keys()
    # Messages with one number are one work, which is not failed while one of them still makes its rows.
    return {number for number, ids in messages_of(job.event).items() if failed >= {*ids}} if failed else set()


def records_of(event: Any) -> tuple[str, str, dict[str, set[int]]] | None:
    """The kind and name of a batch's stream, and its records' numbers by shard ("" for DynamoDB), partition or queue.

    None if it is no batch of a stream, or some record has no number.
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
            number = {"kinesis": "sequenceNumber", "dynamodb": "SequenceNumber"}[kind]
            for record in records:
                # A batch of Kinesis names its shard nowhere but in the ids of its records.
                shard = record["eventID"].partition(":")[0] if kind == "kinesis" else ""
                numbers.setdefault(shard, set()).add(int(record[kind][number]))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return (kind, stream, numbers) if stream and numbers else None
