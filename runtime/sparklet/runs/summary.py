"""A run's statistics: counts, rows, bytes, time, and causes of failure; read from the ledger in one pass.

``Drift`` tells whether shards of a run inferred different types, or wrote different schemas to one output, where a
single job would have one. Workers store the schemas of a run in files whose names consist of reader (or output) and
schema (``model.schemas``), so one listing shows whether there are two for one reader. Only then shards are read, since
a file may be of an attempt that has not won.

The answers of shards can be read while a run is open; at its end they are written to one file. An attempt writes its
answer (``job.answer``) under its own name, below ``runs/<run_id>/answers/``, before it reports success to the ledger.
Only the answer of the attempt that succeeded is read, never the answer of a retry or a zombie.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sparklet.errors import ObjectNotFoundError
from sparklet.ledger.rules import cut
from sparklet.log import Log
from sparklet.model import (
    ANSWERS,
    COUNTED,
    NOTHING,
    SCHEMAS,
    Counts,
    Run,
    RunOptions,
    RunState,
    ShardRecord,
    ShardState,
    split_uri,
)
from sparklet.model.schemas import Schema, clash
from sparklet.planning.commit_files import kept_files
from sparklet.planning.output_claims import others_of_name
from sparklet.planning.packing import is_nothing_new
from sparklet.ports.deployment import Deployment, scratch
from sparklet.runs.dispatch import BY_CHECKS
from sparklet.spark.script import Script

MAX_SHOWN_BYTES = 1000  # of the difference
MAX_COMPARED = 1000  # how many schemas of one reader are compared; JSON with optional keys has many


class Drift(NamedTuple):
    """A difference between schemas of SUCCEEDED shards where a single job would have one schema."""

    text: str = ""  # the difference in words, with two files or inputs as examples; "" if there is none
    fails: bool = False  # whether the run has FAILED because of it


def drift_of(deployment: Deployment, run: Run) -> Drift:
    """The drift of a run, which fails it unless the run allows drift, or its script may read two folders separately.

    If a single shard has several schemas of one output or reader, these are not compared: one job would have them, too.
    The shards of an incremental run are also compared with those of the run before (``_earlier_run``).
    """
    files = _schema_files(deployment, run)
    earlier_run, earlier_files = _earlier_run(deployment, run) if run.options.incremental else (None, {})
    all_files = {**files, **earlier_files}
    names = defaultdict[str, set[str]](set)  # by output or reader
    for name in all_files:
        names[name.partition("-")[0]].add(name)
    several = {subject: schema_names for subject, schema_names in names.items() if len(schema_names) > 1}
    if not several:
        return Drift()
    examples = _examples(deployment, run, several)
    for subject, uri_by_schema in _examples(deployment, earlier_run, several).items() if earlier_run else ():
        if examples.get(subject) and len(uri_by_schema) == 1:  # several would be a drift of the earlier run itself
            examples[subject] |= uri_by_schema
    drifts = [
        _drift(deployment, run, uri_by_schema, all_files)
        for uri_by_schema in examples.values()
        if len(uri_by_schema) > 1
    ]
    # False comes first in the order: a drift that fails the run before one that may be intended, and types that were
    # inferred before schemas that were written, since inputs tell a user more than output files.
    reads_separately, _, text = min((drift for drift in drifts if drift[2]), default=(True, False, ""))
    return Drift(text, not (reads_separately or run.options.allow_drift))


def _schema_files(deployment: Deployment, run: Run) -> dict[str, str]:
    """The addresses of a run's schema files, by the names of the schemas."""
    prefix = deployment.run_uri(run.run_id, SCHEMAS)
    return {info.uri.removeprefix(prefix).removesuffix(".json"): info.uri for info in deployment.store.list(prefix)}


def _earlier_run(deployment: Deployment, run: Run) -> tuple[Run | None, dict[str, str]]:
    """The run to compare schemas with, and its schema files by name; None and {} if there is no such run.

    It is the newest earlier run of the same name and output that SUCCEEDED and has schemas.
    """
    earlier = [other for other in others_of_name(deployment, run.name, run.run_id) if other.created_s < run.created_s]
    for other in sorted(earlier, key=lambda other: other.created_s, reverse=True):
        is_comparable = other.state is RunState.SUCCEEDED and other.output_uri == run.output_uri
        if is_comparable and (files := _schema_files(deployment, other)):
            return other, files
    return None, {}


