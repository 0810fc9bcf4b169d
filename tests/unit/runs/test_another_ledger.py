"""A run id used again with a new ledger over the same bucket: nothing that the first run left affects the second."""

import json
import time
from pathlib import Path

import pytest

from sparklet.errors import PlanError
from sparklet.model import RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.runs.summary import results
from tests.stand_ins.memory import FakeClock
from tests.unit.runs.one_table import RUN, Trial
from tests.unit.runs.test_phases import followed
from tests.world import World

INCREMENTAL = RunOptions(max_objects=1, incremental=True)


def another_ledger(world: World) -> World:
    """A world one day later, with a new ledger over the same bucket."""
    later = World(clock=FakeClock(world.clock.now_s() + 86_400))
    for uri in world.keys("s3://sparklet/"):
        later.store.put(uri, world.store.get(uri))
    for uri in later.keys("s3://sparklet/"):  # a copy keeps the time of its original
        held = later.store.objects[uri]
        later.store.objects[uri] = type(held)(held.body, world.store.head(uri))
    return later


def test_the_second_runs_table_gets_the_rows_of_its_own_shards(tmp_path: Path) -> None:
    first = Trial(tmp_path / "a", world=World(clock=FakeClock(time.time())))
    first.enter(2)
    first.go_on()
    second = Trial(tmp_path / "b", world=another_ledger(first.world))
    for uri in first.world.keys("s3://lake/"):
        second.world.store.put(uri, first.world.store.get(uri))
    second.enter(3, existing="append")

    assert second.go_on().state is RunState.SUCCEEDED
    assert second.table.rows == second.winners()


def test_the_second_runs_check_gets_its_own_figures(world: World) -> None:
    followed(world)
    later = another_ledger(world)
    followed(later, 5)

    (shard,) = later.planned("run-1-check-0")
    assert json.loads(later.store.get(shard.objects[0].uri))["counts"]["succeeded"] == 5


def test_the_second_run_follows_its_own_concurrency_cap(world: World) -> None:
    world.run(6, max_concurrency=3)
    world.check()
    later = another_ledger(world)
    later.run(6, max_concurrency=2)

    while not (report := later.check()).run.state.ended:
        assert len(later.bodies()) <= 2
        later.work()
    assert report.run.state is RunState.SUCCEEDED


def test_the_second_runs_name_is_not_locked_by_the_first_run(world: World) -> None:
    world.put(1)
    new_run(world.deployment, world.request(options=INCREMENTAL))
    later = another_ledger(world)
    later.put(1)
    new_run(later.deployment, later.request(options=INCREMENTAL))

    with pytest.raises(PlanError, match="also named"):
        new_run(later.deployment, later.request(run_id="run-2", options=INCREMENTAL))


def test_the_second_run_writes_its_own_results_and_manifest(world: World) -> None:
    world.ran(1)
    world.store.put(world.deployment.run_uri(RUN, "results.jsonl"), b'{"shard": 0, "answer": 1}\n')
    later = another_ledger(world)
    run = later.run(1)
    later.work(lambda _: ShardResult(rows=7))
    later.ledger.runs.finish(RUN, 0, RunState.SUCCEEDED)  # by a process that died before it wrote a manifest
    later.check()

    assert later.json("manifest.json")["run"]["rows"] == 7
    assert list(results(later.deployment, later.ledger.runs.get(run.run_id))) == []
