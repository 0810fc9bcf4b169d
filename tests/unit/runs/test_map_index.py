"""A Map state gets the plan's index once; shards that the Map does not finish are dispatched by messages."""

import tracemalloc
from dataclasses import replace
from unittest.mock import Mock

import pytest

from sparklet.errors import PlanError, ScratchFullError
from sparklet.ledger.rules import LEASE_S
from sparklet.model import MAX_INLINE, Dispatch, Failure, RunOptions, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import write_index
from sparklet.planning.planner import plan
from sparklet.runs.dispatch import MESSAGE
from sparklet.runs.redrive import redrive
from tests.stand_ins.memory import MemoryEngine
from tests.world import PASSING, World, all_but


@pytest.fixture
def world() -> World:
    return World(dispatch=Dispatch.MAP)


@pytest.mark.parametrize(
    ("shards", "how", "items"), [(1, "inline", 1), (MAX_INLINE, "inline", 40), (41, "distributed", 0)]
)
def test_a_map_has_every_shard_in_order(world: World, shards: int, how: str, items: int) -> None:
    world.run(shards)

    answer = world.step("map")

    assert (answer["how"], len(answer["items"])) == (how, items)
    assert [ref.shard for ref in world.handed_out(answer)] == list(range(shards))
    assert len(world.queue) == 0 and world.check().requeued == 0


def test_a_runs_shards_are_given_to_one_execution_only(world: World) -> None:
    world.run(3)
    first = world.step("map", execution="arn:1")
    world.children(world.handed_out(first)[:1])

    assert world.step("map", execution="arn:1") == first  # asked again since the first response was lost
    assert world.step("map", execution="arn:2")["how"] == "none"


def test_shards_that_a_map_did_not_finish_get_messages(world: World) -> None:
    world.run(45)
    refs = world.handed_out(world.step("map"))
    world.children(refs[:40])
    world.children(refs[40:42], lambda _: PASSING)
    world.claim_ref(refs[42])
    world.clock.advance(MESSAGE.again_after_s / 2)
    assert world.check().requeued == 0

    world.clock.advance(LEASE_S + MESSAGE.again_after_s)
    assert world.check().expired == 1  # a lost worker's shard has its message at once
    world.work()
    world.clock.advance(MESSAGE.again_after_s)

    assert world.check().requeued == 4  # 40, 41, 43, 44
    world.work()
    assert world.step("check")["state"] == "SUCCEEDED"


def test_a_late_child_of_the_map_does_no_ended_shard_again(world: World) -> None:
    world.run(2)
    refs = world.handed_out(world.step("map"))
    world.clock.advance(MESSAGE.again_after_s + 1)
    world.check()
    assert world.work() == 2

    assert world.children(refs) == 0
    assert [record.attempts for record in world.shards()] == [1, 1]


def test_a_late_execution_leaves_the_run_to_the_queue(world: World) -> None:
    """For example the execution of a next run whose parent's execution has waited for minutes."""
    world.run(2)
    world.clock.advance(MESSAGE.again_after_s + 1)
    assert world.check().requeued == 2

    assert world.step("map", execution="arn:1")["how"] == "none"


def test_a_cap_counts_shards_that_the_maps_children_run(world: World) -> None:
    world.run(45, max_concurrency=3)
    refs = world.handed_out(world.step("map"))
    world.clock.advance(MESSAGE.again_after_s + 1)
    world.check()
    assert world.work() == 3

    for ref in refs[40:42]:  # the Map's children come late
        world.claim_ref(ref)
    world.check()

    assert [ref.shard for ref in world.bodies()] == [3]


def test_an_engines_shard_does_not_delay_shards_that_a_map_left(world: World) -> None:
    engine = MemoryEngine()
    world.engines["fargate"] = engine
    world.run(2)
    attempt_id, _ = world.claim_ref(world.handed_out(world.step("map"))[0])
    failure = Failure("OutOfMemory", "too much")
    world.ledger.attempts.escalate("run-1", 0, attempt_id, failure, "fargate")
    run = world.ledger.runs.get("run-1")
    world.ledger.put(replace(run, options=replace(run.options, engine="fargate")))
    world.claim_ref(world.shards()[0].ref, "fargate")
    world.clock.advance(MESSAGE.again_after_s + 1)

    world.check()

    assert [ref.shard for ref in world.bodies()] == [1]


def test_a_capped_run_sends_no_messages_while_its_map_is_busy(world: World) -> None:
    world.run(45, max_concurrency=2)
    refs = world.handed_out(answer := world.step("map"))
    assert answer["max_concurrency"] == 2
    world.children(refs[:40])

    world.check()
    assert world.bodies() == []
    world.clock.advance(MESSAGE.again_after_s + 1)

    world.check()
    assert [ref.shard for ref in world.bodies()] == [40, 41]
    while not world.step("check")["ended"]:
        world.work()
    assert world.ledger.shards.count("run-1").succeeded == 45


def test_redriven_shards_are_dispatched_by_messages(world: World) -> None:
    world.run(3)
    world.children(world.handed_out(world.step("map")), all_but(1))
    assert world.step("check")["state"] == "FAILED"

    done = redrive(world.deployment, "run-1")

    assert (done.shards, done.messages, world.step("map")["how"]) == (1, 1, "none")
    assert world.work() == 1
    assert world.step("check")["state"] == "SUCCEEDED"


def test_no_map_begins_before_the_plan_is_sealed(world: World) -> None:
    world.put(2)
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
    plan(world.deployment, "run-1", part_shards=1, stop=lambda: True)
    world.clock.advance(MESSAGE.again_after_s + 1)
    assert (len(world.shards()), world.check().requeued) == (1, 0)
    with pytest.raises(PlanError, match="its plan is not complete"):
        world.step("map")

    plan(world.deployment, "run-1")

    assert len(world.step("map")["items"]) == 2


def test_no_map_begins_for_a_cancelled_run(world: World) -> None:
    """The run has no index, since its plan was cut short."""
    world.put(2)
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
    plan(world.deployment, "run-1", part_shards=1, stop=lambda: True)
    world.ledger.runs.cancel("run-1")
    assert world.check().run.sealed

    assert world.step("map")["how"] == "none"


def test_the_memory_to_write_an_index_does_not_grow_with_shards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.run(1)
    (record,) = world.shards()
    peaks = []
    for shards in (1_000, 8_000):
        records = (replace(record, number=n) for n in range(shards))
        monkeypatch.setattr(world.ledger.shards, "list", lambda *_, records=records: records)
        monkeypatch.setattr(world.store, "upload", lambda path, uri: None)
        tracemalloc.start()
        write_index(world.deployment, run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_a_full_disk_is_reported_with_its_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.run(1)
    monkeypatch.setattr(world.ledger.shards, "list", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(ScratchFullError, match="TMPDIR"):
        write_index(world.deployment, run)


def test_a_shard_given_up_at_the_time_limit_keeps_its_last_cause(world: World) -> None:
    world.run(1, time_limit_s=3600.0)
    world.children(world.handed_out(world.step("map")), lambda _: PASSING)
    world.clock.advance(3600)
    world.check()
    (record,) = world.shards()
    assert (record.state, record.error_class) == (ShardState.FAILED, "RunTimeLimit")
    assert "503 Slow Down" in record.error_message
