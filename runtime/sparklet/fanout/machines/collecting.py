"""The end of a run of objects without a planner: its batches added up, nothing forgotten, ``summary.json`` written.

What the map read is compared with what it says became of it: an item that is in no result makes the run FAILED. What
has not been done is written as ``unfinished.jsonl``, a batch a line, for a request to redo it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from sparklet.fanout.deployment import Deployment
from sparklet.fanout.machines.objects import SUMMARY_FILE
from sparklet.fanout.machines.result_files import UNKNOWN, BatchResult, Fate, results_of_manifest, results_of_map
from sparklet.fanout.reporting.summary import MAX_CAUSES, OTHER_CAUSES, TOP_CAUSES, plus, verdict
from sparklet.ledger_rules import cut
from sparklet.model import BATCH, JOB_FILE, Counts, ObjectsJob, RunOptions, RunState

UNFINISHED_FILE = "unfinished.jsonl"
EXCEEDED = "States.ExceedToleratedFailureThreshold"
CAUSE_BYTES = 1000
TOLD_CAUSES = 3  # in the answer; the file has more


@dataclass(slots=True)
class Sums:
    """Adds batches up one by one; its size does not grow with their number."""

    batches: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    items: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    left_out: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    input_bytes: int = 0
    rows: int | None = None
    output_bytes: int | None = None
    silent_batches: int = 0  # succeeded ones that say nothing of their rows
    task_s: float = 0.0
    longest_s: float = 0.0
    longest_batch: str = ""
    causes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, result: BatchResult) -> None:
        """Count one batch."""
        self.batches[result.fate] += 1
        self.items[result.fate] += result.items
        if result.fate is Fate.SUCCEEDED:
            self._add_figures(result.told)
        if result.fate is Fate.FAILED:
            self._add_cause(result)

    def _add_figures(self, told: Mapping[str, Any]) -> None:
        self.objects += told.get("objects") or 0
        self.input_bytes += told.get("input_bytes") or 0
        for reason, count in (told.get("left_out") or {}).items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count
        self.rows = plus(self.rows, told.get("rows"))
        self.output_bytes = plus(self.output_bytes, told.get("output_bytes"))
        self.silent_batches += told.get("rows") is None
        duration_s = told.get("duration_s") or 0.0
        self.task_s += duration_s
        if duration_s > self.longest_s:
            self.longest_s, self.longest_batch = duration_s, str(told.get("batch", ""))

    def _add_cause(self, result: BatchResult) -> None:
        name = result.error or UNKNOWN
        if name not in self.causes and len(self.causes) >= MAX_CAUSES:
            name = OTHER_CAUSES
        example = {"ExampleItem": _first(result.undone), "ExampleCause": cut(result.cause, CAUSE_BYTES)}
        cause = self.causes.setdefault(name, {"Error": name, "Count": 0, **example})
        cause["Count"] += 1

    @property
    def top_causes(self) -> list[dict[str, Any]]:
        """The most frequent classes of failure, with one example each."""
        return sorted(self.causes.values(), key=lambda cause: (-cause["Count"], cause["Error"]))[:TOP_CAUSES]


def collect(at: Deployment, event: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what a map did; write ``summary.json``; answer in short.

    Parameters
    ----------
    event
        ``run_id``; ``result``, what the map answered, or ``error`` (``{"Error", "Cause"}``), why it answered nothing;
        ``items_in``, how many items it was given, if anybody knows; ``map_run``, Step Functions' own counts of them.

    Raises
    ------
    PlanError, EventError, ObjectNotFoundError
        If the results are not where and what they must be.
    """
    run_id = event["run_id"]
    job = ObjectsJob.from_document(at.store.get(at.run_uri(run_id, JOB_FILE)))
    counted = event.get("map_run") or {}
    sums, undone = Sums(), 0
    with _unfinished(at, run_id) as (file, path):
        results, source = _results(at, event)
        for result in results:
            sums.add(result)
            if result.undone:
                undone += 1
                file.write(json.dumps({BATCH: result.undone}, separators=(",", ":")) + "\n")
        file.close()
        unfinished = at.run_uri(run_id, UNFINISHED_FILE) if undone else ""
        if unfinished:
            at.store.upload(path, unfinished)
    if not source:  # the map stopped, and nobody wrote results: its own counts are all there is
        source, sums.items = "the map run's counts", _items_of(counted)
    items_in = event.get("items_in")
    items_in = counted.get("Total") if items_in is None else items_in
    state, problem = _verdict(job, sums, items_in, event.get("error"))
    document = _document(job, sums, state, problem, items_in) | {"Source": source, "Unfinished": unfinished}
    uri = at.run_uri(run_id, SUMMARY_FILE)
    at.store.put(uri, json.dumps(document, indent=2).encode() + b"\n")
    return _answer(document, uri)


