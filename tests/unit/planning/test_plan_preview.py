"""A preview says what a plan would be, and writes nothing."""

from pathlib import Path

import pytest

from sparklet.errors import PlanError
from sparklet.model import RunOptions
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_preview import preview
from sparklet.planning.planner import plan
from tests.world import SOURCE, World


def test_a_preview_equals_the_plan_and_writes_nothing(world: World) -> None:
    for n, size_bytes in enumerate([5, 5, 50, 1, 2, 3, 4]):
        world.store.put(f"{SOURCE}{n}.csv", b"x" * size_bytes)
    world.store.put(f"{SOURCE}x.json", b"{}")
    options = RunOptions(target_bytes=10, max_objects=3, include=("*.csv",))
    before = world.keys("s3://sparklet/")

    seen = preview(options, [SOURCE], world.store)

    assert world.keys("s3://sparklet/") == before == []
    new_run(world.at, world.request(options=options))
    plan(world.at, "run-1")
    sizes = [r.size_bytes for r in world.shards()]
    assert (seen.shards, seen.objects, seen.size_bytes) == (len(sizes), 7, sum(sizes))
    assert (seen.smallest_shard_bytes, seen.largest_shard_bytes) == (min(sizes), max(sizes))
    assert seen.most_objects_in_a_shard == max(r.object_count for r in world.shards())
    assert sum(seen.skipped.values()) == 1


def test_local_paths_are_previewed_where_they_are(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"12345")
    (tmp_path / "b.tmp").write_bytes(b"1")
    world.put(2)
    seen = preview(RunOptions(max_objects=1, exclude=("*.tmp",)), [str(tmp_path), SOURCE], world.store)
    assert (seen.shards, seen.size_bytes, sum(seen.skipped.values())) == (3, 25, 1)


def test_local_paths_that_overlap_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1").write_text("x")
    with pytest.raises(PlanError, match="processed twice"):
        preview(RunOptions(), [str(tmp_path), str(tmp_path / "x")], world.store)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [([], "no input was given"), ([SOURCE], "nothing to plan; left out: 2 "), (["./gone"], "is not there")],
)
def test_an_empty_preview_is_reported(world: World, inputs: list[str], message: str) -> None:
    world.put(2)
    with pytest.raises(PlanError, match=message):
        preview(RunOptions(include=("*.json",)), inputs, world.store)
