"""An event within a direct invocation: the invocation's script does it, whatever its source; causes are raised."""

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import EventError, PlanError, ScriptError, ScriptFailedError, ScriptNotAllowedError, SettingsError
from sparklet.events import Source, Task, answer
from sparklet.job.outcome import EVENT
from sparklet.log import Log
from sparklet.model import InputObject, Slice, SliceKind
from sparklet.spark.runner import Deadline, ScriptResult
from sparklet.worker.attempt import Attempt
from sparklet.worker.executor import Execution, unpinned_script
from sparklet.worker.inputs import ShardInputs
from tests.unit.events.samples import every_source, http_request, kinesis, s3, sqs, window
from tests.unit.worker.conftest import BUCKET, OWN, Bench, exits

GIVEN = f"s3://{BUCKET}/scripts/given.py"
ENV = f"s3://{BUCKET}/scripts/env.json"


def handed_over(event: Any, **more: Any) -> dict[str, Any]:
    return {"sparklet": {"script": GIVEN, "event": event, **more}}


@pytest.fixture(autouse=True)
def given(bench: Bench) -> None:
    bench.store.put(GIVEN, b"print('given')")


@pytest.mark.parametrize("source", sorted(every_source().keys() - {"shard"}))
def test_the_invocations_script_runs_for_events_of_every_source(bench: Bench, source: str) -> None:
    event = handed_over(every_source()[source], args=["--x"])

    outcomes = bench.invoke(event)

    assert [call.script.read_bytes() for call in bench.runner.calls] == [b"print('given')"] * len(outcomes)
    assert {call.args[:2] for call in bench.runner.calls} == {("--x", "--event")}
    assert {outcome.answer["state"] for outcome in outcomes} == {"SUCCEEDED"}
    assert answer(event, outcomes)


@pytest.mark.parametrize("event", [[1], "text", None, {"sparklet": {"script": "s3://elsewhere/x.py"}, "a": 1}])
def test_any_json_can_be_an_event_and_arrives_unchanged(bench: Bench, event: Any) -> None:
    bench.invoke(handed_over(event))

    assert bench.runner.event() == event
    assert bench.runner.calls[0].script.name == "given.py"


def test_listed_keys_of_an_event_become_environment_variables(bench: Bench) -> None:
    bench.configure(event_variables=("INPUT_PATH", "day"))
    bench.store.put(ENV, b'{"day": "of the command"}')
    event = {"INPUT_PATH": "s3://in/", "day": "of the event", "AWS_REGION": "nowhere"}

    bench.invoke(event)
    bench.invoke(handed_over(event, env=ENV))
    bench.invoke({"other": 1})

    given = [{name: call.env.get(name) for name in event} for call in bench.runner.calls]
    assert given == [
        {"INPUT_PATH": "s3://in/", "day": "of the event", "AWS_REGION": None},
        {"INPUT_PATH": "s3://in/", "day": "of the command", "AWS_REGION": None},
        {"INPUT_PATH": None, "day": None, "AWS_REGION": None},
    ]


def test_a_value_that_cannot_be_a_variable_fails_the_task(bench: Bench) -> None:
    bench.configure(event_variables=("INPUT_PATH",))

    (outcome,) = bench.invoke({"INPUT_PATH": ["s3://in/"]})

    assert isinstance(outcome.error, EventError)
    assert bench.runner.calls == []


def test_a_failure_is_raised_instead_of_returning_item_failures(bench: Bench) -> None:
    bench.runner.behaviour = exits(1, "ValueError", "column 3 is bad")
    event = handed_over({"Records": [kinesis("1")]})

    with pytest.raises(ScriptFailedError, match="column 3 is bad"):
        answer(event, bench.invoke(event))


def test_several_tasks_are_answered_or_the_failed_one_is_named(bench: Bench) -> None:
    event = handed_over({"Records": [sqs("m-1", "good"), sqs("m-2", "bad")]})
    good = answer(event, bench.invoke(event))
    bench.runner.behaviour = lambda call, output: ScriptResult(
        *((1, "", "ValueError", "it is bad") if "bad" in call.env[EVENT] else (0,))
    )

    assert [each["state"] for each in good["tasks"]] == ["SUCCEEDED"] * 2
    with pytest.raises(ScriptError, match=r"1 of 2 tasks failed; m-2: ScriptFailedError: .*it is bad"):
        answer(event, bench.invoke(event))


def test_an_event_about_the_workers_own_output_is_not_skipped(bench: Bench) -> None:
    bench.invoke(handed_over(s3("output/x.parquet", BUCKET)))

    assert len(bench.runner.calls) == 1


