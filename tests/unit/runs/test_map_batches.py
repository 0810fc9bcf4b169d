"""Map batches hand out all that is PENDING until the run has ended; nothing is ever put into the queue."""

import itertools
import tracemalloc
from dataclasses import replace
from unittest.mock import Mock

import pytest

from sparklet.errors import PlanError, ScratchFullError
from sparklet.model import MAX_INLINE, Counts, Dispatch, RunOptions, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.map_batches import write_batch
from sparklet.runs.redelivery import MAP_BATCH
from sparklet.runs.redrive import redrive
from sparklet.runs.state_machine_steps import BATCHES_PER_AGE
from tests.world import BROKEN, PASSING, World, all_but


@pytest.fixture
def world() -> World:
    return World(dispatch=Dispatch.MAP)


def test_a_batch_is_every_pending_shard_in_order(world: World) -> None:
    world.run(45)
    world.children(world.handed_out(world.step("batch", batch=0))[:3])
    world.clock.advance(1)

    answer = world.step("batch", batch=1)

    # dispatched by the batch before, and nobody has claimed them: not yet again
    assert (answer["how"], answer["count"]) == ("none", 0)
    world.clock.advance(MAP_BATCH.again_after_s)
    refs = world.handed_out(world.step("batch", batch=2))
    assert [ref.shard for ref in refs] == list(range(3, 45))
    assert len(world.queue) == 0


@pytest.mark.parametrize(
    ("shards", "batch", "how"),
    [(1, 0, "inline"), (MAX_INLINE, 1, "inline"), (MAX_INLINE + 1, 0, "map"), (1, 2, "map")],
)
def test_few_shards_are_inlined_in_the_first_map_batches_only(world: World, shards: int, batch: int, how: str) -> None:
    world.run(shards)
    answer = world.step("batch", batch=batch)
    assert (answer["how"], answer["count"], answer["batch"]) == (how, shards, batch + 1)
    assert len(answer["items"]) == (shards if how == "inline" else 0)
    assert len(world.handed_out(answer)) == shards


def test_a_shard_that_was_released_is_in_the_next_batch_at_once(world: World) -> None:
    world.run(1)
    refs = world.handed_out(world.step("batch", batch=0))
    world.clock.advance(5)
    world.children(refs, lambda _: PASSING)
    assert world.handed_out(world.step("batch", batch=1)) == refs
    assert world.shards()[0].requeues == 0


def test_throttled_shards_are_handed_out_until_done(world: World) -> None:
    """One shard of the run is done in each batch: slow, but no reason to give the others up."""
    world.run(20)
    claimed, batches = 0, itertools.count()
    while not (answer := world.step("batch", batch=next(batches)))["ended"]:
        world.clock.advance(30)
        if refs := world.handed_out(answer):
            claimed += world.children(refs[:1])
        world.clock.advance(600)
    assert (answer["state"], claimed) == ("SUCCEEDED", 20)
    assert max(record.requeues for record in world.shards()) > MAP_BATCH.most


def test_a_shard_that_workers_stop_claiming_keeps_its_cause(world: World) -> None:
    world.run(1)
    world.children(world.handed_out(world.step("batch", batch=0)), lambda _: PASSING)
    for batch in range(1, 200):
        world.clock.advance(100)
        world.step("batch", batch=batch)
    (record,) = world.shards()
    assert (record.state, record.error_class) == (ShardState.FAILED, "NeverClaimed")
    assert "503 Slow Down" in record.error_message


def test_what_no_batch_has_held_yet_does_not_count_as_unclaimed(world: World) -> None:
    """A run of more shards than a batch takes: the rest waits for its first batch, however long that is."""
    run = world.run(10)
    first = write_batch(world.deployment, run, 0, max_shards=4)
    world.children(list(first.items))
    world.clock.advance(10_000)

    second = write_batch(world.deployment, run, 1, max_shards=4)
    third = write_batch(world.deployment, run, 2, max_shards=4)

    assert [ref.shard for ref in second.items] == [4, 5, 6, 7]
    assert [ref.shard for ref in third.items] == [4, 5, 6, 7]  # unclaimed, and long ago
    assert [record.requeues for record in world.shards()[4:]] == [1, 1, 1, 1, 0, 0]


