"""An input is listed once for the preview, the checks of a request and the plan; a preview writes nothing."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.errors import PlanError
from sparklet.model import Failure, RunOptions, ShardResult
from sparklet.planning import packing
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import PackedInput, preview
from sparklet.planning.plan_files import reasons_for
from sparklet.planning.planner import plan
from sparklet.ports import ObjectInfo
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.planning.test_plan_requests import ask, request
from tests.world import SCRIPT, SOURCE, World

FIRST = 1  # one object is listed first, to see that the folder is not empty


def test_a_preview_equals_the_plan_and_writes_nothing(world: World) -> None:
    for n, size_bytes in enumerate([5, 5, 50, 1, 2, 3, 4]):
        world.store.put(f"{SOURCE}{n}.csv", b"x" * size_bytes)
    world.store.put(f"{SOURCE}x.json", b"{}")
    options = RunOptions(target_bytes=10, max_objects=3, include=("*.csv",))
    before = world.keys("s3://sparklet/")

    seen = preview(world.deployment, world.request(options=options))

    assert world.keys("s3://sparklet/") == before == []
    world.plan(options=options)
    sizes = [r.size_bytes for r in world.shards()]
    assert (seen.shards, seen.objects, seen.size_bytes) == (len(sizes), 7, sum(sizes))
    assert (seen.smallest_shard_bytes, seen.largest_shard_bytes) == (min(sizes), max(sizes))
    assert seen.most_objects_in_a_shard == max(r.object_count for r in world.shards())
    assert sum(seen.skipped.values()) == 1


def test_a_preview_cuts_local_files_as_a_run_does(world: World, tmp_path: Path) -> None:
    body = b"id,v\n" + b"1,x\n" * 100
    for name, content in (("a.csv", body), ("b.csv.gz", body)):
        (tmp_path / name).write_bytes(content)
        world.store.put(f"{SOURCE}{name}", content)
    options = RunOptions(split="auto", target_bytes=100)

    local = preview(None, world.request(inputs=(str(tmp_path),), options=options))
    remote = preview(world.deployment, world.request(options=options))

    assert local.slices == remote.slices > 1
    assert (local.shards, local.size_bytes, local.objects) == (remote.shards, remote.size_bytes, remote.objects)


def test_a_preview_leaves_out_old_and_empty_objects_and_files(world: World, tmp_path: Path) -> None:
    world.store.put(f"{SOURCE}old.csv", b"x")
    world.clock.advance(10)
    since_s = world.clock.now_s()
    world.put(2)
    for name, modified_s in (("new.csv", since_s), ("old.csv", 1000), ("empty.csv", since_s), ("new.tmp", since_s)):
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"x" * 50)
        os.utime(tmp_path / name, (modified_s, modified_s))
    options = RunOptions(max_objects=1, modified_since_s=since_s, exclude=("*.tmp",))

    seen = preview(world.deployment, world.request(inputs=(str(tmp_path), SOURCE), options=options))

    assert (seen.shards, seen.objects, seen.size_bytes, seen.largest_object) == (3, 3, 70, str(tmp_path / "new.csv"))
    assert seen.skipped == {Reason.EMPTY: 1, Reason.OLDER: 2, Reason.EXCLUDED: 1}


@pytest.mark.parametrize("given", ["in", "in/", "./in", "."])
def test_a_local_folder_is_previewed_like_its_copy_in_s3(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (folder := tmp_path / "in").mkdir()
    monkeypatch.chdir(folder if given == "." else tmp_path)
    for name in ("day=1/a.csv", "day=2/a.csv", "_hidden.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    with closing(PackedInput()) as packed:
        options = RunOptions(output_per="input", exclude=("day=2/*",))

        seen = packed.read(world.deployment, world.request(inputs=(given,), options=options), local=True)

        assert (seen.objects, seen.skipped) == (1, {Reason.HIDDEN: 1, Reason.EXCLUDED: 1})
        assert len(packed.partitions.examples) == 1


def test_local_paths_that_overlap_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1").write_text("x")
    with pytest.raises(PlanError, match="processed twice"):
        preview(world.deployment, world.request(inputs=(str(tmp_path), str(tmp_path / "x"))))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [((), "no input was given"), ((SOURCE,), "nothing to plan; left out: 2 "), (("./gone",), "is not there")],
)
def test_an_empty_preview_is_reported(world: World, inputs: tuple[str, ...], message: str) -> None:
    world.put(2)
    with pytest.raises(PlanError, match=message):
        preview(world.deployment, world.request(inputs=inputs, options=RunOptions(include=("*.json",))))


def test_a_list_with_a_missing_object_is_refused_by_name(world: World) -> None:
    world.put(2)
    named = "\n".join(f"{SOURCE}{name}" for name in ("00000.csv", "typo.csv", "00001.csv", "gone.csv"))
    request = world.request(inputs=(), lists=(ListRequest("-", named.encode()),))

    told = r"names 2 objects not there: s3://.*/typo\.csv, .*/gone\.csv; .* --missing skip"
    with pytest.raises(PlanError, match=told):
        preview(world.deployment, request)
    skipping = replace(request, options=RunOptions(missing="skip"))
    assert preview(world.deployment, skipping).skipped == {Reason.MISSING: 2}


# --- the listing is reused by the checks and the plan ---


class CountingStore(MemoryObjectStore):
    """Counts the objects of the source that it lists."""

    listed = 0

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        for info in super().list(prefix_uri, start_after):
            self.listed += prefix_uri == SOURCE
            yield info


@pytest.fixture
def store(world: World) -> CountingStore:
    world.store = store = CountingStore(world.clock)
    store.put(SCRIPT, b"")
    return store


@pytest.fixture
def packed() -> Iterator[PackedInput]:
    with closing(PackedInput()) as packed:
        yield packed


def test_a_planner_request_lists_its_input_once(world: World, store: CountingStore) -> None:
    world.put(7)
    assert (ask(world, request())["objects"], store.listed) == (7, 7 + FIRST)


def test_an_input_that_changes_is_planned_as_previewed(world: World, store: CountingStore, packed: PackedInput) -> None:
    uris = world.put(4)
    store.put(f"{SOURCE}empty", b"")
    seen = preview(world.deployment, world.request(), packed)
    store.delete(uris[0])
    world.put(6)

    new_run(world.deployment, world.request(), packed)
    run = plan(world.deployment, "run-1", packed=packed)

    assert world.taken() == uris and (seen.shards, seen.objects, seen.size_bytes) == (2, 4, 40)
    assert (run.shard_count, run.object_count, run.size_bytes, run.skipped) == (2, 4, 40, seen.skipped)
    assert list(reasons_for(world.deployment, run, list(world.ledger.runs.parts("run-1")), f"{SOURCE}empty")) == [
        Reason.EMPTY
    ]
    assert store.listed == 5 + FIRST


def test_parts_are_the_same_whether_or_not_a_preview_came_first(world: World, packed: PackedInput) -> None:
    for number in range(9):
        world.store.put(f"{SOURCE}{number}.csv", b"x" * (number % 3))
    for run_id in ("run-1", "run-2"):
        request = world.request(run_id=run_id, lists=(ListRequest("-", f"{SOURCE}4.csv\n{SOURCE}0.csv".encode()),))
        new_run(world.deployment, request, packed if run_id == "run-2" else None)
        plan(world.deployment, run_id, packed=packed if run_id == "run-2" else None, part_shards=2)

    first, second = (list(world.ledger.runs.parts(run_id)) for run_id in ("run-1", "run-2"))
    assert [replace(part, part="") for part in first] == [replace(part, part="") for part in second]
    assert list(world.planned("run-1")) == list(world.planned("run-2"))


def test_a_resumed_plan_lists_the_input_again(world: World, packed: PackedInput) -> None:
    world.put(4)
    new_run(world.deployment, world.request(), packed)
    plan(world.deployment, "run-1", packed=packed, part_shards=1, stop=lambda: True)
    uris = world.put(6)

    plan(world.deployment, "run-1", packed=packed)

    assert world.taken() == uris


def test_an_input_too_large_to_be_kept_is_listed_again(
    world: World, store: CountingStore, packed: PackedInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_KEPT_BYTES", 0)
    uris = world.put(9)

    new_run(world.deployment, world.request(), packed)
    plan(world.deployment, "run-1", packed=packed)

    assert world.taken() == uris and store.listed == 18 + FIRST


def test_objects_done_by_another_run_meanwhile_are_skipped(world: World, packed: PackedInput) -> None:
    options, uris = RunOptions(max_objects=1, incremental=True), world.put(2)
    request = world.request(run_id="run-2", name="nightly", options=options)
    preview(world.deployment, request, packed)
    world.plan(name="nightly", options=options)
    world.work(lambda number: Failure("Bad", "x", retryable=False) if number else ShardResult())
    world.check()

    new_run(world.deployment, request, packed)
    run = plan(world.deployment, "run-2", packed=packed)

    assert world.taken("run-2") == uris[1:] and run.skipped == {Reason.DONE: 1}


def test_a_plan_without_checks_begins_before_its_input_ends(
    world: World, store: CountingStore, packed: PackedInput
) -> None:
    world.put(9)
    options = RunOptions(max_objects=1, archived="skip", missing="skip", limit=0)
    new_run(world.deployment, world.request(options=options), packed)
    assert store.listed < 9

    plan(world.deployment, "run-1", packed=packed)

    assert len(world.taken()) == 9
