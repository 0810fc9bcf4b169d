"""What is written at a run's end: result files and a manifest as Step Functions writes them, a report, a notice.

The manifest's ``run`` is the run's outcome, as in its notice, with all inputs and scripts.

The report's table (``report.json``, docs/schemas/report.json) has a row for each shard, stored by columns. For a large
run it has only the FAILED shards, the slowest shards and a fair sample. The table of a run that is still open is made
by the command line.

Then the run's notice is sent at least once, and the run is finalized. The ledger records which notices were sent, so
after a crash the next check continues. A run is unfinalized from its creation until it has ended and its notice was
sent: so the cost of a check depends on the open runs, not on the number of all runs (docs/decisions/0079).

``verify`` compares what was written with the ledger and the output.
"""

import heapq
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from sparklet.errors import NoticeError, ObjectNotFoundError
from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import SCHEME, Counts, Notice, Run, RunState, ShardRecord, ShardState, split_uri
from sparklet.planning.inputs.selection import is_hidden
from sparklet.planning.outputs import published_files
from sparklet.ports.deployment import Deployment
from sparklet.runs.phases import outcome
from sparklet.runs.summary import RESULTS, Drift, Summary, drift_of, statistics, summarize, write_results

MANIFEST = "manifest.json"
REPORT = "report.json"
SHARDS_PER_FILE = 10_000
_FILE_OF_STATE = {
    ShardState.SUCCEEDED: "SUCCEEDED",
    ShardState.FAILED: "FAILED",
    ShardState.PENDING: "PENDING",
    ShardState.RUNNING: "PENDING",  # Step Functions has one file for all items that have not ended
}


def write_manifests(deployment: Deployment, run: Run, state: RunState, drift: Drift | None = None) -> Summary:
    """Write the result files, the report and the manifest of a run that ends as ``state``; return its summary.

    Result files of an earlier end are deleted. If ``drift`` is None, ``drift_of`` finds it.
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
    files_by_state = {name: result.close() for name, result in sorted(files.items())}
    scripts = [{"uri": script.uri, "sha256": script.sha256, "source": script.source_uri} for script in run.scripts]
    all_inputs = {"inputs": list(run.inputs), "lists": [source.uri for source in run.lists], "scripts": scripts}
    document: dict[str, Any] = {
        "DestinationBucket": deployment.bucket,
        "ResultFiles": files_by_state,
        "run": outcome(deployment, run, summary) | all_inputs,
    }
    if result_files := write_results(deployment, run, deployment.run_uri(run.run_id, RESULTS)):
        document["Results"] = result_files
    report = {"version": VERSION, **statistics(run, summary), "shard_table": table.document()}
    deployment.store.put(deployment.run_uri(run.run_id, REPORT), json.dumps(report, separators=(",", ":")).encode())
    # The manifest comes last: if it exists, later checks assume that the other files were written.
    deployment.store.put(deployment.run_uri(run.run_id, MANIFEST), json.dumps(document, indent=2).encode() + b"\n")
    for name, entries in files_by_state.items():
        # Files of an earlier end are deleted once no manifest names them any more.
        written_keys = {entry["Key"] for entry in entries}
        prefix = deployment.run_uri(run.run_id, f"{name}_")
        found_uris = (info.uri for info in deployment.store.list(prefix))
        deployment.store.delete_all((uri for uri in found_uris if split_uri(uri)[1] not in written_keys), prefix)
    return summary


def own_manifest(deployment: Deployment, run: Run) -> Mapping[str, Any] | None:
    """A run's manifest; None if it is missing, or if it is of a run with the same id in another ledger."""
    try:
        document: Mapping[str, Any] = json.loads(deployment.store.get(deployment.run_uri(run.run_id, MANIFEST)))
    except ObjectNotFoundError:
        return None
    return document if document["run"]["created_s"] == run.created_s else None


