"""The planner function: which requests it accepts, and that repeated calls complete a plan without loss."""

from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from docs.cli_reference import request_schema
from sparklet.errors import (
    CheckpointConflictError,
    EventError,
    PlanError,
    RunExistsError,
    RunNotFoundError,
    ScriptNotAllowedError,
    SettingsError,
)
from sparklet.model import Dispatch, RunState
from sparklet.planning import plan_requests
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_requests import handle_request, run_request
from sparklet.planning.request import places
from sparklet.runs.checker import check
from sparklet.settings import PlannerSettings
from tests.unit.events.samples import eventbridge
from tests.world import BUCKET, SCRIPT, SOURCE, World

SETTINGS = PlannerSettings(("s3://data/jobs/",), worker_memory_mb=3008, worker_scratch_bytes=2**32)
MIB = 2**20
DOCUMENT_KEYS = {name for name, place in places().items() if place.key.document}


def request(**changes: Any) -> dict[str, Any]:
    return {"script": SCRIPT, "inputs": [SOURCE], "output": "s3://data/out/", "run_id": "run-1", **changes}


def ask(world: World, event: Any, remaining_s: Callable[[], float] = lambda: 900.0, **settings: Any) -> dict[str, Any]:
    return handle_request(world.deployment, event, settings.get("settings", SETTINGS), "request-1", remaining_s)


def steps(*values: float) -> Callable[[], float]:
    """A function of remaining seconds that returns one value for each call; the last value repeats."""
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


# --- planning ---


def test_a_request_becomes_a_sealed_run_with_messages(world: World) -> None:
    world.put(3)

    answer = ask(world, request(max_objects=1))

    counts = {"shards": 3, "objects": 3, "bytes": 30, "skipped": {}}
    state = {"state": "RUNNING", "sealed": True, "dispatch": "queue", "generation": 0}
    assert answer == {"run_id": "run-1", **state, **counts}
    assert len(world.queue.receive(10)) == 3


@pytest.mark.parametrize("dispatch", Dispatch)
def test_an_incremental_run_without_anything_new_succeeds(world: World, dispatch: Dispatch) -> None:
    follow = {"check": SCRIPT, "next": SCRIPT, "next_output": "s3://data/next/", "dispatch": dispatch}
    nightly = request(name="nightly", incremental=True, **follow)
    world.put(2)
    ask(world, {**nightly, "check": None, "next": None, "next_output": None, "dispatch": "queue"})
    world.work()
    world.check()

    answer = ask(world, {**nightly, "run_id": "run-2"})
    ended = check(world.deployment, "run-2").run

    assert (answer["sealed"], answer["shards"], answer["dispatch"]) == (True, 0, dispatch) and answer["skipped"]
    assert ended.state is RunState.SUCCEEDED
    assert world.json("manifest.json", "run-2")["run"]["state"] == "SUCCEEDED"
    assert {run.run_id for run in world.ledger.runs.list()} == {"run-1", "run-2"}


def test_the_same_request_again_changes_nothing(world: World) -> None:
    world.put(3)
    first = ask(world, request(max_objects=1))

    assert ask(world, request(max_objects=1)) == first
    assert ask(world, {"run_id": "run-1"}) == first
    assert len(world.queue.receive(10)) == 3


def test_an_unfinished_plan_is_continued_by_the_next_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN five parts, and time for two of them in each call
    monkeypatch.setattr(plan_requests, "PART_SHARDS", 1)
    world.put(5)

    first = ask(world, request(max_objects=1), steps(150, 110, 70, 30))
    second = ask(world, {"run_id": "run-1"}, steps(150, 110, 70, 30))
    third = ask(world, {"run_id": "run-1"})

    assert [(each["sealed"], each["shards"]) for each in (first, second, third)] == [(False, 2), (False, 4), (True, 5)]
    assert first["state"] == "PLANNING"
    assert [record.number for record in world.shards()] == [0, 1, 2, 3, 4]


