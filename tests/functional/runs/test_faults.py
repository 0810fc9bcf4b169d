"""Planner, checker and redrive are killed at every port call, before and after its effect, then started again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from sparklet.errors import CheckpointConflictError
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import Dispatch, Failure, RunOptions, RunState, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import consume
from sparklet.runs.redrive import redrive
from tests.stand_ins.read_queues import Received
from tests.world import LEASE_S, SOURCE, Fault, KilledError, World

W = TypeVar("W", bound=World)
URIS = [f"{SOURCE}{number:05d}.csv" for number in range(11)]
BROKEN = Failure("ValueError", "bad", retryable=False)
AFTER = pytest.mark.parametrize("after_effect", [False, True], ids=["before the effect", "after the effect"])


def kill_everywhere(world_of: Callable[[], W], act: Callable[[Deployment], object], after_effect: bool) -> Iterator[W]:
    """For each port call of ``act``, yield a new world in which ``act`` was killed at that call."""
    at_call = 0
    while True:
        at_call += 1
        world, fault = world_of(), Fault(at_call, after_effect)
        try:
            act(fault.deployment(world.deployment))
        except KilledError:
            yield world
        else:
            if fault.calls < at_call:
                return  # every call was a fault's turn; else the fault was at an item that nobody read


def with_inputs() -> World:
    world = World()
    assert world.put(11) == URIS
    return world


def entered() -> World:
    """A world with an entered run, of which nothing is planned."""
    world = with_inputs()
    new_run(world.deployment, world.request())
    return world


def continue_plan(deployment: Deployment) -> object:
    return plan(deployment, "run-1", part_shards=2)


def assert_whole(world: World) -> None:
    """Assert that every object is in exactly one shard, and that every shard is entered and has a message."""
    run = world.ledger.runs.get("run-1")
    assert [item.uri for shard in world.planned() for item in shard.objects] == URIS
    assert (run.state, run.object_count, run.size_bytes) == (RunState.RUNNING, 11, 110)
    assert run.shard_count == len(world.shards()) == sum(p.shard_count for p in world.ledger.runs.parts("run-1"))
    assert all(part.dispatched for part in world.ledger.runs.parts("run-1"))
    assert {ref.shard for ref in world.bodies()} == {record.number for record in world.shards()}


def enter_and_plan(deployment: Deployment) -> object:
    request = World().request(options=RunOptions(max_objects=2))
    return plan(deployment, new_run(deployment, request).run_id, part_shards=2)


@AFTER
def test_a_killed_planner_resumes_and_plans_everything_once(after_effect: bool) -> None:
    killed = 0
    for world in kill_everywhere(with_inputs, enter_and_plan, after_effect):
        killed += 1
        enter_and_plan(world.deployment)
        assert_whole(world)
        assert world.work() == 6
        assert world.check().run.state is RunState.SUCCEEDED
    assert killed > 45


@AFTER
def test_a_planner_killed_during_input_changes_keeps_its_parts(after_effect: bool) -> None:
    for world in kill_everywhere(with_inputs, enter_and_plan, after_effect):
        entered = any(run.run_id == "run-1" for run in world.ledger.runs.list())
        sealed = list(world.ledger.runs.parts("run-1")) if entered else []
        before = {p.part: world.store.get(world.deployment.part_uri("run-1", p.part)) for p in sealed}
        world.store.put(f"{SOURCE}00000a.csv", b"0123456789")
        world.store.put(f"{SOURCE}99999.csv", b"0123456789")

        enter_and_plan(world.deployment)

        after = {
            p.part: world.store.get(world.deployment.part_uri("run-1", p.part))
            for p in world.ledger.runs.parts("run-1")
        }
        assert before.items() <= after.items()
        planned = [item.uri for shard in world.planned() for item in shard.objects]
        assert len(planned) == len(set(planned))
        assert f"{SOURCE}99999.csv" in planned or world.ledger.runs.get("run-1").object_count == 11
        assert {ref.shard for ref in world.bodies()} == {record.number for record in world.shards()}


@AFTER
def test_the_checker_takes_over_from_a_killed_planner(after_effect: bool) -> None:
    for world in kill_everywhere(entered, continue_plan, after_effect):
        world.clock.advance(3600)
        world.check()
        assert_whole(world)


@pytest.mark.parametrize("second_at", range(1, 30, 2))
def test_two_planners_at_once_plan_each_object_once(second_at: int) -> None:
    """The second planner plans everything during the n-th port call of the first one."""
    world, fault = entered(), Fault(second_at)
    step = fault.step

    def plan_meanwhile(*_: object) -> bool:
        if step():
            plan(world.deployment, "run-1", part_shards=3)
        return False

    fault.step = plan_meanwhile  # type: ignore[method-assign]
    stopped = False
    try:
        continue_plan(fault.deployment(world.deployment))
    except CheckpointConflictError:
        stopped = True
    assert stopped or world.ledger.runs.get("run-1").sealed
    assert_whole(world)


# --- cancelling ---


def assert_cancelled(world: World) -> None:
    """Assert that the run is CANCELLED, that each failed shard has a cause, and that messages have no effect."""
    run, counts = world.ledger.runs.get("run-1"), world.ledger.shards.count("run-1")
    assert run.state is RunState.CANCELLED
    assert counts.open == 0
    assert counts.total == run.shard_count == sum(p.shard_count for p in world.ledger.runs.parts("run-1"))
    assert all(record.error_class for record in world.shards() if record.state is ShardState.FAILED)
    assert world.json("manifest.json")["run"]["counts"]["total"] == counts.total
    assert world.work() == 0


def cancel_and_check(deployment: Deployment) -> None:
    cancel(deployment, "run-1")
    check(deployment, "run-1")


@AFTER
def test_a_planner_killed_anywhere_can_be_cancelled(after_effect: bool) -> None:
    for world in kill_everywhere(entered, continue_plan, after_effect):
        if not world.ledger.runs.get("run-1").state.ended:
            cancel_and_check(world.deployment)
            assert_cancelled(world)


@AFTER
def test_a_killed_cancel_is_finished_by_the_checker_or_a_repeat(after_effect: bool) -> None:
    def half_planned() -> World:
        """A world whose planner died after it sealed the second part, before it entered the part's shards."""
        world = entered()

        def die(shards: object) -> int:
            raise KilledError

        enter = world.ledger.shards.add
        with pytest.raises(KilledError):
            plan(world.deployment, "run-1", lambda _: setattr(world.ledger.shards, "add", die), part_shards=2)
        world.ledger.shards.add = enter  # type: ignore[method-assign]
        assert [p.dispatched for p in world.ledger.runs.parts("run-1")] == [True, False]
        return world

    killed = 0
    for number, world in enumerate(kill_everywhere(half_planned, cancel_and_check, after_effect)):
        killed += 1
        if number % 2 or world.ledger.runs.get("run-1").cancelled_s is None:
            cancel(world.deployment, "run-1")
        world.check()
        assert_cancelled(world)
    assert killed > 20