def _examples(deployment: Deployment, run: Run, names_by_subject: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """For each output (or reader) and schema, a file (or input) of the first shard that has the schema.

    There are no examples for an output (or reader) for which a single shard has several schemas.
    """
    examples = defaultdict[str, dict[str, str]](dict)
    for record in deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        for subject, names in names_by_subject.items():
            schema_names = names & record.schemas.keys()
            if len(schema_names) > 1:
                # A shard with both shows that one job would have both, too. The empty entry is a mark: no later shard
                # adds examples.
                examples[subject] = {}
            elif subject not in examples or examples[subject]:
                for name in schema_names:
                    file = record.schemas[name]
                    uri = file if "://" in file else f"{run.shard_output(record.number)}/{file}"
                    examples[subject].setdefault(name, uri)
    return examples


def _drift(
    deployment: Deployment, run: Run, examples: Mapping[str, str], files: Mapping[str, str]
) -> tuple[bool, bool, str]:
    """Whether the script may read the differing inputs separately, whether outputs differ, and the drift in words.

    Only the first difference is described; the words are "" if the schemas do not clash.
    """
    # For each column that must not differ ("" if the whole schema must not), the first example of each of its types.
    firsts_by_part = defaultdict[str, dict[str, tuple[str, Schema]]](dict)
    for name, example in islice(examples.items(), MAX_COMPARED):
        schema = Schema(*json.loads(deployment.store.get(files[name])))
        for part, value in ({"": name} if schema.is_whole else schema.columns).items():
            firsts_by_part[part].setdefault(value, (example, schema))
    for values in firsts_by_part.values():
        if differing := clash(values):
            (first, one), (second, other) = (values[value] for value in values if value in differing)
            text = f": {first} and {second} ({cut(one.difference(other), MAX_SHOWN_BYTES)}). One Spark job "
            if not one.is_inferred:
                text += "writes one schema: give the run's (--schema), or --allow-drift"
                return False, True, f"shards wrote different columns to one output{text}"
            if _reads_separately(deployment, run, first, second):
                text += "that reads both infers one (--schema); the script names its folders, so it may read them apart"
                return True, False, f"shards inferred different types from two input folders{text}"
            text += "infers one: give a schema (--schema), or --allow-drift"
            return False, False, f"shards inferred different types from their inputs{text}"
    return False, False, ""


def _reads_separately(deployment: Deployment, run: Run, first: str, second: str) -> bool:
    """Whether two inputs are in different input folders of the run, and its script uses these, or names both."""
    folders = {next(filter(uri.startswith, run.inputs), "") for uri in (first, second)}
    if len(folders) < 2 or "" in folders:
        return False
    script = Script(deployment.store.get(run.scripts[-1].uri))
    return script.asks_for_folders or all(script.names_folder(folder) for folder in folders)


TOP_CAUSES = 10
MAX_WARNINGS = 10
MAX_CAUSES = 1000  # how many classes are counted one by one; further classes are counted together
MAX_NAMED = 20  # how many inputs and lists a notice names, since SNS and EventBridge take 256 KiB
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

    known_s: float = 0.0  # the time of all attempts that is known; see ``Summary.add_running``
    attempts: int = 0
    files: int = 0  # the inputs of all attempts


@dataclass(slots=True)
class Summary:
    """A run's statistics; shards are added one by one, and its size does not grow with their number."""

    run_id: str
    state: RunState
    generation: int
    created_s: float
    changed_s: float  # when a shard last changed
    first_s: float = inf  # when the first attempt that is known began
    states: dict[ShardState, int] = field(default_factory=lambda: dict.fromkeys(ShardState, 0))
    objects: int = 0  # in all shards
    input_bytes: int = 0  # stored bytes of all shards
    rows: int | None = None  # that succeeded shards have reported; None if no shard has
    output_bytes: int | None = None  # likewise
    output_shards: int = 0  # succeeded shards that have written; there is at least one file for each
    silent_shards: int = 0  # succeeded shards that reported no rows
    warnings: Counter[str] = field(default_factory=Counter)  # of succeeded shards, at most MAX_WARNINGS
    attempts: int = 0  # in the last generation of each shard
    unrun: int = 0  # dead-letter messages without an attempt, which were sent again
    conflicts: int = 0  # attempts, in the last generation of each shard, that met another writer of a table
    task_s: float = 0.0  # the time of all attempts that have ended, added up
    repeated_s: float = 0.0  # the part of task_s that was followed by another attempt
    work: dict[str, Work] = field(default_factory=lambda: {"": Work()})  # by engine; "" for functions
    all_causes: dict[str, Cause] = field(default_factory=dict)
    drift: Drift = field(default_factory=Drift)
    unmeasured: int = 0  # FAILED shards of this generation that are in no metric, since workers of engines write none

    @classmethod
    def of(cls, run: Run, state: RunState | None = None) -> "Summary":
        """The summary of a run before any shard was added; its ``state`` is by default the run's state."""
        return cls(run.run_id, state or run.state, run.generation, run.created_s, run.created_s)

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        self.states[record.state] += 1
        if record.state is ShardState.SPLIT:  # its inputs are in other shards, so only its attempts count
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
        # Earlier work without an earlier attempt of this engine was done by a function.
        earlier_work = work if record.attempts > 1 else self.work[""]
        earlier_work.known_s += record.worked_s
        if record.state is ShardState.SUCCEEDED:
            self.rows = plus(self.rows, record.rows)
            self.output_bytes = plus(self.output_bytes, record.output_bytes)
            self.output_shards += bool(record.output_bytes)
            self.silent_shards += record.rows is None
            if record.warning and (record.warning in self.warnings or len(self.warnings) < MAX_WARNINGS):
                self.warnings[record.warning] += 1
        if record.state is ShardState.FAILED:
            name = record.error_class or "(no cause given)"
            # Scripts can make a class for each shard, but memory must not grow with the number of shards.
            if name not in self.all_causes and len(self.all_causes) >= MAX_CAUSES:
                name = OTHER_CAUSES
            self.all_causes.setdefault(name, Cause(name, 0, record.number, record.error_message)).count += 1
            of_engine = record.engine and record.error_class not in BY_CHECKS
            self.unmeasured += bool(of_engine and record.generation == self.generation)

    def add_running(self, record: ShardRecord, took_s: float) -> None:
        """Add the time that a RUNNING attempt has taken so far; its shard must have been added before."""
        self.work[record.engine].known_s += took_s

    @property
    def warnings_document(self) -> list[dict[str, Any]]:
        """The warnings as JSON, each with the number of shards that have it."""
        return [{"message": message, "count": count} for message, count in self.warnings.items()]

    @property
    def has_output(self) -> bool:
        """Whether a shard has written anything that Sparklet can observe."""
        return self.states[ShardState.SUCCEEDED] > self.warnings[NOTHING]

    @property
    def counts(self) -> Counts:
        """Shards by state."""
        return Counts(*(self.states[state] for state in COUNTED))

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why shards failed: at most 10 causes, the most frequent ones first."""
        return tuple(sorted(self.all_causes.values(), key=lambda c: (-c.count, c.error_class))[:TOP_CAUSES])

    @property
    def duration_s(self) -> float:
        """The time from the run's creation to the last change of a shard."""
        return max(0.0, self.changed_s - self.created_s)

    @property
    def waited_s(self) -> float:
        """The time from the run's creation until the first known attempt began."""
        return max(0.0, min(self.first_s, self.changed_s) - self.created_s)


def summarize(deployment: Deployment, run: Run, state: RunState | None = None) -> Summary:
    """Add up a run's shards as they are now; reads all of them, strongly consistently."""
    summary = Summary.of(run, state)
    for record in deployment.ledger.shards.list(run.run_id):
        summary.add(record)
    summary.drift = drift_of(deployment, run)
    return summary


def statistics(run: Run, summary: Summary) -> dict[str, Any]:
    """A run's statistics as a JSON document, a part of its manifest and notice; times are seconds since the epoch."""
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
    """Read ``Summary.work`` from a document of ``statistics``."""
    return {entry["engine"]: Work(entry["task_s"], entry["attempts"], entry["objects"]) for entry in document["work"]}


def final_state(run: Run, counts: Counts, drift: Drift) -> RunState:
    """The final state of a run whose shards have all ended; CANCELLED if that was requested.

    As in Step Functions, every limit that is set must be kept; without a limit no failure is tolerated. A run without
    shards has FAILED, since its input was gone when it was planned, unless earlier runs have processed all of it. A run
    whose shards drifted has FAILED unless it allows drift.
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
    """How many failed shards a run tolerates: with more it ends as FAILED, and a state machine's Map is stopped.

    None if the run sets no limit (0 counts as none): then it processes all shards, but ends as FAILED if one fails.
    """
    count, percentage = options.tolerated_failure_count, options.tolerated_failure_percentage
    limits = [count] if count else []
    if percentage:
        limits.append(int(percentage * shards // 100))
    return min(limits, default=None)


def plus(total: int | None, more: int | None) -> int | None:
    """Add two numbers, each of which can be unknown (None); None if both are."""
    return total if more is None else (total or 0) + more


RESULTS = "results.jsonl"
MAX_RESULTS_BYTES = 128 * 1024 * 1024  # the file must fit into a function's /tmp
MAX_COLLECTING_S = 120.0  # after that the run ends without the file


def results(deployment: Deployment, run: Run) -> Iterator[bytes]:
    """The answers of SUCCEEDED shards in order, each ``{"shard": 7, "answer": …}`` as JSON.

    If the run has an output for each input, a result of each input follows: ``{"shard": 7, "input": …, "rows": …, …}``.
    """
    if run.state.ended:
        try:
            yield from deployment.store.get(deployment.run_uri(run.run_id, RESULTS)).splitlines()
            return
        except ObjectNotFoundError:
            pass  # there are no answers, or too many for one file
    yield from _answers(deployment, run)


def write_results(deployment: Deployment, run: Run, uri: str, max_bytes: float = inf) -> dict[str, Any] | None:
    """Write all answers to a file; return the file's entry in the manifest, or None if there are no answers.

    If there are too many answers for a file, or one has more than ``max_bytes``, the entry names their folder. An older
    file at ``uri`` is deleted if no file is written.
    """
    until_s, count = deployment.clock.now_s() + MAX_COLLECTING_S, 0
    with TemporaryDirectory(prefix="sparklet-results-") as folder:
        path = Path(folder, RESULTS)
        with scratch("the answers of shards"), path.open("wb") as file:
            for answer in _answers(deployment, run):
                count += 1
                file.write(answer + b"\n")
                if len(answer) > max_bytes or file.tell() > MAX_RESULTS_BYTES or deployment.clock.now_s() > until_s:
                    Log().warning("answers are too many or too large; sparklet results reads them", subject=run.run_id)
                    # A file of an earlier end would look like the one of this end, but lacks answers.
                    deployment.store.delete_all([uri], uri)
                    return {"Folder": split_uri(deployment.run_uri(run.run_id, ANSWERS))[1]}
        if not count:
            deployment.store.delete_all([uri], uri)  # a run of this id in another ledger may have had answers
            return None
        size_bytes = path.stat().st_size
        deployment.store.upload(path, uri)
    return {"Key": split_uri(uri)[1], "Size": size_bytes, "Answers": count}


def _answers(deployment: Deployment, run: Run) -> Iterator[bytes]:
    """The lines of ``results``, from the files of the attempts that succeeded."""

    def bodies(name: str) -> Iterator[bytes]:
        return deployment.store.get_all(uri for _, uri in kept_files(deployment, run.run_id, ANSWERS, attrgetter(name)))

    yield from bodies("answer_file")
    for body in bodies("inputs_file") if run.options.output_per else ():
        yield from body.splitlines()[1:]  # the first line has the files' places, see ``worker.origins``
