"""Planning: every object in one shard, every shard in the ledger and in the queue, the plan sealed last."""

from collections.abc import Iterable

import pytest

from sparklet.model import Position, RunOptions, RunState, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import PlanProgress, plan
from tests.world import SOURCE, World, ref_of


def test_a_plan_puts_every_object_into_one_shard_in_order(world: World) -> None:
    uris = world.put(7)
    new_run(world.at, world.request())

    run = plan(world.at, "run-1", part_shards=3)

    assert [item.uri for shard in world.planned() for item in shard.objects] == uris
    assert [shard.number for shard in world.planned()] == [0, 1, 2, 3]
    assert (run.state, run.shard_count, run.object_count, run.size_bytes) == (RunState.RUNNING, 4, 7, 70)


def test_every_shard_is_pending_and_has_its_message(world: World) -> None:
    world.run(5)
    assert {r.state for r in world.shards()} == {ShardState.PENDING}
    assert world.bodies() == [r.ref for r in world.shards()]
    assert [r.object_count for r in world.shards()] == [1] * 5
    assert [r.size_bytes for r in world.shards()] == [10] * 5


def test_parts_are_cut_by_shards_and_by_bytes(world: World) -> None:
    world.put(10)
    new_run(world.at, world.request(options=RunOptions(max_objects=1)))
    plan(world.at, "run-1", part_shards=4, part_bytes=10_000)
    assert [p.shard_count for p in world.ledger.runs.parts("run-1")] == [4, 4, 2]

    new_run(world.at, world.request(run_id="run-2", options=RunOptions(max_objects=1)))
    plan(world.at, "run-2", part_shards=100, part_bytes=260)
    assert [p.shard_count for p in world.ledger.runs.parts("run-2")] == [3, 3, 3, 1]


def test_a_part_is_a_checkpoint(world: World) -> None:
    world.put(5)
    new_run(world.at, world.request())
    plan(world.at, "run-1", part_shards=2)

    first, second = world.ledger.runs.parts("run-1")

    assert (first.first_shard, first.next_shard, first.object_count, first.size_bytes) == (0, 2, 4, 40)
    assert first.position == Position(0, "in/00003.csv")
    assert (second.first_shard, second.next_shard, second.position) == (2, 3, Position(0, "in/00004.csv"))
    assert first.dispatched and second.dispatched


def test_progress_is_reported_after_each_part(world: World) -> None:
    world.put(5)
    world.store.put(f"{SOURCE}marker/", b"")
    new_run(world.at, world.request(options=RunOptions(max_objects=1)))
    told: list[PlanProgress] = []

    plan(world.at, "run-1", told.append, part_shards=2)

    assert [(p.shards, p.objects, p.size_bytes, p.sealed) for p in told] == [
        (2, 2, 20, False),
        (4, 4, 40, False),
        (5, 5, 50, False),
        (5, 5, 50, True),
    ]
    assert sum(told[-1].skipped.values()) == 1


def test_messages_are_sent_only_for_sealed_and_entered_shards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(7)
    new_run(world.at, world.request())
    send = world.queue.send

    def checked(bodies: Iterable[str], delay_s: int = 0) -> int:
        bodies = list(bodies)
        known = {record.ref for record in world.shards()}
        parts = {part.part for part in world.ledger.runs.parts("run-1")}
        assert all(ref_of(body) in known and ref_of(body).part in parts for body in bodies)
        return send(bodies, delay_s)

    monkeypatch.setattr(world.queue, "send", checked)
    plan(world.at, "run-1", part_shards=2)
    assert len(world.queue) == 4


def test_a_vanished_input_fails_the_run_at_the_first_check(world: World) -> None:
    uris = world.put(2)
    new_run(world.at, world.request())
    for uri in uris:
        world.store.delete(uri)
    assert plan(world.at, "run-1").shard_count == 0
    assert world.check().run.state is RunState.FAILED
