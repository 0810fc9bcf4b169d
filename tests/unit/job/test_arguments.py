"""What a script is told, from whichever side."""

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.job import EventError, Job
from sparklet.worker.script_event import request_event

SHARD_EVENT = {
    "sparklet": {"run": "run-1", "shard": 7, "attempt": "a1b2", "generation": 1},
    "inputs": ["s3://b/in/1.csv", "s3://b/in/2.csv"],
    "input_path": "s3://b/in/",
    "output_path": "s3://b/out/shard=000007",
    "params": {"limit": 3, "planes": "s3://b/planes.csv"},
}


def job_of(*argv: str, **env: str) -> Job:
    return Job.from_args(list(argv), env)


def test_a_shards_event_holds_all_its_fields() -> None:
    job = job_of("--event", json.dumps(SHARD_EVENT), "--fast", "yes")

    assert job.event == SHARD_EVENT
    assert job.inputs == ("s3://b/in/1.csv", "s3://b/in/2.csv")
    assert job.input_path == "s3://b/in/"
    assert job.output == "s3://b/out/shard=000007"
    assert job.params == {"limit": 3, "planes": "s3://b/planes.csv"}
    assert (job.run_id, job.shard, job.attempt, job.generation) == ("run-1", 7, "a1b2", 1)
    assert job.args == ("--fast", "yes")


def test_items_are_those_of_the_event_and_none_elsewhere() -> None:
    items = [{"city": "Ulm"}, 7, None]

    assert job_of("--event", json.dumps({**SHARD_EVENT, "inputs": [], "items": items})).items == items
    assert job_of("--event", json.dumps(SHARD_EVENT)).items == job_of().items == []
    assert job_of("--event", json.dumps([1])).items == job_of("--event", '{"items": "a"}').items == []


def test_the_environments_paths_have_names_of_either_case() -> None:
    upper = {"INPUT_PATH": "s3://b/in/", "OUTPUT_PATH": "s3://b/out/"}
    lower = {"input_path": "s3://c/in/", "output_path": "s3://c/out/"}

    assert (job_of(**upper).input_path, job_of(**upper).output) == ("s3://b/in/", "s3://b/out/")
    assert (job_of(**upper, **lower).input_path, job_of(**upper, **lower).output) == ("s3://c/in/", "s3://c/out/")


def test_a_long_event_comes_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(SHARD_EVENT))

    assert job_of("--event", f"@{file}") == job_of("--event", json.dumps(SHARD_EVENT))


@pytest.mark.parametrize(
    "event",
    [
        {"Records": [{"kinesis": {"data": "eA=="}}]},
        [1, 2],
        "text",
        None,
        17,
    ],
)
def test_a_plain_event_arrives_as_it_is_and_names_no_inputs(event: object) -> None:
    job = job_of("--event", json.dumps(event))

    assert job.event == event
    assert job.inputs == ()
    assert (job.run_id, job.shard, job.attempt, job.generation) == (None, None, None, None)


def test_the_input_path_of_a_plain_event_is_its_input() -> None:
    job = job_of("--event", '{"input_path": "s3://b/in/", "output_path": "s3://b/out/"}')

    assert (job.inputs, job.input_path, job.output) == (("s3://b/in/",), "s3://b/in/", "s3://b/out/")


def test_the_same_script_runs_without_any_event() -> None:
    job = job_of("--input", "a.csv", "--input", "b.csv", "--output", "out", "--param", "k=v=w", "--param", "n=3")

    assert job.event == {}
    assert job.inputs == ("a.csv", "b.csv")
    assert (job.input_path, job.output) == ("a.csv", "out")
    assert job.params == {"k": "v=w", "n": "3"}
    assert job.run_id is None


def test_the_environment_names_paths_that_nothing_else_names() -> None:
    env = {"input_path": "s3://b/env-in/", "output_path": "s3://b/env-out/"}

    job = job_of(**env)
    assert (job.inputs, job.input_path, job.output) == ((), "s3://b/env-in/", "s3://b/env-out/")
    assert job_of("--output", "told", **env).output == "told"
    assert job_of("--event", json.dumps(SHARD_EVENT), **env).output == "s3://b/out/shard=000007"


