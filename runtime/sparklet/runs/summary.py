"""A run's statistics: counts, rows, bytes, time, and causes of failure; read from the ledger in one pass.

``Drift``: whether the shards of a run inferred other types, or wrote other schemas to one output, where one job has
one. Workers keep the schemas of a run in files named by reader or output, and schema (``model.schemas``), so one
listing shows whether any has two. Only then shards are read: a file may be that of an attempt that has not won.

The answers of shards are shown while a run is open, and its end writes a file of all of them. An attempt writes its
answer (``job.answer``) under its own name, below ``runs/<run_id>/answers/``, before it reports success to the ledger.
Only the answer of the attempt that succeeded is read, never that of a retry or a zombie.
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
MAX_COMPARED = 1000  # schemas of one reader; there are many where keys of JSON are missing here and there


class Drift(NamedTuple):
    """Two inputs or files of SUCCEEDED shards whose columns or types differ where one job has one schema; or ""."""

    text: str = ""
    fails: bool = False  # whether the run has FAILED by it


def drift_of(deployment: Deployment, run: Run) -> Drift:
    """The drift of a run, which fails it unless it allows drift, or its script reads two input folders apart.

    Outputs and readers with several schemas in one shard alone are not compared: one job would have them, too. An
    incremental run is compared with the last one of its name, too.
    """
    files, (before, earlier) = (
        _files(deployment, run),
        _before(deployment, run) if run.options.incremental else (None, {}),
    )
    names = defaultdict[str, set[str]](set)  # by output or reader
    for name in {**files, **earlier}:
        names[name.partition("-")[0]].add(name)
    several = {subject: schema_names for subject, schema_names in names.items() if len(schema_names) > 1}
    examples = _examples(deployment, run, several) if several else {}
    for subject, uri_by_schema in _examples(deployment, before, several).items() if before and several else ():
        if examples.get(subject) and len(uri_by_schema) == 1:  # what differed in the earlier run itself was told there
            examples[subject] |= uri_by_schema
    drifts = [
        _drift(deployment, run, uri_by_schema, {**files, **earlier})
        for uri_by_schema in examples.values()
        if len(uri_by_schema) > 1
    ]
    # False comes first: what fails the run before what may be meant so, and what was inferred before what was written,
    # since inputs tell a user more than files.
    is_apart, _, text = min((drift for drift in drifts if drift[2]), default=(True, False, ""))
    return Drift(text, not (is_apart or run.options.allow_drift))


def _files(deployment: Deployment, run: Run) -> dict[str, str]:
    """The files of a run's schemas, by the names of these."""
    prefix = deployment.run_uri(run.run_id, SCHEMAS)
    return {info.uri.removeprefix(prefix).removesuffix(".json"): info.uri for info in deployment.store.list(prefix)}


def _before(deployment: Deployment, run: Run) -> tuple[Run | None, dict[str, str]]:
    """The last run of the name before a run, into the same output, that SUCCEEDED with schemas, and their files."""
    others = (
        earlier_run
        for earlier_run in others_of_name(deployment, run.name, run.run_id)
        if earlier_run.created_s < run.created_s
    )
    for other in sorted(others, key=lambda earlier_run: earlier_run.created_s, reverse=True):
        is_like = other.state is RunState.SUCCEEDED and other.output_uri == run.output_uri
        if is_like and (files := _files(deployment, other)):
            return other, files
    return None, {}


def _examples(deployment: Deployment, run: Run, several: Mapping[str, set[str]]) -> dict[str, dict[str, str]]:
    """The first shard's file or input, by output (or reader) and schema; none where one shard alone has several."""
    examples = defaultdict[str, dict[str, str]](dict)
    for record in deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        for subject, names in several.items():
            schema_names = names & record.schemas.keys()
            if len(schema_names) > 1:
                # One shard with both shows that one job would have both, too. The empty entry is a mark that keeps
                # later shards out.
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
    """Whether the script reads differing inputs apart, whether outputs (not inputs) differ, and how, in words."""
    # By what must not differ, and how it is, the first.
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
            if _reads_apart(deployment, run, first, second):
                text += "that reads both infers one (--schema); the script names its folders, so it may read them apart"
                return True, False, f"shards inferred different types from two input folders{text}"
            text += "infers one: give a schema (--schema), or --allow-drift"
            return False, False, f"shards inferred different types from their inputs{text}"
    return False, False, ""


def _reads_apart(deployment: Deployment, run: Run, first: str, second: str) -> bool:
    """Whether inputs lie in two of the run's folders, and its script asks for these, or names both."""
    folders = {next(filter(uri.startswith, run.inputs), "") for uri in (first, second)}
    if len(folders) < 2 or "" in folders:
        return False
    script = Script(deployment.store.get(run.scripts[-1].uri))
    return script.asks_for_folders or all(script.names_folder(folder) for folder in folders)


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
        """The time from the run's creation to the last change of a shard."""
        return max(0.0, self.changed_s - self.created_s)

    @property
    def waited_s(self) -> float:
        """The time from the run's creation until the first known attempt began."""
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


def write_results(deployment: Deployment, run: Run, uri: str, max_bytes: float = inf) -> dict[str, Any] | None:
    """Write all answers into a file; its entry in the manifest, the answers' folder if they are too many.

    So are they if one has more than ``max_bytes``.
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
