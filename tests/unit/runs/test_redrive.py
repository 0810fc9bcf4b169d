"""Redrive: what FAILED is done again, with the script that was asked for, and nothing else is."""

from threading import Event, Thread
from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.model import Run, RunState, ShardState
from sparklet.planning.new_run import new_run, repaired_script
from sparklet.runs import checker
from sparklet.runs.manifest import write_manifests
from sparklet.runs.redrive import redrive
from tests.unit.runs.conftest import once
from tests.waiting import deadline_s
from tests.world import SCRIPT, World, all_but


def ended_with(world: World, *failed: int) -> None:
    assert world.ran(4, all_but(*failed)).run.state is RunState.FAILED


def test_all_failed_shards_are_done_again_and_no_other(world: World) -> None:
    ended_with(world, 1, 3)
    before = world.shards()

    done = redrive(world.at, "run-1")

    assert (done.shards, done.messages, done.run.generation, done.run.state) == (2, 2, 1, RunState.RUNNING)
    assert [(r.generation, r.attempts) for r in world.shards()] == [(0, 1), (1, 0), (0, 1), (1, 0)]
    assert world.work() == 2
    report = world.check()
    assert report.run.state is RunState.SUCCEEDED and report.run.generation == 1
    assert [world.shards()[n] for n in (0, 2)] == [before[0], before[2]]


def test_chosen_shards_only(world: World) -> None:
    ended_with(world, 0, 1, 3)
    assert redrive(world.at, "run-1", [3]).shards == 1
    assert world.work_and_check().run.state is RunState.FAILED
    assert [r.number for r in world.shards() if r.state is ShardState.FAILED] == [0, 1]


def test_a_repaired_script_is_that_of_the_new_generation(world: World) -> None:
    ended_with(world, 0)
    run = world.ledger.runs.get("run-1")
    world.store.put(SCRIPT, b"print('repaired')\n")
    script = repaired_script(world.at, run, SCRIPT)

    redriven = redrive(world.at, "run-1", script=script).run

    assert redriven.scripts == (run.scripts[0], script)
    world.work_and_check(all_but(0))
    assert redrive(world.at, "run-1").run.scripts == (run.scripts[0], script, script)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([0], r"not 0 \(SUCCEEDED\)"),
        ([1, 0, 99], r"not 0 \(SUCCEEDED\), 99 \(unknown\)"),
        (list(range(50, 75)), r"59 \(unknown\) and 15 more"),
    ],
)
def test_shards_that_cannot_be_redriven_are_named_and_kept(world: World, shards: list[int], message: str) -> None:
    ended_with(world, 1)
    with pytest.raises(PlanError, match=message):
        redrive(world.at, "run-1", shards)
    assert world.ledger.runs.get("run-1").generation == 0


def test_a_run_without_failures_or_a_plan_is_not_redriven(world: World) -> None:
    world.run(2)
    with pytest.raises(PlanError, match="has no FAILED shard"):
        redrive(world.at, "run-1")
    world.work_and_check()
    with pytest.raises(PlanError, match="has no FAILED shard"):
        redrive(world.at, "run-1")
    assert world.ledger.runs.get("run-1").generation == 0
    new_run(world.at, world.request(run_id="run-2"))
    with pytest.raises(PlanError, match="still being planned"):
        redrive(world.at, "run-2")


def test_a_redriven_run_ended_by_a_stale_checker_is_reopened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_with(world, 1, 2)
    once(monkeypatch, world.ledger.runs, "start_generation", after=world.check)

    done = redrive(world.at, "run-1")

    assert (done.run.state, done.run.generation, done.shards, done.messages) == (RunState.RUNNING, 2, 2, 2)
    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


class EndsLate:
    """A checker that counts between a redrive's new generation and its first shard, and ends the run after both."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, *, cancels: bool = False) -> None:
        self._start = world.ledger.runs.start_generation
        self._has_counted, self._is_redriven = Event(), Event()
        self._late = Thread(target=world.check)
        self._world, self._patch, self._cancels = world, monkeypatch, cancels
        monkeypatch.setattr(world.ledger.runs, "start_generation", self._started)
        monkeypatch.setattr(checker, "write_manifests", self._written)

    def _started(self, *args: Any, **options: Any) -> Run:
        self._patch.setattr(self._world.ledger.runs, "start_generation", self._start)
        run: Run = self._start(*args, **options)
        if self._cancels:
            self._world.ledger.runs.cancel(run.run_id)
        self._late.start()
        assert self._has_counted.wait(deadline_s())
        return run

    def _written(self, *args: Any) -> Any:
        self._patch.setattr(checker, "write_manifests", write_manifests)
        self._has_counted.set()
        assert self._is_redriven.wait(deadline_s())
        return write_manifests(*args)

    def end(self) -> None:
        self._is_redriven.set()
        self._late.join()


def test_a_checker_that_ends_a_redriven_run_late_reopens_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_with(world, 1, 2)
    late = EndsLate(world, monkeypatch)

    done = redrive(world.at, "run-1")
    late.end()

    assert (done.run.generation, done.messages) == (1, 2)
    assert world.ledger.runs.get("run-1").state is RunState.RUNNING
    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


def test_a_cancelled_run_ended_late_has_no_open_shard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_with(world, 1, 2)
    late = EndsLate(world, monkeypatch, cancels=True)

    redrive(world.at, "run-1")
    late.end()

    assert world.check().run.state is RunState.CANCELLED
    assert world.ledger.shards.count("run-1").open == 0


def test_a_checker_killed_after_a_late_end_is_made_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_with(world, 1, 2)
    late = EndsLate(world, monkeypatch)
    redrive(world.at, "run-1")
    with monkeypatch.context() as killed:
        killed.setattr(checker, "reopened", lambda at, run, **_: run)
        late.end()
    assert world.ledger.runs.get("run-1").state is RunState.FAILED

    world.check()

    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


def test_time_limit_counts_anew_for_redriven_shards(world: World) -> None:
    world.ran(1, all_but(0), time_limit_s=1000.0)
    world.clock.advance(5000)
    redrive(world.at, "run-1")
    assert world.check().abandoned == 0
    world.clock.advance(1001)
    assert world.check().abandoned == 1
