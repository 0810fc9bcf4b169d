"""What a script's ``Job`` reads from the event, the arguments and the environment."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.job import EventError, Job
from sparklet.worker.executor import request_event

SHARD_EVENT = {
    "sparklet": {"run": "run-1", "shard": 7, "attempt": "a1b2", "generation": 1},
    "inputs": ["s3://b/in/1.csv", "s3://b/in/2.csv"],
    "input_path": "s3://b/in/",
    "output_path": "s3://b/out/shard=000007",
    "params": {"limit": 3, "planes": "s3://b/planes.csv"},
}


def job_of(*argv: str, **env: str) -> Job:
    return Job.from_args(list(argv), env)


def job_of_event(event: object, *argv: str, **env: str) -> Job:
    return job_of("--event", json.dumps(event), *argv, **env)


def test_a_shards_event_holds_all_its_fields() -> None:
    job = job_of_event(SHARD_EVENT, "--fast", "yes")

    assert job.event == SHARD_EVENT
    assert job.inputs == ("s3://b/in/1.csv", "s3://b/in/2.csv")
    assert job.input_path == "s3://b/in/"
    assert job.output == "s3://b/out/shard=000007"
    assert job.params == {"limit": 3, "planes": "s3://b/planes.csv"}
    assert (job.run_id, job.shard, job.attempt, job.generation) == ("run-1", 7, "a1b2", 1)
    assert job.args == ("--fast", "yes")


def test_items_come_from_a_shards_event_only() -> None:
    items = [{"city": "Ulm"}, 7, None]

    assert job_of_event({**SHARD_EVENT, "inputs": [], "items": items}).items == items
    assert (
        job_of_event(SHARD_EVENT).items
        == job_of().items
        == job_of_event([1]).items
        == job_of_event({"items": "a"}).items
        == []
    )


@pytest.mark.parametrize("event", [{"Records": [{"kinesis": {"data": "eA=="}}]}, [1, 2], "text", None, 17])
def test_a_plain_event_arrives_unchanged_and_has_no_inputs(event: object) -> None:
    job = job_of_event(event)

    assert job.event == event
    assert job.inputs == ()
    assert (job.run_id, job.shard, job.attempt, job.generation) == (None, None, None, None)


def test_the_input_path_of_a_plain_event_is_its_input() -> None:
    job = job_of_event({"input_path": "s3://b/in/", "output_path": "s3://b/out/"})

    assert (job.inputs, job.input_path, job.output) == (("s3://b/in/",), "s3://b/in/", "s3://b/out/")


def test_the_same_script_runs_without_any_event() -> None:
    job = job_of("--input", "a.csv", "--input", "b.csv", "--output", "out", "--param", "k=v=w", "--param", "n=3")

    assert job.event == {}
    assert job.inputs == ("a.csv", "b.csv")
    assert (job.input_path, job.output) == ("a.csv", "out")
    assert job.params == {"k": "v=w", "n": "3"}
    assert job.run_id is None


def test_paths_come_from_the_environment_as_a_last_resort() -> None:
    lower = {"input_path": "s3://b/env-in/", "output_path": "s3://b/env-out/"}
    upper = {"INPUT_PATH": "s3://c/in/", "OUTPUT_PATH": "s3://c/out/"}

    for env in (lower, {**upper, **lower}):
        job = job_of(**env)
        assert (job.inputs, job.input_path, job.output) == ((), "s3://b/env-in/", "s3://b/env-out/")
    assert (job_of(**upper).input_path, job_of(**upper).output) == ("s3://c/in/", "s3://c/out/")
    assert job_of("--output", "told", **lower).output == "told"
    assert job_of_event(SHARD_EVENT, **lower).output == "s3://b/out/shard=000007"


def test_the_event_is_read_from_a_file_or_the_environment_too(tmp_path: Path) -> None:
    (path := tmp_path / "event.json").write_text(json.dumps(SHARD_EVENT))

    assert job_of("--event", f"@{path}") == job_of_event(SHARD_EVENT)
    assert job_of("--fast", SPARKLET_EVENT=json.dumps(SHARD_EVENT)) == job_of_event(SHARD_EVENT, "--fast")
    assert job_of(SPARKLET_EVENT=f"@{path}").shard == 7
    assert job_of_event({"input_path": "s3://other/"}, SPARKLET_EVENT=f"@{path}").input_path == "s3://other/"


GLUE_ARGUMENTS = ("--JOB_NAME", "nightly", "--TempDir", "s3://t/", "--job-bookmark-option", "x")


@pytest.mark.parametrize(
    ("event", "argv", "name", "value"),
    [
        pytest.param(
            {}, (*GLUE_ARGUMENTS, "--input", "s3://b/in/"), "args", GLUE_ARGUMENTS, id="Glue's own pass through"
        ),
        pytest.param({}, (*GLUE_ARGUMENTS, "--input", "s3://b/in/"), "inputs", ("s3://b/in/",), id="beside Glue's own"),
        *(pytest.param({}, (each, "x"), "args", (each, "x"), id=each) for each in ("--out", "--inputs", "-e")),
        pytest.param({"output_path": "x"}, ("--output", "x"), "output", "x", id="they may agree with the event"),
        pytest.param({"params": {"a": 1, "b": 2}}, ("--param", "a=9"), "params", {"a": "9", "b": 2}, id="one wins"),
    ],
)
def test_arguments_are_read_beside_the_event(event: Any, argv: tuple[str, ...], name: str, value: Any) -> None:
    assert getattr(job_of_event(event, *argv), name) == value


@pytest.mark.parametrize(
    ("argv", "seen"),
    [
        (["--event", "{nope"], "{nope"),
        (["--event", ""], "not JSON"),
        (["--event", "@missing.json"], "@missing.json"),
        (["--event"], "--event"),
        (["--param", "novalue"], "novalue"),
        (["--event", '{"inputs": "s3://b/x"}'], "'s3://b/x'"),
        (["--event", '{"inputs": ["a", 5]}'], "['a', 5]"),
        (["--event", '{"inputs": [""]}'], "['']"),
        (["--event", '{"output_path": ["x"]}'], "output_path is ['x']"),
        (["--event", '{"input_path": 5}'], "input_path is 5"),
        (["--event", '{"params": ["x"]}'], "params is ['x']"),
        (["--event", '{"sparklet": "x"}'], "sparklet is 'x'"),
        (["--event", '{"sparklet": {"run": "r"}}'], "{'run': 'r'}"),
        (["--event", '{"sparklet": {"run": "r", "shard": true, "generation": 0}}'], "True"),
        pytest.param(["--event", "x" * 50_000], "xxx", id="a huge event in part only"),
    ],
)
def test_an_error_quotes_the_wrong_value(argv: list[str], seen: str) -> None:
    with pytest.raises(EventError) as caught:
        job_of(*argv)

    assert seen in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("argument", ["--output", "--input"])
def test_arguments_that_redirect_every_shard_are_refused(argument: str) -> None:
    with pytest.raises(EventError, match=f"{argument} is .*elsewhere"):
        job_of_event(SHARD_EVENT, argument, "elsewhere")


def test_a_missing_path_is_an_error_only_when_it_is_read() -> None:
    job = job_of()

    with pytest.raises(EventError, match="pass --output"):
        _ = job.output
    with pytest.raises(EventError, match="pass --input"):
        job.input_list()


@pytest.mark.parametrize("event", [SHARD_EVENT, "an event of S3"], ids=["shard", "notice"])
@pytest.mark.parametrize(
    "key",
    [
        *("_a.csv", ".a.csv", "_SUCCESS.csv", "a.csv._COPYING_", "x/[a]._COPYING_", "in//a.csv", "/a.csv"),
        *("in/./a.csv", "in/../secret/x.csv", "in/..", "a.csv/", "a\nb.csv", "a\x7fb.csv"),
    ],
)
def test_names_that_spark_misreads_or_hides_are_refused(event: Any, key: str) -> None:
    if event is SHARD_EVENT:
        event = {**SHARD_EVENT, "inputs": ["s3://b/x.csv", f"s3://b/{key}"]}
    else:
        detail = {"bucket": {"name": "b"}, "object": {"key": key}}
        event = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}

    with pytest.raises(EventError, match="rename it, or exclude it") as caught:
        job_of_event(event).input_list()

    assert repr(f"s3://b/{key}") in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "read"),
    [
        ("s3://b/a[1]{x}*?.csv", r"s3://b/a\[1\]\{x\}\*\?.csv"),  # an object's name is not a glob
        ("s3://b/back\\slash", r"s3://b/back\\slash"),
        *((uri, uri) for uri in ("file:///tmp/../x//a.csv", "../in/a.csv", "in//a.csv")),  # a file system's own dots
        *((f"s3://b/{name}",) * 2 for name in ("_SUCCESS", "_metadata", "a_b.csv", "_folder/a.csv", ".folder/a.csv")),
    ],
)
def test_other_names_are_read_with_special_characters_escaped(uri: str, read: str) -> None:
    assert job_of_event({**SHARD_EVENT, "inputs": [uri]}).input_list() == [read]


def test_a_glob_on_the_command_line_is_not_escaped() -> None:
    assert job_of("--input", "in/*.csv").input_list() == ["in/*.csv"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("inputs", "input_path", "output_path", "params", "sparklet", "run", "shard")


@given(st.dictionaries(st.sampled_from(KEYS), json_values) | json_values)
def test_any_event_is_read_or_refused_by_name(event: object) -> None:
    try:
        job = job_of_event(event)
    except EventError as error:
        refusal = str(error)
    else:
        assert job.event == event
        assert all(isinstance(uri, str) for uri in job.inputs)
        return
    assert refusal.startswith("the event's ")


@pytest.mark.parametrize("names", [{}, {"script": "s3://b/scripts/a.py", "args": ["--x"]}])
@pytest.mark.parametrize("event", [{"n": 41}, request_event({"n": 41}, "order-7")])
def test_an_event_that_chooses_a_script_is_not_a_shards_event(names: dict[str, Any], event: dict[str, Any]) -> None:
    event = {**event, "sparklet": {**event.get("sparklet", {}), **names}}

    job = job_of_event(event)

    assert job.event == event
    assert (job.run_id, job.shard) == (None, None)


def test_no_iceberg_table_is_created_in_a_staged_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    event: dict[str, Any] = {"output_path": "s3://b/staged/1", "params": {}}
    shard, lake = {"sparklet": SHARD_EVENT["sparklet"]}, {"params": {"warehouse": "s3://b/lake"}}
    monkeypatch.setattr("sparklet.job.session.spark_session", lambda name, conf, warehouse: warehouse)

    made: list[Any] = [job_of_event(each).spark() for each in (event, {**event, **shard}, {**event, **shard, **lake})]
    assert made == ["s3://b/staged/1", None, "s3://b/lake"]


# --- tables ---


def in_run(**names: object) -> Job:
    shard = {"run": "r", "identity": "r_1", "shard": 1, "attempt": "a", "generation": 0, **names}
    return job_of_event({"sparklet": shard, "table": "iceberg:db.t"})


def test_the_table_is_the_runs_or_an_argument() -> None:
    assert in_run().table == "iceberg:db.t"
    assert job_of("--table", "delta:/data/t").table == "delta:/data/t"
    assert job_of_event({"table": {"of": "a client"}}).table == ""


def test_the_job_has_the_previous_attempt() -> None:
    before = {"number": 1, "error_class": "LeaseExpired", "message": "its worker was lost", "commit_state": "unknown"}

    assert in_run().previous_attempt is None
    assert in_run(previous_attempt=before).previous_attempt == tuple(before.values())
    assert job_of().previous_attempt is None


def test_a_script_that_infers_a_schema_may_not_write_first() -> None:
    job, frame = Job(params={"schema": "infer"}, output_path="out"), cast(Any, None)
    for write in (partial(job.append, frame, "delta:/nowhere"), partial(job.jdbc_write, frame, "rows", url="")):
        with pytest.raises(EventError, match="read the input first"):
            write()