def troubled() -> World:
    """A run with one shard of each kind: lost, succeeded, failed, released with a lost message, without a message."""
    world = World()
    world.run(5, max_attempts=2)
    messages = list(world.queue.receive(4))
    owners = [world.claim(message)[0] for message in messages]
    world.ledger.attempts.succeed("run-1", 1, owners[1], ShardResult(rows=1))
    world.ledger.attempts.fail("run-1", 2, owners[2], BROKEN)
    world.ledger.attempts.release("run-1", 3, owners[3], Failure("OSError", "503"))
    world.queue.entries.clear()
    world.clock.advance(LEASE_S + 61)
    return world


def settle(world: World, act: Callable[[], object] = lambda: None) -> None:
    """Let checker and workers go on until the run has ended."""
    for _ in range(20):
        act()
        if world.check().run.state.ended:
            return
        world.work()
        world.clock.advance(61)
    raise AssertionError(f"the run did not end: {world.shards()}")


def check_twice(deployment: Deployment) -> None:
    """Check a troubled run twice: the first check finds the lost shard, the second one the lost messages."""
    assert check(deployment, "run-1").expired == 1
    deployment.clock.sleep(61)
    assert check(deployment, "run-1").requeued == 3


@AFTER
def test_a_checker_killed_anywhere_loses_no_shard(after_effect: bool) -> None:
    killed = 0
    for world in kill_everywhere(troubled, check_twice, after_effect):
        killed += 1
        settle(world)
        assert [r.state for r in world.shards()].count(ShardState.SUCCEEDED) == 4
        assert [r.attempts for r in world.shards()] == [2, 1, 1, 2, 1]
    assert killed > 30


