"""A scheduled check looks at what is open or has just ended; whoever dies in it, nothing is forgotten."""

from contextlib import suppress
from dataclasses import replace
from unittest.mock import Mock, call

import pytest

from sparklet.model import RunState
from sparklet.runs.handlers import handle_check
from sparklet.runs.notices import MAX_FINALIZED
from sparklet.runs.redelivery import MESSAGE
from tests.stand_ins.memory import MemoryNotifier
from tests.world import Fault, KilledError, World


def unsettled(world: World) -> set[str]:
    return {run.run_id for run in world.ledger.runs.unfinalized()}


def entered(world: World, run_id: str) -> None:
    world.put(2)
    world.plan(run_id=run_id)


def test_many_ended_runs_are_finalized_over_several_checks(world: World) -> None:
    for number in range(MAX_FINALIZED + 3):
        entered(world, f"run-{number}")
    world.work()

    left = []
    for _ in range(3):
        handle_check(world.at)
        left.append(len(unsettled(world)))

    assert left == [MAX_FINALIZED + 3, 3, 0]


@pytest.mark.parametrize("after_effect", [False, True])
def test_every_run_is_ended_announced_and_finalized_after_kills(after_effect: bool) -> None:
    """Of a run that goes on, one whose message was lost, one that nobody was told of, and one that all is well with."""
    for at_call in range(1, 400):
        world, ear = World(), MemoryNotifier()
        at = replace(world.at, notifier=ear)
        entered(world, "told")
        entered(world, "untold")
        world.work()
        handle_check(at)
        handle_check(world.at)
        entered(world, "open")
        entered(world, "lost")
        world.queue.entries.popitem()
        world.clock.advance(MESSAGE.again_after_s + 1)
        fault = Fault(at_call, after_effect)

        with suppress(KilledError):
            handle_check(fault.deployment(at))
        for _ in range(6):
            handle_check(at)
            world.work()
            world.clock.advance(MESSAGE.again_after_s + 1)

        assert unsettled(world) == set()
        assert {run.state for run in world.ledger.runs.list()} == {RunState.SUCCEEDED}
        assert {notice.document["id"] for notice in ear.notices} == {"told", "untold", "open", "lost"}
        if fault.calls < at_call:
            assert at_call > 20
            return
    pytest.fail("the check makes more calls than were tried")


def test_a_waiting_runs_shards_are_read_ever_less_often(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run behind another has no shard RUNNING and many that wait: that is no reason to read it once a minute."""
    world.run(4)
    monkeypatch.setattr(world.ledger.shards, "list", read := Mock(side_effect=world.ledger.shards.list))
    for _ in range(6 * 60):
        world.check()
        world.clock.advance(60)

    assert read.mock_calls.count(call("run-1")) < 12
    assert len(world.bodies()) > 4  # messages were sent again for them, as before
