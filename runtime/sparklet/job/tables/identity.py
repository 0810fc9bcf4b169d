"""The id under which a direct commit is known in its table for ever: the same for every delivery of the same work.

In a run it is made of run, shard and the write's label, never of the attempt. Outside of runs the event names the work:
its messages, the range of its records, its objects with their versions. With them goes what was made of it (function,
script, arguments): two functions that one topic calls are two writers. An event without a name of its own, such as a
direct invocation's, is new work each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparklet.job.event_objects import object_versions, text_at


def commit_id(job: Any, label: str) -> str:
    """The commit id of a direct write of a ``Job``."""
    if job.shard is not None:
        names = job.event.get("sparklet") if isinstance(job.event, Mapping) else None
        return f"{(names or {}).get('identity') or job.run_id}/{job.shard}/{label}"
    named = named_work(job.event)
    if named is None:
        return f"once/{uuid.uuid4().hex}/{label}"
    writer = [os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""), Path(sys.argv[0]).name, job.args, job.params]
    text = json.dumps([writer, named], sort_keys=True, default=str)
    return f"{named[0]}/{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}/{label}"


def named_work(event: Any) -> tuple[str, Any] | None:
    """The kind of an event's source, and what names the work there; None: it may come twice and be work twice."""
    if not isinstance(event, Mapping):
        return None
    if task := text_at(event, "sparklet", "task"):
        return "task", [task, event]  # clients choose these ids: another body is other work
    if versions := object_versions(event):
        return "s3", versions
    records = event.get("records" if "records" in event else "Records")
    named = None
    if isinstance(records, Mapping):
        named = _kafka(event, records)
    elif isinstance(records, list) and records:
        named = _records(records)
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


_Paths = tuple[tuple[str, ...], ...]
_OF_ONE_RECORD: dict[str, _Paths] = {
    "aws:sqs": (("eventSourceARN",), ("messageId",)),
    "aws:sns": (("Sns", "TopicArn"), ("Sns", "MessageId")),
}
_OF_A_STREAM: dict[str, _Paths] = {
    "aws:kinesis": (("eventSourceARN",), ("eventID",), ("kinesis", "sequenceNumber")),  # the event's id has its shard
    "aws:dynamodb": (("eventSourceARN",), ("dynamodb", "SequenceNumber")),
}


def _records(records: list[Any]) -> tuple[str, Any] | None:
    """Every message, or the first and the last record of a stream's batch."""
    source = text_at(records[0], "eventSource") or text_at(records[0], "EventSource")
    if source in _OF_ONE_RECORD:
        paths, chosen = _OF_ONE_RECORD[source], records
    elif source in _OF_A_STREAM:
        paths, chosen = _OF_A_STREAM[source], [records[0], records[-1]]
    else:
        return None
    names = [[text_at(record, *path) for path in paths] for record in chosen]
    return (source[4:], names) if all(map(all, names)) else None


def _kafka(event: Mapping[str, Any], records: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The first and the last offset of each partition."""
    ranges = {}
    for name, batch in records.items():
        offsets: list[Any] = [record.get("offset") for record in batch if isinstance(record, Mapping)]
        if not offsets or not all(type(offset) is int for offset in offsets):
            return None
        ranges[name] = [min(offsets), max(offsets)]
    cluster = text_at(event, "eventSourceArn") or text_at(event, "bootstrapServers")
    return ("kafka", [cluster, ranges]) if cluster and ranges else None