def test_a_planner_stops_if_a_part_twice_as_long_might_not_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_requests, "PART_SHARDS", 1)
    world.put(9)

    answer = ask(world, request(max_objects=1), steps(200, 190, 160, 155, 91, 20))  # parts of 10, 30, 5 and 64 s

    assert answer["shards"] == 4


def test_lambdas_retry_of_a_request_without_an_id_is_one_run(world: World) -> None:
    world.put(1)
    event = request(run_id=None)

    first, second = ask(world, event), ask(world, event)

    assert first["run_id"] == second["run_id"]
    assert first["run_id"].startswith("daily-")


def test_a_second_planner_is_refused_unless_the_run_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(1)

    def conflict(*_: Any, **__: Any) -> None:
        raise CheckpointConflictError("another planner")

    monkeypatch.setattr(plan_requests, "plan", conflict)
    with pytest.raises(CheckpointConflictError):
        ask(world, request())

    world.ledger.runs.cancel("run-1")
    assert ask(world, {"run_id": "run-1"})["sealed"] is False


def test_requests_with_the_same_key_and_name_are_one_run(world: World) -> None:
    world.put(1)
    event = request(run_id=None, idempotency_key="2026-11-20")

    first, second = (
        ask(world, event),
        handle_request(world.deployment, event, SETTINGS, "another invocation", lambda: 900.0),
    )
    other_name = ask(world, {**event, "name": "weather", "output": "s3://data/weather/"})

    assert first == second and first["run_id"].startswith("daily-")
    assert other_name["run_id"].startswith("weather-")
    with pytest.raises(RunExistsError, match="arguments"):
        ask(world, {**event, "args": ["--other"]})


# --- requests ---


def test_schema_and_reader_accept_and_refuse_the_same_keys() -> None:
    validator = jsonschema.Draft202012Validator(request_schema())
    validator.check_schema(request_schema())
    listed = {"source": "s3://b/l", "format": "csv"}
    full = request(lists=[listed], items=[1, {"a": 2}], tolerate="2%", params={"a": [1]}, split="csv")

    assert validator.is_valid(full)
    assert run_request(full, "x").lists[0] == ListRequest("s3://b/l", None, "csv")
    for key, value in (("imput", "x"), ("max_objects", 0), ("split", "xml"), ("keep_empty", "yes"), ("env", {})):
        assert not validator.is_valid(request(**{key: value}))
        with pytest.raises((EventError, SettingsError), match=key):
            run_request(request(**{key: value}), "x")


