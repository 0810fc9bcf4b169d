"""Shards that are too large for a function are planned for an engine, as part of the same run."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PlanError, RunExistsError
from sparklet.model import ClaimStatus, Dispatch, Failure, RunOptions, RunState, ShardResult, ShardState, next_of
from sparklet.model.options import LARGE_BYTES
from sparklet.planning import routes
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import preview
from sparklet.runs.redrive import Again, redrive
from tests.stand_ins.memory import MemoryEngine
from tests.world import LEASE_S, SOURCE, World

ENGINE, OTHER = "fargate", "glue"
ROUTED = RunOptions(max_objects=1, target_bytes=100, max_shard_bytes=100, too_large="engine")
SIZES = {"a": 10, "b": 500, "c": 20, "d": 101, "e": 100}  # b and d are above the limit
LARGE = [1, 3]


def world_of(sizes: dict[str, int], dispatch: Dispatch = Dispatch.QUEUE) -> World:
    world = World(dispatch, engines={ENGINE: MemoryEngine(), OTHER: MemoryEngine()})
    for name, size in sizes.items():
        world.store.put(f"{SOURCE}{name}.csv", b"x" * size)
    return world


def planned(world: World, **changes: Any) -> None:
    world.plan(options=replace(ROUTED, **changes), part_shards=2)


def routed(world: World, engine: str = ENGINE) -> list[int]:
    return [record.number for record in world.shards() if record.engine == engine]


def started(world: World, engine: str = ENGINE) -> list[int]:
    """The numbers of the shards for which the engine started workers."""
    port = world.engines[engine]
    assert isinstance(port, MemoryEngine)
    return sorted({int(command[command.index("--shard") + 1]) for command in port.commands.values()})


def do_engine_shards(world: World, engine: str = ENGINE, fails: bool = False) -> None:
    """Let each started worker of the engine do its shard, or fail."""
    attempts = world.ledger.attempts
    for number in started(world, engine):
        record, attempt_id = world.ledger.shards.get("run-1", number), f"there-{number}"
        if attempts.claim(record.ref, attempt_id, LEASE_S, 3, engine=engine).status is not ClaimStatus.GRANTED:
            continue
        if fails:
            attempts.fail("run-1", number, attempt_id, Failure("ValueError", "7", retryable=False))
        else:
            attempts.succeed("run-1", number, attempt_id, ShardResult(rows=1))


def do_function_shards(world: World, mode: str, number: int) -> list[int]:
    """Check and let functions work, as in this dispatch mode. Return the shards that were given to functions."""
    if mode == "map" and not number:
        refs = world.handed_out(world.step("map"))
        world.children(refs)
        return [ref.shard for ref in refs]
    world.check() if mode == "queue" else world.step("check")
    bodies = [ref.shard for ref in world.bodies()]
    world.work()
    return bodies


@pytest.mark.parametrize("mode", ["queue", "loop", "map"])
def test_every_dispatch_mode_leaves_large_shards_to_the_engine(mode: str) -> None:
    world, here = world_of(SIZES, Dispatch.MAP if mode == "map" else Dispatch.QUEUE), set[int]()
    planned(world)

    for number in range(4):
        here.update(do_function_shards(world, mode, number))
        world.clock.advance(2000)
        if number == 1:  # the large shards have waited for long, and still are not given to functions
            assert {record.number for record in world.shards() if not record.state.ended} == set(LARGE)
        if number >= 1:
            do_engine_shards(world)

    assert here == {0, 2, 4}
    assert started(world) == routed(world) == LARGE
    assert world.check().run.state is RunState.SUCCEEDED
    entries = {entry["Shard"]: entry["Engine"] for entry in world.json("SUCCEEDED_0.json")}
    assert entries == {0: "", 1: ENGINE, 2: "", 3: ENGINE, 4: ""}


def test_an_unknown_engine_is_refused() -> None:
    world = world_of(SIZES)
    with pytest.raises(PlanError, match=f"{ENGINE}, {OTHER}"):
        planned(world, engine="emr")
    with pytest.raises(PlanError, match="Fargate"):
        new_run(World(world.dispatch).deployment, world.request(options=ROUTED))

    assert world.deployment.known_run("run-1") is None


def test_a_concurrency_cap_also_limits_engines() -> None:
    world = world_of(SIZES)
    planned(world, max_concurrency=2)

    for _ in range(5):
        world.check()
        open_there = [number for number in started(world) if not world.ledger.shards.get("run-1", number).state.ended]
        assert len(open_there) + len(world.bodies()) <= 2
        do_engine_shards(world)
        world.work()

    assert world.check().run.state is RunState.SUCCEEDED


def test_a_redrive_sends_only_the_failed_shards_to_an_engine() -> None:
    world = world_of(SIZES)
    planned(world)
    world.check()
    do_engine_shards(world, fails=True)
    world.work()
    assert world.check().run.state is RunState.FAILED

    redrive(world.deployment, "run-1", how=Again(OTHER))
    world.check()

    assert (started(world, OTHER), world.bodies()) == (LARGE, [])
    states = {record.state for record in world.shards() if record.number not in LARGE}
    assert states == {ShardState.SUCCEEDED}


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({}, {ENGINE: (2, 601)}),
        ({"engine": OTHER}, {OTHER: (2, 601)}),
        ({"max_shard_bytes": 0}, {}),
        ({"too_large": "refuse", "engine": OTHER}, {OTHER: (5, 731)}),
        ({"too_large": "fail", "engine": ""}, {}),
        ({"too_large": "fail", "engine": OTHER}, {OTHER: (5, 731)}),
    ],
)
def test_a_preview_counts_the_shards_planned_for_an_engine(changes: dict[str, Any], there: dict[str, Any]) -> None:
    world, options = world_of(SIZES), replace(ROUTED, **changes)

    found = preview(world.deployment, world.request(options=options)).by_engine
    assert list(found.values()) == list(there.values())  # a preview may leave the choice of the engine to the plan
    planned(world, **changes)
    engines = Counter(record.engine for record in world.shards() if record.engine)
    assert engines == {engine: shards for engine, (shards, _) in there.items()}


def test_auto_is_the_first_engine_that_can_do_the_run() -> None:
    world = world_of(SIZES)
    first = world.engines[ENGINE]
    assert isinstance(first, MemoryEngine)
    request = world.request(options=ROUTED, table="delta:s3://lake/flights")

    assert routes.with_chosen_engines(world.deployment, ROUTED, request.table).engine == ENGINE
    first.lacks = "delta"
    assert new_run(world.deployment, request).options.engine == OTHER


MUCH, TOO_MUCH = LARGE_BYTES, LARGE_BYTES + 1


@pytest.mark.parametrize(
    ("engine", "size_bytes", "planned_for"),
    [
        ("lambda-large,fargate", 100, ""),
        ("lambda-large,fargate", 101, "lambda-large"),
        ("lambda-large,fargate", MUCH, "lambda-large"),
        ("lambda-large,fargate", TOO_MUCH, "fargate"),
        ("lambda-large", TOO_MUCH, "lambda-large"),  # the user named this engine, or the stack has no other
        ("fargate", TOO_MUCH, "fargate"),
    ],
)
def test_lambda_large_gets_shards_up_to_its_limit(engine: str, size_bytes: int, planned_for: str) -> None:
    options = replace(ROUTED, engine=engine)

    assert routes.of_size(options, size_bytes)[1] == planned_for


def test_auto_names_the_engine_after_the_large_function() -> None:
    world = world_of(SIZES)
    world.engines = {"lambda-large": MemoryEngine(), **world.engines}

    assert routes.with_chosen_engines(world.deployment, ROUTED, "").engine == f"lambda-large,{ENGINE}"
    assert (
        routes.with_chosen_engines(world.deployment, replace(ROUTED, engine="lambda-large"), "").engine
        == "lambda-large"
    )
    planned(world)
    run = world.ledger.runs.get("run-1")
    after = {name: next_of(run.options.engine, name) for name in ("", "lambda-large", ENGINE, OTHER, "by hand")}
    assert after == {"": "lambda-large", "lambda-large": ENGINE, ENGINE: "", OTHER: "", "by hand": ""}
    assert routed(world, "lambda-large") == LARGE
    world.check()
    do_engine_shards(world, "lambda-large", fails=True)
    world.work()
    assert world.check().run.state is RunState.FAILED
    redrive(world.deployment, "run-1", how=Again("auto"))  # a shard keeps one engine
    assert routed(world, "lambda-large") == LARGE


def test_a_repeated_request_keeps_engine_and_limit() -> None:
    """The stack may have more engines or larger functions by then."""
    world = world_of(SIZES)
    run = new_run(world.deployment, world.request(options=ROUTED))

    world.engines = {OTHER: MemoryEngine(), **world.engines}

    assert new_run(world.deployment, world.request(options=replace(ROUTED, max_shard_bytes=10**9))) == run
    with pytest.raises(RunExistsError, match="options"):
        new_run(world.deployment, world.request(options=replace(ROUTED, too_large="refuse", engine=OTHER)))
