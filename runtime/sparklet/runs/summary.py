"""A run's statistics: counts, rows, bytes, time, and causes of failure; read from the ledger in one pass."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from sparklet.model import COUNTED, NOTHING, Counts, Run, RunOptions, RunState, ShardRecord, ShardState
from sparklet.planning.packing import is_nothing_new
from sparklet.ports.deployment import Deployment
from sparklet.runs.drift import Drift, drift_of
from sparklet.runs.redelivery import BY_CHECKS

TOP_CAUSES = 10
MAX_WARNINGS = 10
MAX_CAUSES = 1000  # classes counted one by one; the others are counted together
MAX_NAMED = 20  # inputs, and lists: SNS and EventBridge take 256 KiB
OTHER_CAUSES = "(other causes)"


@dataclass(slots=True)
class Cause:
    """A class of failure, with its first shard."""

    error_class: str
    count: int
    example_shard: int
    example_message: str


@dataclass(slots=True)
class Work:
    """What one kind of worker has done in this generation."""

    known_s: float = 0.0  # of all attempts; see ``Summary.add_running``
    attempts: int = 0
    files: int = 0  # that these were given


@dataclass(slots=True)
class Summary:
    """A run's statistics; shards are added one by one, and its size does not grow with their number."""

    run_id: str
    state: RunState
    generation: int
    created_s: float
    changed_s: float  # when a shard last changed
    first_s: float = inf  # when the first attempt known began
    states: dict[ShardState, int] = field(default_factory=lambda: dict.fromkeys(ShardState, 0))
    objects: int = 0  # in all shards
    input_bytes: int = 0  # stored bytes of all shards
    rows: int | None = None  # of the succeeded shards that reported any; None: none did
    output_bytes: int | None = None  # likewise
    output_shards: int = 0  # succeeded shards that have written: so many files there are at least
    silent_shards: int = 0  # succeeded shards that reported no rows
    warnings: Counter[str] = field(default_factory=Counter)  # of succeeded shards, at most MAX_WARNINGS
    attempts: int = 0  # in the last generation of each shard
    unrun: int = 0  # dead-letter messages without an attempt, which were sent again
    conflicts: int = 0  # attempts, in the last generation of each shard, that met another writer of a table
    task_s: float = 0.0  # time of all attempts that have ended, added up
    repeated_s: float = 0.0  # of these, the ones after which another one came
    work: dict[str, Work] = field(default_factory=lambda: {"": Work()})  # by engine; "": the functions
    all_causes: dict[str, Cause] = field(default_factory=dict)
    drift: Drift = field(default_factory=Drift)  # how shards that succeeded differ, where one job has one schema
    unmeasured: int = 0  # FAILED shards of this generation whose workers, of engines, write no metrics

    @classmethod
    def of(cls, run: Run, state: RunState | None = None) -> "Summary":
        """The summary of a run that is in ``state``, before any shard was added."""
        return cls(run.run_id, state or run.state, run.generation, run.created_s, run.created_s)

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        self.states[record.state] += 1
        if record.state is ShardState.SPLIT:  # of such only its attempts count
            self.repeated_s += record.took_s
        else:
            self.objects += record.object_count
            self.input_bytes += record.size_bytes
        self.attempts += record.attempts
        self.unrun += record.unrun
        self.conflicts += record.conflicts
        self.changed_s = max(self.changed_s, record.changed_s)
        self.first_s = min(self.first_s, record.started_s - record.worked_s if record.started_s else inf)
        self.repeated_s += record.worked_s
        took_s = record.took_s if record.state is not ShardState.RUNNING else 0.0
        self.task_s += record.worked_s + took_s
        work = self.work.setdefault(record.engine, Work())
        work.attempts += record.attempts
        work.files += record.attempts * record.object_count
        work.known_s += took_s
        earlier = work if record.attempts > 1 else self.work[""]  # it came from a function
        earlier.known_s += record.worked_s
        if record.state is ShardState.SUCCEEDED:
            self.rows = plus(self.rows, record.rows)
            self.output_bytes = plus(self.output_bytes, record.output_bytes)
            self.output_shards += bool(record.output_bytes)
            self.silent_shards += record.rows is None
            if record.warning and (record.warning in self.warnings or len(self.warnings) < MAX_WARNINGS):
                self.warnings[record.warning] += 1
        if record.state is ShardState.FAILED:
            name = record.error_class or "(no cause given)"
            # Classes come from scripts, which may make one for each shard: memory must not grow with the run.
            if name not in self.all_causes and len(self.all_causes) >= MAX_CAUSES:
                name = OTHER_CAUSES
            self.all_causes.setdefault(name, Cause(name, 0, record.number, record.error_message)).count += 1
            of_engine = record.engine and record.error_class not in BY_CHECKS
            self.unmeasured += bool(of_engine and record.generation == self.generation)

    def add_running(self, record: ShardRecord, took_s: float) -> None:
        """Count the time until now of an attempt that is RUNNING, whose shard was added."""
        self.work[record.engine].known_s += took_s

    @property
    def warnings_document(self) -> list[dict[str, Any]]:
        """The warnings as JSON, each with the number of its shards."""
        return [{"message": message, "count": count} for message, count in self.warnings.items()]

    @property
    def has_output(self) -> bool:
        """Whether a shard has written anything, as far as Sparklet sees."""
        return self.states[ShardState.SUCCEEDED] > self.warnings[NOTHING]

    @property
    def counts(self) -> Counts:
        """Shards by state."""
        return Counts(*(self.states[state] for state in COUNTED))

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why shards failed, the most frequent causes first, at most 10."""
        return tuple(sorted(self.all_causes.values(), key=lambda c: (-c.count, c.error_class))[:TOP_CAUSES])

    @property
    def duration_s(self) -> float:
        """From the run's creation to the last change of a shard."""
        return max(0.0, self.changed_s - self.created_s)

    @property
    def waited_s(self) -> float:
        """The part of it until the first attempt known began."""
        return max(0.0, min(self.first_s, self.changed_s) - self.created_s)