@pytest.mark.parametrize(
    ("event", "error", "told"),
    [
        ([], EventError, "JSON object"),
        ({}, PlanError, "script is missing"),
        (request(output=None), PlanError, "output is missing"),
        (request(inputs=[]), PlanError, "no input was given"),
        (request(imput="x"), EventError, "'imput'; is inputs meant"),
        (request(inputs=[1]), SettingsError, "inputs: holds a int"),
        (request(args="--day 1", params=[]), EventError, "params is a list"),
        (request(max_objects="2"), EventError, "max_objects is a str; it must be a whole number"),
        (request(max_objects=True), EventError, "max_objects is a bool"),
        (request(max_objects=0), SettingsError, "max_objects is 0; it must be at least 1"),
        (request(shard_size="0"), SettingsError, "shard_size is 0; it must be at least 1"),
        (request(max_attempts=0), SettingsError, "max_attempts is 0"),
        (request(archived="maybe"), SettingsError, "archived is 'maybe'; it must be refuse or skip"),
        (request(role="readers"), SettingsError, "role: 'readers' must look like arn:aws:iam"),
        (request(append=True, overwrite=True), SettingsError, "append and overwrite exclude each other"),
        (request(incremental=True, overwrite=True), SettingsError, "never be planned again"),
        (request(incremental="yes"), EventError, "true or false"),
        (request(shard_size="big"), SettingsError, "'big' is not a size"),
        (request(tolerate="some"), SettingsError, "tolerate: 'some'"),
        (request(tolerate=-1), SettingsError, "tolerate: '-1'"),
        (request(tolerate="100.1%"), SettingsError, "tolerate: '100.1%'"),
        (request(max_concurrency=-1), SettingsError, "max_concurrency is -1; it must be at least 0"),
        (request(since="36h"), SettingsError, "since: '36h'"),
        (request(lists=["/etc/passwd"]), SettingsError, "must be in S3"),
        (request(lists=[{"uri": "s3://x/y"}]), SettingsError, "source and format"),
        (request(inputs=["/var/task/"]), PlanError, "/var/task/"),
        (request(output="/tmp/out"), PlanError, "must look like s3://"),
        (request(run_id="No Such"), PlanError, "run id"),
        (request(run_id="daily-check-0"), PlanError, "choose another"),
        (request(dispatch="maps"), SettingsError, "dispatch is 'maps'; it must be queue or map"),
        (request(next_output="s3://data/next/"), PlanError, "name it as next"),
        (request(next=SCRIPT, next_output="s3://data/out/next/"), PlanError, "lies inside the input s3://data/out/"),
        (request(next=SCRIPT, next_output="s3://data/in/next/"), PlanError, "lies inside the input"),
        (request(check="s3://data/jobs/gone.py"), PlanError, "gone.py is not there"),
        (request(idempotency_key="k"), PlanError, "give one of them"),
        ({"run_id": "unknown"}, RunNotFoundError, "unknown"),
        ({"run_id": 5}, EventError, "run_id is a int"),
        *((request(**{key: "\ud800"}), EventError, "not UTF-8") for key in sorted(DOCUMENT_KEYS)),
        (request(inputs=["s3://data/\udfff/"]), EventError, "not UTF-8"),
        (request(params={"\ud800": 1}), EventError, "not UTF-8"),
        (request(table="flights"), EventError, "FORMAT:PLACE"),
        (request(table="iceberg:flights"), EventError, "DATABASE.TABLE"),
        (request(table="delta:/data/flights"), EventError, "local disk"),
        (request(table="parquet:s3://data/flights"), PlanError, "leave out output"),
        (request(table=7), EventError, "a text"),
        (request(commit_every="often"), SettingsError, "duration"),
        (request(commit_every=0), SettingsError, "from 1"),
        (request(commit_every="0m"), SettingsError, "from 1"),
    ],
)
def test_a_bad_request_is_refused_by_its_wrong_key(world: World, event: Any, error: type[Exception], told: str) -> None:
    world.put(1)

    with pytest.raises(error) as caught:
        ask(world, event)

    assert told in str(caught.value)
    assert list(world.ledger.runs.list()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "s3://data/in/evil.py"},
        {"script": "/var/task/sparklet/ledger/clock.py"},
        {"script": "s3://data/jobs/../in/evil.py"},
        {"py_files": ["s3://data/in/evil.zip"]},
        {"spark_files": ["s3://data/in/secret.json"]},
        {"check": "s3://data/in/evil.py"},
        {"next": "s3://data/in/evil.py", "next_output": "s3://data/next/"},
    ],
)
def test_a_script_outside_the_allowed_prefixes_is_refused(world: World, changes: dict[str, Any]) -> None:
    world.put(1)
    world.store.put("s3://data/in/evil.py", b"print()")

    with pytest.raises(ScriptNotAllowedError, match="outside the prefixes"):
        ask(world, request(**changes))

    assert world.keys(f"s3://{BUCKET}/runs/") == []


def test_shards_are_limited_to_the_workers_size_by_default(world: World) -> None:
    world.put(1, size_bytes=4 * MIB)
    small = PlannerSettings(SETTINGS.script_prefixes, worker_memory_mb=9, worker_scratch_bytes=512 * MIB)

    with pytest.raises(PlanError, match="above the 3 MiB"):
        ask(world, request(), settings=small)
    with pytest.raises(PlanError, match="must keep half for Spark"):
        ask(world, request(split="lines", shard_size="300MiB"), settings=small)

    assert ask(world, request(too_large="fail"), settings=small)["sealed"]
    assert world.ledger.runs.get("run-1").state is RunState.RUNNING