@dataclass(slots=True)
class _ResultFiles:
    """Writes the shards of one state to files; keeps the entries of one file in memory."""

    deployment: Deployment
    run_id: str
    name: str
    lines: list[str] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, record: ShardRecord) -> None:
        self.lines.append(json.dumps(_entry(record), separators=(",", ":")))
        if len(self.lines) == SHARDS_PER_FILE:
            self._write()

    def close(self) -> list[dict[str, Any]]:
        """Write the last file; return all files as the manifest names them."""
        if self.lines:
            self._write()
        return self.entries

    def _write(self) -> None:
        uri = self.deployment.run_uri(self.run_id, f"{self.name}_{len(self.entries)}.json")
        body = ("[\n" + ",\n".join(self.lines) + "\n]\n").encode()
        self.deployment.store.put(uri, body)
        self.entries.append({"Key": split_uri(uri)[1], "Size": len(body)})
        self.lines.clear()


def _entry(record: ShardRecord) -> dict[str, Any]:
    """A shard's entry in a result file: the keys of Step Functions, then our own."""
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
    was_tried = record.state.ended and record.attempts
    return entry | {
        "Shard": record.number,
        "Attempts": record.attempts,
        "AttemptId": record.attempt_id,
        "Objects": record.object_count,
        "InputBytes": record.size_bytes,
        "OutputBytes": record.output_bytes,
        "Rows": record.rows,
        "DurationSeconds": round(record.took_s, 3) if was_tried else None,
        "LogStream": record.log_stream,
        "Engine": record.engine,
        **({"RedoneSince": record.redone} if record.redone else {}),
    }


def _date(time_s: float) -> str:
    """ISO 8601 in UTC with milliseconds, as Step Functions writes it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


VERSION = 1  # of report.json; raised when an older reader would misunderstand it
MAX_SHARDS = 20_000  # how many rows the table of a larger run has: FAILED and slowest shards, and a fair sample
MAX_FAILED, MAX_SLOWEST = 4_000, 2_000
MAX_MESSAGES = 1_000  # how many causes have a message; further causes have their class alone
COLUMNS = (
    *("shard", "state", "attempts", "started_s", "took_s", "objects", "input_bytes", "output_bytes", "rows"),
    *("memory_mb", "lost", "worker", "engine", "cause"),
)
LISTED = ("worker", "engine", "cause")  # columns that have indexes into a list of values
_SHARD, _TOOK_S = COLUMNS.index("shard"), COLUMNS.index("took_s")


class ShardTable:
    """The report's table of shards, which are added one by one; it keeps ``most`` of them."""

    def __init__(self, created_s: float, most: int = MAX_SHARDS) -> None:
        self._created_s = created_s
        self._most, self._most_failed = most, most * MAX_FAILED // MAX_SHARDS
        self._most_slowest = most * MAX_SLOWEST // MAX_SHARDS
        self._most_fair = most - self._most_failed - self._most_slowest  # the sample's size if not all shards fit
        self._count = 0
        self._all: list[tuple[Any, ...]] | None = []  # None once there are too many shards
        self._fair: list[tuple[Any, ...]] = []
        self._failed: list[tuple[Any, ...]] = []
        self._slowest: list[tuple[float, int, tuple[Any, ...]]] = []  # a heap
        # Seeded, so that a report that is written again after a crash has the same sample.
        self._random = random.Random(0)

    def add(self, record: ShardRecord) -> None:
        """Add one shard."""
        row = self._row(record)
        self._count += 1
        if self._all is not None:
            self._all.append(row)
            if len(self._all) > self._most:
                self._all = None
        if len(self._fair) < self._most_fair:
            self._fair.append(row)
        elif (index := self._random.randrange(self._count)) < self._most_fair:  # Vitter's algorithm R
            self._fair[index] = row
        if record.state is ShardState.FAILED and len(self._failed) < self._most_failed:
            self._failed.append(row)
        if row[_TOOK_S] is not None:
            # The number decides between equal times, since rows can contain None, which cannot be compared.
            heapq.heappush(self._slowest, (row[_TOOK_S], -record.number, row))
            if len(self._slowest) > self._most_slowest:
                heapq.heappop(self._slowest)

    def document(self) -> dict[str, Any]:
        """The table as in ``report.json``: a list of values for each column, and the lists that indexes refer to.

        ``sampled`` is 1 for the shards of the fair sample: only these show how values are distributed.
        """
        fair = self._fair if self._all is None else self._all
        rows = {row[_SHARD]: row for row in (*fair, *self._failed, *(row for *_, row in self._slowest))}
        ordered_rows = sorted(rows.values(), key=itemgetter(_SHARD))
        columns = {name: [row[index] for row in ordered_rows] for index, name in enumerate(COLUMNS)}
        sampled = {row[_SHARD] for row in fair}
        lists = {name: _indexed(columns[name], name == "cause") for name in LISTED}
        return {
            "count": self._count,
            "complete": self._all is not None,
            "columns": columns
            | {name: indexes for name, (indexes, _) in lists.items()}
            | {"sampled": [int(row[_SHARD] in sampled) for row in ordered_rows]},
            **{f"{name}s": entries for name, (_, entries) in lists.items()},
        }

    def _row(self, record: ShardRecord) -> tuple[Any, ...]:
        was_tried = record.state.ended and record.attempts
        return (
            record.number,
            str(record.state),
            record.attempts,
            round(record.started_s - self._created_s, 3) if record.attempts and record.started_s else None,
            round(record.took_s, 3) if was_tried else None,
            record.object_count,
            record.size_bytes,
            record.output_bytes,
            record.rows,
            record.memory_mb,
            int(record.error_class == LEASE_EXPIRED),
            (record.log_stream or record.task_id or None) if record.attempts else None,
            record.engine or None,
            (record.error_class, record.error_message) if record.error_class else None,
        )


