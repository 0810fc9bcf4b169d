"""Each input's output: its place, what the plan refuses, and who owns the files there."""

from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PlanError, SettingsError
from sparklet.model import Failure, RunOptions, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import delete_half_published
from sparklet.planning.outputs import InputPlaces, input_place
from sparklet.planning.planner import plan
from sparklet.planning.request import read_request
from sparklet.runs.checker import check
from tests.stand_ins.memory import MemoryEngine
from tests.world import SCRIPT, SOURCE, World

OUTPUT = "s3://data/out/"
BY_INPUT = RunOptions(output_per="input")


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("s3://in/2013/01/day.csv", "2013/01/day"),
        ("s3://in/day.csv.gz", "day"),
        ("s3://in/week.tar.gz", "week"),
        ("s3://in/v1.2/report.v3.parquet", "v1.2/report.v3"),
        ("s3://in/2013.01", "2013.01"),
        ("s3://in/.csv", ".csv"),
        ("s3://one/a/b.json", "b"),  # an input that is an object
        ("s3://listed/a/b.json", "a/b"),
    ],
)
def test_an_output_has_its_inputs_folders_and_name(uri: str, place: str) -> None:
    assert input_place(uri, ("s3://in/", "s3://one/a/b.json")) == place


@pytest.mark.parametrize(
    "names",
    [
        ("a.csv", "a.json"),
        ("x/A.csv", "x/a.csv"),
        ("a.csv", "a/k=1/b.csv"),
        ("a/k=1/b.csv", "a.csv"),
        ("x/a/1.csv", "y.csv", "x/a.csv"),
        ("a//b.csv",),
        ("../b.csv",),
        ("n" * 300,),
    ],
)
def test_inputs_without_an_output_of_their_own_are_refused(names: tuple[str, ...]) -> None:
    places = InputPlaces(("s3://in/",))
    for name in names[:-1]:
        places.add(f"s3://in/{name}")
    with pytest.raises(PlanError, match="the output of s3://in/"):
        places.add(f"s3://in/{names[-1]}")


def test_slices_of_one_object_share_its_output() -> None:
    places = InputPlaces(("s3://in/",))
    for name in ("a.csv", "a.csv", "b.csv", "x/a.csv", "x/b.csv", "y/a.csv"):
        places.add(f"s3://in/{name}")

    with pytest.raises(PlanError, match=r"the output of s3://in/a\.json would be a"):  # of another object it is not
        places.add("s3://in/a.json")


def test_a_run_with_two_inputs_of_one_output_is_refused() -> None:
    world = World()
    world.store.put(f"{SOURCE}a.csv", b"x")
    world.store.put(f"{SOURCE}a.json", b"x")
    with pytest.raises(PlanError, match=r"the output of s3://data/in/a\.json would be a, and that of another input"):
        new_run(world.at, world.request(options=replace(BY_INPUT, limit=0)))
    assert list(world.ledger.runs.list()) == []


@pytest.mark.parametrize("more", [{"table": "iceberg:db.t"}, {"group_by": "prefix"}])
def test_options_that_contradict_it_are_refused(more: dict[str, Any]) -> None:
    asked = {"script": SCRIPT, "inputs": [SOURCE], "output": OUTPUT, "output_per": "input", **more}
    with pytest.raises((PlanError, SettingsError), match="exclude each other"):
        read_request(asked)


@pytest.mark.parametrize(
    ("engine", "max_objects", "refused"), [("glue", 2, True), ("glue", 1, False), ("fargate", 2, False)]
)
def test_engines_that_tell_nothing_are_refused(engine: str, max_objects: int, refused: bool) -> None:
    world = World(engines={engine: MemoryEngine()})
    world.put(2)
    request = world.request(options=replace(BY_INPUT, engine=engine, max_objects=max_objects))
    if not refused:
        assert new_run(world.at, request).options.engine == engine
        return
    with pytest.raises(PlanError, match="glue cannot tell inputs apart"):
        new_run(world.at, request)


def published(world: World) -> list[str]:
    return [info.uri.removeprefix(OUTPUT) for info in world.store.list(OUTPUT)]


def an_earlier_run(world: World) -> str:
    """A run with an output for each of two inputs; its identity."""
    world.put(2)
    run = plan(world.at, new_run(world.at, world.request(run_id="earlier", output_uri=OUTPUT, options=BY_INPUT)).run_id)
    for name in ("00000", "00001"):
        world.store.put(f"{OUTPUT}{name}/part-{run.identity}_000000-00000-x.parquet", b"x")
    world.work()
    world.clock.advance(60)
    assert world.ledger.shards.get("earlier", 0).state is ShardState.SUCCEEDED
    check(world.at, "earlier")
    return run.identity


@pytest.mark.parametrize("output_per", ["", "input"])
def test_an_overwriting_run_replaces_outputs_of_inputs(output_per: str) -> None:
    world = World()
    an_earlier_run(world)
    options = RunOptions(output_per=output_per, existing="overwrite")

    plan(world.at, new_run(world.at, world.request(options=options)).run_id)

    assert published(world) == []


def test_a_file_of_nobodys_is_not_overwritten() -> None:
    world = World()
    an_earlier_run(world)
    world.store.put(f"{OUTPUT}00000/part-00000-mine.parquet", b"x")
    with pytest.raises(PlanError, match="which no Sparklet run wrote"):
        new_run(world.at, world.request(options=replace(BY_INPUT, existing="overwrite")))
    assert len(published(world)) == 3


def test_half_published_outputs_are_deleted_alone() -> None:
    world = World()
    identity = an_earlier_run(world)
    run = plan(world.at, new_run(world.at, world.request(options=replace(BY_INPUT, existing="append"))).run_id)
    message = world.receive()
    assert message
    attempt_id, _ = world.claim(message)
    world.ledger.attempts.renew("run-1", 0, attempt_id, 60.0, ShardResult())  # it wins
    world.store.put(f"{OUTPUT}00000/part-{run.identity}_000000-00000-y.parquet", b"half")
    world.ledger.attempts.fail("run-1", 0, attempt_id, Failure("X", "x", retryable=False))

    delete_half_published(world.at, run)

    assert len(published(world)) == 2 and all(identity in name for name in published(world))
