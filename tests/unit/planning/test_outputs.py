"""One output for each input: its name, the names that a plan refuses, and the owners of published files."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PlanError, SettingsError
from sparklet.model import NAMES, OWNER, Failure, InputObject, Run, RunOptions, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import delete_half_published
from sparklet.planning.outputs import OutputNames, may_replace, output_name, owners
from sparklet.planning.packing import paths_in_output
from sparklet.planning.request import read_request
from sparklet.runs.checker import check
from tests.stand_ins.memory import MemoryEngine
from tests.world import SCRIPT, SOURCE, World

OUTPUT = "s3://data/out/"
BY_INPUT = RunOptions(output_per="input")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://in/2013/01/day.csv", "2013/01/day.parquet"),
        ("s3://in/day.csv.gz", "day.parquet"),
        ("s3://in/week.tar.gz", "week.parquet"),
        ("s3://in/v1.2/report.v3.parquet", "v1.2/report.v3.parquet"),
        ("s3://in/2013.01", "2013.01.parquet"),
        ("s3://in/.csv", ".csv.parquet"),
        ("s3://one/a/b.json", "b.parquet"),  # the input is a single object
        ("s3://listed/a/b.json", "a/b.parquet"),
    ],
)
def test_an_output_has_the_folders_and_name_of_its_input(uri: str, name: str) -> None:
    item = InputObject(uri, 1)
    assert output_name("r", BY_INPUT, ("s3://in/", "s3://one/a/b.json"), item, suffix=".parquet") == name


@pytest.mark.parametrize(
    ("pattern", "deep", "flat"),
    [
        ("{folder}/{name}{suffix}", "2013/day.csv.json", "day.csv.json"),
        ("{run}/{folder}/{stem}-{run}.jsonl", "r/2013/day-r.jsonl", "r/day-r.jsonl"),
        ("{name}", "day.csv", "day.csv"),
    ],
)
def test_a_pattern_names_outputs(pattern: str, deep: str, flat: str) -> None:
    options = replace(BY_INPUT, output_name=pattern)
    items = [InputObject(f"s3://in/{key}", 1) for key in ("2013/day.csv", "day.csv")]
    assert [output_name("r", options, ("s3://in/",), item, suffix=".json") for item in items] == [deep, flat]


def test_a_file_of_an_archive_lies_in_the_archives_folder() -> None:
    item = InputObject("s3://in/x/week.zip#day/mon.csv", 1, member="day/mon.csv")
    assert output_name("r", BY_INPUT, ("s3://in/",), item, suffix=".json") == "x/week/day/mon.json"


@pytest.mark.parametrize("pattern", ["{folder}{suffix}", "{stem}{day}", "all"])
def test_patterns_that_give_inputs_the_same_name_are_refused(pattern: str) -> None:
    with pytest.raises(SettingsError, match="so that each input has an output of its own"):
        replace(BY_INPUT, output_name=pattern)
    with pytest.raises(SettingsError, match="--output-per input"):
        RunOptions(output_name="{stem}")


def names_of(*names: str, there: Sequence[str] = (), options: RunOptions = BY_INPUT) -> OutputNames:
    outputs = OutputNames("r", options, ("s3://in/",), there)
    for name in names:
        outputs.add(InputObject(f"s3://in/{name}", 1))
    return outputs


@pytest.mark.parametrize(
    "names", [("a.csv", "a.json"), ("x/A.csv", "x/a.csv"), ("a//b.csv",), ("../b.csv",), ("n" * 300,)]
)
def test_inputs_with_equal_or_invalid_output_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(PlanError, match="the output of s3://in/"):
        names_of(*names)


def test_with_suffixes_in_names_only_a_taken_output_is_refused() -> None:
    options = replace(BY_INPUT, output_name="{folder}/{name}{suffix}")
    outputs = names_of("a.csv", "a.json", there=["a.json.parquet"], options=options)  # a.csv.parquet is free
    with pytest.raises(PlanError, match=r"the output holds a\.json already"):
        outputs.refuse_taken()


def test_slices_of_one_object_share_its_output() -> None:
    with pytest.raises(PlanError, match=r"the output of s3://in/a\.json would be a"):  # a.json is another object
        names_of("a.csv", "a.csv", "b.csv", "x/a.csv", "x/b.csv", "y/a.csv", "a.json")


def test_output_names_that_exist_already_are_refused_together() -> None:
    outputs = names_of("a.csv", "x/b.csv", "c.csv", "d.csv", there=["A.json", "x/b.csv.gz", "c-00001.parquet"])
    with pytest.raises(PlanError, match=r"the output holds a, x/b already"):
        outputs.refuse_taken()


def test_a_run_with_two_inputs_for_one_output_is_refused(world: World) -> None:
    world.store.put(f"{SOURCE}a.csv", b"x")
    world.store.put(f"{SOURCE}a.json", b"x")
    with pytest.raises(PlanError, match=r"the output of s3://data/in/a\.json would be a, and so would that of another"):
        new_run(world.deployment, world.request(options=replace(BY_INPUT, limit=0)))
    assert list(world.ledger.runs.list()) == []


@pytest.mark.parametrize("more", [{"table": "iceberg:db.t"}, {"group_by": "prefix"}])
def test_options_that_exclude_output_per_input_are_refused(more: dict[str, Any]) -> None:
    asked = {"script": SCRIPT, "inputs": [SOURCE], "output": OUTPUT, "output_per": "input", **more}
    with pytest.raises((PlanError, SettingsError), match="exclude each other"):
        read_request(asked)


def test_engines_that_cannot_tell_inputs_apart_are_refused() -> None:
    world = World(engines={"glue": MemoryEngine(), "fargate": MemoryEngine(traces_inputs=True)})
    world.put(2)
    with pytest.raises(PlanError, match="glue cannot give each input an output"):
        new_run(world.deployment, world.request(options=replace(BY_INPUT, engine="glue", max_objects=2)))
    for engine, max_objects in (("glue", 1), ("fargate", 2)):
        options = replace(BY_INPUT, engine=engine, max_objects=max_objects)
        assert new_run(world.deployment, world.request(run_id=engine, options=options)).options.engine == engine


def publish(world: World, run: Run, *names: str, shard: int = 0) -> None:
    """Publish files as a shard does: store the list of names, and copy the files."""
    owner, sizes = run.owner_prefix(shard), dict.fromkeys(names, 1)
    world.store.put(f"{OUTPUT}{NAMES}{owner}-a.json", json.dumps(sizes).encode())
    for name in names:
        world.store.put(staged := f"s3://{world.deployment.bucket}/staged/{run.run_id}/{name}", b"x")
        world.store.copy_all([(world.store.head(staged), OUTPUT + name)], f"{owner}-a")


def an_earlier_run(world: World) -> Run:
    """A run with an output for each of two inputs."""
    world.put(2)
    run = world.plan(run_id="earlier", output_uri=OUTPUT, options=BY_INPUT)
    publish(world, run, "00000.parquet", "00001.parquet")
    world.work()
    world.clock.advance(60)
    assert world.ledger.shards.get("earlier", 0).state is ShardState.SUCCEEDED
    check(world.deployment, "earlier")
    return run


@pytest.mark.parametrize("output_per", ["", "input"])
def test_an_overwriting_run_replaces_outputs_of_inputs(world: World, output_per: str) -> None:
    an_earlier_run(world)

    world.plan(options=RunOptions(output_per=output_per, existing="overwrite"))

    assert world.keys(OUTPUT) == []
    # So an attempt that resumes later publishes nothing.
    assert world.keys(f"s3://{world.deployment.bucket}/staged/earlier/") == []


def test_an_appending_run_whose_names_are_taken_is_refused(world: World) -> None:
    an_earlier_run(world)
    with pytest.raises(PlanError, match="the output holds 00000, 00001 already"):
        world.plan(options=replace(BY_INPUT, existing="append"))
    named = replace(BY_INPUT, existing="append", output_name="{folder}/{stem}-{run}{suffix}")
    assert world.plan(options=named).sealed


def test_a_repeated_request_ignores_files_of_its_own_run(world: World) -> None:
    an_earlier_run(world)
    asked = {run_id: world.request(run_id=run_id, output_uri=OUTPUT) for run_id in ("earlier", "later")}
    there = {run_id: list(paths_in_output(world.deployment, request)) for run_id, request in asked.items()}
    assert there["earlier"] == [] and there["later"][1:] == ["00000.parquet", "00001.parquet"]


@pytest.mark.parametrize("mine", ["00000.json", "00001.parquet"])  # beside the run's files; instead of one of them
def test_a_file_that_no_run_published_is_not_overwritten(world: World, mine: str) -> None:
    an_earlier_run(world)
    world.store.put(f"{OUTPUT}{mine}", b"my own")
    with pytest.raises(PlanError, match="which no Sparklet run wrote"):
        new_run(world.deployment, world.request(options=replace(BY_INPUT, existing="overwrite")))
    assert world.store.get(f"{OUTPUT}{mine}") == b"my own"


def test_a_name_that_two_shards_list_belongs_to_the_files_owner(world: World) -> None:
    """The second shard was stopped when it found the file of the first."""
    run = an_earlier_run(world)
    publish(world, run, "b.parquet", shard=2)
    world.store.put(f"{OUTPUT}{NAMES}{run.owner_prefix(1)}-a.json", b'{"00000.parquet": 1, "b.parquet": 1}')

    published = owners(world.store, OUTPUT)

    owners_of_names = [published.of(name, 1) for name in ("00000.parquet", "b.parquet")]
    assert [by and by["shard"] for by in owners_of_names] == ["000000", "000002"]


@pytest.mark.parametrize(
    ("options", "name", "age_s", "may"),
    [
        ({"existing": "overwrite"}, "another", 60, True),
        ({"existing": "overwrite"}, "another", -60, False),  # the other run was created later
        ({"existing": "overwrite"}, "daily", 0, False),  # the run's own other shard
        ({"existing": "append"}, "daily", 60, False),
        ({"incremental": True}, "daily", 60, True),
        ({"incremental": True}, "another", 60, False),
    ],
)
def test_may_replace_depends_on_mode_name_and_age(
    world: World, options: dict[str, Any], name: str, age_s: int, may: bool
) -> None:
    now_s = world.clock.now_s()
    run = Run("run-1", (SOURCE,), OUTPUT, (), name="daily", created_s=now_s, options=RunOptions(**options))
    other = replace(run, run_id="run-0" if age_s else "run-1", name=name, created_s=now_s - age_s)
    world.ledger.runs.create(other)

    assert may_replace(world.deployment, run, OWNER.fullmatch(f"{other.owner_prefix(1)}-a")) is may
    assert not may_replace(world.deployment, run, OWNER.fullmatch("")), (
        "a file that no run published may not be replaced"
    )


def test_only_half_published_outputs_are_deleted(world: World) -> None:
    an_earlier_run(world)
    before = world.keys(OUTPUT)
    run = world.plan(options=replace(BY_INPUT, existing="append", output_name="{run}/{stem}"))
    message = world.receive()
    assert message
    attempt_id, _ = world.claim(message)
    world.ledger.attempts.renew("run-1", 0, attempt_id, 60.0, ShardResult())  # the attempt wins
    publish(world, run, "run-1/00000")
    world.ledger.attempts.fail("run-1", 0, attempt_id, Failure("X", "x", retryable=False))

    delete_half_published(world.deployment, run)

    assert world.keys(OUTPUT) == before
