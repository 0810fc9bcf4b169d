"""Shards that wrote different columns to one output fail their run; what one job would write, too, does not."""

import json
from collections.abc import Mapping
from unittest.mock import Mock, call

import pytest

from sparklet.model import RunState, ShardResult, ShardState
from sparklet.model.schemas import OutputSchema
from sparklet.runs.manifest import write_manifests
from tests.world import BROKEN, Do, World

INT, TEXT = OutputSchema("", "parquet", {"v": "int"}), OutputSchema("", "parquet", {"v": "string"})
REJECTED = OutputSchema("rejected", "parquet", {"why": "string"})


def wrote(world: World, *shards: tuple[OutputSchema, ...]) -> Do:
    """Shards that wrote these schemas, which lie in the bucket."""
    for schema in (each for own in shards for each in own):
        world.store.put(world.at.run_uri("run-1", schema.file), json.dumps(schema).encode())
    results = [{schema.name: f"{schema.folder}/part-0.parquet".lstrip("/") for schema in own} for own in shards]
    return lambda number: ShardResult(rows=1, schemas=results[number])


def end(world: World, *shards: tuple[OutputSchema, ...], **options: bool) -> RunState:
    world.run(len(shards), **options)
    return world.work_and_check(wrote(world, *shards)).run.state


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


@pytest.mark.parametrize(
    "shards",
    [
        ((INT, REJECTED), (INT,), (REJECTED,), ()),  # outputs in subfolders are different ones
        ((INT,), (INT, TEXT), (TEXT,)),  # one shard wrote both, so the script does; others had rows for one alone
    ],
)
def test_what_one_job_would_write_is_no_drift(world: World, shards: tuple[tuple[OutputSchema, ...]]) -> None:
    assert end(world, *shards) is RunState.SUCCEEDED
    assert not drift(world)


def test_schemas_of_attempts_that_lost_do_not_count(world: World) -> None:
    """The file of a schema remains in the bucket, and no shard has it."""
    wrote(world, (TEXT,))

    assert end(world, (INT,), (INT,)) is RunState.SUCCEEDED


def test_failed_shards_are_not_compared_until_redriven(world: World) -> None:
    world.run(2, tolerated_failure_count=1)
    results = wrote(world, (INT,), (TEXT,))

    report = world.work_and_check(lambda number: results(number) if number else BROKEN)

    assert report.run.state is RunState.SUCCEEDED_WITH_FAILURES
    assert not write_manifests(world.at, report.run, report.run.state).drift


def test_runs_without_drift_read_no_shard_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Mock(side_effect=world.ledger.shards.list)
    monkeypatch.setattr(world.ledger.shards, "list", listed)

    assert end(world, (INT,), (INT,)) is RunState.SUCCEEDED
    assert call("run-1", ShardState.SUCCEEDED) not in listed.mock_calls
    assert listed.mock_calls.count(call("run-1")) == 1  # that of the manifests
