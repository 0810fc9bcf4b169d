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
"""Notifications of objects that are gone, or (being restored, restored copy expired) cannot be read."""
UNREADABLE_DETAILS = ("Object Deleted", "Object Restore Initiated", "Object Restore Expired")
"""The same through EventBridge."""

GLOB = "*?[]{}\\"  # what makes a name a pattern for Hadoop
_GLOB = re.compile(f"([{re.escape(GLOB)}])")
_SKIPPED = re.compile(r"\.|_(?!SUCCESS$|metadata$|common_metadata$)|.*\._COPYING_$", re.DOTALL)  # those three: no rows
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_KEY = re.compile(r"(?!file:)[^:/]+://[^/]*/(.*)", re.DOTALL)  # in a file system ``a//b`` and ``a/b`` are one file


def event_objects(event: Any) -> tuple[str, ...]:
    """The s3:// uris that an event names, each once, in order, without deleted objects.

    Raises EventError if a notification of S3 names no object.
    """
    return tuple(dict.fromkeys(uri for uri, _ in _found(event, 0)))


def object_versions(event: Any) -> list[tuple[str, ...]]:
    """The objects that an event names: uri, what happened, when, and the version; the same in each delivery.

    Empty if the event lacks the version of one of them.
    """
    versions = []
    for uri, (happened, time, item) in _found(event, 0):
        content = [text_at(item, name) for name in ("versionId", "version-id", "sequencer", "eTag", "etag")]
        if not any(content):
            return []
        versions.append((uri, happened, time, *content))
    return versions


_Found = tuple[str, tuple[str, str, dict[str, Any]]]  # a uri; the event's name, its time, what it says of the object


def _found(event: Any, depth: int) -> Iterator[_Found]:
    if not isinstance(event, dict) or depth > MAX_DEPTH:
        return
    records = event.get("Records")
    if isinstance(records, list):
        for record in records:
            if isinstance(record, dict):
                yield from _of_record(record, depth)
    elif event.get("source") == "aws.s3":
        yield from _of_eventbridge(event)
    elif event.get("Type") == "Notification":  # SNS within SQS, without raw delivery
        yield from _found(_document(event.get("Message")), depth + 1)


def _of_record(record: dict[str, Any], depth: int) -> Iterator[_Found]:
    source = record.get("eventSource", record.get("EventSource"))
    if source == "aws:s3":
        name = text_at(record, "eventName")
        name = name[3:] if name.startswith("s3:") else name
        if not name.startswith(UNREADABLE):
            bucket, key, item = _address(record.get("s3"), "a notification of S3")
            yield f"s3://{bucket}/{unquote_plus(key)}", (name, text_at(record, "eventTime"), item)
    elif source == "aws:sqs":
        yield from _found(_document(record.get("body")), depth + 1)
    elif source == "aws:sns":
        sns = record.get("Sns")
        yield from _found(_document(sns.get("Message") if isinstance(sns, dict) else None), depth + 1)


def _of_eventbridge(event: dict[str, Any]) -> Iterator[_Found]:
    kind = text_at(event, "detail-type")
    if kind.startswith("Object ") and kind not in UNREADABLE_DETAILS:  # not, for example, CloudTrail's of S3
        bucket, key, item = _address(event.get("detail"), "an event of S3 through EventBridge")
        yield f"s3://{bucket}/{key}", (kind, text_at(event, "time"), item)


def _address(part: Any, what: str) -> tuple[str, str, dict[str, Any]]:
    name, key = text_at(part, "bucket", "name"), text_at(part, "object", "key")
    if not name or not key:
        raise EventError(f"{what} does not name an object: it must have bucket.name and object.key, both text")
    return name, key, part["object"]


def text_at(value: Any, *path: str) -> str:
    """The text at a path of names; "" if there is none: the ``str`` of a deep or huge value may fail."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def group_of(message: Any) -> str:
    """The group of a FIFO queue's message; "" of a standard queue's, where it promises no order."""
    is_fifo = text_at(message, "eventSourceARN").endswith(".fifo")
    return text_at(message, "attributes", "MessageGroupId") if is_fifo else ""


def with_those_behind(messages: Iterable[Any], failed: Mapping[str, str]) -> dict[str, str]:
    """Failed messages of SQS with their causes, and those behind one in its FIFO group, in order."""
    causes, groups = dict[str, str](), set[str]()
    for message in messages:
        if message["messageId"] in failed or group_of(message) in groups:
            causes[message["messageId"]] = failed.get(
                message["messageId"], "an earlier message of its group comes back"
            )
            groups |= {group_of(message)} - {""}
    return causes


def _document(text: Any) -> Any:
    """The JSON in a message; None if there is none that could be about S3."""
    return read_json(text) if isinstance(text, str) and len(text) <= MAX_TEXT and "s3" in text else None


def read_json(text: Any) -> Any:
    """The value of a text; None if it is no text, or no JSON."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def escaped(uri: str) -> str:
    """A name for ``spark.read`` in which ``*?[]{}`` and backslashes mean themselves."""
    return _GLOB.sub(r"\\\1", uri)


def misread(uri: str, patterns: str = GLOB) -> str:
    """Why ``spark.read`` would not read just this object, or ""; ``patterns``: what makes its name one."""
    key = _KEY.match(uri)
    if key and not {"", ".", ".."}.isdisjoint(key[1].split("/")):
        return "Hadoop's paths leave empty segments, . and .. out of a name"
    if _SKIPPED.match(uri.rpartition("/")[2]):
        return "Spark skips names that begin with _ or . or end in ._COPYING_"
    if _CONTROL.search(uri):
        return "Spark does not find names with control characters"
    return "Spark takes * ? [ ] { } and \\ in a name for a pattern" if not {*uri}.isdisjoint(patterns) else ""
