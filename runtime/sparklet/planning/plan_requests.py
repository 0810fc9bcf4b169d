"""Handles an event that requests a run: enters the run, and plans it as far as the function's time allows.

The event's keys (``request.places``, docs/reference/run-request.schema.json) are the command line's options, as JSON::

    {"script": "s3://…/job.py", "inputs": ["s3://…/raw/"], "output": "s3://…/clean/", "run_id": "daily-7",
     "args": ["--day", "2026-11-20"], "shard_size": "64MiB", "tolerate": "2.5%"}

``{run_id}`` in an output stands for the run's id. The same request again continues the run, and so does
``{"run_id": "daily-7"}`` alone: the caller repeats it until the response says that the plan is sealed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import reduce
from typing import Any

from sparklet.errors import CheckpointConflictError, EventError
from sparklet.job.event_objects import event_objects
from sparklet.model import Run, check_script
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import PackedInput
from sparklet.planning.planner import PlanProgress, plan
from sparklet.planning.request import RunRequest, read_request
from sparklet.ports.deployment import Deployment
from sparklet.settings import PlannerSettings

PART_SHARDS = 250  # fewer than planner.PART_SHARDS: work since the last part is lost when the function's time is over
OF_EVENT = "of_event"
SCHEMA_POLL_S = 1.0
SPARE_S = 30.0  # the time that is left for the work after the last part, and for the response


def handle_request(
    deployment: Deployment, event: Any, settings: PlannerSettings, request_id: str, remaining_s: Callable[[], float]
) -> dict[str, Any]:
    """Enter the run that an event requests, unless it exists, and plan it while there is time; return the response.

    The invocation's ``request_id`` is the idempotency key of a run that has neither key nor id, so that Lambda's own
    retry finds that run. ``remaining_s`` returns how long this invocation can still take. CheckpointConflictError if
    another planner works on the run: the same request later continues it. Other errors mean that the request is wrong.
    """
    document = _document(event)
    with closing(PackedInput()) as packed:
        if document.keys() == {"run_id"} and isinstance(document["run_id"], str):
            run = deployment.ledger.runs.get(document["run_id"])
        else:
            request = run_request(document, request_id)
            extra_files = (*request.py_files, *request.spark_files)
            for uri in filter(None, (request.script, *extra_files, request.check, request.next)):
                check_script(uri, settings.script_prefixes)
            request = request.fitted(settings.worker_memory_mb, settings.worker_scratch_bytes)
            run = new_run(deployment, request, packed, even_empty=True)
        try:
            run = _plan(deployment, run, packed, remaining_s)
        except CheckpointConflictError:
            run = deployment.ledger.runs.get(run.run_id)
            # A cancelled run is a response, after which the caller stops; after an error it would repeat the request.
            if run.cancelled_s is None:
                raise
    return _response(deployment, run)


def run_request(event: Any, request_id: str) -> RunRequest:
    """The request in an event; errors name the wrong key and the remedy."""
    document = _document(event)
    if (of_event := document.pop(OF_EVENT, None)) is not None:
        if any(document.pop(key, None) for key in ("inputs", "lists", "items")):
            raise EventError(
                f"the request has {OF_EVENT} and also inputs, lists or items; leave the inputs, lists and items out"
            )
        uri, key = _object_and_key(of_event, (document.get("output"), document.get("next_output")))
        document["inputs"] = [uri]
        if "run_id" not in document:
            document["idempotency_key"] = key  # instead of the state machine's key, which is that of the execution
    if not document.keys() & {"run_id", "idempotency_key"}:
        document["idempotency_key"] = request_id
    request = read_request(document)
    if ":file:" in request.table:
        raise EventError(f"the table {request.table} is on a local disk, which functions do not share; name s3://")
    return request


def _document(event: Any) -> dict[str, Any]:
    """The keys and values of an event, without those that are null or an empty text."""
    if not isinstance(event, Mapping):
        raise EventError(f"a request must be a JSON object, not a {type(event).__name__}")
    try:
        # JSON can have half of a surrogate pair, which would fail later, when a file or message is written.
        json.dumps(event, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise EventError(f"a request holds text that is not UTF-8, or is nested too deeply: {error}") from error
    return {key: value for key, value in event.items() if value is not None and value != ""}


def _object_and_key(document: Any, outputs: tuple[Any, ...]) -> tuple[str, str]:
    """The object of an S3 event, and the idempotency key of the run for it.

    A rule of EventBridge (``sam/schedule.yaml``) puts two things into the request: the whole ``event``, as JSON within
    JSON, so that an object's key cannot change the request; and ``below``, the folder that the rule watches. The
    object's address, version, ETag and sequencer identify an event: the same event again is the same run. EventError if
    the event does not name exactly one object, or one of ``outputs`` is in the watched folder: each run would start the
    next one.
    """
    if not isinstance(document, Mapping) or not document.keys() <= {"event", "below"}:
        raise EventError(f"{OF_EVENT} must be an object with the keys 'event' and 'below'")
    event, below = document.get("event"), document.get("below", "")
    uris = event_objects(event)
    if len(uris) != 1 or not isinstance(event, dict):
        raise EventError(
            f"{OF_EVENT}.event is about {len(uris) or 'no'} objects; it must be about one object that can be read"
        )
    (uri,) = uris
    if uri.endswith("/"):
        raise EventError(f"{OF_EVENT}.event is about {uri}, which stands for a folder; let the rule watch a suffix")
    if not isinstance(below, str) or not uri.startswith(below):
        raise EventError(f"{OF_EVENT}.event is about {uri}, which does not lie below {below!r}")
    for output in outputs:
        if below and isinstance(output, str) and output.startswith(below):
            raise EventError(f"the output {output} lies below {below}: each run would start the next one")
    s3_object = event.get("detail", {}).get("object", {})
    identity = [uri, *(s3_object.get(name) for name in ("version-id", "etag", "sequencer"))]
    return uri, hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _plan(deployment: Deployment, run: Run, packed: PackedInput, remaining_s: Callable[[], float]) -> Run:
    """Plan part by part; stop while there is still time for a part that takes twice as long as the longest one."""
    last_s, longest_s = remaining_s(), 0.0

    def out_of_time() -> bool:
        nonlocal last_s, longest_s
        # The time of a part includes the work before it, such as the listing of objects that are left out.
        now_s = remaining_s()
        longest_s, last_s = max(longest_s, last_s - now_s), now_s
        return now_s < 2 * longest_s + SPARE_S

    def wait(_: Run) -> bool:
        time.sleep(SCHEMA_POLL_S)
        return remaining_s() > SPARE_S

    return plan(deployment, run.run_id, packed=packed, wait=wait, part_shards=PART_SHARDS, stop=out_of_time)


def _response(deployment: Deployment, run: Run) -> dict[str, Any]:
    """The run's state and figures; until the plan is sealed, the figures of the parts so far."""
    shards, objects, size_bytes, skipped = run.shard_count, run.object_count, run.size_bytes, run.skipped
    if shards is None:
        done = reduce(PlanProgress.and_part, deployment.ledger.runs.parts(run.run_id), PlanProgress())
        shards, objects, size_bytes, skipped = done.shards, done.objects, done.size_bytes, done.skipped
    return {
        "run_id": run.run_id,
        "state": str(run.state),
        "sealed": run.sealed,
        "dispatch": str(run.dispatch),
        "generation": run.generation,
        "shards": shards,
        "objects": objects,
        "bytes": size_bytes,
        "skipped": dict(skipped),
    }
