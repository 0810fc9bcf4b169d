"""A redrive does the FAILED or the selected shards again, with the latest script, and no others."""

from threading import Event, Thread

import pytest

from sparklet.errors import NothingNewError, PlanError
from sparklet.model import RunOptions, RunState, ShardState
from sparklet.planning.new_run import new_run, repaired_script
from sparklet.runs import checker
from sparklet.runs.checker import check
from sparklet.runs.redrive import Redriven, redrive
from tests.unit.runs.conftest import once
from tests.waiting import deadline_s
from tests.world import SCRIPT, SOURCE, World, all_but


def run_with_failed(world: World, *failed: int) -> None:
    assert world.ran(4, all_but(*failed)).run.state is RunState.FAILED


def test_a_redrive_does_all_failed_shards_again_and_no_other(world: World) -> None:
    run_with_failed(world, 1, 3)
    before = world.shards()

    done = redrive(world.deployment, "run-1")

    assert (done.shards, done.messages, done.run.generation, done.run.state) == (2, 2, 1, RunState.RUNNING)
    assert [(r.generation, r.attempts) for r in world.shards()] == [(0, 1), (1, 0), (0, 1), (1, 0)]
    assert world.work() == 2
    report = world.check()
    assert report.run.state is RunState.SUCCEEDED and report.run.generation == 1
    assert [world.shards()[n] for n in (0, 2)] == [before[0], before[2]]


def test_a_redrive_of_chosen_shards_leaves_other_failed_shards(world: World) -> None:
    run_with_failed(world, 0, 1, 3)
    assert redrive(world.deployment, "run-1", [3]).shards == 1
    assert world.work_and_check().run.state is RunState.FAILED
    assert [r.number for r in world.shards() if r.state is ShardState.FAILED] == [0, 1]


def test_a_redrive_with_a_repaired_script_uses_it_from_then_on(world: World) -> None:
    run_with_failed(world, 0)
    run = world.ledger.runs.get("run-1")
    world.store.put(SCRIPT, b"print('repaired')\n")
    script = repaired_script(world.deployment, run, SCRIPT)

    redriven = redrive(world.deployment, "run-1", script=script).run

    assert redriven.scripts == (run.scripts[0], script)
    world.work_and_check(all_but(0))
    assert redrive(world.deployment, "run-1").run.scripts == (run.scripts[0], script, script)


def test_succeeded_shards_are_done_again_if_they_are_named(world: World) -> None:
    """A shard that fails when it is done again keeps its earlier output."""
    run_with_failed(world, 1)

    done = redrive(world.deployment, "run-1", [0, 2])

    assert (done.shards, done.messages, done.run.state) == (2, 2, RunState.RUNNING)
    assert [r.redone for r in world.shards()] == [1, 0, 1, 0]
    assert world.work_and_check(all_but(2)).run.state is RunState.FAILED
    assert [str(r.state) for r in world.shards()] == ["SUCCEEDED", "FAILED", "FAILED", "SUCCEEDED"]
    assert [r.has_output for r in world.shards()] == [True, False, True, True]
    assert redrive(world.deployment, "run-1").shards == 2
    assert world.work_and_check().run.state is RunState.SUCCEEDED
    assert [r.redone for r in world.shards()] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([0], r"not 0 \(SUCCEEDED\)"),
        ([1, 0, 99], r"not 0 \(SUCCEEDED\), 99 \(unknown\)"),
        (list(range(50, 75)), r"59 \(unknown\) and 15 more"),
    ],
)
def test_shards_that_cannot_be_redriven_are_named_and_kept(world: World, shards: list[int], message: str) -> None:
    """Before a run's end only FAILED shards can be redriven."""
    world.run(4)
    world.work(all_but(1))
    with pytest.raises(PlanError, match=message):
        redrive(world.deployment, "run-1", shards)
    assert world.ledger.runs.get("run-1").generation == 0
    assert redrive(world.deployment, "run-1", [1]).shards == 1


def test_an_unknown_shard_is_named_after_the_end(world: World) -> None:
    run_with_failed(world, 1)
    with pytest.raises(PlanError, match=r"only FAILED and SUCCEEDED shards of run-1 .* not 9 \(unknown\)"):
        redrive(world.deployment, "run-1", [9, 0])