def test_the_event_is_read_from_the_environment_too(tmp_path: Path) -> None:
    (path := tmp_path / "event.json").write_text(json.dumps(SHARD_EVENT))

    assert job_of("--fast", SPARKLET_EVENT=json.dumps(SHARD_EVENT)) == job_of("--event", f"@{path}", "--fast")
    assert job_of(SPARKLET_EVENT=f"@{path}").shard == 7
    assert job_of("--event", '{"input_path": "s3://other/"}', SPARKLET_EVENT=f"@{path}").input_path == "s3://other/"


def test_glues_own_arguments_pass_through() -> None:
    job = job_of("--JOB_NAME", "nightly", "--input", "s3://b/in/", "--TempDir", "s3://t/", "--job-bookmark-option", "x")

    assert job.inputs == ("s3://b/in/",)
    assert job.args == ("--JOB_NAME", "nightly", "--TempDir", "s3://t/", "--job-bookmark-option", "x")


def test_arguments_that_only_begin_like_ours_are_the_scripts_own() -> None:
    assert job_of("--out", "x", "--inputs", "y", "-e", "z").args == ("--out", "x", "--inputs", "y", "-e", "z")


def test_a_parameter_of_the_command_line_wins() -> None:
    assert job_of("--event", '{"params": {"a": 1, "b": 2}}', "--param", "a=9").params == {"a": "9", "b": 2}


@pytest.mark.parametrize(
    ("argv", "seen"),
    [
        (["--event", "{nope"], "{nope"),
        (["--event", ""], "no JSON"),
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
    ],
)
def test_an_error_names_what_was_seen(argv: list[str], seen: str) -> None:
    with pytest.raises(EventError) as caught:
        job_of(*argv)

    assert seen in str(caught.value)


def test_an_error_quotes_a_huge_event_in_part_only() -> None:
    with pytest.raises(EventError) as caught:
        job_of("--event", "x" * 50_000)

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("argument", ["--output", "--input"])
def test_arguments_that_redirect_every_shard_are_refused(argument: str) -> None:
    with pytest.raises(EventError, match=f"{argument} says .*elsewhere"):
        job_of("--event", json.dumps(SHARD_EVENT), argument, "elsewhere")


def test_event_and_arguments_may_agree() -> None:
    assert job_of("--event", '{"output_path": "x"}', "--output", "x").output == "x"


def test_no_output_is_an_error_once_it_is_needed() -> None:
    job = job_of()

    with pytest.raises(EventError, match="pass --output"):
        _ = job.output


def test_no_inputs_is_an_error_once_they_are_needed() -> None:
    with pytest.raises(EventError, match="pass --input"):
        job_of().input_list()


def test_names_of_a_shards_objects_are_no_globs() -> None:
    event = {**SHARD_EVENT, "inputs": ["s3://b/a[1]{x}*?.csv", "s3://b/back\\slash"]}

    assert job_of("--event", json.dumps(event)).input_list() == [
        r"s3://b/a\[1\]\{x\}\*\?.csv",
        r"s3://b/back\\slash",
    ]


@pytest.mark.parametrize("event", [SHARD_EVENT, "an event of S3"], ids=["shard", "notice"])
@pytest.mark.parametrize(
    "key",
    [
        *(
            "_a.csv",
            ".a.csv",
            "_SUCCESS.csv",
            "a.csv._COPYING_",
            "x/[a]._COPYING_",
            "in//a.csv",
            "/a.csv",
            "in/./a.csv",
        ),
        *("in/../secret/x.csv", "in/..", "a.csv/", "a\nb.csv", "a\x7fb.csv"),
    ],
)
def test_names_that_spark_misreads_or_hides_are_refused(event: Any, key: str) -> None:
    if event is SHARD_EVENT:
        event = {**SHARD_EVENT, "inputs": ["s3://b/x.csv", f"s3://b/{key}"]}
    else:
        detail = {"bucket": {"name": "b"}, "object": {"key": key}}
        event = {"source": "aws.s3", "detail-type": "Object Created", "detail": detail}

    with pytest.raises(EventError, match="rename it, or exclude it") as caught:
        job_of("--event", json.dumps(event)).input_list()

    assert repr(f"s3://b/{key}") in str(caught.value)


