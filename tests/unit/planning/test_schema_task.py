"""A run's schema is inferred once, by a task of its own, before any shard is planned."""

import json
from typing import Any

import pytest

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.model import Failure, Run, RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import read_request
from sparklet.planning.schema_task import MAX_BYTES, MAX_OBJECTS, left_out
from sparklet.runs.checker import check
from sparklet.worker.executor import shard_event
from tests.world import SCRIPT, SOURCE, World

TASK, SCHEMA = "run-1-schema-0", "`id` bigint, `amount` double"
SAMPLE = [f"{SOURCE}{n:05d}.csv" for n in range(3)]


@pytest.fixture
def world(world: World) -> World:
    world.store.put(SCRIPT, b"job.read_csv(spark)\n")
    return world


def asked(world: World, objects: int = 3, **more: Any) -> Run:
    """A run that asks for a schema, planned as far as it goes without one."""
    world.put(objects)
    return world.plan(params={"schema": "infer"}, **more)


def answer(world: World, document: Any) -> None:
    """The task's script answers, and its worker ends."""

    def done(_: int) -> ShardResult:
        record = next(world.ledger.shards.list(TASK))
        body = json.dumps({"shard": 0, "answer": document}).encode()
        world.store.put(world.deployment.run_uri(TASK, record.answer_file), body)
        return ShardResult(rows=0)

    world.work(done)


def inferred(world: World, objects: int = 3, **more: Any) -> Run:
    """A run that is planned with the schema that its task inferred."""
    asked(world, objects, **more)
    answer(world, {"schema": SCHEMA})
    return plan(world.deployment, "run-1")


def test_shards_are_planned_once_they_can_get_the_schema(world: World) -> None:
    run = asked(world)

    assert run.state is RunState.PLANNING
    assert not list(world.ledger.shards.list("run-1"))
    assert [ref.run_id for ref in world.bodies()] == [TASK]

    answer(world, {"schema": SCHEMA})
    run = plan(world.deployment, "run-1")

    assert run.schema == SCHEMA and run.shard_count == 2
    shards = zip(world.shards(), world.planned(), strict=True)
    events = [shard_event(run, record, shard, "s3://o/") for record, shard in shards]
    assert [event["params"] for event in events] == [{"schema": SCHEMA}] * 2
    assert world.ledger.runs.get("run-1").params == {"schema": "infer"}  # as it was asked for


def test_the_task_is_told_to_infer_and_reads_the_sample(world: World) -> None:
    asked(world)
    task = world.ledger.runs.get(TASK)
    assert (task.parent, task.params, task.schema) == ("run-1", {"schema": "infer"}, "infer")
    assert list(task.inputs) == SAMPLE


def test_a_sample_is_spread_over_the_input(world: World) -> None:
    asked(world, objects=10 * MAX_OBJECTS)
    assert list(world.ledger.runs.get(TASK).inputs) == [f"{SOURCE}{10 * n:05d}.csv" for n in range(MAX_OBJECTS)]


def test_a_sample_leaves_out_what_is_too_large(world: World) -> None:
    world.store.put(f"{SOURCE}00000-large.csv", b"x" * (MAX_BYTES + 1))
    asked(world)
    assert list(world.ledger.runs.get(TASK).inputs) == SAMPLE


