"""Runs that share an output: none damages what another wrote, and what becomes of what is there is said beforehand."""

from collections.abc import Iterator
from typing import Any

import pytest

from sparklet.app.clean import clean, folders_of, named_run
from sparklet.errors import CheckpointConflictError, PlanError, RunExistsError
from sparklet.model import Failure, Run, RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.unit.runs.test_follow_ups import NEXT, NEXT_OUTPUT, all_but, start
from tests.world import SOURCE, Fault, KilledError, World

OUT = "s3://data/out/"
BAD = Failure("ValueError", "bad", retryable=False)


@pytest.fixture
def world() -> World:
    return World()


def enter(world: World, run_id: str, inputs: str = SOURCE, **options: Any) -> Run:
    """A run into the one folder, planned."""
    asked = RunOptions(max_objects=1, **options)
    request = world.request(run_id=run_id, name="nightly", inputs=(inputs,), output_uri=OUT, options=asked)
    return plan(world.at, new_run(world.at, request).run_id)


def work(world: World, run: Run, *failing: int) -> RunState:
    """Workers publish a row for each object, under the same file names as in every run."""
    shards = {shard.number: shard for shard in world.planned(run.run_id)}

    def do(number: int) -> ShardResult | Failure:
        if number in failing:
            return BAD
        for item in shards[number].objects:
            world.store.put(f"{run.shard_output(number)}/part-0.parquet", item.uri.encode())
        return ShardResult(rows=1)

    world.work(do)
    return check(world.at, run.run_id).run.state


def rows(world: World, folder: str = OUT) -> list[str]:
    return sorted(world.store.get(info.uri).decode().rpartition("/")[2] for info in world.store.list(folder))


def nights(world: World, count: int) -> Iterator[Run]:
    for night in range(count):
        for name in "ab":
            world.store.put(f"{SOURCE}{night}{name}", b"x")
        run = enter(world, f"nightly-{night}", incremental=True)
        yield run
        world.clock.advance(86_400)


def test_a_folder_of_nightly_increments_holds_all_nights(world: World) -> None:
    for run in nights(world, 3):
        assert work(world, run) is RunState.SUCCEEDED

    assert rows(world) == ["0a", "0b", "1a", "1b", "2a", "2b"]


def test_a_plain_run_into_a_used_folder_is_refused(world: World) -> None:
    world.put(1)
    world.store.put(f"{OUT}shard=000000/part-0.parquet", b"of another tool")

    with pytest.raises(PlanError, match=r"--append.*--overwrite"):
        enter(world, "run-1")

    assert world.at.known_run("run-1") is None and world.keys("s3://sparklet/") == []
    work(world, enter(world, "run-2", existing="append"))
    assert rows(world) == ["00000.csv", "of another tool"]


def test_a_folder_that_a_console_made_is_empty(world: World) -> None:
    world.put(1)
    world.store.put(OUT, b"")

    assert work(world, enter(world, "run-1")) is RunState.SUCCEEDED


def test_a_repeated_command_is_the_same_run_despite_its_output(world: World) -> None:
    world.put(1)
    work(world, enter(world, "run-1"))

    assert enter(world, "run-1").state is RunState.SUCCEEDED


def test_the_folder_of_what_follows_is_looked_at_too(world: World) -> None:
    world.put(1)
    world.store.put(NEXT, b"print()\n")
    world.store.put(f"{NEXT_OUTPUT}x", b"somebody's")

    with pytest.raises(PlanError, match=NEXT_OUTPUT):
        new_run(world.at, world.request(next=NEXT, next_output=NEXT_OUTPUT))


def test_a_run_that_overwrites_leaves_nothing_but_its_own(world: World) -> None:
    world.put(2)
    work(world, enter(world, "run-1"))
    world.store.put(f"{OUT}shard=old_1f_000007/old.parquet", b"of another ledger")
    world.clock.advance(60)

    work(world, enter(world, "run-2", inputs=f"{SOURCE}00001.csv", existing="overwrite"))

    assert rows(world) == ["00001.csv"]


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_planner_killed_while_replacing_keeps_its_own_output(world: World, after_effect: bool) -> None:
    world.put(2)
    work(world, enter(world, "run-1"))
    world.clock.advance(60)
    asked = RunOptions(max_objects=1, existing="overwrite")
    new_run(world.at, world.request(run_id="run-2", output_uri=OUT, options=asked))
    for call in range(1, 30):
        try:
            run = plan(Fault(call, after_effect).deployment(world.at), "run-2", part_shards=1)
        except KilledError:
            work(world, world.ledger.runs.get("run-2"))
            continue
        break

    work(world, run)
    assert rows(world) == ["00000.csv", "00001.csv"]