@pytest.mark.parametrize("uri", ["file:///tmp/../x//a.csv", "../in/a.csv", "in//a.csv"])
def test_a_file_systems_own_dots_are_no_other_object(uri: str) -> None:
    assert job_of("--event", json.dumps({**SHARD_EVENT, "inputs": [uri]})).input_list() == [uri]


@pytest.mark.parametrize("name", ["_SUCCESS", "_metadata", "a_b.csv", "_folder/a.csv", ".folder/a.csv"])
def test_markers_without_rows_and_folders_are_no_loss(name: str) -> None:
    event = {**SHARD_EVENT, "inputs": [f"s3://b/{name}"]}

    assert job_of("--event", json.dumps(event)).input_list() == [f"s3://b/{name}"]


def test_a_glob_of_the_command_line_stays_one() -> None:
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
        job = job_of("--event", json.dumps(event))
    except EventError as error:
        refusal = str(error)
    else:
        assert job.event == event
        assert all(isinstance(uri, str) for uri in job.inputs)
        return
    assert refusal.startswith("the event's ")


@pytest.mark.parametrize("names", [{}, {"script": "s3://b/scripts/a.py", "args": ["--x"]}])
@pytest.mark.parametrize("event", [{"n": 41}, request_event({"n": 41}, "order-7")])
def test_an_event_that_chose_its_script_is_no_shard(names: dict[str, Any], event: dict[str, Any]) -> None:
    event = {**event, "sparklet": {**event.get("sparklet", {}), **names}}

    job = Job.from_args(["--event", json.dumps(event)], env={})

    assert job.event == event
    assert (job.run_id, job.shard) == (None, None)


def test_no_iceberg_table_is_created_in_a_staged_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    event: dict[str, Any] = {"output_path": "s3://b/staged/1", "params": {}}
    shard = {"sparklet": {"run": "r", "shard": 1, "attempt": "a", "generation": 0}}

    monkeypatch.setattr("sparklet.job.session.spark_session", lambda name, conf, warehouse: warehouse)

    def warehouse(event: dict[str, Any]) -> Any:
        return Job.from_args(["--event", json.dumps(event)], {}).spark()

    assert warehouse(event) == "s3://b/staged/1"
    assert warehouse({**event, **shard}) is None
    assert warehouse({**event, **shard, "params": {"warehouse": "s3://b/lake"}}) == "s3://b/lake"


# --- tables ---


def in_run(**names: object) -> Job:
    shard = {"run": "r", "identity": "r_1", "shard": 1, "attempt": "a", "generation": 0, **names}
    return Job.from_args(["--event", json.dumps({"sparklet": shard, "table": "iceberg:db.t"})], {})


def test_the_table_is_the_runs_or_an_argument() -> None:
    assert in_run().table == "iceberg:db.t"
    assert Job.from_args(["--table", "delta:/data/t"], {}).table == "delta:/data/t"
    assert Job.from_args(["--event", '{"table": {"of": "a client"}}'], {}).table == ""


def test_the_attempt_before_is_known_to_the_script() -> None:
    before = {"number": 1, "error_class": "LeaseExpired", "message": "its worker was lost", "commit_state": "unknown"}

    assert in_run().previous_attempt is None
    assert in_run(previous_attempt=before).previous_attempt == tuple(before.values())
    assert Job.from_args([], {}).previous_attempt is None


def test_a_script_that_infers_a_schema_writes_nothing_first() -> None:
    job, frame = Job(params={"schema": "infer"}, output_path="out"), cast(Any, None)
    for write in (partial(job.append, frame, "delta:/nowhere"), partial(job.jdbc_write, frame, "rows", url="")):
        with pytest.raises(EventError, match="read the input first"):
            write()
