"""An input object is found in the shards that hold it, with their states."""

import pytest

from sparklet.app.documents import object_status
from sparklet.errors import PlanError
from sparklet.model import Failure, InputObject, PartRecord, Position, Shard, ShardState, Slice, SliceKind
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from tests.world import SOURCE, World


def test_every_objects_shard_and_its_status_are_found(world: World) -> None:
    uris = world.put(7) + world.put(3, folder="s3://data/also/") + ["s3://data/one.csv"]
    world.store.put("s3://data/one.csv", b"1")
    inputs = (SOURCE, "s3://data/one.csv", "s3://data/also/")
    new_run(world.deployment, world.request(inputs=inputs))
    plan(world.deployment, "run-1", part_shards=2)
    world.work(lambda n: Failure("ValueError", "bad", retryable=False))

    for uri in uris:
        (found,) = object_status(world.deployment, "run-1", uri).shards
        assert [item.uri for item in found.items] == [uri] and set(found.items) <= set(found.shard.objects)
        assert found.record is not None and found.record.number == found.shard.number
        assert found.record.state is ShardState.FAILED


def test_slices_of_an_object_are_found_in_all_their_shards(world: World) -> None:
    world.put(1)
    new_run(world.deployment, world.request())
    big = f"{SOURCE}big.csv"
    slices = [InputObject(big, 5, slice=Slice(SliceKind.LINES, 5 * n, 5 * n + 5)) for n in range(3)]
    body = b"".join(Shard(n, (item, InputObject(f"{big}.gz", 1))).to_line() for n, item in enumerate(slices))
    world.store.put(world.deployment.part_uri("run-1", "part-0"), body)
    world.ledger.runs.add_part("run-1", PartRecord(0, "part-0", 0, 3, 6, 18, Position(0, "in/big.csv")))

    assert [(each.shard.number, each.items) for each in object_status(world.deployment, "run-1", big).shards] == [
        (number, (item,)) for number, item in enumerate(slices)
    ]


def test_an_object_under_no_input_is_refused(world: World) -> None:
    world.run(1)
    with pytest.raises(PlanError, match=r"s3://data/other lies under no input of run-1"):
        object_status(world.deployment, "run-1", "s3://data/other")


def test_a_sealed_shard_that_is_not_in_the_ledger_yet_is_found(world: World) -> None:
    uris = world.put(1)
    new_run(world.deployment, world.request())
    plan(world.deployment, "run-1")
    world.ledger.forget("run-1", 0)
    (found,) = object_status(world.deployment, "run-1", uris[0]).shards
    assert found.record is None
