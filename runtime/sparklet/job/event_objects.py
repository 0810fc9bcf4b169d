"""The objects that an event names: S3's notifications, also inside messages of SNS and SQS, and EventBridge's events.

S3 URL-encodes keys in its own notifications (``a+b%2B.csv`` is the object ``a b+.csv``), but not for EventBridge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from sparklet.job.errors import EventError

MAX_DEPTH = 4  # S3 → SNS → SQS is three
MAX_TEXT = 1024 * 1024  # characters, of a message that could hold a notification; SQS allows no more

UNREADABLE = (
    "ObjectRemoved:",
    "LifecycleExpiration:",
    "ReducedRedundancyLostObject",
    "ObjectRestore:Post",
    "ObjectRestore:Delete",
)
"""Notifications of objects that are gone or cannot be read: a restore has only begun, or its copy has expired."""
UNREADABLE_DETAILS = ("Object Deleted", "Object Restore Initiated", "Object Restore Expired")
"""The same through EventBridge."""

GLOB = "*?[]{}\\"  # what makes a name a pattern for Hadoop
_GLOB = re.compile(f"([{re.escape(GLOB)}])")
# _SUCCESS, _metadata and _common_metadata are skipped as well, but hold no rows.
_SKIPPED = re.compile(r"\.|_(?!SUCCESS$|metadata$|common_metadata$)|.*\._COPYING_$", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEY = re.compile(r"(?!file:)[^:/]+://[^/]*/(.*)", re.DOTALL)  # in a file system ``a//b`` and ``a/b`` are one file


def event_objects(event: Any) -> tuple[str, ...]:
    """Return the s3:// uris of the objects that an event names, each once and in order, without deleted objects.

    Raises EventError if an S3 notification names no object.
    """
    return tuple(dict.fromkeys(uri for uri, _ in _objects(event, 0)))


def object_versions(event: Any) -> list[tuple[str, ...]]:
    """Return for each object that an event names its uri, what happened, when, and the object's version.

    The result is the same in each delivery of the event. It is empty if the event lacks the version of an object.
    """
    versions = []
    for uri, (event_name, time, details) in _objects(event, 0):
        version = [text_at(details, name) for name in ("versionId", "version-id", "sequencer", "eTag", "etag")]
        if not any(version):
            return []
        versions.append((uri, event_name, time, *version))
    return versions


_EventObject = tuple[str, tuple[str, str, dict[str, Any]]]  # an object's uri; the event's name, time, and details of it


def _objects(event: Any, depth: int) -> Iterator[_EventObject]:
    """Yield the objects that an event names, also inside nested messages; ``depth`` counts how deep."""
    if not isinstance(event, dict) or depth > MAX_DEPTH:
        return
    records = event.get("Records")
    if isinstance(records, list):
        for record in records:
            if isinstance(record, dict):
                yield from _objects_of_record(record, depth)
    elif event.get("source") == "aws.s3":
        yield from _object_of_eventbridge(event)
    elif event.get("Type") == "Notification":  # SNS within SQS, without raw delivery
        yield from _objects(_document(event.get("Message")), depth + 1)


def _objects_of_record(record: dict[str, Any], depth: int) -> Iterator[_EventObject]:
    source = record.get("eventSource", record.get("EventSource"))
    if source == "aws:s3":
        name = text_at(record, "eventName")
        name = name[3:] if name.startswith("s3:") else name
        if not name.startswith(UNREADABLE):
            bucket, key, details = _address(record.get("s3"), "an S3 notification")
            yield f"s3://{bucket}/{unquote_plus(key)}", (name, text_at(record, "eventTime"), details)
    elif source == "aws:sqs":
        yield from _objects(_document(record.get("body")), depth + 1)
    elif source == "aws:sns":
        sns = record.get("Sns")
        yield from _objects(_document(sns.get("Message") if isinstance(sns, dict) else None), depth + 1)


def _object_of_eventbridge(event: dict[str, Any]) -> Iterator[_EventObject]:
    """The object of an event that S3 sent through EventBridge; none if the object is gone or cannot be read."""
    detail_type = text_at(event, "detail-type")
    # CloudTrail's events have the source aws.s3, too, but their types do not begin with "Object ".
    if detail_type.startswith("Object ") and detail_type not in UNREADABLE_DETAILS:
        bucket, key, details = _address(event.get("detail"), "an S3 event through EventBridge")
        yield f"s3://{bucket}/{key}", (detail_type, text_at(event, "time"), details)


def _address(part: Any, source: str) -> tuple[str, str, dict[str, Any]]:
    """Return the bucket, the key and the other details of the object that a part of an event names; else EventError."""
    name, key = text_at(part, "bucket", "name"), text_at(part, "object", "key")
    if not name or not key:
        raise EventError(f"{source} does not name an object: it must have bucket.name and object.key, both text")
    return name, key, part["object"]


def text_at(value: Any, *path: str) -> str:
    """Return the text at a path of names; "" if no text is there. ``str`` is not called, as it fails on deep values."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def group_of(message: Any) -> str:
    """Return the group of a FIFO queue's message; "" for a standard queue, where a group promises no order."""
    is_fifo = text_at(message, "eventSourceARN").endswith(".fifo")
    return text_at(message, "attributes", "MessageGroupId") if is_fifo else ""


def returning_messages(messages: Iterable[Any], failed: Mapping[str, str]) -> dict[str, str]:
    """Return the causes of the SQS messages to deliver again: failed ones, and later ones of their FIFO groups."""
    causes, groups = dict[str, str](), set[str]()
    for message in messages:
        if message["messageId"] in failed or group_of(message) in groups:
            causes[message["messageId"]] = failed.get(
                message["messageId"], "an earlier message of its group comes back"
            )
            groups |= {group_of(message)} - {""}
    return causes


def _document(text: Any) -> Any:
    """Return the JSON in a message; None if it is not JSON, or cannot be about S3."""
    return read_json(text) if isinstance(text, str) and len(text) <= MAX_TEXT and "s3" in text else None


def read_json(text: Any) -> Any:
    """Return the value of a JSON text; None if ``text`` is not a text, or not JSON."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def escaped(uri: str) -> str:
    """Return a name for ``spark.read`` in which ``*?[]{}`` and backslashes stand for themselves."""
    return _GLOB.sub(r"\\\1", uri)


def misread(uri: str, patterns: str = GLOB) -> str:
    """Return why ``spark.read`` would not read just this object, or ""; ``patterns``: characters of name patterns."""
    key = _KEY.match(uri)
    if key and not {"", ".", ".."}.isdisjoint(key[1].split("/")):
        return "Hadoop removes empty segments, . and .. from a name"
    if _SKIPPED.match(uri.rpartition("/")[2]):
        return "Spark skips names that begin with _ or . or end in ._COPYING_"
    if _CONTROL.search(uri):
        return "Spark does not find names with control characters"
    return "Spark treats a name with * ? [ ] { } or \\ as a pattern" if not {*uri}.isdisjoint(patterns) else ""
