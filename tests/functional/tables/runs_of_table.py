"""Runs, messages and batches of a stream that write to one table: the real worker, checker and committer.

The ports are in memory. A script's files are written by pyarrow, in the form in which ``tables.staging`` writes
them, so that only commits need a JVM. A committer is watched: the model is told what it has made, and compared.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparklet.connectors.tables import chains, staging, stream_batch
from sparklet.connectors.tables import commit as committer
from sparklet.connectors.tables.declaration import Commit, Committed, Declaration
from sparklet.errors import PlanError
from sparklet.job import Job
from sparklet.job.commit_ids import messages_of
from sparklet.job.errors import CommitConflictError, SparkletError
from sparklet.job.outcome import EVENT
from sparklet.model import Run, RunOptions, RunState, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.runs.redrive import redrive
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.functional.tables.expected import ID, VERSION, Row, Write
from tests.functional.tables.making import session_for
from tests.unit.events import samples
from tests.unit.runs.one_table import ROUND_S, ROUNDS, Trial
from tests.world import KilledError

WROTE = (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)
FIRST = 10**20  # record's number
STARTED_MS = int(time.time() * 1000)


@dataclass
class Asked:
    """A run, and what its scripts are to write: of each row its id, day and place among the versions."""

    mode: str
    objects: Sequence[Sequence[tuple[int, str | None, int]]]
    ordered: bool
    failing: int | None = None  # an object, until the run is redriven
    commit_every: bool = False
    isolate: bool = False  # all objects are one shard, and the one that fails is to fail alone


@dataclass
class Runs(Trial):
    """Runs over one table. Of the next committer: ``between`` happens once it has loaded the table; it dies
    ``before`` or ``after`` its commit, or hears no answer (``unheard``).
    """

    table: Any = None  # a SharedTable
    asked: dict[str, Asked] = field(default_factory=dict)
    staged: dict[str, tuple[Sequence[Row], Mapping[str, str]]] = field(default_factory=dict)  # rows and columns
    objects: dict[str, Sequence[int]] = field(default_factory=dict)  # by folder that was staged
    between: Callable[[], object] | None = None
    end: str = ""
    commits: list[tuple[Commit, Sequence[Write]]] = field(default_factory=list)
    interfered: bool = False
    _direct: Sequence[Write] = ()
    _writes: Sequence[Write] = ()  # of the committer that is at work
    _made_then: frozenset[str] = frozenset()  # in the table as it was loaded last

    def watch(self, patch: Any) -> None:
        """See what every committer does."""
        self._commit_now, self._open = committer.commit, committer.open_table
        patch.setattr(committer, "MAX_CONFLICTS_S", 30.0)
        patch.setattr(committer, "MIN_PAUSE_S", 0.001)
        patch.setattr(committer, "commit", self.commit)
        patch.setattr(committer, "open_table", self._opened)
        patch.setattr(stream_batch, "open_table", self._opened)
        if self.table.is_delta:
            nothing = SimpleNamespace(delete=lambda *_: None)
            patch.setattr(staging, "hadoop_path", lambda spark, folder: (folder, nothing))
        patch.setattr(sys, "argv", ["commit.py"])
        patch.setattr(Job, "spark", lambda job: self._session())

    # --- runs ---

    def start(self, asked: Asked | None = None) -> None:
        if asked is None:  # the Runner's own start
            return
        run_id = f"run-{len(self.asked)}"
        self.asked[run_id], folder = asked, f"s3://data/{run_id}/"
        self.world.put(len(asked.objects), folder=folder)
        options = RunOptions(
            max_objects=len(asked.objects) if asked.isolate else 1,
            max_attempts=3,
            tolerated_failure_count=9,
            commit_every="1" if asked.commit_every else "",
            isolate=asked.isolate,
        )
        request = self.world.request(run_id=run_id, inputs=(folder,), options=options)
        plan(self.world.deployment, new_run(self.world.deployment, request).run_id)

    def redrive(self, which: int) -> None:
        run_id = list(self.asked)[which % len(self.asked)]
        with suppress(PlanError):
            redrive(self.world.deployment, run_id)
            self.asked[run_id].failing = None

    def everybody_works(self) -> None:
        """Until all runs have ended."""
        for _ in range(ROUNDS * max(1, len(self.asked))):  # a round may bring one message for all runs
            self.look()
            self.work()
            self.look()
            if all(run.state.ended for run in self.all_runs()):
                return
            self.world.clock.advance(ROUND_S)
        raise AssertionError(f"not ended: {self.all_runs()}")

    def all_runs(self) -> list[Run]:
        return [self.world.ledger.runs.get(run_id) for run_id in self.asked]

    def compare_ends(self) -> None:
        """Of a run that ended well, each object of a SUCCEEDED shard was in the table once. A bad one failed alone."""
        for run in self.all_runs():
            asked, folders = self.asked[run.run_id], set[str]()
            for each, _ in self.commits:
                if each.commit_id in self.table.state.made and each.commit_id.startswith(f"{run.identity}/"):
                    folders |= {write.folder for write in each.writes}
            there = Counter(number for folder in folders for number in self.objects[folder])
            for record in self.world.ledger.shards.list(run.run_id):
                if record.state is ShardState.SPLIT:
                    continue
                done = record.state is ShardState.SUCCEEDED
                numbers = _numbers([each.uri for each in planned_shard(self.world.deployment, record).objects])
                assert run.state not in WROTE or [there[each] for each in numbers] == [done] * len(numbers), record
                assert done or not asked.isolate or len(numbers) == 1, f"{record} has good objects"

    # --- scripts, as a Runner ---

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = json.loads(call.env[EVENT])
        named = event["sparklet"]
        asked = self.asked.get(named["run"])
        if asked is None:
            return self._commit_run(call)
        numbers = _numbers(event["inputs"])
        if asked.failing in numbers:
            return ScriptResult(1, cause_class="BadRecord", cause="bad input")
        rows = [self.table.row(*each) for number in numbers for each in asked.objects[number]]
        declared = self._stage(named["shard"], rows, asked.mode, asked.ordered)
        self.objects[declared.folder] = numbers
        Path(call.env["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"writes": [declared.to_document()]}))
        return ScriptResult(0)

    def _stage(self, shard: int, rows: Sequence[Row], mode: str, ordered: bool = False) -> Declaration:
        """What ``tables.staging`` leaves."""
        shared = self.table
        by = shared.by if mode == "append" else []
        write = shared.lake.stage(shard, shared.arrow(rows, shared.state.columns), by, mode=mode)
        self.staged[write.folder] = rows, shared.state.columns
        keyed = {"keys": (ID,), "order_by": VERSION if ordered else None} if mode == "upsert" else {}
        how: dict[str, Any] = {"partition_by": tuple(shared.by), **keyed}
        return replace(write, label="1", files=write.files if rows else (), shard=-1, **how)

    def _commit_run(self, call: ScriptCall) -> ScriptResult:
        """The real script of a commit run, in this process."""
        os.environ["SPARKLET_OUTCOME_FILE"] = call.env["SPARKLET_OUTCOME_FILE"]
        sys.argv[1:] = call.args
        self._files = [
            [json.loads(line) for line in Path(uri.removeprefix("file://")).read_text().splitlines()]
            for uri in json.loads(call.env[EVENT])["inputs"]
        ]
        try:
            committer.main()
        except SparkletError as error:
            return ScriptResult(1, cause_class=type(error).__name__, cause=str(error))
        finally:
            del os.environ["SPARKLET_OUTCOME_FILE"]
        return ScriptResult(0)

    def _write_of(self, planned: Commit) -> Write:
        """What a commit of a run means: its file says which shards are its own, and the files before it, the others."""
        number = int(planned.commit_id.rpartition("-")[2])
        of_files = [
            [self.staged[write["folder"]] for shard in file[1:] for write in shard["writes"]] for file in self._files
        ]
        earlier = [row for file in of_files[:number] for rows, _ in file for row in rows]
        columns: dict[str, str] = {}
        for staged in (columns for file in of_files[: number + 1] for rows, columns in file if rows):
            for name, each in staged.items():
                columns[name] = each if columns.get(name, each) == each else "two columns of a name"
        own = [row for rows, _ in of_files[number] for row in rows]
        return Write(planned.commit_id, planned.mode, own, columns, earlier, planned.order_by is not None)

    # --- direct commits ---

    def message(self, number: int) -> None:
        """A message of SNS, which may have come before."""
        row = self.table.row(number, "mon")
        write = Write(f"message-{number}", "append", [row], self.table.state.columns)
        event = samples.sns("{}")
        now = datetime.now(UTC).isoformat()
        event["Records"][0]["Sns"] |= {"MessageId": f"id-{number}", "Timestamp": now}
        self._deliver(Job(event=event), None, [write])

    def batch(self, first: int, last: int, *, of_messages: bool) -> None:
        """A batch of a stream, or of messages of SQS, of which some may have come before."""
        chains.links_of.cache_clear()
        records = [samples.kinesis(str(FIRST + number)) for number in range(first, last + 1)]
        for record in records:
            record["kinesis"]["approximateArrivalTimestamp"] = time.time()
        numbers, source = {FIRST + number: number for number in range(first, last + 1)}, "record"
        if of_messages:
            records = [samples.sqs(str(number), "{}") for number in range(first, last + 1)]
            for record in records:
                record["attributes"]["SentTimestamp"] = str(STARTED_MS + int(record["messageId"]))
            numbers, source = {n: int(ids[0]) for n, ids in messages_of({"Records": records}).items()}, "queued"
        job = Job(event={"Records": records})
        batch: Any = staging.batch_for(job, self.table.lake.table, "1", self._session())
        new = {numbers[number] for each in batch.new.values() for number in each}
        for number in set(range(first, last + 1)) - new:
            assert f"{source}-{number}" in self._made_then, f"{source} {number} is skipped, and not in the table"
        rows, columns = {number: self.table.row(number, "tue") for number in sorted(new)}, self.table.state.columns
        self._deliver(job, batch, [Write(f"{source}-{n}", "append", [row], columns) for n, row in rows.items()])

    def _deliver(self, job: Job, batch: Any, writes: Sequence[Write]) -> None:
        """A delivery that fails comes again, or goes to the operator."""
        declared = self._stage(-1, [row for write in writes for row in write.rows], "append")
        staging.made_here.clear()  # a process of its own
        self._direct = writes
        with suppress(SparkletError, KilledError):
            staging.commit_now(job, declared, self._session(), batch, f"{batch.opened.root if batch else ''}")

    # --- committers ---

    def commit(self, planned: Commit, *args: Any, **how: Any) -> Committed:
        """A commit, whose end the model is told, and the table compared."""
        of_run = "/commit-" in planned.commit_id and not planned.records
        writes = [self._write_of(planned)] if of_run else self._direct
        self.commits.append((planned, writes))
        return self._watched(planned, writes, *args, **how)

    def _watched(self, planned: Commit, writes: Sequence[Write], *args: Any, **how: Any) -> Committed:
        outer, self._writes = self._writes, writes
        try:
            done = self._commit_now(planned, *args, **how)
            self.table.made([write for write in writes if write.id not in self._made_then])
        except (SparkletError, KilledError) as error:
            if isinstance(error, SparkletError) and not self.table.may_refuse(writes, error, self.interfered):
                raise AssertionError("refused") from error
            self.table.compare()
            raise
        finally:
            self._writes, self.interfered = outer, False
        self.table.compare()
        return done

    def commit_again(self, which: int) -> None:
        """A committer that was asleep does what it had planned."""
        if self.commits:
            with suppress(SparkletError, KilledError):
                self._watched(*self.commits[which % len(self.commits)], self._session())

    def _session(self) -> Any:
        """The committers' Spark."""
        return session_for(self.table.lake.table)

    def _opened(self, *args: Any) -> Any:
        """A table as a committer loads it, and what then happens to it."""
        opened, self._made_then = self._open(*args), self.table.state.made
        between, self.between = self.between, None
        if between and self.table.exists:
            between()
            self.interfered = True
            self.table.compare()
        end, self.end = self.end, ""
        write = opened.write

        def ending(*args: Any) -> str:
            if end == "before":
                raise KilledError
            version = write(*args)
            if end:
                self.table.made(self._writes)
                raise KilledError if end == "after" else CommitConflictError("no answer")
            return str(version)

        setattr(opened, "write", ending)  # noqa: B010 - as a test's monkeypatch does
        return opened


def _numbers(uris: Sequence[str]) -> list[int]:
    """Of objects that ``World.put`` has made."""
    return [int(Path(uri).stem) for uri in uris]