def test_a_batch_keeps_its_distance_to_the_one_before(world: World) -> None:
    """A tenth of a day after the beginning the next batch may follow in 432 s: a lost shard waits for that."""
    world.run(41)
    world.clock.advance(8640)
    refs = world.handed_out(world.step("batch", batch=0))
    world.clock.advance(1)
    world.children(refs, lambda _: PASSING)
    distance_s = 8640 / BATCHES_PER_AGE

    world.clock.advance(distance_s - 10)
    assert world.step("batch", batch=1)["how"] == "none"
    world.clock.advance(40)
    assert world.step("batch", batch=2)["count"] == 41


def test_the_first_batch_of_an_execution_waits_for_nobody(world: World) -> None:
    world.run(41)
    world.clock.advance(86_400)
    refs = world.handed_out(world.step("batch", batch=0))
    world.clock.advance(1)
    world.children(refs[:1], lambda _: PASSING)
    assert world.step("batch", batch=0)["count"] == 1 + 40  # the others were dispatched in vain, and entered long ago


def test_two_executions_do_not_overwrite_each_others_batches(world: World) -> None:
    world.run(2)
    one = world.step("batch", batch=0)
    world.children(world.handed_out(one)[:1])
    world.clock.advance(MAP_BATCH.again_after_s + 1)
    other = world.step("batch", batch=0)

    assert one["key"] != other["key"]
    assert [ref.shard for ref in world.handed_out(one)] == [0, 1]
    assert [ref.shard for ref in world.handed_out(other)] == [1]


def test_a_redriven_generation_hands_out_failed_shards_only(world: World) -> None:
    world.run(3)
    world.children(world.handed_out(world.step("batch", batch=0)), all_but(1))
    assert world.step("check")["state"] == "FAILED"

    done = redrive(world.deployment, "run-1")

    assert (done.shards, done.messages, len(world.queue)) == (1, 0, 0)
    (ref,) = world.handed_out(world.step("batch", batch=0))
    assert (ref.shard, ref.generation) == (1, 1)
    assert world.children([ref]) == 1
    assert world.step("check")["state"] == "SUCCEEDED"


def test_nothing_is_handed_out_before_the_plan_is_sealed(world: World) -> None:
    world.put(2)
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))
    plan(world.deployment, "run-1", part_shards=1, stop=lambda: True)
    assert (len(world.shards()), world.step("batch", batch=0)["how"]) == (1, "none")

    plan(world.deployment, "run-1")

    assert world.step("batch", batch=1)["count"] == 2


def test_nothing_is_handed_out_once_the_run_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(2)
    world.ledger.runs.cancel("run-1")
    with monkeypatch.context() as lagging:  # the index does not show the checker what to give up
        lagging.setattr(world.ledger.shards, "expired", lambda *_: iter(()))
        answer = world.step("batch", batch=0)
    assert (answer["how"], answer["counts"]["pending"]) == ("none", 2)

    assert world.step("batch", batch=1)["state"] == "CANCELLED"


def test_a_redrive_that_was_cut_short_goes_on(world: World) -> None:
    world.run(3)
    world.children(world.handed_out(world.step("batch", batch=0)), lambda _: BROKEN)
    world.step("check")
    run = world.ledger.runs.start_generation("run-1", 1, world.ledger.runs.get("run-1").scripts[0])
    for number in range(3):
        world.ledger.attempts.redrive("run-1", number, run.generation)

    assert redrive(world.deployment, "run-1").shards == 0  # nothing left to move, and that is no error

    assert world.children(world.handed_out(world.step("batch", batch=0))) == 3
    with pytest.raises(PlanError, match="nothing to redrive"):
        redrive(world.deployment, "run-1")


def test_an_empty_index_is_believed_for_one_loop_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(2)
    with monkeypatch.context() as lagging:
        lagging.setattr(world.ledger.shards, "glance", lambda run_id: Counts(running=2))
        assert world.step("batch", batch=0)["how"] == "none"
    assert world.step("batch", batch=1)["count"] == 2


def test_memory_does_not_grow_with_a_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.run(1)
    (record,) = world.shards()
    peaks = []
    for shards in (1_000, 8_000):
        records = (replace(record, number=n) for n in range(shards))
        monkeypatch.setattr(world.ledger.shards, "list", lambda *_, records=records: records)
        monkeypatch.setattr(world.store, "upload", lambda path, uri: None)
        tracemalloc.start()
        assert write_batch(world.deployment, run, 0).count == shards
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_a_full_disk_is_reported_with_its_remedy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = world.run(1)
    monkeypatch.setattr(world.ledger.shards, "list", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(ScratchFullError, match="TMPDIR"):
        write_batch(world.deployment, run, 0)
