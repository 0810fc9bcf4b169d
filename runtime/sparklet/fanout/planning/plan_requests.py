"""A run asked for by an event: read, entered, and planned as far as the function's time goes.

The event's keys are the command line's options with underscores, as JSON::

    {"script": "s3://…/job.py", "inputs": ["s3://…/raw/"], "output": "s3://…/clean/", "run_id": "daily-7",
     "args": ["--day", "2026-11-20"], "shard_size": "64MiB", "tolerate": "2.5%"}

``{run_id}`` in an output stands for the run's id. Asking again for the same run continues it, and so does
``{"run_id": "daily-7"}`` alone: the answer says whether the plan is sealed, so whoever asks repeats that until it is.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sparklet.errors import CheckpointConflictError, EventError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.plan_parts import Sealed
from sparklet.fanout.planning.fitting import default_max_shard_bytes, refuse_wide_slices
from sparklet.fanout.planning.given import Given
from sparklet.fanout.planning.list_requests import ListRequest
from sparklet.fanout.planning.new_run import RunRequest, new_run
from sparklet.fanout.planning.object_events import KEY as OF_EVENT
from sparklet.fanout.planning.object_events import object_and_key
from sparklet.fanout.planning.planner import plan
from sparklet.model import Access, Dispatch, Run, RunOptions, check_script, existing_of
from sparklet.quantities import parse_size_bytes, parse_time_s, parse_tolerance
from sparklet.s3_uri import SCHEME
from sparklet.settings import PlannerSettings

PART_SHARDS = 250  # smaller than elsewhere: between two parts lies what a planner that is stopped has done for nothing
PART_S = 60.0  # of sending, where a run has a rate
SPARE_S = 30.0  # for what comes after the last part, and for an answer

KEYS = frozenset(
    {
        *("script", "inputs", "output", "run_id", "name", "py_files", "args", "params", "lists", "items"),
        *("include", "exclude", "since", "incremental", "versions", "keep_empty", "archived", "other_region"),
        *("requester_pays", "role", "shard_size", "max_objects", "group_by", "compression_factor", "split"),
        *("max_shard_size", "oversize", "max_attempts", "tolerate", "rate"),
        *("append", "overwrite", "dispatch", "check", "next", "next_output", "idempotency_key", OF_EVENT),
    }
)


def handle_request(
    at: Deployment, event: Any, settings: PlannerSettings, request_id: str, remaining_s: Callable[[], float]
) -> dict[str, Any]:
    """Enter the run that an event asks for, if it is not there yet, and plan it while there is time.

    Parameters
    ----------
    request_id
        Of the invocation: the idempotency key of a run that is given neither key nor id, so that Lambda's own retry
        finds that run.
    remaining_s
        How long this invocation may still take.

    Raises
    ------
    EventError, SettingsError, PlanError, ScriptNotAllowedError
        If it is not to be planned as asked; asking again does not help.
    CheckpointConflictError
        If another planner is at work on the run; asking again later continues it.
    """
    given = _Given(event)
    with at.listing_once() as once:
        if given.keys == {"run_id"}:
            run = at.ledger.get_run(given.text("run_id"))
        else:
            usual = "max_shard_size" not in given.keys
            run = new_run(once, _fitted(run_request(event, request_id), settings, usual_largest=usual))
        try:
            run = _plan(once, run, remaining_s)
        except CheckpointConflictError:
            run = at.ledger.get_run(run.run_id)
            if run.cancelled_s is None:
                raise
    return _answer(at, run)


def run_request(event: Any, request_id: str) -> RunRequest:
    """What an event asks for; EventError or SettingsError names the key that is wrong and what it may be."""
    given = _Given(event)
    script, output = given.text("script"), given.text("output")
    for key, value in (("script", script), ("output", output)):
        if not value:
            raise EventError(f"the request names no {key}; give one as s3://…, or a known run's run_id alone")
    inputs, lists, key = given.texts("inputs"), given.lists(), given.text("idempotency_key")
    if OF_EVENT in given.keys:
        if inputs or lists:
            raise EventError(f"the request has {OF_EVENT} and other inputs; the object of the event is the input")
        outputs = (output, given.text("next_output"))
        uri, of_event = object_and_key(given.of_kind(OF_EVENT, Mapping, "an object", {}), outputs)
        inputs, key = (uri,), "" if given.text("run_id") else of_event  # a machine's own key is of its execution
    if not inputs and not lists:
        raise EventError("the request names no input; give folders or objects as inputs, lists as lists, or items")
    request = RunRequest(
        script=script,
        inputs=inputs,
        output_uri=output,
        run_id=given.text("run_id"),
        name=given.text("name"),
        py_files=given.texts("py_files"),
        args=given.texts("args"),
        params=given.of_kind("params", dict, "an object", {}),
        options=_options(given),
        lists=lists,
        access=Access(given.flag("requester_pays"), given.text("role")),
        dispatch=given.dispatch(),
        check=given.text("check"),
        next=given.text("next"),
        next_output=given.text("next_output"),
        idempotency_key=key,
    )
    if request.run_id or request.idempotency_key:
        return request
    return replace(request, idempotency_key=request_id)


def _options(given: "_Given") -> RunOptions:
    usual = RunOptions()
    count, percentage = parse_tolerance(given.number_text("tolerate", "0"), "tolerate")
    if (rate_per_s := given.number("rate", float, usual.rate_per_s)) < 0:
        raise EventError(f"rate is {rate_per_s:g}; it must be a number of messages a second, 0 for no limit")
    return RunOptions(
        target_bytes=given.size("shard_size", usual.target_bytes),
        max_objects=given.number("max_objects", int, usual.max_objects),
        include=given.texts("include"),
        exclude=given.texts("exclude"),
        modified_since_s=given.time_s("since"),
        incremental=given.flag("incremental"),
        all_versions=given.flag("versions"),
        keep_empty=given.flag("keep_empty"),
        archived=given.text("archived") or usual.archived,
        other_region=given.flag("other_region"),
        group_by=given.text("group_by"),
        compression_factor=given.number("compression_factor", float, usual.compression_factor),
        split=given.text("split"),
        max_shard_bytes=given.size("max_shard_size", 0),
        oversize=given.text("oversize") or usual.oversize,
        max_attempts=given.number("max_attempts", int, usual.max_attempts),
        tolerated_failure_count=count,
        tolerated_failure_percentage=percentage,
        rate_per_s=rate_per_s,
        existing=existing_of(append=given.flag("append"), overwrite=given.flag("overwrite")),
    )


def _fitted(request: RunRequest, settings: PlannerSettings, *, usual_largest: bool) -> RunRequest:
    """The request if its scripts may be run; with the usual largest shard it is what such a worker takes on."""
    for uri in filter(None, (request.script, *request.py_files, request.check, request.next)):
        check_script(uri, settings.script_prefixes)
    options = request.options
    if usual_largest and settings.worker_memory_mb:
        largest = default_max_shard_bytes(settings.worker_memory_mb, settings.worker_scratch_bytes)
        options = replace(options, max_shard_bytes=largest)
    if settings.worker_scratch_bytes:
        refuse_wide_slices(options, settings.worker_scratch_bytes)
    return replace(request, options=options)


def _plan(at: Deployment, run: Run, remaining_s: Callable[[], float]) -> Run:
    """Plan part by part; stop while there is time for a part twice as long as the longest one."""
    last_s, longest_s = remaining_s(), 0.0

    def out_of_time() -> bool:
        nonlocal last_s, longest_s
        now_s = remaining_s()
        longest_s, last_s = max(longest_s, last_s - now_s), now_s
        return now_s < 2 * longest_s + SPARE_S

    rate_per_s = run.options.rate_per_s
    part_shards = min(PART_SHARDS, max(1, int(rate_per_s * PART_S))) if rate_per_s else PART_SHARDS
    return plan(at, run.run_id, part_shards=part_shards, stop=out_of_time)


def _answer(at: Deployment, run: Run) -> dict[str, Any]:
    shards, objects, size_bytes, skipped = run.shard_count, run.object_count, run.size_bytes, run.skipped
    if shards is None:
        sealed = Sealed()
        for part in at.ledger.parts(run.run_id):
            sealed = sealed.and_part(part)
        shards, objects, size_bytes, skipped = sealed.shards, sealed.objects, sealed.size_bytes, sealed.skipped
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


class _Given(Given):
    """The keys of a planner's request."""

    def __init__(self, event: Any) -> None:
        super().__init__(event, KEYS)

    def size(self, key: str, default_bytes: int) -> int:
        return parse_size_bytes(self.number_text(key, str(default_bytes)))

    def time_s(self, key: str) -> float:
        text = self.text(key)
        if not text:
            return 0.0
        try:
            return parse_time_s(text)
        except ValueError:
            raise EventError(
                f"{key} {text!r} must be a time like 2026-11-20 or 2026-11-20T08:30 (UTC); "
                "not a span, which would be another one each time the request is repeated"
            ) from None

    def dispatch(self) -> Dispatch:
        text = self.text("dispatch") or Dispatch.QUEUE
        if text not in list(Dispatch):
            raise EventError(f"dispatch is {text!r}; it must be {' or '.join(Dispatch)}")
        return Dispatch(text)

    def lists(self) -> tuple[ListRequest, ...]:
        """Those that lie in S3, then the request's own items."""
        lists = [_list_request(each) for each in self.of_kind("lists", list, "a list", [])]
        if items := self.of_kind("items", list, "a list", []):
            lists.append(ListRequest("items", json.dumps(items).encode(), "json", items=True))
        return tuple(lists)


def _list_request(given: Any) -> ListRequest:
    """``"s3://…"``, or ``{"source": "s3://…", "format": "csv", "path": "key", "items": false}``."""
    document = {"source": given} if isinstance(given, str) else given
    kinds = {"source": str, "format": str, "path": str, "items": bool}
    fits = isinstance(document, Mapping) and all(type(value) is kinds.get(key) for key, value in document.items())
    if not fits or "source" not in document:
        raise EventError(
            "each of lists must be an s3:// address, or an object of the texts source, format and path, and items "
            "(true or false)"
        )
    if not document["source"].startswith(SCHEME):
        raise EventError(f"the list {document['source']!r} must lie in S3: s3://…")
    return ListRequest(**document)
