"""What the end of a run writes: the manifest, the result files it names, and the file of the shards' answers.

An attempt writes its answer (``job.answer``) under its own name, below ``runs/<run_id>/answers/``, before it reports
success to the ledger. Only the answer of the attempt that succeeded is read, never that of a retry or a zombie.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from math import inf
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.log import Log
from sparklet.model import ANSWERS, Counts, Run, RunState, ShardRecord, ShardState, split_uri
from sparklet.planning.commit_files import kept_files
from sparklet.ports.deployment import Deployment, scratch
from sparklet.runs.drift import Drift, drift_of
from sparklet.runs.follow_ups import NO_ANSWERS, TOO_MANY_FAILED, as_follow_up, follow_ups
from sparklet.runs.shard_table import VERSION, ShardTable
from sparklet.runs.summary import Summary, statistics

MANIFEST = "manifest.json"
REPORT = "report.json"
SHARDS_PER_FILE = 10_000
_FILE_OF_STATE = {
    ShardState.SUCCEEDED: "SUCCEEDED",
    ShardState.FAILED: "FAILED",
    ShardState.PENDING: "PENDING",
    ShardState.RUNNING: "PENDING",  # Step Functions has one file for all that has not ended
}
RESULTS = "results.jsonl"
MAX_RESULTS_BYTES = 128 * 1024 * 1024  # of the file, which must fit into a function's /tmp
MAX_COLLECTING_S = 120.0  # then the run ends without the file


def results(deployment: Deployment, run: Run) -> Iterator[bytes]:
    """The answers of SUCCEEDED shards in order, each ``{"shard": 7, "answer": …}`` as JSON.

    Then, of a run with an output for each input, what became of each: ``{"shard": 7, "input": …, "rows": …, …}``.
    """
    if run.state.ended:
        try:
            yield from deployment.store.get(deployment.run_uri(run.run_id, RESULTS)).splitlines()
            return
        except ObjectNotFoundError:
            pass  # there are no answers, or too many for one file
    yield from _answers(deployment, run)


def write_results(deployment: Deployment, run: Run, max_bytes: float = inf) -> dict[str, Any] | None:
    """Write ``results.jsonl`` with all answers; its entry in the manifest, the answers' folder if they are too many.

    So are they if one has more than ``max_bytes``.
    """
    uri, until_s, count = deployment.run_uri(run.run_id, RESULTS), deployment.clock.now_s() + MAX_COLLECTING_S, 0
    with TemporaryDirectory(prefix="sparklet-results-") as folder:
        path = Path(folder, RESULTS)
        with scratch("the answers of shards"), path.open("wb") as file:
            for answer in _answers(deployment, run):
                count += 1
                file.write(answer + b"\n")
                if len(answer) > max_bytes or file.tell() > MAX_RESULTS_BYTES or deployment.clock.now_s() > until_s:
                    Log().warning("answers are too many or too large; sparklet results reads them", subject=run.run_id)
                    # A file of an earlier end would pass for this one's, and lacks answers.
                    deployment.store.delete_all([uri], uri)
                    return {"Folder": split_uri(deployment.run_uri(run.run_id, ANSWERS))[1]}
        if not count:
            deployment.store.delete_all([uri], uri)  # a run of this id in another ledger may have had answers
            return None
        size_bytes = path.stat().st_size
        deployment.store.upload(path, uri)
    return {"Key": split_uri(uri)[1], "Size": size_bytes, "Answers": count}


def _answers(deployment: Deployment, run: Run) -> Iterator[bytes]:
    def bodies(name: str) -> Iterator[bytes]:
        return deployment.store.get_all(uri for _, uri in kept_files(deployment, run.run_id, ANSWERS, attrgetter(name)))

    yield from bodies("answer_file")
    for body in bodies("inputs_file") if run.options.output_per else ():
        yield from body.splitlines()[1:]  # the first says where files are, see ``worker.origins``


def write_manifests(deployment: Deployment, run: Run, state: RunState, drift: Drift | None = None) -> Summary:
    """Write the files of a run that ends as ``state``: results, then the manifest; delete others of an earlier end.

    ``drift``: see ``drift_of``; None if that was not asked yet.
    """
    summary = Summary.of(run, state)
    files = {name: _ResultFiles(deployment, run.run_id, name) for name in ("SUCCEEDED", "FAILED", "PENDING")}
    table = ShardTable(run.created_s)
    for record in deployment.ledger.shards.list(run.run_id):
        summary.add(record)
        table.add(record)
        if record.state is not ShardState.SPLIT:
            files[_FILE_OF_STATE[record.state]].add(record)
    summary.drift = drift_of(deployment, run) if drift is None else drift
    written = {name: result.close() for name, result in sorted(files.items())}
    document = {**_manifest(deployment, run, summary, written), **_follow_ups(deployment, run, state)}
    if result_files := write_results(deployment, run):
        document["Results"] = result_files
    report = {"version": VERSION, **statistics(run, summary), "shard_table": table.document()}
    deployment.store.put(deployment.run_uri(run.run_id, REPORT), json.dumps(report, separators=(",", ":")).encode())
    # The manifest comes last: where it is, later checks take the other files for written.
    deployment.store.put(deployment.run_uri(run.run_id, MANIFEST), json.dumps(document, indent=2).encode() + b"\n")
    for name, entries in written.items():
        # Files of an earlier end go once no manifest names them any more.
        written_keys = {entry["Key"] for entry in entries}
        prefix = deployment.run_uri(run.run_id, f"{name}_")
        found_uris = (info.uri for info in deployment.store.list(prefix))
        deployment.store.delete_all((uri for uri in found_uris if split_uri(uri)[1] not in written_keys), prefix)
    return summary


def own_manifest(deployment: Deployment, run: Run) -> Mapping[str, Any] | None:
    """A run's manifest; None if it has none of its own: another ledger may have had a run of this id."""
    try:
        document: Mapping[str, Any] = json.loads(deployment.store.get(deployment.run_uri(run.run_id, MANIFEST)))
    except ObjectNotFoundError:
        return None
    return document if document["StartDate"] == _date(run.created_s) else None


