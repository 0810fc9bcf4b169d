"""Shards that wrote different columns to one output fail their run, unless one job could have written them all."""

import json
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock, call

import pytest

from sparklet.model import RunOptions, RunState, ShardResult, ShardState
from sparklet.model.schemas import Schema
from sparklet.runs.checker import check
from sparklet.runs.manifest import write_manifests
from tests.world import BROKEN, SCRIPT, SOURCE, Do, World

INT, TEXT = Schema("", "parquet", {"v": "int"}), Schema("", "parquet", {"v": "string"})
REJECTED = Schema("rejected", "parquet", {"why": "string"})
A_TEXT, A_LONG, B_LONG = (  # three schemas that the same reader inferred
    Schema("reader", "json", columns, (), True, False)
    for columns in ({"a": "string"}, {"a": "bigint"}, {"b": "bigint"})
)


def wrote(world: World, *shards: tuple[Schema, ...], run_id: str = "run-1") -> Do:
    """Store the schemas in the bucket. Return what the shards do: each has the schemas of its tuple."""
    for schema in (each for own in shards for each in own):
        world.store.put(world.deployment.run_uri(run_id, schema.file), json.dumps(schema).encode())

    def file(schema: Schema, number: int) -> str:
        return f"s3://in/{number}/x.json" if schema.is_inferred else f"{schema.subject}/part-0.parquet".lstrip("/")

    return lambda number: ShardResult(rows=1, schemas={each.name: file(each, number) for each in shards[number]})


def end_state(world: World, *shards: tuple[Schema, ...], **options: bool) -> RunState:
    world.run(len(shards), **options)
    return world.work_and_check(wrote(world, *shards)).run.state


def drift(world: World) -> str:
    manifest: Mapping[str, Any] = world.json("manifest.json")
    return manifest["run"]["drift"] or ""


def test_two_schemas_of_one_output_fail_the_run(world: World) -> None:
    assert end_state(world, (INT,), (INT,), (TEXT,)) is RunState.FAILED

    run = world.ledger.runs.get("run-1")
    assert f"{run.shard_output(0)}/part-0.parquet and {run.shard_output(2)}/part-0.parquet" in drift(world)
    assert "v is int and string" in drift(world) and "--schema" in drift(world)


def test_drift_names_inputs_if_their_inferred_types_differ(world: World) -> None:
    assert end_state(world, (A_LONG, INT), (B_LONG, INT), (A_TEXT, TEXT)) is RunState.FAILED
    assert "s3://in/0/x.json and s3://in/2/x.json (a is bigint and string)" in drift(world)


def test_an_incremental_run_is_compared_with_its_last_good_run(world: World) -> None:
    ends = []
    for number, schema in enumerate([A_LONG, A_TEXT, A_LONG], start=1):
        world.store.put(f"{SOURCE}{number}.json", b"{}")
        world.clock.sleep(1)
        options: dict[str, Any] = {
            "name": "daily",
            "output_uri": "s3://data/out/",
            "options": RunOptions(incremental=True),
        }
        run = world.plan(run_id=f"run-{number}", **options)
        world.work(wrote(world, (schema,), run_id=run.run_id))
        ends.append(check(world.deployment, run.run_id).run.state)

    assert ends == [RunState.SUCCEEDED, RunState.FAILED, RunState.SUCCEEDED]


def test_a_run_that_allows_drift_reports_it_and_succeeds(world: World) -> None:
    assert end_state(world, (INT,), (TEXT,), allow_drift=True) is RunState.SUCCEEDED
    assert "v is int and string" in drift(world)


@pytest.mark.parametrize(
    ("script", "wrote_too", "state"),
    [
        (b"for folder in job.event['input_folders']: ...", INT, RunState.SUCCEEDED),
        (b"[uri for uri in uris if '/0/' in uri]; read('s3://in/1/')", INT, RunState.SUCCEEDED),
        (b"read(job.input_list()); print('/0/')", INT, RunState.FAILED),
        (b"job.event['input_folders']", TEXT, RunState.FAILED),  # to one output
    ],
)
def test_input_folders_that_a_script_reads_apart_may_differ(
    world: World, script: bytes, wrote_too: Schema, state: RunState
) -> None:
    world.store.put(SCRIPT, script)
    for folder in "01":
        world.store.put(f"s3://in/{folder}/x.json", b"{}")
    world.plan(inputs=("s3://in/0/", "s3://in/1/"), options=RunOptions(max_objects=1))

    report = world.work_and_check(wrote(world, (A_LONG, INT), (A_TEXT, wrote_too)))

    assert report.run.state is state
    assert "(v is int" in drift(world) if wrote_too is TEXT else "(a is bigint and string)" in drift(world)


@pytest.mark.parametrize(
    "shards",
    [
        ((INT, REJECTED), (INT,), (REJECTED,), ()),  # a subfolder is another output
        # One shard wrote both schemas, so the script does.
        ((INT,), (INT, TEXT), (TEXT,)),
        ((A_LONG,), (B_LONG,)),  # keys are missing
    ],
)
def test_schemas_that_one_job_could_write_are_no_drift(world: World, shards: tuple[tuple[Schema, ...]]) -> None:
    assert end_state(world, *shards) is RunState.SUCCEEDED
    assert not drift(world)


def test_schemas_of_lost_attempts_are_not_compared(world: World) -> None:
    """A lost attempt's schema file remains in the bucket, but no shard's record names it."""
    wrote(world, (TEXT,))

    assert end_state(world, (INT,), (INT,)) is RunState.SUCCEEDED


def test_failed_shards_are_not_compared_until_redriven(world: World) -> None:
    world.run(2, tolerated_failure_count=1)
    results = wrote(world, (INT,), (TEXT,))

    report = world.work_and_check(lambda number: results(number) if number else BROKEN)

    assert report.run.state is RunState.SUCCEEDED_WITH_FAILURES
    assert not write_manifests(world.deployment, report.run, report.run.state).drift.text


def test_a_run_without_drift_reads_its_shards_only_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Mock(side_effect=world.ledger.shards.list)
    monkeypatch.setattr(world.ledger.shards, "list", listed)

    assert end_state(world, (INT,), (INT,)) is RunState.SUCCEEDED
    assert call("run-1", ShardState.SUCCEEDED) not in listed.mock_calls
    assert listed.mock_calls.count(call("run-1")) == 1  # for the manifests
