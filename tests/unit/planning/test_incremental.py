"""Incremental runs plan only objects that no earlier run of the name has done, and one run of a name at a time."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.app.clean import clean, folders_of
from sparklet.errors import NothingNewError, PlanError, ScratchFullError
from sparklet.model import Failure, RunOptions, RunState, ShardResult
from sparklet.planning.inputs.selection import Digests, Reason
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import finished_objects, take_outputs
from sparklet.planning.planner import plan
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.world import SCRIPT, SOURCE, World

CLAIMS = "s3://sparklet/runs/_outputs/"
OPTIONS = RunOptions(max_objects=2, incremental=True)
BAD = Failure("ValueError", "bad", retryable=False)


def nightly(world: World, run_id: str, **changes: Any) -> list[str]:
    """Plan the next run. Return the addresses of the objects that it planned."""
    world.plan(run_id=run_id, name="nightly", options=OPTIONS, **changes)
    return world.taken(run_id)


def do_and_end(world: World, run_id: str, *failing: int) -> None:
    """Do all shards of a run, of which ``failing`` fail, and check the run until it ends."""
    world.work(lambda number: BAD if number in failing else ShardResult())
    assert check(world.deployment, run_id).run.state.ended


def test_a_run_plans_only_objects_not_done_by_earlier_runs(world: World) -> None:
    uris = world.put(5)
    assert nightly(world, "run-1") == uris
    do_and_end(world, "run-1", 1)  # shard 1 holds the third and fourth

    more = [f"{SOURCE}00009.csv"]
    world.store.put(more[0], b"new")
    world.store.put(uris[0], b"other bytes")
    assert nightly(world, "run-2") == [uris[0], *uris[2:4], *more]
    assert world.ledger.runs.get("run-2").skipped == {Reason.DONE: 2}
    do_and_end(world, "run-2")

    with pytest.raises(NothingNewError, match=r"nothing new; left out: 6 done by an earlier run of this name"):
        nightly(world, "run-3")


@pytest.mark.parametrize("by", ["the next plan", "clean"])
def test_half_published_output_of_a_failed_shard_is_deleted(world: World, by: str) -> None:
    """The worker of the FAILED shard was lost while it published; the output of the SUCCEEDED shard stays."""
    world.put(4)
    nightly(world, "run-1")
    run = world.ledger.runs.get("run-1")

    def publish(number: int) -> ShardResult | Failure:
        world.ledger.attempts.renew("run-1", number, f"attempt-{world.attempts}", 60, ShardResult())
        world.store.put(f"{run.shard_output(number)}/part-0", b"a row")
        return BAD if number else ShardResult()

    world.work(publish)
    ended = check(world.deployment, "run-1").run
    assert ended.state is RunState.FAILED

    if by == "clean":
        clean(world.deployment, ended, folders_of(world.deployment, "run-1"))
    else:
        assert len(nightly(world, "run-2")) == 2

    assert world.keys(run.output_uri) == [f"{run.shard_output(0)}/part-0"]


def test_only_incremental_runs_of_the_name_skip_objects(world: World) -> None:
    uris = world.put(3)
    nightly(world, "run-1")
    do_and_end(world, "run-1")
    for run_id, name, options in (("run-2", "other", OPTIONS), ("run-3", "nightly", RunOptions())):
        world.plan(run_id=run_id, name=name, options=options)
        assert world.taken(run_id) == uris


def test_a_run_without_a_name_is_named_after_its_script(world: World) -> None:
    uris = world.put(2)
    assert world.plan(options=OPTIONS).name == "daily"
    do_and_end(world, "run-1")
    world.store.put(f"{SOURCE}9", b"x")
    assert world.plan(run_id="run-2", script=SCRIPT, options=OPTIONS).skipped == {Reason.DONE: len(uris)}


def test_objects_that_a_redrive_finished_count_as_done(world: World) -> None:
    world.put(4)
    nightly(world, "run-1")
    do_and_end(world, "run-1", 0, 1)
    redrive(world.deployment, "run-1", [1])
    do_and_end(world, "run-1")
    assert nightly(world, "run-2") == [f"{SOURCE}00000.csv", f"{SOURCE}00001.csv"]


@pytest.mark.parametrize("how", ["gone", "cut", "overwritten"])
def test_a_damaged_plan_of_an_earlier_run_stops_the_next(world: World, how: str) -> None:
    world.put(4)
    nightly(world, "run-1")
    do_and_end(world, "run-1", 1)
    uri = world.only_part()
    first, _ = world.store.get(uri).splitlines(keepends=True)
    world.store.delete(uri)
    if how != "gone":
        world.store.put(uri, first if how == "cut" else b"x\n" * 2)
    with pytest.raises(PlanError, match=f"the plan part {uri} is (gone|damaged)"):
        nightly(world, "run-2")


@pytest.mark.parametrize(
    ("failing", "planned", "done"),
    [(None, 4, True), (1, 4, False), (2, 4, False), (3, 4, False), (None, 3, False)],
)
def test_a_sliced_object_is_done_only_if_all_slices_are(
    world: World, failing: int | None, planned: int, done: bool
) -> None:
    """GIVEN a plan of one whole object and three slices of another (the last slice is not planned if planned is 3)."""
    uris = [f"{SOURCE}{name}" for name in ("one.jsonl", "three.jsonl")]
    for uri, rows in zip(uris, (1, 3), strict=True):
        world.store.put(uri, b'"a long row"\n' * rows)
    options = RunOptions(max_objects=1, incremental=True, split="lines", target_bytes=13)
    new_run(world.deployment, world.request(name="nightly", options=options))
    plan(world.deployment, "run-1", part_shards=planned, stop=lambda: True)

    assert world.work(lambda number: BAD if number == failing else ShardResult()) == planned

    with closing(finished_objects(world.deployment, "nightly")) as found:
        assert [found.has(uri, "", world.store.head(uri).etag) for uri in uris] == [True, done]


# --- one at a time ---


def test_a_run_is_refused_while_another_of_its_name_is_open(world: World) -> None:
    world.put(1)
    nightly(world, "run-1")
    before = world.keys("s3://sparklet/")
    with pytest.raises(PlanError, match=r"the run run-1, also named 'nightly', has not ended: wait for it, or stop it"):
        nightly(world, "run-2")
    assert world.keys("s3://sparklet/") == before
    assert [run.run_id for run in world.ledger.runs.list()] == ["run-1"]
    assert new_run(world.deployment, world.request(name="nightly", options=OPTIONS)).run_id == "run-1"


def run_without_claim(world: World, run_id: str, created_s: float = 0.0) -> None:
    """Put a run into the ledger that has no output claim yet."""
    run = new_run(world.deployment, world.request(run_id=run_id, name="nightly", options=RunOptions(max_objects=2)))
    world.ledger.put(replace(run, options=OPTIONS, created_s=created_s or run.created_s))
    for uri in world.keys(CLAIMS):
        world.store.delete(uri)


@pytest.mark.parametrize("created", [(10.0, 20.0), (20.0, 10.0)], ids=["in order", "with clocks that differ"])
def test_the_second_of_two_concurrent_runs_plans_nothing(world: World, created: tuple[float, float]) -> None:
    uris = world.put(3)
    run_without_claim(world, "run-1", created[0])
    run_without_claim(world, "run-2", created[1])

    plan(world.deployment, "run-1")
    with pytest.raises(
        PlanError, match=r"the run run-1, also named 'nightly', has not ended.*run-2 has ended with noth"
    ):
        plan(world.deployment, "run-2")

    assert world.taken("run-1") == uris
    assert world.ledger.runs.get("run-2").state is RunState.FAILED
    assert list(world.ledger.runs.parts("run-2")) == []
    assert plan(world.deployment, "run-2").state is RunState.FAILED
    do_and_end(world, "run-1")
    world.store.put(f"{SOURCE}9", b"x")
    assert nightly(world, "run-3") == [f"{SOURCE}9"]


def test_only_one_of_two_runs_that_claim_at_once_proceeds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(3)
    run_without_claim(world, "run-1")
    run_without_claim(world, "run-2")
    put = world.store.put

    def put_after_the_other(uri: str, body: bytes, create_only: bool = False) -> str:
        monkeypatch.undo()
        take_outputs(world.deployment, world.ledger.runs.get("run-2"))
        return put(uri, body, create_only)

    monkeypatch.setattr(world.store, "put", put_after_the_other)
    with pytest.raises(PlanError, match="run-2"):
        take_outputs(world.deployment, world.ledger.runs.get("run-1"))

    states = [world.ledger.runs.get(run_id).state for run_id in ("run-1", "run-2")]
    assert states == [RunState.FAILED, RunState.PLANNING]


def test_a_resuming_planner_keeps_its_claim(world: World) -> None:
    world.put(3)
    run_without_claim(world, "run-1")
    for _ in range(2):
        take_outputs(world.deployment, world.ledger.runs.get("run-1"))
    assert plan(world.deployment, "run-1").sealed
    assert len(world.keys(CLAIMS)) == 1


def test_names_that_begin_alike_do_not_wait_for_each_other(world: World) -> None:
    world.put(2)
    for number, name in enumerate(["a/b", "a", "a/"]):
        new_run(world.deployment, world.request(run_id=f"run-{number}", name=name, options=OPTIONS))
    assert len(world.keys(CLAIMS)) == 3


# --- digests ---


def test_digests_depend_on_every_part_of_a_name() -> None:
    with closing(Digests()) as digests:
        assert digests.add("ab", "c") and not digests.add("ab", "c")
        assert not digests.has("a", "bc") and not digests.has("abc") and not digests.has("ab")
        digests.discard("ab", "c")
        assert not digests.has("ab", "c")


def test_digests_beyond_the_cache_go_to_an_unlinked_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.planning.inputs.selection.CACHE_KIB", 64)
    names = [f"s3://data/part-{n:08d}.csv" for n in range(20_000)]

    with closing(Digests()) as digests:
        assert all(digests.add(name) for name in names)
        files = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert any("etilqs" in file and file.endswith("(deleted)") for file in files)
        assert not any(digests.add(name) for name in names)


def test_a_full_disk_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*args: Any, **how: Any) -> sqlite3.Connection:
        connection = connect(*args, **how)
        connection.execute("PRAGMA max_page_count = 3")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    full = pytest.raises(ScratchFullError, match=r"the digests of objects could not be kept in .* full; free space")
    with closing(Digests()) as digests, full:
        all(digests.add(str(number)) for number in range(10_000))
