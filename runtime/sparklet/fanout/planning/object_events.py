"""A run asked for by an event of S3: its input is the object that the event is about.

A rule of EventBridge puts the event whole into the request, as JSON within JSON, so that no key of an object can write
into the request: ``"of_event": {"event": <aws.events.event.json>, "below": "s3://bucket/incoming/"}`` (see
``sam/schedule.yaml``). The same event again is the same run: an event is known by the object's address, version, ETag
and sequencer.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sparklet.errors import EventError
from sparklet.job.event_objects import event_objects

KEY = "of_event"


def object_and_key(given: Any, outputs: tuple[Any, ...]) -> tuple[str, str]:
    """The object that an event of S3 is about, and the idempotency key of the run that it asks for.

    Parameters
    ----------
    given
        ``event``, as EventBridge has it, and ``below``, what the rule that passed it on watches.
    outputs
        Where the run will write: not below that, or each run would start the next one.

    Raises
    ------
    EventError
        If it names no object, or several, or a folder.
    """
    if not isinstance(given, Mapping) or not given.keys() <= {"event", "below"}:
        raise EventError(f"{KEY} must be an object of the keys event and below")
    event, below = given.get("event"), given.get("below", "")
    found = event_objects(event)
    if len(found) != 1 or not isinstance(event, dict):
        raise EventError(f"{KEY}.event is about {len(found) or 'no'} objects; it must be about one that can be read")
    (uri,) = found
    if uri.endswith("/"):
        raise EventError(f"{KEY}.event is about {uri}, which stands for a folder; let the rule watch a suffix")
    if not isinstance(below, str) or not uri.startswith(below):
        raise EventError(f"{KEY}.event is about {uri}, which does not lie below {below!r}")
    for output in outputs:
        if below and isinstance(output, str) and output.startswith(below):
            raise EventError(f"the output {output} lies below {below}: each run would start the next one")
    told = event.get("detail", {}).get("object", {})
    identity = [uri, *(told.get(name) for name in ("version-id", "etag", "sequencer"))]
    return uri, hashlib.sha256(json.dumps(identity).encode()).hexdigest()
