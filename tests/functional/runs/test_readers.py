"""Compare what readers see in output folders with a simple model, after any sequence of commands.

Hypothesis starts runs (also incremental ones, and with check and next runs), repeats commands, redrives, cancels and
cleans in any order. Planner, checker and commands are killed between two port calls; workers go on call by call, and
are killed or frozen. After every step each folder is read:

- Each row of a shard that SUCCEEDED is there once.
- Each row of a shard whose winner is being published is there at most once.
- The earlier rows of a shard that is done again stay until another attempt has won; then each row of both attempts is
  there at most once.
- There is no other row.
"""

import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sparklet.app.clean import clean, folders_of, named_run
from sparklet.errors import (
    CheckpointConflictError,
    LeaseLostError,
    LedgerError,
    NothingNewError,
    PlanError,
    RunExistsError,
    RunNotFoundError,
    ScriptFailedError,
)
from sparklet.model import ExecutionResult, Run, RunOptions, RunState, ShardState
from sparklet.planning.new_run import new_run, repaired_script
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import consume
from sparklet.runs.redrive import redrive
from sparklet.worker.executor import Execution
from tests.functional.runs.readers import Worker, event_of, rows_below, write_rows
from tests.world import SCRIPT, SOURCE, Fault, KilledError, World

OUT, NEXT_OUT = "s3://data/out/", "s3://data/next/"
NIGHTLY = "nightly"
REPAIRED, CHECK, NEXT = "s3://data/jobs/repaired.py", "s3://data/jobs/check.py", "s3://data/jobs/next.py"
MAX_ROUNDS = 80
DIES = st.none() | st.integers(1, 60)  # the port call at which a command is killed
WHICH = st.integers(0, 50)  # chooses a run or a worker


@dataclass
class Known:
    """A requested run, and what the model knows about it."""

    request: RunRequest
    run: Run
    began: bool = False  # a part of its plan is sealed, so the output that it replaces is gone
    rows: Counter[str] | None = None  # the rows that it left to readers when it was cleaned


@dataclass
class Expected:
    """The rows that a folder must have, and further rows that it can have."""

    must: Counter[str] = field(default_factory=Counter)
    may: Counter[str] = field(default_factory=Counter)


