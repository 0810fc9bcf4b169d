"""Plans with slices: a planner's checkpoint can be within an object."""

from collections.abc import Iterator
from itertools import count, pairwise

import pytest

from sparklet.errors import PlanError
from sparklet.model import Position, RunOptions
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import PlanProgress, plan
from tests.world import SOURCE, Fault, KilledError, World

HEADER, ROW = b"a,b\n", b"1,2\n"
OPTIONS = RunOptions(split="auto", target_bytes=12)
SMALL, BIG = HEADER + ROW, HEADER + 10 * ROW


def put(world: World) -> None:
    for name, body in (("a.csv", SMALL), ("b.csv", BIG), ("c.csv", SMALL), ("d.txt", BIG)):
        world.store.put(f"{SOURCE}{name}", body)


def check(world: World) -> None:
    """Assert that every byte behind the headers is planned once, in order, each slice in a shard of its own."""
    items = [item for shard in world.planned() for item in shard.objects]
    assert list(dict.fromkeys(item.uri.removeprefix(SOURCE) for item in items)) == ["a.csv", "b.csv", "c.csv", "d.txt"]
    slices = [item.slice for item in items if item.slice]
    assert len(items) == 3 + len(slices)
    assert (slices[0].start, slices[-1].end) == (len(HEADER), len(BIG))
    assert all(one.end == following.start for one, following in pairwise(slices))
    run = world.ledger.runs.get("run-1")
    assert (run.shard_count, len(items), run.size_bytes) == (7, 7, 2 * len(SMALL) + 2 * len(BIG))


def test_objects_that_could_not_be_cut_are_reported(world: World) -> None:
    world.store.put(f"{SOURCE}a.csv.gz", b"x" * 50)
    world.store.put(f"{SOURCE}b.csv", b"x" * 50)
    world.store.put(f"{SOURCE}c.csv", BIG)  # c.csv can be cut
    new_run(world.deployment, world.request(options=RunOptions(split="csv", target_bytes=12)))
    told: list[PlanProgress] = []

    plan(world.deployment, "run-1", told.append)

    assert told[-1].whole == {"compressed as a whole": 1, "no line feed ends its header within 1 MiB": 1}


def worlds_killed_at_each_call(part_shards: int, after_effect: bool = False) -> Iterator[World]:
    """For each call of a port by a planner, a world in which the planner was killed at that call."""
    for at_call in count(1):
        world, fault = World(), Fault(at_call, after_effect)
        put(world)
        new_run(world.deployment, world.request(options=OPTIONS))
        try:
            plan(fault.deployment(world.deployment), "run-1", part_shards=part_shards)
        except KilledError:
            yield world
        else:
            check(world)
            if fault.calls < at_call:
                return


def is_within_an_object(world: World) -> bool:
    """Whether the last part ends between two slices."""
    return any(part.position.slices for part in list(world.ledger.runs.parts("run-1"))[-1:])


@pytest.mark.parametrize("part_shards", [1, 2])
@pytest.mark.parametrize("after_effect", [False, True])
def test_a_planner_killed_at_any_call_can_be_resumed(part_shards: int, after_effect: bool) -> None:
    within = 0
    for world in worlds_killed_at_each_call(part_shards, after_effect):
        within += is_within_an_object(world)
        plan(world.deployment, "run-1", part_shards=part_shards)
        check(world)
    assert within > 5


def test_a_sliced_object_replaced_before_a_resume_stops_the_plan() -> None:
    world = next(filter(is_within_an_object, worlds_killed_at_each_call(part_shards=1)))
    *_, last = world.ledger.runs.parts("run-1")
    assert last.position == Position(0, "in/b.csv", 1, world.store.head(f"{SOURCE}b.csv").etag)

    world.store.put(f"{SOURCE}b.csv", BIG.replace(b"1", b"9"))

    with pytest.raises(PlanError, match=r"b\.csv was replaced"):
        plan(world.deployment, "run-1", part_shards=1)
