"""The demo's comparison of two runs' manifests: it ignores ids and times, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spark_scripts.demo.manifests_check import differences, keep_manifests, shard_count
from sparklet.model import Dispatch, Failure, ShardResult
from tests.world import World


def manifests_in(folder: Path, dispatch: Dispatch, later_s: float = 0.0, shards: int = 5) -> Path:
    """Write the manifests of a run whose shard 3 fails into a folder. Return the folder."""
    world = World()
    world.clock.advance(later_s)
    world.dispatch = dispatch

    def do(number: int) -> ShardResult | Failure:
        world.clock.advance(1 + later_s)
        if number == 3:
            return Failure("ValueError", "bad", retryable=False)
        return ShardResult(rows=number, output_bytes=10, outputs=(f"{run.shard_output(number)}/",))

    run = world.run(shards, tolerated_failure_count=1)
    if dispatch is Dispatch.MAP:
        world.children(world.handed_out(world.step("map")), do)
    else:
        world.work(do)
    world.check()
    keep_manifests(world.store.get, world.deployment.run_uri("run-1"), folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return manifests_in(tmp_path / "loop", Dispatch.QUEUE), manifests_in(tmp_path / "map", Dispatch.MAP, later_s=7)


def test_queue_and_map_runs_have_equal_manifests(pair: tuple[Path, Path]) -> None:
    assert (pair[0] / "SUCCEEDED_0.json").read_bytes() != (pair[1] / "SUCCEEDED_0.json").read_bytes()  # times
    assert list(differences(*pair)) == []
    assert shard_count(pair[0]) == shard_count(pair[1]) == 5


def change(path: Path, how: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("field", "value"),
    [("Objects", 2), ("InputBytes", 11), ("Rows", 99), ("OutputBytes", 9), ("Status", "FAILED"), ("RedriveCount", 1)],
)
def test_a_relevant_difference_of_a_shard_is_reported(pair: tuple[Path, Path], field: str, value: object) -> None:
    change(pair[1] / "SUCCEEDED_0.json", lambda shards: shards[1].update({field: value}))
    (told,) = differences(*pair)
    assert told.startswith(f"shard 1: {field} is ") and told.endswith(f"and {value!r}")


def test_differences_of_whole_runs_are_reported(pair: tuple[Path, Path]) -> None:
    change(pair[0] / "manifest.json", lambda manifest: manifest["run"].update(state="FAILED", rows=1))
    assert [each.partition(" is ")[0] for each in differences(*pair)] == ["the run: state", "the run: rows"]
