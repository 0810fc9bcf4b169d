"""Objects without a planner: what a request for them asks for, made ready for the objects machine.

Step Functions reads the list itself and hands it out batch by batch (``sam/statemachines/objects.asl.json``). A
request's keys are the planner's where they mean the same::

    {"script": "s3://…/job.py", "reader": "s3-list", "source": "s3://…/raw/", "output": "s3://…/clean/"}
    {"script": "s3://…/job.py", "reader": "items", "items": ["s3://…/a.csv", "s3://…/b.csv"], "output": "s3://…/clean/"}
    {"redo": "clean-3f9a1c2b4d5e"}     the batches that a run has not done, once more

Nobody keeps a ledger of them: what became of each batch stands in the files that Step Functions writes, and
``collecting`` adds those up.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparklet.errors import EventError, ObjectChangedError, ObjectNotFoundError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.planning.given import Given
from sparklet.fanout.planning.new_run import RUN_ID_IN_OUTPUT, keyed_run_id
from sparklet.fanout.planning.scripts import keep_script, read_script, script_name
from sparklet.model import INLINE_MOST, JOB_FILE, RUN_ID, ObjectsJob, ScriptRef
from sparklet.quantities import parse_tolerance
from sparklet.s3_uri import SCHEME, split_uri
from sparklet.settings import check_script

LISTED, ITEMS = "s3-list", "items"
READERS = (LISTED, "csv", "json", "jsonl", "s3-inventory", ITEMS)
BATCH_ITEMS = 100  # of a reader; of ``items``: 1
ANY_NUMBER = 1_000_000_000  # of failures, where a percentage alone is the limit
MOST_INLINE_BYTES = 64 * 1024  # of batches: what becomes of them must fit into the same state of 256 KiB
SUMMARY_FILE = "summary.json"

KEYS = frozenset(
    {
        *("script", "reader", "source", "items", "output", "run_id", "idempotency_key", "name", "py_files", "args"),
        *("params", "path", "batch_items", "max_concurrency", "tolerate", "keep_empty", "redo"),
    }
)
AGAIN_KEYS = frozenset({"redo", "script", "tolerate", "max_concurrency", "run_id", "idempotency_key"})


def prepare(
    at: Deployment, request: Any, execution: str, script_prefixes: tuple[str, ...], map_concurrency: int
) -> dict[str, Any]:
    """Check a request, write the job that its batches share, and answer what the machine needs.

    Parameters
    ----------
    execution
        The execution's name: a job without run id and idempotency key is called after it.
    map_concurrency
        Children at once, where the request says nothing.

    Raises
    ------
    EventError, SettingsError, PlanError, ScriptNotAllowedError
        If it is not to be done as asked; asking again does not help.
    """
    given = Given(request, KEYS)
    job = _again(at, given, execution) if "redo" in given.keys else _job(given, execution)
    script = given.text("script")
    for uri in filter(None, (script, *given.texts("py_files"))):
        check_script(uri, script_prefixes)
    if script:
        ref = keep_script(at, read_script(at, job.run_id, script, given.texts("py_files")))
        job = replace(job, script=ref)
    _keep(at, job)
    return _prepared(at, job, given, map_concurrency)


def _job(given: Given, execution: str) -> ObjectsJob:
    script, output, source = given.text("script"), given.text("output"), given.text("source")
    for key, value in (("script", script), ("output", output)):
        if not value.startswith(SCHEME):
            raise EventError(f"the request's {key} is {value!r}; it must be an address like s3://bucket/key")
    reader = _reader(given)
    if reader == LISTED and f"{output.rstrip('/')}/".startswith(source):
        raise EventError(f"the output {output} lies in the source {source}, so a second run would read the first one's")
    count, percentage = parse_tolerance(given.number_text("tolerate", "0"), "tolerate")
    run_id = _run_id(given, given.text("name") or script_name(script), execution)
    return ObjectsJob(
        run_id=run_id,
        script=ScriptRef("", "", script),
        output_uri=output.replace(RUN_ID_IN_OUTPUT, run_id),
        reader=reader,
        source_uri=source,
        args=given.texts("args"),
        params=given.of_kind("params", dict, "an object", {}),
        bucket=split_uri(source)[0] if reader == LISTED else "",
        path=given.text("path"),
        encoded_keys=reader == "s3-inventory",
        keep_empty=given.flag("keep_empty"),
        tolerated_failure_count=count,
        tolerated_failure_percentage=percentage,
    )


def _reader(given: Given) -> str:
    reader, source, items = given.text("reader"), given.text("source"), "items" in given.keys
    if reader not in READERS:
        raise EventError(f"the request's reader is {reader!r}; it must be one of {', '.join(READERS)}")
    if reader == ITEMS and (source or not items):
        raise EventError("the reader is items, so the request must have items, and no source")
    if reader != ITEMS and (items or not source.startswith(SCHEME)):
        what = "the folder or prefix" if reader == LISTED else "the list"
        raise EventError(f"the reader is {reader}, so source must be {what} as s3://…, and there must be no items")
    if reader not in (LISTED, ITEMS) and not split_uri(source)[1]:
        raise EventError(f"the source {source} names a bucket; {reader} needs an object in it")
    return reader


def _again(at: Deployment, given: Given, execution: str) -> ObjectsJob:
    """The job whose batches are those that an earlier one has not done: the same objects, the same outputs."""
    if odd := sorted(given.keys - AGAIN_KEYS):
        raise EventError(f"a request to redo a run has no {', '.join(odd)}; there are {', '.join(sorted(AGAIN_KEYS))}")
    before = given.text("redo")
    try:
        job = ObjectsJob.from_document(at.store.get(at.run_uri(before, JOB_FILE)))
        summary = json.loads(at.store.get(at.run_uri(before, SUMMARY_FILE)))
    except ObjectNotFoundError:
        raise EventError(f"no run of objects {before[:63]!r} has ended here; see runs/ in s3://{at.bucket}") from None
    if not (unfinished := summary.get("Unfinished")):
        raise EventError(f"the run {before} has left nothing undone")
    first = job.redo_of or job.run_id
    job = replace(job, run_id=_run_id(given, before, execution), redo_of=first, reader="jsonl", source_uri=unfinished)
    if "tolerate" not in given.keys:
        return job
    count, percentage = parse_tolerance(given.number_text("tolerate", "0"), "tolerate")
    return replace(job, tolerated_failure_count=count, tolerated_failure_percentage=percentage)


def _run_id(given: Given, name: str, execution: str) -> str:
    run_id, key = given.text("run_id"), given.text("idempotency_key")
    if run_id and key:
        raise EventError("the request has a run_id and an idempotency_key; give one of them: each names one run")
    run_id = run_id or keyed_run_id(name, key or execution)
    if not RUN_ID.fullmatch(run_id):
        raise EventError(f"the run id {run_id!r} must be 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")
    return run_id


def _keep(at: Deployment, job: ObjectsJob) -> None:
    uri, body = at.run_uri(job.run_id, JOB_FILE), job.to_document()
    try:
        at.store.put(uri, body, create_only=True)
    except ObjectChangedError:
        if at.store.get(uri) != body:
            raise EventError(
                f"there is a run {job.run_id} already, with another script, source, output or option ({uri}); "
                "give this one another run_id"
            ) from None


def _prepared(at: Deployment, job: ObjectsJob, given: Given, map_concurrency: int) -> dict[str, Any]:
    """What the machine's states name by path: every key is there, whatever the reader."""
    items = given.of_kind("items", list, "a list", [])
    redone = "redo" in given.keys
    batch_items = 1 if redone else given.number("batch_items", int, 1 if job.reader == ITEMS else BATCH_ITEMS)
    concurrency = given.number("max_concurrency", int, map_concurrency)
    if batch_items < 1 or concurrency < 1:
        raise EventError("batch_items and max_concurrency must each be at least 1")
    if job.reader == ITEMS and not items:
        raise EventError("the request's items are an empty list")
    job_uri = at.run_uri(job.run_id, JOB_FILE)
    batches = _batches(job_uri, items, batch_items)
    inline = 0 < len(batches) <= INLINE_MOST and len(json.dumps(batches)) <= MOST_INLINE_BYTES
    bucket, key = split_uri(job.source_uri) if job.source_uri else ("", "")
    return {
        "run_id": job.run_id,
        "how": "inline" if inline else job.reader,
        "job": job_uri,
        "bucket": bucket,
        "key": key,
        "items": [] if inline else items,
        "batches": batches if inline else [],
        "items_in": len(items) if job.reader == ITEMS else None,
        "batch_items": batch_items,
        "max_concurrency": concurrency,
        **_tolerated(job),
        "result_bucket": at.bucket,
        "result_prefix": f"runs/{job.run_id}/map",
        **dict.fromkeys(("result", "error", "map_run")),  # for what comes of it: a path must lead somewhere
    }


def _batches(job_uri: str, items: Sequence[Any], batch_items: int) -> list[dict[str, Any]]:
    starts = range(0, len(items), batch_items)
    return [{"job": job_uri, "items": list(items[start : start + batch_items])} for start in starts]


def _tolerated(job: ObjectsJob) -> Mapping[str, float]:
    """Step Functions' own two limits, of which each stops a map: one that is not set must not."""
    count, percentage = job.tolerated_failure_count, job.tolerated_failure_percentage
    return {
        "tolerated_count": count if count or not percentage else ANY_NUMBER,
        "tolerated_percentage": percentage if percentage or not count else 100,
    }