def item_counts(counts: Counts) -> dict[str, int]:
    """Shards by state, as a manifest has them."""
    return {state.title(): n for state, n in counts.to_document().items()}


@dataclass(slots=True)
class _ResultFiles:
    """Writes the shards of one state into files; holds the entries of one file."""

    deployment: Deployment
    run_id: str
    name: str
    lines: list[str] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: ShardRecord) -> None:
        self.lines.append(json.dumps(_entry(record), separators=(",", ":")))
        if len(self.lines) == SHARDS_PER_FILE:
            self._write()

    def close(self) -> list[dict[str, Any]]:
        """Write the last file; all files, as the manifest names them."""
        if self.lines:
            self._write()
        return self.written

    def _write(self) -> None:
        uri = self.deployment.run_uri(self.run_id, f"{self.name}_{len(self.written)}.json")
        body = ("[\n" + ",\n".join(self.lines) + "\n]\n").encode()
        self.deployment.store.put(uri, body)
        self.written.append({"Key": split_uri(uri)[1], "Size": len(body)})
        self.lines.clear()


def _entry(record: ShardRecord) -> dict[str, Any]:
    """A shard with Step Functions' keys, then our own."""
    entry: dict[str, Any] = {
        "Name": f"{record.number:06d}",
        "Status": _FILE_OF_STATE[record.state],
        "Input": record.ref.to_body(),
        "InputDetails": {"Included": True},
        "RedriveCount": record.generation,
        "RedriveStatus": "REDRIVABLE" if record.state is ShardState.FAILED else "NOT_REDRIVABLE",
    }
    if record.has_output:
        output = {"rows": record.rows, "output_bytes": record.output_bytes, "outputs": record.outputs}
        entry |= {"Output": json.dumps(output, separators=(",", ":")), "OutputDetails": {"Included": True}}
    if record.state is ShardState.FAILED:
        entry |= {"Error": record.error_class, "Cause": record.error_message}
    if record.started_s:
        entry |= {"StartDate": _date(record.started_s)}
    if record.state.ended:
        entry |= {"StopDate": _date(record.changed_s)}
    ended = record.state.ended and record.attempts
    return entry | {
        "Shard": record.number,
        "Attempts": record.attempts,
        "AttemptId": record.attempt_id,
        "Objects": record.object_count,
        "InputBytes": record.size_bytes,
        "OutputBytes": record.output_bytes,
        "Rows": record.rows,
        "DurationSeconds": round(record.took_s, 3) if ended else None,
        "LogStream": record.log_stream,
        "Engine": record.engine,
        **({"RedoneSince": record.redone} if record.redone else {}),
    }


def _manifest(
    deployment: Deployment, run: Run, summary: Summary, files: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    return {
        "DestinationBucket": deployment.bucket,
        "RunId": run.run_id,
        "Status": summary.state,
        "RedriveCount": run.generation,
        "StartDate": _date(run.created_s),
        "StopDate": _date(summary.changed_s),
        "ResultFiles": files,
        "ItemCounts": item_counts(summary.counts),
        "Inputs": run.inputs,
        "Output": run.output_uri,
        "Scripts": [{"Uri": s.uri, "Sha256": s.sha256, "Source": s.source_uri} for s in run.scripts],
        "Objects": summary.objects,
        "InputBytes": summary.input_bytes,
        "OutputBytes": summary.output_bytes,
        "Rows": summary.rows,
        "Warnings": [{"Message": message, "Count": count} for message, count in summary.warnings.items()],
        "Attempts": summary.attempts,
        "CameBackUnrun": summary.unrun,
        "DurationSeconds": round(summary.duration_s, 3),
        "TaskSeconds": round(summary.task_s, 3),
        "ShardsWithOutput": summary.output_shards,
        "Work": [
            {"Engine": engine, "Seconds": round(work.known_s, 3), "Attempts": work.attempts, "Objects": work.files}
            for engine, work in summary.work.items()
        ],
        "FailureCauses": [
            dict(zip(("Error", "Count", "ExampleShard", "ExampleCause"), astuple(cause), strict=True))
            for cause in summary.causes
        ],
        **({"Drift": summary.drift.text} if summary.drift.text else {}),
    }


def _follow_ups(deployment: Deployment, run: Run, state: RunState) -> dict[str, Any]:
    document: dict[str, Any] = {}
    entered = follow_ups(deployment, run)
    follower = entered.pop("next")
    for what, task in entered.items():
        if follow_up := as_follow_up(deployment, task):
            error = {"Error": follow_up.error_class, "Cause": follow_up.message} if follow_up.error_class else {}
            document[what.title()] = {"RunId": follow_up.run_id, "Status": follow_up.state, **error}
    if follower:
        document["Next"] = {"RunId": follower.run_id, "Output": follower.output_uri}
    elif run.next and state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES):
        cause = NO_ANSWERS if run.next.items else TOO_MANY_FAILED
        document["Next"] = {"RunId": "", "Output": run.next.output_uri, "Cause": cause}
    return document


def _date(time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, as Step Functions writes it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
