"""A batch of objects that a Map state read by itself: which objects, where it writes, and how its end is told.

No ledger knows of it. The script sees what it would see in a shard. Its output path is made of the objects' own
addresses, so another attempt at the same objects writes there again, and no other batch does. What no attempt can
help is answered as FAILED, since Step Functions knows an error by its class alone and would try it again; everything
else is raised.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from sparklet.entries import Entry, RowError, entry_of, plain
from sparklet.errors import BatchNotDoneError, EventError, SparkletError
from sparklet.events import Outcome, Task
from sparklet.ledger_rules import ERROR_CLASS_BYTES, cut
from sparklet.model import Access, BatchRef, InputObject, ObjectsJob, ShardResult
from sparklet.ports import Clock, ObjectStore
from sparklet.worker.execution import Execution
from sparklet.worker.guards import Deadline
from sparklet.worker.log import Log
from sparklet.worker.script_cache import ScriptCache
from sparklet.worker.shard_conf import InputSize
from sparklet.worker.shards import Execute
from sparklet.worker.staging import Staging, needs_staging
from sparklet.worker.verdicts import failure_of

MOST_JOBS = 8  # kept in memory
CAUSE_BYTES = 1000  # of a failure: forty of them must fit into a state
NOT_NEEDED = ("lastmodified", "lastmodifieddate")  # of an item; Step Functions gives numbers, S3 Inventory texts

FOLDER_MARKER = "an empty object that stands for a folder"  # the words are the planner's
EMPTY = "empty"
DELETE_MARKER = "a delete marker"
NOT_LATEST = "not the latest version"
DUPLICATE = "named before in this input"


@dataclass(frozen=True, slots=True)
class Batch:
    """The objects of a batch, and how many items named something that is not read, by reason."""

    objects: tuple[InputObject, ...]
    left_out: dict[str, int]

    @property
    def batch_id(self) -> str:
        """Made of the objects' addresses. It begins with a letter, so that no reader takes it for a number."""
        told = "\n".join(item.uri for item in self.objects)
        return "b" + hashlib.sha256(told.encode("utf-8", "replace")).hexdigest()[:16]


def batch_of(ref: BatchRef, job: ObjectsJob) -> Batch:
    """The objects that a batch's items name.

    Raises
    ------
    EventError
        If an item names none; it says which one, and why.
    """
    objects: dict[str, InputObject] = {}
    left_out: dict[str, int] = {}
    for number, item in enumerate(ref.items, start=1):
        try:
            entry = entry_of(_named(item, job), job.path)
        except RowError as error:
            raise EventError(f"item {number} of {len(ref.items)} in the batch, of {job.source_uri}: {error}") from error
        reason = DUPLICATE if entry.uri in objects else _unwanted(entry, job)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            objects[entry.uri] = InputObject(entry.uri, entry.size_bytes or 0)
    return Batch(tuple(objects.values()), left_out)


def _named(item: Any, job: ObjectsJob) -> Any:
    """The item with the bucket that it does not name, and its key as it is."""
    if not isinstance(item, dict):
        return item
    columns = {str(name): value for name, value in item.items() if plain(str(name)) not in NOT_NEEDED}
    names = {plain(name): name for name in columns}
    if job.bucket and not job.path and "key" in names and "bucket" not in names:
        columns["bucket"] = job.bucket
    if job.encoded_keys and isinstance(columns.get(names.get("key", "")), str):
        columns[names["key"]] = unquote_plus(columns[names["key"]])
    return columns


def _unwanted(entry: Entry, job: ObjectsJob) -> str:
    if entry.deleted:
        return DELETE_MARKER
    if entry.latest is False:
        return NOT_LATEST
    if entry.size_bytes == 0 and entry.uri.endswith("/"):
        return FOLDER_MARKER
    return EMPTY if entry.size_bytes == 0 and not job.keep_empty else ""


@dataclass
class BatchDesk:
    """Does batches: reads what they share, runs the script, tells what became of it."""

    store: ObjectStore
    scripts: ScriptCache
    bucket: str
    execute: Execute
    clock: Clock
    _jobs: dict[str, ObjectsJob] = field(default_factory=dict)

    def do(self, task: Task, ref: BatchRef, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        """Run the script over the batch; an outcome with an error is one that another attempt may mend."""
        started_s = self.clock.now_s()
        told: dict[str, Any] = {"items": ref.counted, "attempt": attempt_id}
        try:
            job = self._job(ref.job_uri)
            log = log.bind(run=job.run_id)
            batch = batch_of(ref, job)
            told |= {"batch": batch.batch_id, "objects": len(batch.objects), "left_out": batch.left_out}
            result = self._ran(job, batch, attempt_id, deadline, log) if batch.objects else ShardResult()
        except SparkletError as error:
            failure = failure_of(error)
            log.error("batch failed", **told, error_class=failure.error_class, cause=failure.message)
            name, cause = cut(failure.error_class, ERROR_CLASS_BYTES), cut(failure.message, CAUSE_BYTES)
            if error.retryable:
                return Outcome(task, BatchNotDoneError(f"{name}: {cause}"), acknowledged=False)
            return Outcome(task, answer={"state": "FAILED", **told, "error": name, "cause": cause})
        log.info("batch succeeded", **told, rows=result.rows)
        figures = {
            "input_bytes": sum(item.size_bytes for item in batch.objects),
            "rows": result.rows,
            "output_bytes": result.output_bytes,
            "duration_s": round(max(0.0, self.clock.now_s() - started_s), 3),
        }
        return Outcome(task, answer={"state": "SUCCEEDED", **told, **figures})

    def _ran(self, job: ObjectsJob, batch: Batch, attempt_id: str, deadline: Deadline, log: Log) -> ShardResult:
        script, py_files = self.scripts.fetch_ref(job.script)
        inputs = [item.uri for item in batch.objects]
        event = {
            "sparklet": {"run": job.run_id, "batch": batch.batch_id, "attempt": attempt_id},
            "inputs": inputs,
            "input_path": inputs[0] if len(inputs) == 1 else None,
            "output_path": job.batch_output(batch.batch_id),
            "params": dict(job.params),
        }
        misread = any(needs_staging(item, Access()) for item in batch.objects)
        staging = Staging(batch.objects, Access(), self.store) if misread else None
        size = InputSize.of(batch.objects)
        given = (script, event, job.args, py_files)
        execution = Execution(
            attempt_id, job.script.source_uri, *given, staging=staging, input_size=size, own_paths=True
        )
        return self.execute(execution, deadline, log)

    def _job(self, uri: str) -> ObjectsJob:
        """The job, read once: it is written under a name that is never written again."""
        if not uri.startswith(f"s3://{self.bucket}/runs/"):
            raise EventError(f"the event's sparklet.batch names the job {uri[:200]}; it must lie in this stack's runs/")
        if uri not in self._jobs:
            while len(self._jobs) >= MOST_JOBS:
                self._jobs.pop(next(iter(self._jobs)))
            self._jobs[uri] = ObjectsJob.from_document(self.store.get(uri))
        return self._jobs[uri]
