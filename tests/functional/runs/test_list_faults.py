"""Planners of lists are killed at every port call, then started again: no object is lost or planned twice."""

from collections import Counter

from sparklet.model import RunOptions, RunState
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment
from tests.functional.runs.test_faults import AFTER, kill_everywhere
from tests.unit.planning.test_left_out import left_out_objects
from tests.world import SOURCE, World

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


def enter_and_plan(deployment: Deployment) -> object:
    request = World().request(lists=(ListRequest("-", LIST.encode()),), options=OPTIONS)
    return plan(deployment, new_run(deployment, request).run_id, part_shards=2)


def assert_whole(world: World) -> None:
    """Assert that each object is planned once and each skipped entry is counted, as if no planner had died."""
    run = world.ledger.runs.get("run-1")
    planned = [item.uri for shard in world.planned() for item in shard.objects]
    assert planned == [f"{folder}{n:05d}.csv" for folder, count in ((SOURCE, 3), (LISTED, 6)) for n in range(count)]
    assert run.skipped == SKIPPED
    assert Counter(reason for _, reason in left_out_objects(world)) == SKIPPED
    assert run.object_count + sum(run.skipped.values()) == 5 + ROWS
    assert (run.state, run.shard_count) == (RunState.RUNNING, len(world.shards()))
    assert {ref.shard for ref in world.bodies()} == {record.number for record in world.shards()}


@AFTER
def test_a_killed_list_planner_resumes_and_plans_everything_once(after_effect: bool) -> None:
    killed = 0
    for world in kill_everywhere(fresh, enter_and_plan, after_effect):
        killed += 1
        enter_and_plan(world.deployment)
        assert_whole(world)
    assert killed > 40