def _indexed(values: Iterable[Any], are_causes: bool) -> tuple[list[int | None], list[Any]]:
    """For each value its index in a list of the different values, and that list; a None has no index.

    If they ``are_causes``, those beyond the first ``MAX_MESSAGES`` lose their messages.
    """
    index_by_value: dict[Any, int] = {}
    indexes: list[int | None] = []
    for value in values:
        if are_causes and value and value not in index_by_value and len(index_by_value) >= MAX_MESSAGES:
            error_class, _ = value
            value = error_class, ""
        indexes.append(None if value is None else index_by_value.setdefault(value, len(index_by_value)))
    return indexes, list(index_by_value)


def fair_values(table: Mapping[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """The fair sample's values in these columns; shards that lack a value in one of them are left out."""
    columns = [table["columns"][name] for name in ("sampled", *names)]
    return [values for sampled, *values in zip(*columns, strict=True) if sampled and None not in values]  # type: ignore[misc]


NOTIFY_WITHIN_S = 24 * 3600.0  # after the run's end
MAX_FINALIZED = 20  # in one round of checks


def needs_notice(deployment: Deployment, run: Run) -> bool:
    """Whether the notice of a run's end must still be sent; schema, check and commit runs have no notice."""
    if deployment.notifier is None or not run.state.ended or run.notified_s is not None or run.is_task:
        return False
    return deployment.clock.now_s() - (run.ended_s or run.created_s) <= NOTIFY_WITHIN_S


def is_notice_due(deployment: Deployment, run: Run) -> bool:
    """Whether a scheduled check should send the notice: 0, 1, 2, 4, 8, … minutes after the end, or a minute later."""
    if not needs_notice(deployment, run):
        return False
    minutes = max(0, int((deployment.clock.now_s() - (run.ended_s or run.created_s)) // 60))
    # True for 0 and for powers of two.
    return any(number & (number - 1) == 0 for number in (minutes, minutes - 1))


def notify(deployment: Deployment, run: Run, summary: Summary | None = None) -> str:
    """Send the notice of a run's end and record that; return why it could not be sent, "" if it was sent."""
    if deployment.notifier is None:
        return ""
    summary = summary or summarize(deployment, run)
    document = outcome(deployment, run, summary) | {"manifest": deployment.run_uri(run.run_id, MANIFEST)}
    try:
        deployment.notifier.notify(Notice.of_run(run, document))
    except NoticeError as error:
        return str(error)
    deployment.ledger.runs.mark_notified(run.run_id, run.generation)
    return ""


def runs_to_check(deployment: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """The runs that need a check: open runs (those with a sealed plan first), then ended runs whose notice is due."""
    runs = [run for run in unfinalized if not run.state.ended or is_notice_due(deployment, run)]
    return sorted(runs, key=lambda run: (run.state.ended, not run.sealed))


def runs_to_finalize(deployment: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """Ended runs whose notice is not due any more, the oldest end first, at most ``MAX_FINALIZED``."""
    ended = [run for run in unfinalized if run.state.ended and not needs_notice(deployment, run)]
    return sorted(ended, key=lambda run: run.ended_s or run.created_s)[:MAX_FINALIZED]


MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between ledger, manifest and output of a run."""

    # COUNTS: ledger and plan differ. MANIFEST: ledger and manifest differ. NO_OUTPUT: shards with rows have no files.
    kind: str
    subject: str  # the run
    found: str  # what was found, and the remedy
    count: int = 1  # shards


def verify(deployment: Deployment, run_id: str) -> Iterator[Difference]:
    """Yield all differences of a run; reads all its shards, and lists its output."""
    run = deployment.ledger.runs.get(run_id)
    counts = deployment.ledger.shards.count(run_id)
    if run.shard_count is not None and counts.total != run.shard_count:
        message = f"the ledger has {counts.total} shards, the sealed plan {run.shard_count}"
        yield Difference("COUNTS", run_id, message, abs(counts.total - run.shard_count))
    if run.state.ended and (message := _manifest_difference(deployment, run, counts)):
        yield Difference("MANIFEST", run_id, message)
    yield from _missing_output(deployment, run)


def _manifest_difference(deployment: Deployment, run: Run, counts: Counts) -> str:
    """How the manifest differs from the ledger, and the remedy; "" if it does not."""
    remedy = f"sparklet watch {run.run_id} writes it again"
    ledger = {"state": str(run.state), "generation": run.generation, "counts": counts.to_document()}
    try:
        document = json.loads(deployment.store.get(deployment.run_uri(run.run_id, MANIFEST)))
        manifest = {key: document["run"][key] for key in ledger}
    except ObjectNotFoundError:
        return f"the run has ended and has no manifest; {remedy}"
    except (ValueError, KeyError, TypeError):
        return f"its manifest is damaged; delete it, then {remedy}"
    if manifest == ledger:
        return ""
    difference = f"its manifest has {json.dumps(manifest)}, the ledger {json.dumps(ledger)}"
    return f"{difference}; delete the manifest, then {remedy}"


def _missing_output(deployment: Deployment, run: Run) -> Iterator[Difference]:
    """Yield a difference if SUCCEEDED shards have rows but no output; takes a byte of memory for each shard."""
    if not run.output_uri.startswith(SCHEME) or run.shard_count is None:
        return
    has_data = bytearray(run.numbers)
    for number, info in published_files(deployment.store, run):
        if not is_hidden(info.uri[len(run.output_uri) :]) and number < run.numbers:
            has_data[number] = 1
    missing_count, examples = 0, list[str]()
    for record in deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        if record.rows and not has_data[record.number] and not _has_reported(deployment, run, record):
            missing_count += 1
            if missing_count <= MAX_EXAMPLES:
                examples.append(str(record.number))
    if missing_count:
        example_list = ", ".join([*examples, "…"] if missing_count > MAX_EXAMPLES else examples)
        message = (
            f"{missing_count} SUCCEEDED shards reported rows, but have no files in {run.output_uri} "
            f"(shards {example_list}): deleted since, or written elsewhere and not reported (job.report outputs=…)"
        )
        yield Difference("NO_OUTPUT", run.run_id, message, missing_count)


def _has_reported(deployment: Deployment, run: Run, record: ShardRecord) -> bool:
    """Whether an object exists at an address that the script reported, outside the shard's own folder."""
    own_folder = run.shard_output(record.number)
    reported = [uri for uri in record.outputs if uri.startswith(SCHEME) and not uri.startswith(own_folder)]
    return any(next(iter(deployment.store.list(uri)), None) is not None for uri in reported)