class Readers(RuleBasedStateMachine):
    """The rules are commands, workers' steps and time; the model is ``_expected``."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.folder = tempfile.TemporaryDirectory(prefix="readers-")
        for uri in (SCRIPT, REPAIRED, CHECK, NEXT):
            self.world.store.put(uri, f"print({uri!r})\n".encode())
        self.known: dict[str, Known] = {}
        self.wrote: dict[tuple[str, int, str], list[str]] = {}  # by run, shard and attempt
        self.published: dict[tuple[str, int], list[str]] = {}  # by run and shard, the rows when it last SUCCEEDED
        self.seen: list[Run] = []  # records that slow commands have read at any time before
        self.objects = 0
        self.fails = ""
        self.workers = [Worker(self.world, self._script, Path(self.folder.name, str(n))) for n in range(2)]
        self.forgot = self.replaced = False

    # --- scripts ---

    def _script(self, execution: Execution, path: Path) -> ExecutionResult:
        """Write rows that each name their run, script and input."""
        event = event_of(execution)
        run_id, number = event["sparklet"]["run"], event["sparklet"]["shard"]
        run = self.world.ledger.runs.get(run_id)
        source = run.scripts[event["sparklet"]["generation"]].source_uri
        assert path.read_bytes() == f"print({source!r})\n".encode(), "another run's script"
        odd = any(ord(Path(uri).stem[-1]) % 2 for uri in event["inputs"])
        if self.fails == "all" or (self.fails == "odd" and odd):
            raise ScriptFailedError(source, 1, cause_class="ValueError", cause="bad input", permanent=True)
        if source == CHECK:
            return ExecutionResult()
        rows = []
        for uri in event["inputs"]:
            read = self.world.store.get(uri).decode().splitlines()
            if source == NEXT:
                assert all(row.split("|")[0] == run.parent for row in read), "what another run wrote"
            rows += [f"{run_id}|{source}|{row}" for row in read]
        self.wrote[run_id, number, event["sparklet"]["attempt"]] = rows
        return write_rows(self.world, execution, rows)

    @rule(fails=st.sampled_from(["", "odd", "all"]))
    def inputs_are_good_or_bad(self, fails: str) -> None:
        self.fails = fails

    # --- commands ---

    def _deployment(self, dies_at: int | None) -> Deployment:
        """The deployment; a command that uses it is killed at its call ``dies_at``."""
        deployment = self.world.deployment
        return Fault(dies_at, after_effect=dies_at % 2 == 0).deployment(deployment) if dies_at else deployment

    @rule(count=st.integers(1, 3))
    def new_objects_arrive(self, count: int) -> None:
        for _ in range(count):
            self.objects += 1
            self.world.store.put(f"{SOURCE}{self.objects:05d}.csv", f"input {self.objects}".encode())

    @precondition(lambda self: self.objects and len(self.known) < 6)
    @rule(
        existing=st.sampled_from(["incremental", "incremental", "refuse", "append", "overwrite"]),
        follow_ups=st.booleans(),
        max_attempts=st.integers(1, 3),
        isolate=st.booleans(),
        dies_at=DIES,
    )
    def somebody_starts_a_run(
        self, existing: str, follow_ups: bool, max_attempts: int, isolate: bool, dies_at: int | None
    ) -> None:
        number, incremental = len(self.known), existing == "incremental"
        options: dict[str, Any] = {"incremental": True} if incremental else {"existing": existing}
        options |= {"max_objects": 4 if isolate else 2, "isolate": isolate}
        request = self.world.request(
            run_id=f"run-{number}",
            name=NIGHTLY if incremental else f"name-{number}",
            output_uri=OUT,
            options=RunOptions(max_attempts=max_attempts, tolerated_failure_count=1, **options),
            **({"check": CHECK, "next": NEXT, "next_output": NEXT_OUT} if follow_ups else {}),
        )
        held = bool(rows_below(self.world, OUT) or (follow_ups and rows_below(self.world, NEXT_OUT)))
        with suppress(KilledError):
            try:
                self._enter(request, dies_at)
                assert not (held and existing == "refuse"), "a run that does not append was let in"
            except NothingNewError:
                assert incremental
            except PlanError:
                assert existing in ("refuse", "overwrite") or self._somebody_is_at_work() or self.forgot

    def _enter(self, request: RunRequest, dies_at: int | None) -> None:
        try:
            new_run(self._deployment(dies_at), request)
        finally:
            if run := self.world.deployment.known_run(request.run_id):
                self.known.setdefault(request.run_id, Known(request, run))
                self.replaced |= request.options.existing == "overwrite"

    def _somebody_is_at_work(self) -> bool:
        return any(not run.state.ended for run in self.world.ledger.runs.list())

    @precondition(lambda self: self.known)
    @rule(which=WHICH, dies_at=DIES)
    def somebody_types_the_same_command_again(self, which: int, dies_at: int | None) -> None:
        known = self._one(which)
        try:
            self._enter(known.request, dies_at)
            plan(self._deployment(dies_at), known.run.run_id, part_shards=2)
        except RunExistsError:
            assert known.rows is not None, "the same command is the same run, unless that was cleaned away"
        except (KilledError, CheckpointConflictError, PlanError, RunNotFoundError):
            pass

    @rule(dies_at=DIES)
    def a_checker_looks_at_every_run(self, dies_at: int | None) -> None:
        deployment = self._deployment(dies_at)
        for run in list(self.world.ledger.runs.list()):
            with suppress(KilledError, PlanError):
                check(deployment, run.run_id, planner_silent_s=0.0)

    @precondition(lambda self: self.known)
    @rule(which=WHICH, repaired=st.booleans(), dies_at=DIES)
    def somebody_redrives(self, which: int, repaired: bool, dies_at: int | None) -> None:
        run = self._one(which).run
        deployment = self._deployment(dies_at)
        with suppress(KilledError, PlanError, LedgerError):
            script = repaired_script(deployment, run, REPAIRED) if repaired else None
            redrive(deployment, run.run_id, script=script)

    @precondition(lambda self: self.known)
    @rule(which=WHICH, first=st.integers(0, 3), repaired=st.booleans(), dies_at=DIES)
    def somebody_redrives_succeeded_shards(self, which: int, first: int, repaired: bool, dies_at: int | None) -> None:
        run, deployment = self._one(which).run, self._deployment(dies_at)
        with suppress(KilledError, PlanError, LedgerError):
            done = [record.number for record in self.world.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)]
            script = repaired_script(deployment, run, REPAIRED) if repaired else None
            redrive(deployment, run.run_id, done[first : first + 2], script=script)

    @precondition(lambda self: self.known)
    @rule(which=WHICH, dies_at=DIES)
    def somebody_cancels(self, which: int, dies_at: int | None) -> None:
        with suppress(KilledError, PlanError, RunNotFoundError):
            cancel(self._deployment(dies_at), self._one(which).run.run_id)

    @rule(which=WHICH, dies_at=DIES, slow=st.booleans())
    def somebody_cleans(self, which: int, dies_at: int | None, slow: bool) -> None:
        """A slow clean uses a record that was read long ago; the run might have been cleaned or redriven since."""
        runs = self.seen if slow else list(self.world.ledger.runs.list())
        if not runs:
            return
        run = runs[which % len(runs)]
        with suppress(PlanError, RunNotFoundError):
            self.seen.append(named_run(self.world.deployment, run.run_id))
        with suppress(PlanError, RunNotFoundError, LedgerError, KilledError):
            if not slow:
                named_run(self.world.deployment, run.run_id)
            self._remember_rows(run.run_id)
            clean(self._deployment(dies_at), run, folders_of(self.world.deployment, run.run_id))
        with suppress(RunNotFoundError):
            if self.world.ledger.runs.get(run.run_id).retired_s is None and run.run_id in self.known:
                self.known[run.run_id].rows = None  # the clean died before it deleted anything

    def _remember_rows(self, run_id: str) -> None:
        """Remember the rows of an ended run before it is cleaned."""
        run = self.world.ledger.runs.get(run_id)
        known = self.known.setdefault(run_id, Known(self.world.request(run_id=run_id), run))
        if run.state.ended and known.rows is None:
            must, may = self._rows_of(run)
            known.run, known.rows = run, must
            self.half_published = may
            self.forgot = True

    def _one(self, which: int) -> Known:
        return list(self.known.values())[which % len(self.known)]

    # --- workers, letters, time ---

    @rule(which=WHICH)
    def a_worker_takes_a_message(self, which: int) -> None:
        worker = self.workers[which % len(self.workers)]
        if not worker.busy and (message := self.world.receive()):
            worker.take(message)

    @rule(which=WHICH, calls=st.integers(1, 12))
    def a_worker_goes_on(self, which: int, calls: int) -> None:
        worker = self.workers[which % len(self.workers)]
        if worker.attempt:
            worker.attempt.step(calls)

    @rule(which=WHICH)
    def a_worker_is_killed(self, which: int) -> None:
        worker = self.workers[which % len(self.workers)]
        if worker.attempt:
            worker.attempt.kill()

    @rule(duration_s=st.sampled_from([1, 9, 22, 61, 700]))
    def time_passes(self, duration_s: int) -> None:
        self.world.clock.advance(duration_s)

    # --- the model ---

    def _rows_of(self, run: Run) -> tuple[Counter[str], Counter[str]]:
        """The rows of a run in the ledger that readers must find, and those that are being published."""
        must, may = Counter[str](), Counter[str]()
        for record in self.world.ledger.shards.list(run.run_id):
            rows = self.wrote.get((run.run_id, record.number, record.winner), [])
            if record.state is ShardState.SUCCEEDED:
                self.published[run.run_id, record.number] = rows
                must.update(rows)
            elif record.redone:
                earlier = Counter(self.published[run.run_id, record.number])
                (may if record.winner else must).update(earlier | Counter(rows))
            else:
                may.update(rows)
        return must, may

    def _all_runs(self) -> list[tuple[Run, Counter[str], Counter[str]]]:
        """All runs, also the cleaned ones, in order of their entry; each with its rows as in ``_rows_of``."""
        in_ledger = {run.run_id: run for run in self.world.ledger.runs.list()}
        for run_id, run in in_ledger.items():
            known = self.known.get(run_id)
            if known and known.rows is None:
                known.run = run
                known.began |= bool(list(self.world.ledger.runs.parts(run_id)))
        runs = [(known.run, known.rows, Counter[str]()) for known in self.known.values() if known.rows is not None]
        cleaned = {run.run_id for run, _, _ in runs}
        runs += [(run, *self._rows_of(run)) for run in in_ledger.values() if run.run_id not in cleaned]
        return sorted(runs, key=lambda each: (each[0].created_s, each[0].run_id))

    def _expected(self, folder: str) -> Expected:
        runs = [each for each in self._all_runs() if each[0].output_uri == folder]
        expected = Expected()
        for index, (run, must, may) in enumerate(runs):
            fate = self._fate(run, [later for later, _, _ in runs[index + 1 :]])
            if fate == "stays":
                expected.must.update(must)
                expected.may.update(may)
            elif fate == "goes":
                expected.may.update(must + may)
        return expected

    def _fate(self, run: Run, later: list[Run]) -> str:
        """Whether a run's output "stays", is "gone", or "goes" now since a later run is replacing it."""
        fate = "stays"
        for other in later:
            same_parent = run.parent and other.parent == run.parent
            if not same_parent and other.options.existing != "overwrite":
                continue
            known = self.known.get(other.run_id)
            began = known.began if known else bool(list(self.world.ledger.runs.parts(other.run_id)))
            if began:
                return "gone"
            fate = "goes"
        return fate

    @invariant()
    def readers_see_each_row_once(self) -> None:
        for folder in (OUT, NEXT_OUT):
            seen, expected = Counter(rows_below(self.world, folder)), self._expected(folder)
            assert not expected.must - seen, f"lost: {expected.must - seen}"
            assert not seen - expected.must - expected.may, f"too much: {seen - expected.must - expected.may}"

    @invariant()
    def every_object_is_in_one_shard(self) -> None:
        """This holds for every sealed run, whatever was split."""
        for run in filter(lambda run: run.sealed, self.world.ledger.runs.list()):
            if run.retired_s is not None:
                continue  # its plan might be deleted already
            counted = [each for each in self.world.shards(run.run_id) if each.state is not ShardState.SPLIT]
            objects = Counter(item for each in counted for item in planned_shard(self.world.deployment, each).objects)
            assert len(counted) == run.shard_count
            assert (objects.total(), max(objects.values(), default=1)) == (run.object_count, 1)

    # --- the end ---

    def teardown(self) -> None:
        """Without further faults, another incremental run completes the output."""
        try:
            self.fails = ""
            self._work_to_the_end()
            self.world.clock.advance(86_400)
            self.new_objects_arrive(1)
            self._last_night()
        finally:
            for worker in self.workers:
                if worker.attempt:
                    worker.attempt.kill()
            self.folder.cleanup()

    def _clean_what_is_half_cleaned(self) -> None:
        """Complete interrupted cleans: before, no incremental run is planned, since those runs' work is unknown."""
        for run_id, known in self.known.items():
            if known.rows is not None and self.world.deployment.known_run(run_id):
                clean(self.world.deployment, known.run, folders_of(self.world.deployment, run_id))

    def _last_night(self) -> None:
        self._clean_what_is_half_cleaned()
        request = self.world.request(
            run_id="last-night",
            name=NIGHTLY,
            output_uri=OUT,
            options=RunOptions(max_objects=2, incremental=True),
        )
        self._enter(request, None)
        self._work_to_the_end()
        assert self.world.ledger.runs.get("last-night").state is RunState.SUCCEEDED
        self.readers_see_each_row_once()
        if not (self.forgot or self.replaced):
            nightly = {run_id for run_id, known in self.known.items() if known.request.name == NIGHTLY}
            rows = [row.split("|") for row in rows_below(self.world, OUT)]
            inputs = Counter(text for run_id, _, text in rows if run_id in nightly)
            expected = Counter(f"input {number}" for number in range(1, self.objects + 1))
            assert (expected - inputs, inputs - expected) == (Counter(), Counter()), "each night's rows once"

    def _work_to_the_end(self) -> None:
        for _ in range(MAX_ROUNDS):
            for worker in self.workers:
                worker.finish()
            while message := self.world.receive():
                worker.take(message)
                worker.finish()
            for letter in self.world.dead_letters.receive():
                consume(self.world.deployment, letter)
                self.world.dead_letters.delete(letter.receipt)
            for run in list(self.world.ledger.runs.list()):
                with suppress(PlanError, CheckpointConflictError, LeaseLostError):
                    check(self.world.deployment, run.run_id, planner_silent_s=0.0)
            busy = any(worker.busy for worker in self.workers)
            if not busy and all(run.state.ended for run in self.world.ledger.runs.list()):
                return
            self.world.clock.advance(30)
        raise AssertionError(f"still open: {[r for r in self.world.ledger.runs.list() if not r.state.ended]}")


Readers.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestReaders = Readers.TestCase


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_readers_see_each_row_once_at_full_size() -> None:
    """It takes minutes: ``make pytest ARGS='-n 0 -m campaign tests/functional/runs/test_readers.py'``."""
    run_state_machine_as_test(Readers, settings=settings(max_examples=3_000, stateful_step_count=60, deadline=None))
