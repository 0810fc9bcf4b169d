"""One object's fate can be asked for."""

from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.fanout.fate import object_fate
from sparklet.fanout.new_run import new_run
from sparklet.fanout.planner import plan
from sparklet.model import Failure, RunOptions, ShardState
from tests.unit.fanout.world import SOURCE, World


def test_every_object_finds_its_shard_and_where_that_stands(world: World) -> None:
    uris = world.put(7) + world.put(3, folder="s3://data/also/") + ["s3://data/one.csv"]
    world.store.put("s3://data/one.csv", b"1")
    inputs = (SOURCE, "s3://data/one.csv", "s3://data/also/")
    new_run(world.at, world.request(inputs=inputs))
    plan(world.at, "run-1", part_shards=2)
    world.work(lambda n: Failure("ValueError", "bad", retryable=False))

    for uri in uris:
        fate = object_fate(world.at, "run-1", uri)
        assert fate.shard is not None and uri in [item.uri for item in fate.shard.objects]
        assert fate.record is not None and fate.record.number == fate.shard.number
        assert fate.record.state is ShardState.FAILED


def test_only_the_part_that_must_hold_it_is_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = world.put(8)
    new_run(world.at, world.request(options=RunOptions(max_objects=1)))
    plan(world.at, "run-1", part_shards=2)
    read: list[str] = []
    get = world.store.get

    def remember(uri: str, *rest: Any) -> bytes:
        read.append(uri)
        return get(uri, *rest)

    monkeypatch.setattr(world.store, "get", remember)

    object_fate(world.at, "run-1", uris[5])

    assert len(read) == 1 and "part-00002" in read[0]


def test_an_object_that_was_left_out_is_in_no_shard(world: World) -> None:
    world.run(2)
    for uri in (f"{SOURCE}00000b.csv", f"{SOURCE}zzz"):
        fate = object_fate(world.at, "run-1", uri)
        assert (fate.shard, fate.record) == (None, None)


def test_an_object_under_no_input_is_refused(world: World) -> None:
    world.run(1)
    with pytest.raises(PlanError, match=r"s3://data/other lies under no input of run-1"):
        object_fate(world.at, "run-1", "s3://data/other")


def test_a_sealed_shard_that_is_not_entered_yet_is_found(world: World) -> None:
    uris = world.put(1)
    new_run(world.at, world.request())
    plan(world.at, "run-1")
    world.ledger._shards["run-1"].clear()
    fate = object_fate(world.at, "run-1", uris[0])
    assert fate.shard is not None and fate.record is None