def test_files_that_no_run_wrote_are_never_replaced(world: World) -> None:
    world.put(1)
    world.store.put(f"{OUT}notes.txt", b"mine")

    with pytest.raises(PlanError, match=r"notes\.txt"):
        enter(world, "run-1", existing="overwrite")

    assert world.keys(OUT) == [f"{OUT}notes.txt"]


@pytest.mark.parametrize("folder", [OUT, f"{OUT}deeper/", "s3://data/"])
def test_nothing_is_replaced_under_a_run_that_is_at_work(world: World, folder: str) -> None:
    world.put(1, folder="s3://elsewhere/in/")
    enter(world, "run-1", inputs="s3://elsewhere/in/")
    request = world.request(
        run_id="run-2",
        inputs=("s3://elsewhere/in/",),
        output_uri=folder,
        options=RunOptions(existing="overwrite"),
    )

    with pytest.raises(PlanError, match="run-1"):
        new_run(world.at, request)


def test_no_run_is_let_in_beside_one_that_replaces_what_is_there(world: World) -> None:
    world.put(1)
    new_run(world.at, world.request(output_uri=OUT, options=RunOptions(existing="overwrite")))

    with pytest.raises(PlanError, match="run-1"):
        enter(world, "run-2", existing="append")


def test_a_run_that_was_replaced_is_not_redriven(world: World) -> None:
    world.put(2)
    work(world, enter(world, "run-1"), 1)
    world.clock.advance(60)
    work(world, enter(world, "run-2", existing="overwrite"))

    with pytest.raises(PlanError, match="run-2 has replaced"):
        redrive(world.at, "run-1")


def test_a_run_whose_failures_a_later_one_took_is_not_redriven(world: World) -> None:
    for run in nights(world, 2):
        work(world, run, *([1] if run.run_id == "nightly-0" else []))
    assert rows(world) == ["0a", "0b", "1a", "1b"]

    with pytest.raises(PlanError, match="nightly-1"):
        redrive(world.at, "nightly-0")


def test_a_run_is_not_redriven_before_a_later_one_is_planned(world: World) -> None:
    for run in nights(world, 1):
        work(world, run, 0)
    options = RunOptions(max_objects=1, incremental=True)
    new_run(world.at, world.request(run_id="nightly-1", name="nightly", output_uri=OUT, options=options))

    with pytest.raises(PlanError, match="nightly-1"):
        redrive(world.at, "nightly-0")


# --- what follows a run ---


def test_a_redrives_next_run_replaces_the_earlier_one(world: World) -> None:
    run = start(world, check="", options={"tolerated_failure_count": 1})
    for number in range(3):
        world.store.put(f"{run.shard_output(number)}/part-0.parquet", b"rows")
    world.work(all_but(1))
    world.check()
    earlier = plan(world.at, "run-1-next-0")
    message = world.receive()
    assert message is not None
    late, _ = world.claim(message)
    redrive(world.at, "run-1")
    while message := world.receive():
        attempt, claim = world.claim(message)
        if claim.record.run_id == "run-1":
            world.ledger.attempts.succeed("run-1", claim.record.number, attempt, ShardResult(rows=1))
    world.check()

    with pytest.raises(CheckpointConflictError, match="run-1-next-0"):
        plan(world.at, "run-1-next-1")

    world.store.put(f"{earlier.shard_output(0)}/part-0", b"of the earlier generation")
    world.ledger.attempts.succeed(earlier.run_id, 0, late, ShardResult(rows=2))
    while not check(world.at, earlier.run_id).run.state.ended:
        world.clock.advance(100)
    follower = plan(world.at, "run-1-next-1")
    assert rows(world, NEXT_OUTPUT) == []
    assert work(world, follower) is RunState.SUCCEEDED
    assert follower.shard_output(0) != earlier.shard_output(0)


# --- ids ---


def test_the_id_of_a_cleaned_run_is_never_used_again(world: World) -> None:
    """What remembers it, a warm worker, a check run, a slow second clean, then means the run that had it."""
    world.put(1)
    work(world, enter(world, "run-1"))
    clean(world.at, named_run(world.at, "run-1"), folders_of(world.at, "run-1"))

    with pytest.raises(RunExistsError, match="is deleted"):
        enter(world, "run-1", existing="append")

    assert rows(world) == ["00000.csv"], "output is never touched"


def test_a_slow_clean_spares_a_run_that_was_redriven(world: World) -> None:
    run = start(world, check="", options={"tolerated_failure_count": 1})
    world.work(all_but(1))
    world.check()
    plan(world.at, "run-1-next-0")
    world.work()
    check(world.at, "run-1-next-0")
    seen = named_run(world.at, "run-1")
    redrive(world.at, "run-1")
    world.work()
    assert world.check().run.state is RunState.SUCCEEDED

    with pytest.raises(PlanError, match="run-1-next-1 has not ended"):
        clean(world.at, seen, folders_of(world.at, run.run_id))

    assert plan(world.at, "run-1-next-1").sealed
