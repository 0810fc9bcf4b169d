"""Cancelling a run: nothing new begins, every shard ends with a cause, and the counts are right at every moment."""

from typing import Any

import pytest

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.model import Counts, RunOptions, RunState, ShardResult, ShardState
from sparklet.planning.planner import plan
from sparklet.runs.cancel import NOT_PLANNED, cancel
from sparklet.runs.dispatch import MESSAGE, RUN_CANCELLED
from sparklet.runs.redrive import redrive
from tests.unit.runs.conftest import once
from tests.world import LEASE_S, PASSING, World, all_but


def test_pending_shards_are_given_up_and_running_ones_may_end(world: World) -> None:
    world.run(4)
    (first, _), (second, _) = world.take(), world.take()
    world.ledger.attempts.succeed("run-1", 0, first, ShardResult(rows=7))

    done = cancel(world.deployment, "run-1")

    assert (done.abandoned, done.counts) == (2, Counts(running=1, succeeded=1, failed=2))
    assert {r.error_class for r in world.shards() if r.state is ShardState.FAILED} == {RUN_CANCELLED}
    assert world.check().run.state is RunState.RUNNING
    world.clock.advance(10)
    assert cancel(world.deployment, "run-1").run.cancelled_s == done.run.cancelled_s
    world.ledger.attempts.succeed("run-1", 1, second, ShardResult(rows=1))
    report = world.check()
    assert (report.run.state, report.counts) == (RunState.CANCELLED, Counts(succeeded=2, failed=2))
    assert cancel(world.deployment, "run-1").run == report.run
    assert world.json("manifest.json")["run"]["state"] == "CANCELLED"


@pytest.mark.parametrize(("dies", "cause"), [(True, "LeaseExpired"), (False, "OSError: 503 Slow Down")])
def test_a_cancelled_shard_keeps_the_cause_of_its_last_attempt(world: World, dies: bool, cause: str) -> None:
    world.run(1)
    owner, _ = world.take()
    world.queue.entries.clear()
    cancel(world.deployment, "run-1")
    if dies:
        world.clock.advance(LEASE_S + 1)
    else:
        world.ledger.attempts.release("run-1", 0, owner, PASSING)

    assert world.check().run.state is RunState.CANCELLED and len(world.queue) == 0
    (record,) = world.shards()
    assert record.error_class == RUN_CANCELLED and cause in record.error_message


def test_a_cancelled_run_is_sent_no_message_again(world: World) -> None:
    world.run(2, max_attempts=1)
    world.ledger.attempts.claim(world.bodies()[0], "busy", lease_s=10 * 3600, max_attempts=1)
    world.queue.entries.clear()
    world.ledger.runs.cancel("run-1")
    for _ in range(3):
        world.clock.advance(2 * MESSAGE.again_after_s)
        assert world.check().requeued == 0
    assert len(world.queue) == 0


# --- while it is planned ---


def half_planned(world: World, **options: Any) -> None:
    """Plan two parts of two shards, then die: shards of the second part are neither in the ledger nor dispatched."""
    world.put(6)
    enter = world.ledger.shards.add

    def die(shards: object) -> int:
        if len(list(world.ledger.runs.parts("run-1"))) == 2:
            raise KeyboardInterrupt
        return enter(shards)  # type: ignore[arg-type]

    world.ledger.shards.add = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.plan(options=RunOptions(max_objects=1, **options), part_shards=2)
    world.ledger.shards.add = enter  # type: ignore[method-assign]


def test_cancelling_seals_a_partial_plan_and_sends_no_messages(world: World) -> None:
    half_planned(world)
    messages = len(world.queue)

    done = cancel(world.deployment, "run-1")

    assert (done.run.shard_count, done.run.object_count, done.run.size_bytes) == (4, 4, 40)
    assert done.counts == Counts(failed=4) and len(world.queue) == messages == 2
    assert NOT_PLANNED in done.run.skipped
    assert world.check().run.state is RunState.CANCELLED


def test_a_cancelled_run_is_not_planned_further(world: World) -> None:
    half_planned(world)
    world.ledger.runs.cancel("run-1")
    with pytest.raises(CheckpointConflictError, match="cancelled"):
        plan(world.deployment, "run-1")
    ended = world.check().run
    assert plan(world.deployment, "run-1") == ended


def test_a_cancelled_run_with_a_lost_part_ends_at_its_time_limit(world: World) -> None:
    half_planned(world)
    for part in world.ledger.runs.parts("run-1"):
        world.store.delete(world.deployment.part_uri("run-1", part.part))
    world.ledger.runs.cancel("run-1")
    world.work()
    with pytest.raises(Exception, match="is not there"):
        world.check()
    world.clock.advance(4 * 24 * 3600)
    assert world.check().run.state is RunState.CANCELLED


# --- redrive ---


def test_a_redrive_reopens_cancelled_shards_of_a_partial_plan(world: World) -> None:
    half_planned(world)
    cancel(world.deployment, "run-1")
    world.check()

    done = redrive(world.deployment, "run-1")

    assert (done.shards, done.messages, done.unplanned) == (4, 4, True)
    assert (done.run.state, done.run.cancelled_s) == (RunState.RUNNING, None)
    assert world.work() == 4
    assert world.check().run.state is RunState.SUCCEEDED


def test_a_run_that_is_being_cancelled_is_not_redriven(world: World) -> None:
    world.run(2)
    world.take()
    cancel(world.deployment, "run-1")
    with pytest.raises(PlanError, match="being cancelled"):
        redrive(world.deployment, "run-1")
    assert world.ledger.runs.get("run-1").generation == 0


def test_a_cancel_that_comes_during_a_redrive_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ran(3, all_but(0, 1, 2))
    once(
        monkeypatch,
        world.ledger.runs,
        "start_generation",
        after=lambda: (cancel(world.deployment, "run-1"), world.check()),
    )

    done = redrive(world.deployment, "run-1")

    assert done.run.cancelled_s is not None and done.messages == 0
    assert world.check().run.state is RunState.CANCELLED
    assert world.ledger.shards.count("run-1") == Counts(failed=3)
