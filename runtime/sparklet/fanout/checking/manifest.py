"""A run's manifest and result files, as Step Functions' Distributed Map writes them; nothing here is read back.

``manifest.json`` names the files and sums the run up; ``SUCCEEDED_0.json``, ``FAILED_0.json``,
``PENDING_0.json``, … hold a JSON array of shards each. They have the field names of Step Functions' result
writer, without its ARNs (there is no execution) and with attempts, bytes, rows and duration beside them.
They come from the ledger alone: the same ledger gives the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.fanout.checking.follow_ups import TOO_MANY_FAILED, checked, next_run
from sparklet.fanout.checking.results import write_results
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.reporting.summary import Summary, Tally
from sparklet.model import Run, RunState, ShardRecord, ShardState
from sparklet.s3_uri import split_uri

MANIFEST = "manifest.json"
SHARDS_PER_FILE = 10_000
_FILE_OF_STATE = {
    ShardState.SUCCEEDED: "SUCCEEDED",
    ShardState.FAILED: "FAILED",
    ShardState.PENDING: "PENDING",
    ShardState.RUNNING: "PENDING",  # Step Functions has no other file for what has not ended
}


def write_manifests(at: Deployment, run: Run, state: RunState, *, shards_per_file: int = SHARDS_PER_FILE) -> Summary:
    """Write the result files, then the manifest that names them, and remove what an earlier end left behind.

    Parameters
    ----------
    state
        How the run ends; the ledger is told only once the files are there.
    """
    tally = Tally()
    files = {name: _ResultFiles(at, run.run_id, name, shards_per_file) for name in ("SUCCEEDED", "FAILED", "PENDING")}
    for record in at.ledger.shards(run.run_id):
        tally.add(record)
        files[_FILE_OF_STATE[record.state]].add(record)
    written = {name: result.close() for name, result in sorted(files.items())}
    summary = tally.summary(run, state)
    document = {**_manifest(at, run, summary, written), **_follow_ups(at, run, state)}
    if found := write_results(at, run.run_id):
        document["Results"] = found
    at.store.put(at.run_uri(run.run_id, MANIFEST), json.dumps(document, indent=2).encode() + b"\n")
    for name, entries in written.items():
        _delete_others(at, run.run_id, name, {entry["Key"] for entry in entries})
    return summary


def has_manifest(at: Deployment, run_id: str) -> bool:
    """Whether the manifest of a run is there."""
    try:
        at.store.head(at.run_uri(run_id, MANIFEST))
    except ObjectNotFoundError:
        return False
    return True


@dataclass(slots=True)
class _ResultFiles:
    """Shards of one state on their way into files; holds one file's worth."""

    at: Deployment
    run_id: str
    name: str
    shards_per_file: int
    lines: list[str] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: ShardRecord) -> None:
        self.lines.append(json.dumps(_entry(record), separators=(",", ":")))
        if len(self.lines) == self.shards_per_file:
            self._write()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; all files, as the manifest names them."""
        if self.lines:
            self._write()
        return self.written

    def _write(self) -> None:
        uri = self.at.run_uri(self.run_id, f"{self.name}_{len(self.written)}.json")
        body = ("[\n" + ",\n".join(self.lines) + "\n]\n").encode()
        self.at.store.put(uri, body)
        self.written.append({"Key": split_uri(uri)[1], "Size": len(body)})
        self.lines.clear()


def _delete_others(at: Deployment, run_id: str, name: str, keys: set[str]) -> None:
    for info in at.store.list(at.run_uri(run_id, f"{name}_")):
        if split_uri(info.uri)[1] not in keys:
            at.store.delete(info.uri)


def _entry(record: ShardRecord) -> dict[str, Any]:
    """One shard in Step Functions' names, ours behind them."""
    entry: dict[str, Any] = {
        "Name": f"{record.number:06d}",
        "Status": _FILE_OF_STATE[record.state],
        "Input": record.ref.to_body(),
        "InputDetails": {"Included": True},
        "RedriveCount": record.generation,
        "RedriveStatus": "REDRIVABLE" if record.state is ShardState.FAILED else "NOT_REDRIVABLE",
    }
    if record.state is ShardState.SUCCEEDED:
        output = {"rows": record.rows, "output_bytes": record.output_bytes, "outputs": record.outputs}
        entry |= {"Output": json.dumps(output, separators=(",", ":")), "OutputDetails": {"Included": True}}
    if record.state is ShardState.FAILED:
        entry |= {"Error": record.error_class, "Cause": record.error_message}
    if record.attempts:
        entry |= {"StartDate": _date(record.started_s)}
    if record.state.ended:
        entry |= {"StopDate": _date(record.changed_s)}
    return entry | _own_fields(record)


def _own_fields(record: ShardRecord) -> dict[str, Any]:
    ended = record.state.ended and record.attempts
    return {
        "Shard": record.number,
        "Attempts": record.attempts,
        "AttemptId": record.attempt_id,
        "Objects": record.object_count,
        "InputBytes": record.size_bytes,
        "OutputBytes": record.output_bytes,
        "Rows": record.rows,
        "DurationSeconds": round(record.took_s, 3) if ended else None,
        "LogStream": record.log_stream,
    }


def _manifest(at: Deployment, run: Run, summary: Summary, files: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    counts = summary.counts
    return {
        "DestinationBucket": at.bucket,
        "RunId": run.run_id,
        "Status": summary.state,
        "RedriveCount": run.generation,
        "StartDate": _date(run.created_s),
        "StopDate": _date(summary.changed_s),
        "ResultFiles": files,
        "ItemCounts": {
            "Pending": counts.pending,
            "Running": counts.running,
            "Succeeded": counts.succeeded,
            "Failed": counts.failed,
            "Total": counts.total,
        },
        "Inputs": run.inputs,
        "Output": run.output_uri,
        "Scripts": [{"Uri": s.uri, "Sha256": s.sha256, "Source": s.source_uri} for s in run.scripts],
        "Objects": summary.objects,
        "InputBytes": summary.input_bytes,
        "OutputBytes": summary.output_bytes,
        "Rows": summary.rows,
        "Attempts": summary.attempts,
        "CameBackUnrun": summary.unrun,
        "DurationSeconds": round(summary.duration_s, 3),
        "TaskSeconds": round(summary.task_s, 3),
        "FailureCauses": [
            {
                "Error": c.error_class,
                "Count": c.count,
                "ExampleShard": c.example_shard,
                "ExampleCause": c.example_message,
            }
            for c in summary.causes
        ],
    }


def _follow_ups(at: Deployment, run: Run, state: RunState) -> dict[str, Any]:
    """What judged the run and what follows it, where it has such."""
    found: dict[str, Any] = {}
    if judged := checked(at, run):
        found["Check"] = {"RunId": judged.run_id, "Status": judged.state}
        if judged.error_class:
            found["Check"] |= {"Error": judged.error_class, "Cause": judged.message}
    if follower := next_run(at, run):
        found["Next"] = {"RunId": follower.run_id, "Output": follower.output_uri}
    elif run.next and state is RunState.SUCCEEDED_WITH_FAILURES:
        found["Next"] = {"RunId": "", "Output": run.next.output_uri, "Cause": TOO_MANY_FAILED}
    return found


def _date(time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, as Step Functions writes it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
