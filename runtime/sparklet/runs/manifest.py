"""What the end of a run writes: result files and their manifest, as Step Functions has them, and the report's table.

The manifest's ``run`` is the run's outcome, as its notice has it, with all inputs and scripts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.model import Run, RunState, ShardRecord, ShardState, split_uri
from sparklet.ports.deployment import Deployment
from sparklet.runs.drift import Drift, drift_of
from sparklet.runs.phases import outcome
from sparklet.runs.results import RESULTS, write_results
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
    scripts = [{"uri": script.uri, "sha256": script.sha256, "source": script.source_uri} for script in run.scripts]
    whole = {"inputs": list(run.inputs), "lists": [source.uri for source in run.lists], "scripts": scripts}
    document: dict[str, Any] = {
        "DestinationBucket": deployment.bucket,
        "ResultFiles": written,
        "run": outcome(deployment, run, summary) | whole,
    }
    if result_files := write_results(deployment, run, deployment.run_uri(run.run_id, RESULTS)):
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
    return document if document["run"]["created_s"] == run.created_s else None


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


def _date(time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, as Step Functions writes it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
