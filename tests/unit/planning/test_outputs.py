"""Each input's output: its place, what the plan refuses, and who owns the files there."""

from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PlanError, SettingsError
from sparklet.model import Failure, RunOptions, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import delete_half_published
from sparklet.planning.outputs import InputPlaces, input_place
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


def test_a_run_with_two_inputs_of_one_output_is_refused(world: World) -> None:
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


def test_engines_that_tell_nothing_are_refused() -> None:
    world = World(engines={"glue": MemoryEngine(), "fargate": MemoryEngine()})
    world.put(2)
    with pytest.raises(PlanError, match="glue cannot tell inputs apart"):
        new_run(world.at, world.request(options=replace(BY_INPUT, engine="glue", max_objects=2)))
    for engine, max_objects in (("glue", 1), ("fargate", 2)):
        options = replace(BY_INPUT, engine=engine, max_objects=max_objects)
        assert new_run(world.at, world.request(run_id=engine, options=options)).options.engine == engine


def an_earlier_run(world: World) -> str:
    """A run with an output for each of two inputs; its identity."""
    world.put(2)
    run = world.plan(run_id="earlier", output_uri=OUTPUT, options=BY_INPUT)
    for name in ("00000", "00001"):
        world.store.put(f"{OUTPUT}{name}/part-{run.identity}_000000-00000-x.parquet", b"x")
    world.work()
    world.clock.advance(60)
    assert world.ledger.shards.get("earlier", 0).state is ShardState.SUCCEEDED
    check(world.at, "earlier")
    return run.identity


@pytest.mark.parametrize("output_per", ["", "input"])
def test_an_overwriting_run_replaces_outputs_of_inputs(world: World, output_per: str) -> None:
    an_earlier_run(world)

    world.plan(options=RunOptions(output_per=output_per, existing="overwrite"))

    assert world.keys(OUTPUT) == []


def test_a_file_of_nobodys_is_not_overwritten(world: World) -> None:
    an_earlier_run(world)
    world.store.put(f"{OUTPUT}00000/part-00000-mine.parquet", b"x")
    with pytest.raises(PlanError, match="which no Sparklet run wrote"):
        new_run(world.at, world.request(options=replace(BY_INPUT, existing="overwrite")))
    assert len(world.keys(OUTPUT)) == 3


def test_half_published_outputs_are_deleted_alone(world: World) -> None:
    identity = an_earlier_run(world)
    run = world.plan(options=replace(BY_INPUT, existing="append"))
    message = world.receive()
    assert message
    attempt_id, _ = world.claim(message)
    world.ledger.attempts.renew("run-1", 0, attempt_id, 60.0, ShardResult())  # it wins
    world.store.put(f"{OUTPUT}00000/part-{run.identity}_000000-00000-y.parquet", b"half")
    world.ledger.attempts.fail("run-1", 0, attempt_id, Failure("X", "x", retryable=False))

    delete_half_published(world.at, run)

    kept = world.keys(OUTPUT)
    assert len(kept) == 2 and all(identity in uri for uri in kept)