@AFTER
def test_a_checker_killed_at_the_end_ends_the_run_next_time(after_effect: bool) -> None:
    def ready() -> World:
        world = World()
        world.run(3)
        world.work(lambda n: BROKEN if n == 1 else ShardResult(rows=1))
        return world

    whole = ready()
    whole.check()
    files = [f"{name}" for name in ("manifest.json", "SUCCEEDED_0.json", "FAILED_0.json")]
    for world in kill_everywhere(ready, lambda deployment: check(deployment, "run-1"), after_effect):
        ended = world.ledger.runs.get("run-1").state.ended
        assert not ended or world.json("manifest.json")["run"]["state"] == "FAILED"  # manifests first
        assert world.check().run.state is RunState.FAILED
        assert [name for name in files if world.json(name)] == files
        assert world.json("FAILED_0.json")[0]["Cause"] == "bad"


@AFTER
@pytest.mark.parametrize("again", ["redriven again", "left to the checker"])
def test_a_redrive_killed_anywhere_can_be_completed(after_effect: bool, again: str) -> None:
    def failed() -> World:
        world = World()
        world.run(5)
        world.work(lambda n: BROKEN if n in (0, 2, 3) else ShardResult(rows=1))
        world.check()
        return world

    for world in kill_everywhere(failed, lambda deployment: redrive(deployment, "run-1"), after_effect):
        if again == "redriven again":
            redrive(world.deployment, "run-1")
        run = world.ledger.runs.get("run-1")
        if run.state.ended:
            assert run.generation == 0  # the redrive was killed before it had an effect
            continue
        settle(world)
        states = [r.state for r in world.shards()]
        assert states[1] is states[4] is ShardState.SUCCEEDED
        assert world.shards()[1].generation == 0
        if again == "redriven again":
            assert set(states) == {ShardState.SUCCEEDED}
        else:
            moved = [r for r in world.shards() if r.generation]
            assert all(r.state is ShardState.SUCCEEDED for r in moved)
        assert world.ledger.shards.count("run-1").total == 5


@AFTER
@pytest.mark.parametrize("claimed", [False, True])
def test_the_next_delivery_completes_a_killed_consumers_work(after_effect: bool, claimed: bool) -> None:
    letters: list[Received] = []

    def lettered() -> World:
        world = World()
        world.run(1)
        message = world.receive()
        assert message is not None
        if claimed:
            world.claim(message)
            world.clock.advance(LEASE_S + 1)
        world.queue.entries.clear()
        world.dead_letters.send([message.body])
        letters[:] = [replace(m, receipt="r") for m in world.dead_letters.receive()]
        return world

    def read(deployment: Deployment) -> object:
        (letter,) = letters
        return consume(deployment, letter)

    for world in kill_everywhere(lettered, read, after_effect):
        consume(world.deployment, letters[0])
        world.check()  # ends the lease
        world.clock.advance(LEASE_GRACE_S)
        assert len(world.queue) >= 1, "an attempt is left, so the shard has a message"
        assert world.work() == 1
        assert world.shards()[0].state is ShardState.SUCCEEDED


@AFTER
def test_a_planner_killed_at_a_maps_index_loses_no_shard(after_effect: bool) -> None:
    """The next planner writes the index again; shards that the Map does not do get messages."""

    def entered() -> World:
        world = World(Dispatch.MAP)
        world.put(5)
        new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
        return world

    killed = 0
    for world in kill_everywhere(entered, lambda deployment: plan(deployment, "run-1"), after_effect):
        killed += 1
        plan(world.deployment, "run-1")
        refs = world.handed_out(world.step("map"))
        assert [ref.shard for ref in refs] == list(range(5))
        world.children(refs[killed % 6 :])
        while not world.step("check")["ended"]:
            world.work()
            world.clock.advance(170)
        assert world.ledger.runs.get("run-1").state is RunState.SUCCEEDED
        assert [record.attempts for record in world.shards()] == [1] * 5
    assert killed > 5
