"""Runs, messages and batches of a stream that write to one table: the real worker, checker and committer.

The ports are in memory. A script's files are written by pyarrow, in the form in which ``tables.staging`` writes
them, so that only commits need a JVM. After each commit the model gets the same rows, and is compared with the table.
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
FIRST = 10**20  # the sequence number of the stream's first record
STARTED_MS = int(time.time() * 1000)


@dataclass
class Asked:
    """What the scripts of a run are to write: for each object its rows, as pairs of id, day and version."""

    mode: str
    objects: Sequence[Sequence[tuple[int, str | None, int]]]
    ordered: bool
    failing: int | None = None  # the object that fails until the run is redriven
    commit_every: bool = False
    isolate: bool = False  # all objects are one shard, and the failing object is to fail alone


@dataclass
class Runs(Trial):
    """Runs over one table.

    The next committer calls ``between`` once it has loaded the table. ``end`` says how its commit fails: the committer
    dies ``before`` or ``after`` the commit, or makes the commit and gets no response (``unheard``).
    """

    table: Any = None  # the SharedTable
    asked: dict[str, Asked] = field(default_factory=dict)
    staged: dict[str, tuple[Sequence[Row], Mapping[str, str]]] = field(default_factory=dict)  # rows and columns
    objects: dict[str, Sequence[int]] = field(default_factory=dict)  # by the folder with the staged files
    between: Callable[[], object] | None = None
    end: str = ""
    commits: list[tuple[Commit, Sequence[Write]]] = field(default_factory=list)
    interfered: bool = False
    _direct: Sequence[Write] = ()
    _writes: Sequence[Write] = ()  # the writes of the committer that is at work
    _made_then: frozenset[str] = frozenset()  # ids of the commits in the table when it was loaded last

    def watch(self, patch: Any) -> None:
        """Replace the committer's functions by those of this class, so that the model follows every commit."""
        self._commit_now, self._open = committer.commit, committer.open_table
        patch.setattr(committer, "MAX_CONFLICTS_S", 30.0)
        patch.setattr(committer, "MIN_PAUSE_S", 0.001)
        patch.setattr(committer, "commit", self.commit)
        patch.setattr(committer, "open_table", self._open_and_interfere)
        patch.setattr(stream_batch, "open_table", self._open_and_interfere)
        if self.table.is_delta:
            nothing = SimpleNamespace(delete=lambda *_: None)
            patch.setattr(staging, "hadoop_path", lambda spark, folder: (folder, nothing))
        patch.setattr(sys, "argv", ["commit.py"])
        patch.setattr(Job, "spark", lambda job: self._session())

    # --- runs ---

    def start(self, asked: Asked | None = None) -> None:
        if asked is None:  # called as Runner.start, which has nothing to start
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

    def work_until_all_ended(self) -> None:
        """Let checker and workers work until all runs have ended."""
        for _ in range(ROUNDS * max(1, len(self.asked))):  # a round may bring one message for all runs
            self.check_all()
            self.work()
            self.check_all()
            if all(run.state.ended for run in self.all_runs()):
                return
            self.world.clock.advance(ROUND_S)
        raise AssertionError(f"not ended: {self.all_runs()}")

    def all_runs(self) -> list[Run]:
        return [self.world.ledger.runs.get(run_id) for run_id in self.asked]

    def compare_ends(self) -> None:
        """Check that a successful run committed each object of a SUCCEEDED shard once; a bad object must fail alone."""
        for run in self.all_runs():
            asked, folders = self.asked[run.run_id], set[str]()
            for commit, _ in self.commits:
                if commit.commit_id in self.table.state.made and commit.commit_id.startswith(f"{run.identity}/"):
                    folders |= {write.folder for write in commit.writes}
            committed = Counter(number for folder in folders for number in self.objects[folder])
            for record in self.world.ledger.shards.list(run.run_id):
                if record.state is ShardState.SPLIT:
                    continue
                done = record.state is ShardState.SUCCEEDED
                numbers = _numbers([each.uri for each in planned_shard(self.world.deployment, record).objects])
                if run.state in WROTE:
                    assert [committed[each] for each in numbers] == [int(done)] * len(numbers), record
                if asked.isolate and not done:
                    assert len(numbers) == 1, f"{record} has good objects"

    # --- scripts, as a Runner ---

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = json.loads(call.env[EVENT])
        ids = event["sparklet"]
        asked = self.asked.get(ids["run"])
        if asked is None:
            return self._commit_run(call)
        numbers = _numbers(event["inputs"])
        if asked.failing in numbers:
            return ScriptResult(1, cause_class="BadRecord", cause="bad input")
        rows = [self.table.row(*each) for number in numbers for each in asked.objects[number]]
        declared = self._stage(ids["shard"], rows, asked.mode, asked.ordered)
        self.objects[declared.folder] = numbers
        Path(call.env["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"writes": [declared.to_document()]}))
        return ScriptResult(0)

    def _stage(self, shard: int, rows: Sequence[Row], mode: str, ordered: bool = False) -> Declaration:
        """Stage rows as ``tables.staging`` does, and return the declaration."""
        shared = self.table
        by = shared.by if mode == "append" else []
        write = shared.lake.stage(shard, shared.arrow(rows, shared.state.columns), by, mode=mode)
        self.staged[write.folder] = rows, shared.state.columns
        keyed = {"keys": (ID,), "order_by": VERSION if ordered else None} if mode == "upsert" else {}
        options: dict[str, Any] = {"partition_by": tuple(shared.by), **keyed}
        return replace(write, label="1", files=write.files if rows else (), shard=-1, **options)

    def _commit_run(self, call: ScriptCall) -> ScriptResult:
        """Run the real script of a commit run in this process."""
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
        """Return what a commit of a run writes: the rows named in its commit file, and the earlier rows of the run."""
        number = int(planned.commit_id.rpartition("-")[2])
        of_files = [
            [self.staged[write["folder"]] for shard in file[1:] for write in shard["writes"]] for file in self._files
        ]
        earlier = [row for file in of_files[:number] for rows, _ in file for row in rows]
        columns: dict[str, str] = {}
        for staged_columns in (columns for file in of_files[: number + 1] for rows, columns in file if rows):
            for name, column in staged_columns.items():
                columns[name] = column if columns.get(name, column) == column else "two columns of a name"
        own = [row for rows, _ in of_files[number] for row in rows]
        return Write(planned.commit_id, planned.mode, own, columns, earlier, planned.order_by is not None)

    # --- direct commits ---

    def message(self, number: int) -> None:
        """Deliver an SNS message, which can be a repeated one."""
        row = self.table.row(number, "mon")
        write = Write(f"message-{number}", "append", [row], self.table.state.columns)
        event = samples.sns("{}")
        now = datetime.now(UTC).isoformat()
        event["Records"][0]["Sns"] |= {"MessageId": f"id-{number}", "Timestamp": now}
        self._deliver(Job(event=event), None, [write])

    def batch(self, first: int, last: int, *, of_messages: bool) -> None:
        """Deliver a batch of a stream, or of SQS messages if ``of_messages``; some can be repeated ones."""
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
        """Stage and commit a delivery; ignore its failure, as Lambda delivers it again or an operator sees it."""
        declared = self._stage(-1, [row for write in writes for row in write.rows], "append")
        staging.made_here.clear()  # as if each delivery had a new process
        self._direct = writes
        with suppress(SparkletError, KilledError):
            staging.commit_now(job, declared, self._session(), batch, f"{batch.opened.root if batch else ''}")

    # --- committers ---

    def commit(self, planned: Commit, *args: Any, **how: Any) -> Committed:
        """Make a commit, change the model in the same way, and compare the table with the model."""
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
        """Repeat an earlier commit, as a committer does that was paused for a while."""
        if self.commits:
            with suppress(SparkletError, KilledError):
                self._watched(*self.commits[which % len(self.commits)], self._session())

    def _session(self) -> Any:
        """Return the session of the committers."""
        return session_for(self.table.lake.table)

    def _open_and_interfere(self, *args: Any) -> Any:
        """Load a table for a committer, call ``between``, and make the table's ``write`` fail as ``end`` says."""
        opened, self._made_then = self._open(*args), self.table.state.made
        between, self.between = self.between, None
        if between and self.table.exists:
            between()
            self.interfered = True
            self.table.compare()
        end, self.end = self.end, ""
        write = opened.write

        def write_and_fail(*args: Any) -> str:
            if end == "before":
                raise KilledError
            version = write(*args)
            if end:
                self.table.made(self._writes)
                raise KilledError if end == "after" else CommitConflictError("no answer")
            return str(version)

        setattr(opened, "write", write_and_fail)  # noqa: B010 - as a test's monkeypatch does
        return opened


def _numbers(uris: Sequence[str]) -> list[int]:
    """Return the numbers in the names that ``World.put`` gives to objects."""
    return [int(Path(uri).stem) for uri in uris]
