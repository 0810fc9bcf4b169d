"""A run's shards as columns: all shards of a small run, and failed, slow and sampled shards of a large one."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import RunState, ShardRecord, ShardResult, ShardState
from sparklet.runs.manifest import COLUMNS, ShardTable, fair_values, write_manifests
from tests.world import BROKEN, World

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "report.json").read_text())


def shard(number: int, state: ShardState = ShardState.SUCCEEDED, took_s: float = 1.0) -> ShardRecord:
    return ShardRecord(
        *("run", number, "part-0", 0, 1, 1, 100),
        state=state,
        attempts=1,
        started_s=1000.0,
        changed_s=1000.0 + took_s,
        log_stream=f"worker {number % 3}",
        error_class="ValueError" if state is ShardState.FAILED else "",
        error_message=f"line {number}" if state is ShardState.FAILED else "",
    )


@settings(deadline=None)  # the schema's validator is slow at first
@given(st.lists(st.tuples(st.sampled_from(ShardState), st.floats(0, 900)), max_size=60), st.sampled_from([20, 100]))
def test_a_table_lists_no_shard_twice_and_failed_and_slow_ones(
    shards: list[tuple[ShardState, float]], most: int
) -> None:
    table = ShardTable(created_s=990.0, most=most)
    for number, (state, took_s) in enumerate(shards):
        table.add(shard(number, state, took_s))

    found = json.loads(json.dumps(table.document()))

    jsonschema.validate(found, {**SCHEMA["$defs"]["shard_table"], "$defs": SCHEMA["$defs"]})
    numbers = found["columns"]["shard"]
    assert {len(column) for column in found["columns"].values()} == {len(numbers)}
    assert numbers == sorted(set(numbers))
    assert found["count"] == len(shards)
    assert found["complete"] == (len(shards) <= most)
    if found["complete"]:
        assert len(numbers) == len(shards)
        return
    assert len(numbers) <= most
    failed = [number for number, (state, _) in enumerate(shards) if state is ShardState.FAILED]
    assert set(failed[:4]) <= set(numbers)  # a fifth of 20
    ended = [(took_s, -number) for number, (state, took_s) in enumerate(shards) if state.ended]
    slowest = max(ended, default=None)
    assert slowest is None or -slowest[1] in numbers or round(slowest[0], 3) in found["columns"]["took_s"]


def test_the_sample_of_a_large_run_has_the_mean_of_all_shards() -> None:
    """The slowest shards are listed as well, but are left out of the sample."""
    table = ShardTable(0.0, most=2000)
    for number in range(20_000):
        table.add(shard(number, took_s=float(number % 100)))

    values = [took_s for (took_s,) in fair_values(table.document(), "took_s")]

    assert len(values) == 1400
    assert sum(values) / len(values) == pytest.approx(49.5, abs=3.0)  # four standard errors


def test_a_row_has_the_cause_worker_and_engine_of_its_shard() -> None:
    lost = replace(shard(0), error_class=LEASE_EXPIRED, attempts=2, memory_mb=700, rows=3, output_bytes=50)
    table = ShardTable(created_s=990.0)
    for record in (lost, replace(shard(1), state=ShardState.PENDING, attempts=0), replace(shard(2), engine="emr")):
        table.add(record)

    found = json.loads(json.dumps(table.document()))
    first, second, third = zip(*(found["columns"][name] for name in COLUMNS), strict=True)

    assert first == (0, "SUCCEEDED", 2, 10.0, 1.0, 1, 100, 50, 3, 700, 1, 0, None, 0)
    assert second == (1, "PENDING", 0, None, None, 1, 100, None, None, None, 0, None, None, None)
    assert third[-3:] == (1, 0, None)
    assert found["causes"] == [[LEASE_EXPIRED, ""]]
    assert (found["workers"], found["engines"]) == (["worker 0", "worker 2"], ["emr"])


def test_the_end_of_a_run_writes_its_report(world: World) -> None:
    run = world.run(6)
    world.work(lambda number: BROKEN if number == 4 else ShardResult(rows=number))

    write_manifests(world.deployment, run, RunState.SUCCEEDED_WITH_FAILURES)

    found = world.json("report.json")
    jsonschema.validate(found, SCHEMA)
    assert found["counts"]["succeeded"] == 5
    assert found["shard_table"]["columns"]["rows"] == [0, 1, 2, 3, None, 5]
    assert found["shard_table"]["causes"] == [["ValueError", "bad"]]
