"""A run's schema is inferred once, by a schema task, before any shard is planned."""

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


def plan_with_infer(world: World, objects: int = 3, **more: Any) -> Run:
    """Plan a run with --schema infer, up to the point where it needs the schema."""
    world.put(objects)
    return world.plan(params={"schema": "infer"}, **more)


def answer(world: World, document: Any) -> None:
    """Let the schema task succeed with this answer."""

    def done(_: int) -> ShardResult:
        record = next(world.ledger.shards.list(TASK))
        body = json.dumps({"shard": 0, "answer": document}).encode()
        world.store.put(world.deployment.run_uri(TASK, record.answer_file), body)
        return ShardResult(rows=0)

    world.work(done)


def inferred(world: World, objects: int = 3, **more: Any) -> Run:
    """Plan a run with the schema that its task inferred."""
    plan_with_infer(world, objects, **more)
    answer(world, {"schema": SCHEMA})
    return plan(world.deployment, "run-1")


def test_shards_are_planned_only_after_the_schema_is_inferred(world: World) -> None:
    run = plan_with_infer(world)

    assert run.state is RunState.PLANNING
    assert not list(world.ledger.shards.list("run-1"))
    assert [ref.run_id for ref in world.bodies()] == [TASK]

    answer(world, {"schema": SCHEMA})
    run = plan(world.deployment, "run-1")

    assert run.schema == SCHEMA and run.shard_count == 2
    shards = zip(world.shards(), world.planned(), strict=True)
    events = [shard_event(run, record, shard, "s3://o/") for record, shard in shards]
    assert [event["params"] for event in events] == [{"schema": SCHEMA}] * 2
    assert world.ledger.runs.get("run-1").params == {"schema": "infer"}  # unchanged from the request


def test_the_schema_task_reads_the_sample_with_schema_infer(world: World) -> None:
    plan_with_infer(world)
    task = world.ledger.runs.get(TASK)
    assert (task.parent, task.params, task.schema) == ("run-1", {"schema": "infer"}, "infer")
    assert list(task.inputs) == SAMPLE


def test_a_sample_is_spread_over_the_input(world: World) -> None:
    plan_with_infer(world, objects=10 * MAX_OBJECTS)
    assert list(world.ledger.runs.get(TASK).inputs) == [f"{SOURCE}{10 * n:05d}.csv" for n in range(MAX_OBJECTS)]


def test_a_sample_leaves_out_objects_that_are_too_large(world: World) -> None:
    world.store.put(f"{SOURCE}00000-large.csv", b"x" * (MAX_BYTES + 1))
    plan_with_infer(world)
    assert list(world.ledger.runs.get(TASK).inputs) == SAMPLE


@pytest.mark.parametrize("part_shards", [1000, 3])
def test_slices_count_with_the_size_of_their_object(world: World, part_shards: int) -> None:
    """This holds even if the plan part that the sample is taken from ends within the slices."""
    world.store.put(f"{SOURCE}00001-large.csv", b"id\n" + b"1\n" * (MAX_BYTES // 2 + 1))
    options = RunOptions(max_objects=1, split="csv", target_bytes=MAX_BYTES // 4)
    plan_with_infer(world, 1, options=options, part_shards=part_shards)
    assert list(world.ledger.runs.get(TASK).inputs) == SAMPLE[:1]


def test_files_that_the_sample_leaves_out_are_reported(world: World) -> None:
    run = plan_with_infer(world)
    assert left_out(world.deployment, run) == {}
    answer(world, {"schema": SCHEMA, "left_out": {SAMPLE[1]: "it is no text"}})
    assert left_out(world.deployment, run) == {SAMPLE[1]: "it is no text"}


def test_an_input_of_only_large_objects_is_refused(world: World) -> None:
    world.store.put(f"{SOURCE}large.csv", b"x" * (MAX_BYTES + 1))
    new_run(world.deployment, world.request(params={"schema": "infer"}))
    with pytest.raises(PlanError, match="--schema 'id INT"):
        plan(world.deployment, "run-1")


def test_repeated_planning_starts_one_task_with_one_sample(world: World) -> None:
    plan_with_infer(world)
    world.put(8)  # a later listing does not change the sample
    plan(world.deployment, "run-1")
    answer(world, {"schema": SCHEMA})
    plan(world.deployment, "run-1")
    plan(world.deployment, "run-1")

    assert [run.run_id for run in world.ledger.runs.list() if run.parent] == [TASK]
    assert len(world.ledger.runs.get(TASK).inputs) == 3
    assert world.ledger.runs.get("run-1").object_count == 8


def test_a_planner_waits_for_the_schema_while_wait_returns_true(world: World) -> None:
    plan_with_infer(world)
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
    plan_with_infer(world)
    answer(world, document)
    with pytest.raises(PlanError, match="read_csv"):
        plan(world.deployment, "run-1")
    assert not list(world.ledger.shards.list("run-1"))


def test_a_run_whose_schema_cannot_be_inferred_fails(world: World) -> None:
    plan_with_infer(world)
    world.work(lambda _: Failure("EventError", "other columns", retryable=False))

    with pytest.raises(PlanError, match="other columns"):
        plan(world.deployment, "run-1")
    report = check(world.deployment, "run-1", planner_silent_s=0.0)

    assert report.run.state is RunState.FAILED
    assert plan(world.deployment, "run-1").state is RunState.FAILED


def test_a_check_plans_the_run_if_its_planner_died(world: World) -> None:
    plan_with_infer(world)
    assert world.check().run.state is RunState.PLANNING
    answer(world, {"schema": SCHEMA})
    world.clock.advance(601)
    assert world.check().planned
    assert world.ledger.runs.get("run-1").sealed


def test_a_cancelled_run_is_planned_no_further(world: World) -> None:
    plan_with_infer(world)

    def wait(_: Run) -> bool:
        world.ledger.runs.cancel("run-1")
        return True

    with pytest.raises(CheckpointConflictError, match="cancelled"):
        plan(world.deployment, "run-1", wait=wait)
    assert world.check().run.state is RunState.CANCELLED
    assert world.ledger.runs.get(TASK).cancelled_s is not None


def test_check_and_next_runs_inherit_the_inferred_schema(world: World) -> None:
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
        plan_with_infer(world)
    assert not list(world.ledger.runs.list())


def test_a_given_schema_needs_no_task(world: World) -> None:
    world.put(3)
    assert world.plan(params={"schema": SCHEMA}).sealed
    assert [run.run_id for run in world.ledger.runs.list()] == ["run-1"]


def test_the_key_schema_sets_the_parameter_schema() -> None:
    given = {"script": SCRIPT, "inputs": [SOURCE], "output": "s3://data/out/", "schema": "id INT"}
    assert read_request(given).params == {"schema": "id INT"}
    with pytest.raises(PlanError, match="same"):
        read_request({**given, "params": {"schema": "id INT"}})
