"""Planning puts every object into one shard, and every shard into ledger and queue; the plan is sealed last."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from sparklet.model import MAX_SENT_BYTES, Position, RunOptions, RunState, Shard, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import PlanProgress, plan
from tests.world import SOURCE, World, ref_of


def test_every_object_is_in_one_pending_shard_in_order(world: World) -> None:
    uris = world.put(7)

    run = world.plan(part_shards=3)

    assert world.taken() == uris
    assert [shard.number for shard in world.planned()] == [0, 1, 2, 3]
    assert (run.state, run.shard_count, run.object_count, run.size_bytes) == (RunState.RUNNING, 4, 7, 70)
    assert {r.state for r in world.shards()} == {ShardState.PENDING}
    assert [replace(ref, line="") for ref in world.bodies()] == [r.ref for r in world.shards()]
    assert [Shard.from_line(ref.line.encode()) for ref in world.bodies()] == list(world.planned())
    assert [(r.object_count, r.size_bytes) for r in world.shards()] == [(2, 20)] * 3 + [(1, 10)]


def test_a_plan_line_that_is_too_long_is_not_sent_in_the_message(world: World) -> None:
    world.put(MAX_SENT_BYTES // 20)
    world.plan(options=RunOptions())

    assert [ref.line for ref in world.bodies()] == [""]


@pytest.mark.parametrize(("part_shards", "part_bytes", "parts"), [(4, 10_000, [4, 4, 2]), (100, 260, [3, 3, 3, 1])])
def test_parts_are_cut_by_shards_and_by_bytes(
    world: World, part_shards: int, part_bytes: int, parts: list[int]
) -> None:
    world.put(10)
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
    plan(world.deployment, "run-1", part_shards=part_shards, part_bytes=part_bytes)
    assert [p.shard_count for p in world.ledger.runs.parts("run-1")] == parts


def test_a_part_is_a_checkpoint(world: World) -> None:
    world.put(5)
    world.plan(part_shards=2)

    first, second = world.ledger.runs.parts("run-1")

    assert (first.first_shard, first.next_shard, first.object_count, first.size_bytes) == (0, 2, 4, 40)
    assert first.position == Position(0, "in/00003.csv")
    assert (second.first_shard, second.next_shard, second.position) == (2, 3, Position(0, "in/00004.csv"))
    assert first.dispatched and second.dispatched


def test_progress_is_reported_after_each_part(world: World) -> None:
    world.put(5)
    world.store.put(f"{SOURCE}marker/", b"")
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
    reports: list[PlanProgress] = []

    plan(world.deployment, "run-1", reports.append, part_shards=2)

    assert [(p.shards, p.objects, p.size_bytes, p.sealed) for p in reports] == [
        (2, 2, 20, False),
        (4, 4, 40, False),
        (5, 5, 50, False),
        (5, 5, 50, True),
    ]
    assert sum(reports[-1].skipped.values()) == 1


def test_messages_are_sent_only_for_sealed_and_entered_shards(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(7)
    send = world.queue.send

    def checked(bodies: Iterable[str], delay_s: int = 0) -> int:
        bodies = list(bodies)
        known = {record.ref for record in world.shards()}
        parts = {part.part for part in world.ledger.runs.parts("run-1")}
        refs = [replace(ref_of(body), line="") for body in bodies]
        assert all(ref in known and ref.part in parts for ref in refs)
        return send(bodies, delay_s)

    monkeypatch.setattr(world.queue, "send", checked)
    world.plan(part_shards=2)
    assert len(world.queue) == 4


def test_a_run_whose_input_vanished_fails_at_the_first_check(world: World) -> None:
    uris = world.put(2)
    new_run(world.deployment, world.request())
    for uri in uris:
        world.store.delete(uri)
    assert plan(world.deployment, "run-1").shard_count == 0
    assert world.check().run.state is RunState.FAILED
