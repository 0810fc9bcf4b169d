"""Whole runs with bad objects, by real workers and checks over ports in memory, whoever is killed between two calls.

After every step each object is in exactly one shard. In the end each good object's rows are in the output once, each
bad one is a FAILED shard of its own, and readers of every kind say so.
"""

import atexit
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparklet.app.object_status import object_status
from sparklet.errors import CheckpointConflictError, OutOfMemoryError, PlanError, ScriptFailedError
from sparklet.inputs.digests import Digests
from sparklet.model import RunOptions, RunState, ShardRecord, ShardResult, ShardState
from sparklet.planning.incremental import done_before
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import consume
from sparklet.runs.redrive import redrive
from sparklet.runs.verification import verify
from sparklet.worker.executor import Execution
from tests.functional.runs.readers import Worker, event_of, rows_below, write_rows
from tests.stand_ins.memory import MemoryTaskQueue
from tests.world import SOURCE, Fault, KilledError, World

OUT = "s3://data/out/"
OBJECTS, PER_SHARD, MAX_ROUNDS = 24, 20, 120
PLACES = st.integers(0, OBJECTS - 1)
SCRIPTS = tempfile.TemporaryDirectory(prefix="isolation-")
atexit.register(SCRIPTS.cleanup)


class Isolating:
    """A world with a run whose script fails on bad objects, and workers that do it."""

    def __init__(self, per_shard: int = PER_SHARD, **options: Any) -> None:
        self.world = World()
        self.world.queue = MemoryTaskQueue(
            self.world.clock, visibility_s=600.0, dead_letters=self.world.dead_letters, max_receive_count=4
        )
        self.uris = [f"{SOURCE}{place:05d}.csv" for place in range(OBJECTS)]
        for uri in self.uris:
            self.world.store.put(uri, f"{uri} 1\n{uri} 2\n".encode())
        self.bad: set[str] = set()
        self.named = self.out_of_memory = False
        self.trials = 0
        self.workers = [Worker(self.world, self._script, Path(SCRIPTS.name, str(n))) for n in range(2)]
        options = {"max_objects": per_shard, "isolate": True, "tolerated_failure_count": OBJECTS, **options}
        self.run = new_run(self.world.at, self.world.request(options=RunOptions(**options), output_uri=OUT))

    def _script(self, execution: Execution, path: Path) -> ShardResult:
        event = event_of(execution)
        self.trials += 1
        if failing := [uri for uri in event["inputs"] if uri in self.bad]:
            if self.out_of_memory:
                raise OutOfMemoryError(f"the JVM ran out of memory at {failing[0]}")
            files = (failing[0],) if self.named else ()
            raise ScriptFailedError("s3://job.py", 1, cause_class="BadRecord", cause="malformed", files=files)
        return write_rows(self.world, execution, [uri for uri in event["inputs"] for _ in range(2)])

    def honest_work(self) -> None:
        """What is begun ends, and everything else that has a message is done."""
        for worker in self.workers:
            worker.finish()
        while message := self.world.receive():
            self.workers[0].take(message)
            self.workers[0].finish()
        for letter in self.world.dead_letters.receive():
            consume(self.world.at, letter)
            self.world.dead_letters.delete(letter.receipt)

    def to_the_end(self) -> RunState:
        for _ in range(MAX_ROUNDS):
            with suppress(CheckpointConflictError):
                plan(self.world.at, "run-1")
            state = check(self.world.at, "run-1").run.state
            if state.ended and not self.world.ledger.shards.count("run-1").open:
                return state
            self.honest_work()
            self.world.clock.advance(170)
        raise AssertionError("the run does not end")

    def shards_of(self) -> dict[str, ShardRecord]:
        """Each object's shard, as its record says; an assertion if it has two."""
        found: dict[str, ShardRecord] = {}
        for record in self.world.shards():
            for item in planned_shard(self.world.at, record).objects:
                assert item.uri not in found, f"{item.uri} is in two shards"
                found[item.uri] = record
        return found

    def assert_in_the_end(self) -> None:
        shards, rows = self.shards_of(), Counter(rows_below(self.world, OUT))
        assert sorted(shards) == self.uris
        done = {uri for uri, record in shards.items() if record.state is ShardState.SUCCEEDED}
        half = {uri for uri, record in shards.items() if record.state is ShardState.FAILED and record.winner}
        assert Counter({uri: rows[uri] for uri in rows.keys() - half}) == Counter(dict.fromkeys(done, 2))
        for uri, record in shards.items():
            if record.state is ShardState.FAILED:
                assert record.error_class != "BadRecord" or record.object_count == 1
            (holding,) = object_status(self.world.at, "run-1", uri).shards
            assert holding.record == record
        assert list(verify(self.world.at, "run-1")) == []
        assert self.world.json("manifest.json")["Objects"] == OBJECTS

    def done_for_the_next_run(self) -> Digests:
        return done_before(self.world.at, self.run.name)