# --- requests from S3 events ---


def object_created(key: str = 'incoming/a "b".csv', **told: Any) -> dict[str, Any]:
    event = eventbridge(key)
    event["detail"]["object"] |= {"version-id": "v1", **told}
    return event


def event_request(event: Any = None, **changes: Any) -> dict[str, Any]:
    asked = {"event": event or object_created(), "below": "s3://my-bucket/incoming/"}
    return {"script": SCRIPT, "output": "s3://data/out/{run_id}/", "of_event": asked, **changes}


def test_a_repeated_event_is_the_same_run_a_new_version_is_not() -> None:
    again, later = (run_request(event_request(object_created(**told)), "x") for told in ({}, {"sequencer": "1"}))

    assert again.inputs == later.inputs == ('s3://my-bucket/incoming/a "b".csv',)
    assert run_request(event_request(), "y").idempotency_key == again.idempotency_key != later.idempotency_key
    by_a_machine = run_request(event_request(idempotency_key="name of its execution"), "z")
    assert by_a_machine.idempotency_key == again.idempotency_key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["s3://data/in/"]}, "also inputs, lists or items"),
        ({"output": "s3://my-bucket/incoming/out/"}, "start the next one"),
        ({"next": SCRIPT, "next_output": "s3://my-bucket/incoming/"}, "start the next one"),
        ({"of_event": {"event": object_created("incoming/folder/"), "below": "s3://my-bucket/"}}, "folder"),
        (
            {"of_event": {"event": object_created("else/a.csv"), "below": "s3://my-bucket/incoming/"}},
            "does not lie below",
        ),
        ({"of_event": {"event": {**object_created(), "detail-type": "Object Deleted"}}}, "no objects"),
        ({"of_event": {"event": "s3://data/x"}}, "no objects"),
        ({"of_event": {"what": 1}}, "'event' and 'below'"),
        ({"of_event": "s3://data/x"}, "must be an object"),
    ],
)
def test_an_event_that_cannot_start_a_run_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EventError, match=message):
        run_request(event_request(**change), "x")


def test_a_repeated_request_with_run_id_in_its_output_is_one_run(world: World) -> None:
    world.put(1)
    asked = {"script": SCRIPT, "inputs": [SOURCE], "output": "s3://data/out/{run_id}/", "idempotency_key": "monday"}

    run = new_run(world.deployment, run_request(asked, "x"))

    assert run.output_uri.rstrip("/") == f"s3://data/out/{run.run_id}"
    assert new_run(world.deployment, run_request(asked, "y")) == run


# --- a table ---


@pytest.mark.parametrize(
    ("table", "output"),
    [
        ("iceberg:db.flights", f"s3://{BUCKET}/output/run-1/"),
        ("parquet:s3://data/flights", "s3://data/flights/"),  # the table is the output
    ],
)
def test_a_runs_table_needs_no_output(world: World, table: str, output: str) -> None:
    world.put(1)

    ask(world, request(table=table, output=None, commit_every=500))

    run = world.ledger.runs.get("run-1")
    assert (run.table, run.output_uri, run.options.commit_every) == (table, output, "500")


def test_a_request_with_another_table_is_refused(world: World) -> None:
    world.put(1)
    ask(world, request(table="delta:s3://lake/a"))
    with pytest.raises(RunExistsError, match="other table"):
        ask(world, request(table="delta:s3://lake/b"))
    assert ask(world, request(table="delta:s3://lake/a/"))["run_id"] == "run-1"


def test_two_open_runs_may_write_to_one_table(world: World) -> None:
    world.put(1)
    for run_id in ("run-1", "run-2"):
        ask(world, request(table="delta:s3://lake/a", output=None, run_id=run_id))
    assert [run.table for run in world.ledger.runs.unfinalized()] == 2 * ["delta:s3://lake/a"]