@contextmanager
def _unfinished(at: Deployment, run_id: str) -> Iterator[tuple[TextIO, Path]]:
    with TemporaryDirectory() as folder:
        path = Path(folder, UNFINISHED_FILE)
        with path.open("w", encoding="utf-8") as file:
            yield file, path


def _results(at: Deployment, event: Mapping[str, Any]) -> tuple[Iterable[BatchResult], str]:
    """The results, and where they come from; "" if there are none."""
    output = event.get("result")
    if output is not None:
        return results_of_map(output, at.store), "result files" if isinstance(output, Mapping) else "the map's output"
    folder = at.run_uri(event["run_id"], "map/")
    manifests = [info for info in at.store.list(folder) if info.uri.endswith("/manifest.json")]
    if not manifests:
        return (), ""
    newest = max(manifests, key=lambda info: info.modified_s)
    return results_of_manifest(newest.uri, at.store), "result files"


def _items_of(counted: Mapping[str, Any]) -> dict[Fate, int]:
    """Items by what became of them, as DescribeMapRun counts them."""
    of = {name.lower(): int(value) for name, value in counted.items() if isinstance(value, int)}
    failed = of.get("failed", 0) + of.get("timedout", 0) + of.get("aborted", 0)
    return {
        Fate.SUCCEEDED: of.get("succeeded", 0),
        Fate.FAILED: failed,
        Fate.PENDING: of.get("pending", 0) + of.get("running", 0),
    }


def _verdict(
    job: ObjectsJob, sums: Sums, items_in: int | None, error: Mapping[str, Any] | None
) -> tuple[RunState, str]:
    """How the run ends, and why if that is FAILED."""
    succeeded, failed, pending = (sums.items[fate] for fate in Fate)
    total = succeeded + failed + pending
    if error and error.get("Error") != EXCEEDED:
        return (
            RunState.FAILED,
            f"the map stopped with {error.get('Error')}: {cut(str(error.get('Cause')), CAUSE_BYTES)}",
        )
    if items_in is not None and items_in != total:
        return RunState.FAILED, f"{items_in} items were read, but results tell of {total}: {items_in - total} differ"
    if pending:
        return RunState.FAILED, f"{pending} of {total} items were not done: the map stopped before them"
    options = RunOptions(
        tolerated_failure_count=job.tolerated_failure_count,
        tolerated_failure_percentage=job.tolerated_failure_percentage,
    )
    state = verdict(options, Counts(0, 0, succeeded, failed))
    if state is not RunState.FAILED:
        return state, ""
    return state, f"{failed} of {total} items failed, more than is tolerated" if total else "there was nothing to read"


def _document(job: ObjectsJob, sums: Sums, state: RunState, problem: str, items_in: int | None) -> dict[str, Any]:
    total = sum(sums.items.values())
    return {
        "RunId": job.run_id,
        "Status": state,
        "Problem": problem,
        "Reader": job.reader,
        "Input": job.source_uri,
        "Output": job.output_uri,
        "Script": {"Uri": job.script.uri, "Sha256": job.script.sha256, "Source": job.script.source_uri},
        "BatchCounts": {**_titled(sums.batches), "Total": sum(sums.batches.values())},
        "ItemCounts": {
            **_titled(sums.items),
            "Total": total,
            "Read": items_in,
            "Difference": None if items_in is None else items_in - total,
        },
        "Objects": sums.objects,
        "LeftOut": sums.left_out,
        "InputBytes": sums.input_bytes,
        "OutputBytes": sums.output_bytes,
        "Rows": sums.rows,
        "SilentBatches": sums.silent_batches,
        "TaskSeconds": round(sums.task_s, 3),
        "LongestBatch": {"Batch": sums.longest_batch, "DurationSeconds": sums.longest_s},
        "FailureCauses": sums.top_causes,
    }


def _answer(document: Mapping[str, Any], uri: str) -> dict[str, Any]:
    causes = [
        {"error": c["Error"], "count": c["Count"], "example": c["ExampleCause"]} for c in document["FailureCauses"]
    ]
    return {
        "run_id": document["RunId"],
        "state": str(document["Status"]),
        "problem": document["Problem"],
        "summary": uri,
        "unfinished": document["Unfinished"],
        "batches": {name.lower(): count for name, count in document["BatchCounts"].items()},
        "items": {name.lower(): count for name, count in document["ItemCounts"].items()},
        "objects": document["Objects"],
        "rows": document["Rows"],
        "causes": causes[:TOLD_CAUSES],
    }


def _titled(counts: Mapping[Fate, int]) -> dict[str, int]:
    return {fate.title(): count for fate, count in counts.items()}


def _first(items: tuple[Any, ...]) -> str:
    """An item for a person."""
    text = json.dumps(items[0]) if items else ""
    return cut(text, CAUSE_BYTES)