class IsolatedRun(RuleBasedStateMachine):
    """Workers go on call by call; they, the planner, checks and redrives are killed between any two."""

    def __init__(self) -> None:
        super().__init__()
        self.it: Isolating | None = None
        self.cancelled = False

    @initialize(
        bad=st.sets(PLACES, max_size=5),
        named=st.booleans(),
        max_attempts=st.integers(1, 3),
        per_shard=st.integers(1, OBJECTS),
        planned=st.booleans(),
    )
    def begin(self, bad: set[int], named: bool, max_attempts: int, per_shard: int, planned: bool) -> None:
        self.it = Isolating(per_shard, max_attempts=max_attempts)
        self.it.bad, self.it.named = {self.it.uris[place] for place in bad}, named
        if planned:
            plan(self.it.world.at, "run-1")

    def _at(self, dies_at: int | None) -> Any:
        assert self.it
        at = self.it.world.at
        return Fault(dies_at, after_effect=dies_at % 2 == 0).deployment(at) if dies_at else at

    @rule(dies_at=st.none() | st.integers(1, 40), part_shards=st.integers(1, 3))
    def somebody_plans(self, dies_at: int | None, part_shards: int) -> None:
        with suppress(KilledError, CheckpointConflictError):
            plan(self._at(dies_at), "run-1", part_shards=part_shards)

    @rule(dies_at=st.none() | st.integers(1, 30))
    def somebody_checks(self, dies_at: int | None) -> None:
        with suppress(KilledError):
            check(self._at(dies_at), "run-1")

    @rule(dies_at=st.none() | st.integers(1, 20), isolate=st.booleans(), repaired=st.booleans())
    def somebody_redrives(self, dies_at: int | None, isolate: bool, repaired: bool) -> None:
        assert self.it
        with suppress(KilledError, PlanError):
            redrive(self._at(dies_at), "run-1", isolate=isolate)
            if repaired:
                self.it.bad = set()

    @precondition(lambda self: not self.cancelled)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def somebody_cancels(self, really: bool) -> None:
        if really:
            self.cancelled = True
            with suppress(PlanError):
                cancel(self._at(None), "run-1")

    @rule(which=st.integers(0, 1), calls=st.integers(1, 60))
    def a_worker_goes_on(self, which: int, calls: int) -> None:
        assert self.it
        worker = self.it.workers[which]
        if not worker.busy and (message := self.it.world.receive()):
            worker.take(message)
        if worker.attempt:
            worker.attempt.step(calls)

    @rule(which=st.integers(0, 1))
    def a_worker_is_killed(self, which: int) -> None:
        assert self.it
        if attempt := self.it.workers[which].attempt:
            attempt.kill()

    @rule(duration_s=st.sampled_from([1, 6, 61, 170, 700]))
    def time_passes(self, duration_s: int) -> None:
        assert self.it
        self.it.world.clock.advance(duration_s)

    @invariant()
    def every_object_is_in_one_shard(self) -> None:
        if not self.it:
            return
        run, shards = self.it.world.ledger.runs.get("run-1"), self.it.shards_of()
        if run.sealed:
            assert len(shards) == run.object_count
            assert self.it.world.ledger.shards.count("run-1").total == run.shard_count
        rows = Counter(rows_below(self.it.world, OUT))
        assert all(count <= 2 for count in rows.values()), "rows are there twice"
        assert all(rows[uri] == 2 for uri, each in shards.items() if each.state is ShardState.SUCCEEDED)
        lost = {uri for uri, each in shards.items() if each.state is ShardState.FAILED and not each.winner}
        assert not lost & rows.keys(), "rows of objects that have FAILED"

    def teardown(self) -> None:
        if self.it:
            self.it.to_the_end()
            if not self.cancelled:
                self.it.assert_in_the_end()
            for worker in self.it.workers:
                worker.finish()


IsolatedRun.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestIsolatedRun = IsolatedRun.TestCase


# --- without kills ---


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("bad", [[7], [0], [19], [3, 11], [5, 21]])
def test_bad_objects_fail_alone(named: bool, bad: list[int]) -> None:
    it = Isolating()
    it.named, it.bad = named, {it.uris[place] for place in bad}

    assert it.to_the_end() is RunState.SUCCEEDED_WITH_FAILURES

    it.assert_in_the_end()
    failed = {uri: record for uri, record in it.shards_of().items() if record.state is ShardState.FAILED}
    assert failed.keys() == it.bad
    assert {(each.error_class, each.error_message) for each in failed.values()} == {
        ("BadRecord", "malformed (exit code 1)")
    }


