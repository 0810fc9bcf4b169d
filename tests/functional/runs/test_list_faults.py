"""Planners of lists and incremental runs killed at every port call, then started again: nothing lost or doubled."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

from sparklet.errors import PlanError
from sparklet.inputs.list_requests import ListRequest
from sparklet.inputs.selection import Reason
from sparklet.model import RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from tests.functional.runs.test_faults import AFTER, kill_everywhere
from tests.unit.planning.test_left_out import named
from tests.world import BUCKET, SOURCE, Fault, KilledError, World

LISTED = "s3://data/listed/"
LIST = "\n".join(
    [
        *(f"{LISTED}{n:05d}.csv" for n in range(4)),
        f"{LISTED}00001.csv",
        f"{SOURCE}00002.csv",
        f"{LISTED}gone",
        f"{LISTED}empty",
        *(f"{LISTED}{n:05d}.csv" for n in range(3, 6)),
        f"{LISTED}00000.csv",
    ]
)
SKIPPED = {Reason.DUPLICATE: 4, Reason.MISSING: 1, Reason.EMPTY: 2, Reason.FOLDER_MARKER: 1}
ROWS = LIST.count("\n") + 1
OPTIONS = RunOptions(max_objects=2, missing="skip")


def fresh() -> World:
    world = World()
    world.put(3)
    world.put(6, folder=LISTED)
    for empty in (f"{SOURCE}00000x", f"{SOURCE}y/", f"{LISTED}empty"):
        world.store.put(empty, b"")
    return world


def plan_it(at: Deployment) -> object:
    request = World().request(lists=(ListRequest("-", LIST.encode()),), options=OPTIONS)
    return plan(at, new_run(at, request).run_id, part_shards=2)


def assert_whole(world: World) -> None:
    """Every object once, every other one counted, as if nobody had died."""
    run = world.ledger.runs.get("run-1")
    planned = [item.uri for shard in world.planned() for item in shard.objects]
    assert planned == [f"{folder}{n:05d}.csv" for folder, count in ((SOURCE, 3), (LISTED, 6)) for n in range(count)]
    assert run.skipped == SKIPPED
    assert Counter(reason for _, reason in named(world)) == SKIPPED
    assert run.object_count + sum(run.skipped.values()) == 5 + ROWS
    assert (run.state, run.shard_count) == (RunState.RUNNING, len(world.shards()))
    assert {ref.shard for ref in world.bodies()} == {record.number for record in world.shards()}


@AFTER
def test_a_killed_list_planner_resumes_and_plans_everything_once(after_effect: bool) -> None:
    killed = 0
    for world in kill_everywhere(fresh, plan_it, after_effect):
        killed += 1
        plan_it(world.at)
        assert_whole(world)
    assert killed > 40


def plan_incremental(at: Deployment) -> object:
    options = RunOptions(max_objects=2, incremental=True)
    return plan(at, new_run(at, World().request(run_id="run-2", options=options)).run_id, part_shards=2)


def after_a_night() -> World:
    """A finished run of the name, and objects that came since."""
    world = fresh()
    new_run(world.at, world.request(options=RunOptions(max_objects=2, incremental=True)))
    plan(world.at, "run-1")
    world.work(lambda _: ShardResult())
    assert world.check().run.state is RunState.SUCCEEDED
    world.put(6)
    return world


@AFTER
def test_a_killed_incremental_planner_resumes_with_what_is_new(after_effect: bool) -> None:
    killed = 0
    for world in kill_everywhere(after_a_night, plan_incremental, after_effect):
        killed += 1
        plan_incremental(world.at)
        planned = [item.uri for shard in world.planned("run-2") for item in shard.objects]
        assert planned == [f"{SOURCE}{n:05d}.csv" for n in range(3, 6)]
        assert world.ledger.runs.get("run-2").skipped == {Reason.DONE: 3, Reason.EMPTY: 1, Reason.FOLDER_MARKER: 1}
        claims = world.keys(f"s3://{BUCKET}/runs/_outputs/")
        assert [world.store.get(claim).partition(b"_")[0] for claim in claims] == [b'["run-1', b'["run-2']
    assert killed > 30


@pytest.mark.parametrize("at_call", range(1, 25))
def test_the_checker_ends_a_run_whose_name_another_claims(at_call: int) -> None:
    """GIVEN two that entered at once and one that died somewhere on losing, THEN nothing of it is ever planned."""
    world = after_a_night()
    options = RunOptions(max_objects=2)
    for run_id in ("run-2", "run-3"):
        run = new_run(world.at, world.request(run_id=run_id, options=options))
        world.ledger.put(replace(run, options=RunOptions(max_objects=2, incremental=True)))
        for uri in world.keys(f"s3://{BUCKET}/runs/_outputs/"):
            world.store.delete(uri)
    plan(world.at, "run-2")
    with suppress(KilledError, PlanError):
        plan(Fault(at_call).deployment(world.at), "run-3")
    world.clock.advance(3600)
    for _ in range(2):
        with suppress(PlanError):
            check(world.at, "run-3")
    assert world.ledger.runs.get("run-3").state is RunState.FAILED
    assert list(world.ledger.runs.parts("run-3")) == []