def test_a_shards_message_within_an_invocation_is_refused(bench: Bench) -> None:
    """An attempt outside of the queue would not be counted; the error names the command that repeats the shard."""
    (ref,) = bench.plan()
    event = handed_over({"Records": [sqs("m-1", ref.to_body())]})

    with pytest.raises(EventError, match="sparklet redrive"):
        answer(event, bench.invoke(event))
    assert bench.runner.calls == [] and bench.record.attempts == 0


@pytest.mark.parametrize(
    "event",
    [
        {"Records": [sqs("m-1", json.dumps(handed_over({}, env=ENV)))]},
        {"Records": [], **window(kinesis("1"), state={}), **handed_over({})},
        {"detail-type": "x", "source": "y", "detail": {}, **handed_over({}, env=ENV)},
        {"Records": [sqs("m-1", json.dumps({"sparklet": {"script": GIVEN}}))]},
        {**http_request("{}"), "sparklet": {"script": GIVEN}},
    ],
)
def test_only_a_direct_invocation_chooses_a_script(bench: Bench, event: Any) -> None:
    bench.store.put(ENV, b'{"level": "9"}')

    bench.invoke(event)

    assert {call.script.name for call in bench.runner.calls} == {"default.py"}
    assert all("level" not in call.env for call in bench.runner.calls)


def test_variables_of_an_invocation_come_from_the_workers_bucket(bench: Bench) -> None:
    bench.store.put(ENV, b'{"input_path": "s3://in/x.csv"}')

    bench.invoke(handed_over({"output_path": "evil"}, env=ENV))

    assert bench.runner.calls[0].env.keys() == {"input_path", *OWN}
    assert bench.runner.calls[0].env["input_path"] == "s3://in/x.csv"


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({"a": "b"}, ScriptNotAllowedError),  # variables in the event itself
        ("s3://elsewhere/env.json", ScriptNotAllowedError),
        (ENV, SettingsError),
    ],
)
def test_a_forbidden_environment_is_refused(bench: Bench, env: Any, error: type[Exception]) -> None:
    bench.store.put(ENV, b'{"LD_PRELOAD": "/tmp/evil.so"}')

    (outcome,) = bench.invoke(handed_over({}, env=env))

    assert isinstance(outcome.error, error)
    assert bench.runner.calls == []


# --- shards ---


def test_variables_of_the_run_win_over_the_shards(bench: Bench) -> None:
    bench.env = {"level": "9", "output_path": "s3://o"}
    bench.attempt()

    found = bench.runner.calls[0].env
    assert (found["level"], found["output_path"], found["input_path"]) == ("9", "s3://o", "s3://in/0.csv")


IN_PARTITIONS = {"s3://in/day=1/a.csv": "s3://in/"}
PART = InputObject("s3://in/day=1/a.csv", 5, "e", slice=Slice(SliceKind.ROW_GROUPS, 0, 5))
LINES = replace(PART, slice=Slice(SliceKind.LINES, 0, 5))
READS = b"read(event['inputs'])"


@pytest.mark.parametrize(
    ("script", "seen", "has_view", "message"),
    [
        (b"read(sys.argv[1])", {"args": ("{input}",)}, False, "on this engine Spark would list all files"),
        (b"read(event['input_folders'])", {}, False, "on this engine Spark would list all files"),
        (READS, {"items": (PART,)}, False, "cannot read a slice of a Parquet file"),
        (b"read(lineSep=';')", {"items": (LINES,)}, False, "the script has lineSep, with which a slice can end"),
        (READS, {"partitions": IN_PARTITIONS}, False, "below s3://in/, but on this engine Spark would read"),
        (b"read(event['inputs'], basePath='s3://in/')", {"partitions": IN_PARTITIONS}, False, ""),
        (READS, {}, False, ""),
        (b"frame.select('_metadata.row_index')", {"items": (PART,)}, True, "the script has row_index"),
    ],
)
def test_inputs_that_spark_without_our_view_misreads_are_refused(
    bench: Bench, script: bytes, seen: dict[str, Any], has_view: bool, message: str
) -> None:
    """Without our file system view, as in engines, Spark lists whole folders, and does not know partitions."""
    bench.runner.has_view = has_view
    bench.store.put(GIVEN, script)
    event = {"inputs": [PART.uri], "input_path": None, "output_path": "s3://out", "input_folders": ["s3://in/"]}
    args = seen.pop("args", ())
    execution = Execution(unpinned_script(GIVEN), event, args, is_shard=True, inputs=ShardInputs(**seen))
    attempt = Attempt("attempt-1", Task(Source.DIRECT, {}), Deadline.within(60), Log())

    with pytest.raises(PlanError, match=message) if message else nullcontext():
        bench.worker.executor.execute(execution, attempt)

    assert len(bench.runner.calls) == (not message)