def test_more_than_a_tenth_fails_as_a_whole() -> None:
    it = Isolating()
    it.named, it.bad = True, {it.uris[place] for place in (1, 5, 9)}

    it.to_the_end()

    it.assert_in_the_end()
    whole = it.world.ledger.shards.get("run-1", 0)
    assert (whole.state, whole.error_class, whole.object_count) == (ShardState.FAILED, "IsolationError", PER_SHARD)
    assert "malformed" in whole.error_message
    assert len(it.world.shards()) == 2


def test_a_repaired_object_is_redriven_alone() -> None:
    it = Isolating()
    it.bad = {it.uris[7]}
    it.to_the_end()
    before, it.bad, it.trials = it.shards_of(), set(), 0

    redrive(it.world.at, "run-1")

    assert it.to_the_end() is RunState.SUCCEEDED
    it.assert_in_the_end()
    assert it.trials == 1
    assert it.shards_of()[it.uris[8]] == before[it.uris[8]]


def test_the_next_incremental_run_takes_only_bad_objects() -> None:
    it = Isolating()
    it.bad = {it.uris[7]}
    it.to_the_end()

    done = it.done_for_the_next_run()

    assert [info.uri for info in it.world.store.list(SOURCE) if not done.has(info.uri, "", info.etag)] == [it.uris[7]]
    it.bad = set()
    redrive(it.world.at, "run-1")
    it.to_the_end()
    done = it.done_for_the_next_run()
    assert all(done.has(info.uri, "", info.etag) for info in it.world.store.list(SOURCE))


@pytest.mark.parametrize("isolate", [True, False])
def test_memory_is_isolated_by_a_redrive_that_says_so(isolate: bool) -> None:
    it = Isolating(isolate=False)
    it.bad, it.out_of_memory = {it.uris[7]}, True
    it.to_the_end()
    assert it.world.ledger.shards.count("run-1").failed == 1

    redrive(it.world.at, "run-1", isolate=isolate)
    it.to_the_end()

    it.assert_in_the_end()
    failed = [uri for uri, record in it.shards_of().items() if record.state is ShardState.FAILED]
    assert failed == ([it.uris[7]] if isolate else it.uris[:PER_SHARD])


def test_a_run_without_the_option_is_as_before() -> None:
    it = Isolating(isolate=False)
    it.named, it.bad = True, {it.uris[7]}

    it.to_the_end()

    assert it.world.ledger.shards.get("run-1", 0).object_count == PER_SHARD
    assert it.trials == 1 + 3


def test_a_plan_that_is_not_sealed_is_waited_for() -> None:
    it = Isolating(max_attempts=1)
    it.bad = {it.uris[7]}
    plan(it.world.at, "run-1", part_shards=1, stop=lambda: True)
    it.honest_work()

    check(it.world.at, "run-1")

    (waiting,) = it.world.shards()
    assert (waiting.state, waiting.settled) == (ShardState.RUNNING, True)
    it.to_the_end()
    it.assert_in_the_end()
    assert it.world.ledger.shards.count("run-1").failed == 1


def test_a_cancelled_run_keeps_what_is_done() -> None:
    it = Isolating(max_attempts=1)
    it.bad = {it.uris[7]}
    plan(it.world.at, "run-1")
    it.honest_work()

    cancel(it.world.at, "run-1")

    assert it.to_the_end() is RunState.CANCELLED
    it.assert_in_the_end()
    assert [record.object_count for record in it.world.shards()] == [PER_SHARD - 1, OBJECTS - PER_SHARD, 1]


def test_a_shard_whose_line_is_gone_fails_at_last() -> None:
    it = Isolating(max_attempts=1)
    it.bad = {it.uris[7]}
    plan(it.world.at, "run-1")
    it.honest_work()
    it.world.store.put(it.world.at.part_uri("run-1", it.world.shards()[0].part), b"damaged")

    it.to_the_end()

    assert it.world.shards()[0].state is ShardState.FAILED


def test_an_object_that_is_split_off_meanwhile_is_found() -> None:
    """GIVEN a reader that has the plan's parts of before the split, THEN it finds the object all the same."""
    it = Isolating(max_attempts=1)
    it.bad = {it.uris[7]}
    plan(it.world.at, "run-1")
    it.honest_work()
    at, parts = it.world.at, it.world.ledger.runs.parts
    reads: list[int] = []

    def old_parts(run_id: str) -> Any:
        found = list(parts(run_id))
        reads.append(len(found))
        if len(reads) == 1:
            it.world.clock.advance(1)
            check(it.world.at, "run-1")
        return iter(found)

    it.world.ledger.runs.parts = old_parts  # type: ignore[method-assign]

    (holding,) = object_status(at, "run-1", it.uris[7]).shards

    assert holding.record is not None
    assert (holding.record.state, holding.record.object_count) == (ShardState.FAILED, 1)
