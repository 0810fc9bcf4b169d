"""Shards that wrote different columns to one output fail their run; what one job would write, too, does not."""

import json
from collections.abc import Callable, Mapping

from sparklet.model import Failure, RunState, ShardResult
from sparklet.model.schemas import OutputSchema
from sparklet.runs.manifest import write_manifests
from tests.world import World

INT, TEXT = OutputSchema("", "parquet", {"v": "int"}), OutputSchema("", "parquet", {"v": "string"})
REJECTED = OutputSchema("rejected", "parquet", {"why": "string"})


def wrote(world: World, *shards: tuple[OutputSchema, ...]) -> Callable[[int], ShardResult]:
    """Shards that wrote these schemas, which lie in the bucket."""
    for schema in (each for own in shards for each in own):
        world.store.put(world.at.run_uri("run-1", schema.file), json.dumps(schema).encode())
    results = [{schema.name: f"{schema.folder}/part-0.parquet".lstrip("/") for schema in own} for own in shards]
    return lambda number: ShardResult(rows=1, schemas=results[number])


def end(world: World, *shards: tuple[OutputSchema, ...], **options: bool) -> RunState:
    world.run(len(shards), **options)
    world.work(wrote(world, *shards))
    return world.check().run.state


def drift(world: World) -> str:
    manifest: Mapping[str, str] = world.json("manifest.json")
    return manifest.get("Drift", "")


def test_two_schemas_of_one_output_fail_the_run(world: World) -> None:
    assert end(world, (INT,), (INT,), (TEXT,)) is RunState.FAILED

    run = world.ledger.runs.get("run-1")
    assert f"{run.shard_output(0)}/part-0.parquet and {run.shard_output(2)}/part-0.parquet" in drift(world)
    assert "v is int and string" in drift(world) and "--schema" in drift(world)


def test_a_run_that_allows_drift_says_so_and_succeeds(world: World) -> None:
    assert end(world, (INT,), (TEXT,), allow_drift=True) is RunState.SUCCEEDED
    assert "v is int and string" in drift(world)


def test_outputs_in_subfolders_are_different_ones(world: World) -> None:
    assert end(world, (INT, REJECTED), (INT,), (REJECTED,), ()) is RunState.SUCCEEDED
    assert not drift(world)


def test_a_script_that_mixes_schemas_does_so_in_one_job(world: World) -> None:
    """One shard wrote both; others had rows for one of them alone."""
    assert end(world, (INT,), (INT, TEXT), (TEXT,)) is RunState.SUCCEEDED


def test_schemas_of_attempts_that_lost_do_not_count(world: World) -> None:
    """The file of a schema remains in the bucket, and no shard has it."""
    wrote(world, (TEXT,))

    assert end(world, (INT,), (INT,)) is RunState.SUCCEEDED


def test_failed_shards_are_not_compared_until_redriven(world: World) -> None:
    world.run(2, tolerated_failure_count=1)
    results = wrote(world, (INT,), (TEXT,))
    world.work(lambda number: results(number) if number else Failure("ValueError", "bad", retryable=False))

    report = world.check()

    assert report.run.state is RunState.SUCCEEDED_WITH_FAILURES
    assert not write_manifests(world.at, report.run, report.run.state).drift


def test_runs_without_drift_read_no_shard_for_it(world: World) -> None:
    world.run(2)
    world.work(wrote(world, (INT,), (INT,)))
    listed = list[str]()
    shards, real = world.ledger.shards, world.ledger.shards.list
    shards.list = lambda run_id, state=None: listed.append(str(state)) or real(run_id, state)  # type: ignore[func-returns-value,method-assign,redundant-expr]

    assert world.check().run.state is RunState.SUCCEEDED
    assert "SUCCEEDED" not in listed and listed.count("None") == 1  # that of the manifests