def test_a_shard_whose_output_another_run_reads_is_not_redriven(world: World) -> None:
    run = world.ran(2).run
    for number in range(2):
        world.store.put(f"{run.shard_output(number)}/part-0", b"rows")
    world.plan(run_id="run-2", inputs=(f"{run.shard_output(1)}/",))

    with pytest.raises(PlanError, match=r"_000001/part-0 would be deleted, and the run run-2 reads it"):
        redrive(world.deployment, "run-1", [0, 1])
    assert redrive(world.deployment, "run-1", [0]).shards == 1


@pytest.mark.parametrize("is_redone", [True, False])
def test_a_shard_that_a_later_run_plans_again_is_not_redriven(world: World, is_redone: bool) -> None:
    """A later incremental run plans only failed inputs again: these cannot be redriven, the others can."""
    world.put(2)
    options = RunOptions(max_objects=1, incremental=True)
    world.plan(name="daily", options=options)
    world.work_and_check(all_but(1))
    world.clock.advance(60)
    world.plan(name="daily", run_id="run-2", output_uri="s3://data/out/", options=options)
    world.work()
    check(world.deployment, "run-2")
    assert world.taken("run-2") == [f"{SOURCE}00001.csv"]

    if is_redone:
        redrive(world.deployment, "run-1", [0])
        world.work_and_check(all_but(0))
        world.clock.advance(60)
        with pytest.raises(NothingNewError):  # the shard's earlier output stays
            world.plan(name="daily", run_id="run-3", output_uri="s3://data/out/", options=options)
        assert redrive(world.deployment, "run-1", [0]).shards == 1  # no run has planned it
    else:
        with pytest.raises(PlanError, match="the later run run-2 plans again what it has not done"):
            redrive(world.deployment, "run-1", [0, 1])


def test_a_run_without_failures_or_a_plan_is_not_redriven(world: World) -> None:
    world.run(2)
    with pytest.raises(PlanError, match="has no FAILED shard"):
        redrive(world.deployment, "run-1")
    world.work_and_check()
    with pytest.raises(PlanError, match="has no FAILED shard"):
        redrive(world.deployment, "run-1")
    assert world.ledger.runs.get("run-1").generation == 0
    new_run(world.deployment, world.request(run_id="run-2"))
    with pytest.raises(PlanError, match="still being planned"):
        redrive(world.deployment, "run-2")


def test_a_redriven_run_ended_by_a_stale_checker_is_reopened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with_failed(world, 1, 2)
    once(monkeypatch, world.ledger.runs, "start_generation", after=world.check)

    done = redrive(world.deployment, "run-1")

    assert (done.run.state, done.run.generation, done.shards, done.messages) == (RunState.RUNNING, 2, 2, 2)
    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


def redrive_during_a_late_check(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool = False
) -> Redriven:
    """Redrive while a checker counts before the first shard is redriven, and ends the run after the redrive."""
    run_with_failed(world, 1, 2)
    has_counted, is_redriven = Event(), Event()
    late = Thread(target=world.check)

    def counted() -> None:
        has_counted.set()
        assert is_redriven.wait(deadline_s())

    def started() -> None:
        if is_cancelled:
            world.ledger.runs.cancel("run-1")
        once(monkeypatch, checker, "write_manifests", before=counted)
        late.start()
        assert has_counted.wait(deadline_s())

    once(monkeypatch, world.ledger.runs, "start_generation", after=started)
    done = redrive(world.deployment, "run-1")
    is_redriven.set()
    late.join()
    return done


@pytest.mark.parametrize("dies", [False, True])
def test_a_checker_that_ends_a_redriven_run_late_reopens_it(
    world: World, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """If the checker dies just before it reopens the run, the next check reopens the run."""
    with monkeypatch.context() as dying:
        if dies:
            dying.setattr(checker, "reopen", lambda at, run, **_: run)
        done = redrive_during_a_late_check(world, monkeypatch)

    assert (done.run.generation, done.messages) == (1, 2)
    assert world.ledger.runs.get("run-1").state is (RunState.FAILED if dies else RunState.RUNNING)
    if dies:
        world.check()
    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


def test_a_cancelled_run_ended_late_has_no_open_shard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    redrive_during_a_late_check(world, monkeypatch, is_cancelled=True)

    assert world.check().run.state is RunState.CANCELLED
    assert world.ledger.shards.count("run-1").open == 0


def test_the_time_limit_begins_anew_with_a_redrive(world: World) -> None:
    world.ran(1, all_but(0), time_limit_s=1000.0)
    world.clock.advance(5000)
    redrive(world.deployment, "run-1")
    assert world.check().abandoned == 0
    world.clock.advance(1001)
    assert world.check().abandoned == 1
