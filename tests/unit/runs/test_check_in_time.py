"""Each check of a run with many shards ends in time, and several checks together do the work of one long check."""

from collections.abc import Callable

import pytest

from sparklet.model import Counts, RunState
from sparklet.ports.deployment import A_WHILE_S
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import CheckReport
from sparklet.runs.dispatch import MESSAGE
from tests.stand_ins.memory import FakeClock
from tests.world import LEASE_S, World

SHARDS, WRITE_S = 10, 30.0


def slow(write: Callable[..., object], clock: FakeClock) -> Callable[..., object]:
    def slowly(*args: object) -> object:
        clock.advance(WRITE_S)
        return write(*args)

    return slowly


@pytest.fixture
def world() -> World:
    """A world in which each write of these three takes half a minute, as thousands of writes would."""
    world = World()
    attempts = world.ledger.attempts
    for name in ("expire", "count_requeue", "abandon"):
        setattr(attempts, name, slow(getattr(attempts, name), world.clock))
    return world


def timed_check(world: World) -> tuple[float, CheckReport]:
    """Check the run. Return how long the check took, and its report."""
    before_s = world.clock.now_s()
    report = world.check()
    return world.clock.now_s() - before_s, report


def test_shards_of_lost_workers_are_resent_over_several_checks(world: World) -> None:
    world.run(SHARDS)
    for _ in range(SHARDS):
        world.take()
    world.clock.advance(LEASE_S + 1)

    expired = []
    while world.ledger.shards.count("run-1").running:
        took_s, report = timed_check(world)
        assert took_s <= A_WHILE_S
        expired.append(report.expired)

    assert len(expired) > 1
    assert sum(expired) == SHARDS
    assert world.ledger.shards.count("run-1") == Counts(pending=SHARDS)
    assert len(world.bodies()) == 2 * SHARDS  # the invisible messages, and the new ones


def test_a_lost_queue_is_refilled_over_several_checks(world: World) -> None:
    world.run(SHARDS)
    world.queue.entries.clear()
    world.clock.advance(MESSAGE.again_after_s + 1)

    took_s, report = timed_check(world)

    assert took_s <= A_WHILE_S
    assert 0 < report.requeued < SHARDS
    for _ in range(20):
        world.clock.advance(MESSAGE.again_after_s)
        world.check()
    assert {body.shard for body in world.bodies()} == set(range(SHARDS))


@pytest.mark.parametrize("how", ["cancelled", "overdue"])
def test_waiting_shards_are_given_up_over_several_checks(world: World, how: str) -> None:
    run = world.run(SHARDS)
    world.queue.entries.clear()
    if how == "cancelled":
        assert cancel(world.deployment, "run-1").abandoned < SHARDS
    else:
        world.clock.advance(run.options.time_limit_s + 1)

    for _ in range(20):
        took_s, report = timed_check(world)
        assert took_s <= 2 * A_WHILE_S
        if report.run.state.ended:
            break

    assert report.run.state is (RunState.CANCELLED if how == "cancelled" else RunState.FAILED)
    assert world.ledger.shards.count("run-1") == Counts(failed=SHARDS)