def summarize(deployment: Deployment, run: Run, state: RunState | None = None) -> Summary:
    """Add up a run's shards as they are now (strongly consistent, a whole pass)."""
    summary = Summary.of(run, state)
    for record in deployment.ledger.shards.list(run.run_id):
        summary.add(record)
    summary.drift = drift_of(deployment, run)
    return summary


def statistics(run: Run, summary: Summary) -> dict[str, Any]:
    """A run's statistics as one JSON document, which those of its end embed; times are seconds since the epoch."""
    return {
        "id": run.run_id,
        "name": run.name,
        "state": str(summary.state),
        "generation": run.generation,
        "parent": run.parent,
        "dispatch": str(run.dispatch),
        "inputs": list(run.inputs[:MAX_NAMED]),
        "lists": [source.uri for source in run.lists[:MAX_NAMED]],
        "output": run.output_uri,
        "counts": summary.counts.to_document(),
        "objects": summary.objects,
        "skipped": dict(run.skipped),
        "input_bytes": summary.input_bytes,
        "output_bytes": summary.output_bytes,
        "rows": summary.rows,
        "silent_shards": summary.silent_shards,
        "warnings": summary.warnings_document,
        "attempts": summary.attempts,
        "came_back_unrun": summary.unrun,
        "output_shards": summary.output_shards,
        "work": [
            {"engine": engine, "task_s": round(work.known_s, 3), "attempts": work.attempts, "objects": work.files}
            for engine, work in summary.work.items()
        ],
        "created_s": summary.created_s,
        "changed_s": summary.changed_s,
        "duration_s": round(summary.duration_s, 3),
        "task_s": round(summary.task_s, 3),
        "drift": summary.drift.text or None,
        "causes": [
            {"class": c.error_class, "count": c.count, "example_shard": c.example_shard, "message": c.example_message}
            for c in summary.causes
        ],
    }


def work_of(document: Mapping[str, Any]) -> dict[str, Work]:
    """``Summary.work``, as its ``statistics`` have it."""
    return {entry["engine"]: Work(entry["task_s"], entry["attempts"], entry["objects"]) for entry in document["work"]}


def final_state(run: Run, counts: Counts, drift: Drift) -> RunState:
    """The final state of a run whose shards have all ended; CANCELLED if that was requested.

    As in Step Functions, every limit that is set must be kept; without a limit no failure is tolerated. A run without
    a shard has FAILED, since its input was gone when it was planned, unless earlier runs have done all of it. So has
    one whose shards drifted, unless it allows that.
    """
    if run.cancelled_s is not None:
        return RunState.CANCELLED
    if not counts.total:
        return RunState.SUCCEEDED if is_nothing_new(run.skipped) else RunState.FAILED
    if drift.fails:
        return RunState.FAILED
    if not counts.failed:
        return RunState.SUCCEEDED
    tolerated = tolerated_failures(run.options, counts.total)
    return RunState.SUCCEEDED_WITH_FAILURES if counts.failed <= (tolerated or 0) else RunState.FAILED


def tolerated_failures(options: RunOptions, shards: int) -> int | None:
    """How many of a run's shards may fail; None without a limit: then none may, but a failure does not stop the run."""
    count, percentage = options.tolerated_failure_count, options.tolerated_failure_percentage
    limits = [count] if count else []
    if percentage:
        limits.append(int(percentage * shards // 100))
    return min(limits, default=None)


def plus(total: int | None, more: int | None) -> int | None:
    """The sum of what is known; None if nothing is."""
    return total if more is None else (total or 0) + more