@pytest.mark.parametrize("part_shards", [1000, 3])
def test_slices_count_as_the_whole_that_is_read(world: World, part_shards: int) -> None:
    """Also if the part of the plan from which the sample is taken ends within them."""
    world.store.put(f"{SOURCE}00001-large.csv", b"id\n" + b"1\n" * (MAX_BYTES // 2 + 1))
    options = RunOptions(max_objects=1, split="csv", target_bytes=MAX_BYTES // 4)
    asked(world, 1, options=options, part_shards=part_shards)
    assert list(world.ledger.runs.get(TASK).inputs) == SAMPLE[:1]


def test_files_that_the_sample_leaves_out_are_reported(world: World) -> None:
    run = asked(world)
    assert left_out(world.deployment, run) == {}
    answer(world, {"schema": SCHEMA, "left_out": {SAMPLE[1]: "it is no text"}})
    assert left_out(world.deployment, run) == {SAMPLE[1]: "it is no text"}


def test_an_input_of_large_objects_alone_is_refused(world: World) -> None:
    world.store.put(f"{SOURCE}large.csv", b"x" * (MAX_BYTES + 1))
    new_run(world.deployment, world.request(params={"schema": "infer"}))
    with pytest.raises(PlanError, match="--schema 'id INT"):
        plan(world.deployment, "run-1")


def test_several_planners_start_one_schema_task_with_one_sample(world: World) -> None:
    asked(world)
    world.put(8)  # a later listing: the sample does not change
    plan(world.deployment, "run-1")
    answer(world, {"schema": SCHEMA})
    plan(world.deployment, "run-1")
    plan(world.deployment, "run-1")

    assert [run.run_id for run in world.ledger.runs.list() if run.parent] == [TASK]
    assert len(world.ledger.runs.get(TASK).inputs) == 3
    assert world.ledger.runs.get("run-1").object_count == 8


def test_a_planner_waits_as_long_as_it_may(world: World) -> None:
    asked(world)
    waited: list[str] = []

    def wait(follower: Run) -> bool:
        waited.append(follower.run_id)
        if len(waited) == 3:
            answer(world, {"schema": SCHEMA})
        return True

    assert plan(world.deployment, "run-1", wait=wait).sealed
    assert waited == [TASK] * 3


@pytest.mark.parametrize("document", [None, {"rows": 7}, "id INT", {"schema": 7}], ids=str)
def test_a_script_that_answers_no_schema_fails_the_run(world: World, document: Any) -> None:
    asked(world)
    answer(world, document)
    with pytest.raises(PlanError, match="read_csv"):
        plan(world.deployment, "run-1")
    assert not list(world.ledger.shards.list("run-1"))


def test_a_run_whose_schema_cannot_be_inferred_fails(world: World) -> None:
    asked(world)
    world.work(lambda _: Failure("EventError", "other columns", retryable=False))

    with pytest.raises(PlanError, match="other columns"):
        plan(world.deployment, "run-1")
    report = check(world.deployment, "run-1", planner_silent_s=0.0)

    assert report.run.state is RunState.FAILED
    assert plan(world.deployment, "run-1").state is RunState.FAILED


def test_a_dead_planners_run_goes_on_by_checks(world: World) -> None:
    asked(world)
    assert world.check().run.state is RunState.PLANNING
    answer(world, {"schema": SCHEMA})
    world.clock.advance(601)
    assert world.check().planned
    assert world.ledger.runs.get("run-1").sealed


def test_a_cancelled_run_is_planned_no_further(world: World) -> None:
    asked(world)

    def wait(_: Run) -> bool:
        world.ledger.runs.cancel("run-1")
        return True

    with pytest.raises(CheckpointConflictError, match="cancelled"):
        plan(world.deployment, "run-1", wait=wait)
    assert world.check().run.state is RunState.CANCELLED
    assert world.ledger.runs.get(TASK).cancelled_s is not None


def test_runs_that_follow_have_the_schema_and_infer_none(world: World) -> None:
    check_script = "s3://data/jobs/check.py"
    world.store.put(check_script, b"print('checks')\n")
    inferred(world, objects=1, check=check_script, next=check_script)
    for _ in range(4):
        world.work()
        world.check()

    assert world.ledger.runs.get("run-1").state is RunState.SUCCEEDED
    followers = {run.run_id: run.schema for run in world.ledger.runs.list() if run.parent and run.run_id != TASK}
    assert followers == {"run-1-check-0": SCHEMA, "run-1-next-0": SCHEMA}


def test_the_same_request_again_is_the_same_run(world: World) -> None:
    inferred(world)
    assert new_run(world.deployment, world.request(params={"schema": "infer"})).schema == SCHEMA


def test_a_script_without_read_csv_is_refused_at_once(world: World) -> None:
    world.store.put(SCRIPT, b"print('daily')\n")
    with pytest.raises(PlanError, match="read_csv"):
        asked(world)
    assert not list(world.ledger.runs.list())


def test_a_given_schema_needs_no_task(world: World) -> None:
    world.put(3)
    assert world.plan(params={"schema": SCHEMA}).sealed
    assert [run.run_id for run in world.ledger.runs.list()] == ["run-1"]


def test_schema_is_a_parameter_by_another_name() -> None:
    given = {"script": SCRIPT, "inputs": [SOURCE], "output": "s3://data/out/", "schema": "id INT"}
    assert read_request(given).params == {"schema": "id INT"}
    with pytest.raises(PlanError, match="same"):
        read_request({**given, "params": {"schema": "id INT"}})
