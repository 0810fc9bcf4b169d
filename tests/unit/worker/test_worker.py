"""Plain events: which script runs, with which event and arguments, and how failures are reported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import (
    EventError,
    ObjectStoreError,
    ScratchFullError,
    ScriptFailedError,
    ScriptFetchError,
    ScriptNotAllowedError,
    SettingsError,
)
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.executor import ScriptCache
from tests.unit.events.samples import kinesis, s3, s3_test_event, sqs
from tests.unit.worker.conftest import BUCKET, OWN, SCRIPT, Behaviour, Bench, exits, raises, reports

ALLOWED = f"s3://{BUCKET}/scripts/mine.py"


def run_event(bench: Bench, event: Any, script: Behaviour | None = None) -> Any:
    """Invoke the worker with an event of one task. Return the outcome. Without ``script`` the behaviour stays."""
    bench.runner.behaviour = script or bench.runner.behaviour
    (outcome,) = bench.invoke(event)
    return outcome


def test_a_plain_event_reaches_the_script_unchanged(bench: Bench) -> None:
    event = {"anything": ["at", "all"], "ä": None, "PATH": "/evil", "SPARKLET_RUNNER": "submit", "input_path": "x"}

    outcome = run_event(bench, event)

    assert outcome.error is None
    assert bench.runner.event() == event
    assert bench.runner.calls[0].script.name == "default.py"
    assert bench.runner.calls[0].env.keys() == OWN, "no key of an event becomes an environment variable"


def test_an_event_above_an_arguments_limit_goes_through_a_file(bench: Bench) -> None:
    event = {"big": "x" * 5_900_000}
    seen: list[Any] = []

    def read(call: ScriptCall, output: Output) -> ScriptResult:
        assert call.args[-1].startswith("@")
        assert max(len(a) for a in call.args) < 128 * 1024
        seen.append(bench.runner.event())
        return ScriptResult(0)

    assert run_event(bench, event, read).error is None
    assert seen == [event]


def test_a_direct_event_may_choose_an_allowed_script(bench: Bench) -> None:
    bench.store.put(ALLOWED, b"print(1)")

    outcome = run_event(bench, {"sparklet": {"script": ALLOWED, "args": ["--x", "1"]}})

    assert outcome.answer["state"] == "SUCCEEDED"
    assert bench.runner.calls[0].script.read_bytes() == b"print(1)"
    assert bench.runner.calls[0].args[:-1] == ("--x", "1", "--event")


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://elsewhere/x.py", f"s3://{BUCKET}/other/x.py", f"s3://{BUCKET}/scripts/../x.py", "/etc/x.py"),
        # folders in which the worker's role, and so every script, can write
        *(f"s3://{BUCKET}/runs/r/answers/x.py", f"s3://{BUCKET}/runs/r/more/writes/script/x.py"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"event": {"Records": [kinesis("1")]}}])
def test_a_script_outside_the_allowed_prefixes_is_refused(bench: Bench, uri: str, more: dict[str, Any]) -> None:
    outcome = run_event(bench, {"sparklet": {"script": uri, **more}})

    assert isinstance(outcome.error, ScriptNotAllowedError)
    assert bench.runner.calls == []


@pytest.mark.parametrize("name", ["\ud800.py", "\ud800/job.py", "a\udfff.py"])
def test_a_script_address_that_is_no_text_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    bench.worker.executor.scripts = ScriptCache(
        S3ObjectStore(AwsClients(attempts=1)), Path("/nowhere"), (f"s3://{BUCKET}/",)
    )

    error = run_event(bench, {"sparklet": {"script": f"s3://{BUCKET}/{name}"}}).error

    assert isinstance(error, ScriptFetchError)
    assert not error.retryable


def test_py_files_outside_the_allowed_prefixes_are_refused(bench: Bench) -> None:
    bench.store.put(ALLOWED, b"print(1)")

    outcome = run_event(bench, {"sparklet": {"script": ALLOWED, "py_files": ["s3://elsewhere/x.zip"]}})

    assert isinstance(outcome.error, ScriptNotAllowedError)
    assert bench.runner.calls == []


def test_log_lines_of_an_invocation_have_its_id(bench: Bench) -> None:
    """``sparklet logs`` finds the lines by these marks."""
    bench.store.put(ALLOWED, b"print(1)")

    run_event(bench, {"sparklet": {"script": ALLOWED, "event": {}, "invocation": "i-1"}})

    assert {(line["run"], line["shard"]) for line in bench.log_lines()} == {("i-1", 0)}


def test_a_script_that_is_gone_is_not_run_from_the_cache(bench: Bench) -> None:
    run_event(bench, {"first": 1})
    bench.store.delete(f"s3://{BUCKET}/scripts/default.py")

    outcome = run_event(bench, {"second": 2})

    assert isinstance(outcome.error, ScriptFetchError)
    assert not outcome.error.retryable
    assert len(bench.runner.calls) == 1


def test_a_fetch_that_fails_since_s3_is_down_is_retryable(bench: Bench) -> None:
    bench.store.head = raises(ObjectStoreError("503"))  # type: ignore[method-assign]

    error = run_event(bench, {}).error
    assert isinstance(error, ScriptFetchError)
    assert error.retryable


def test_a_changed_script_is_fetched_again(bench: Bench) -> None:
    run_event(bench, {})
    bench.store.put(f"s3://{BUCKET}/scripts/default.py", b"print('new')\n")
    run_event(bench, {})

    assert bench.runner.calls[1].script.read_bytes() == b"print('new')\n"


def test_a_file_is_read_as_a_script_once_for_all_its_tasks(bench: Bench) -> None:
    for _ in range(2):
        run_event(bench, {})
    bench.store.put(f"s3://{BUCKET}/scripts/default.py", b"print('new')\n")
    run_event(bench, {})

    first, second, changed = (call.source for call in bench.runner.calls)
    assert first is second and first.body == SCRIPT
    assert changed.body == b"print('new')\n"


def test_a_cached_script_that_a_task_altered_is_fetched_again(bench: Bench) -> None:
    def vandal(call: ScriptCall, output: Output) -> ScriptResult:
        call.script.write_text("evil")
        return ScriptResult(0)

    run_event(bench, {}, vandal)

    assert run_event(bench, {}, lambda call, output: ScriptResult(call.script.read_text().count("evil"))).error is None


def test_a_failed_message_without_a_ledger_is_not_acknowledged(bench: Bench) -> None:
    script = exits(3, "KeyError", "'x'", "Traceback\nKeyError: 'x'\n")

    outcome = run_event(bench, {"Records": [sqs("a", "{}")]}, script)

    assert not outcome.acknowledged
    assert isinstance(outcome.error, ScriptFailedError)
    assert outcome.error.exit_code == 3
    assert "KeyError: 'x'" in str(outcome.error)


@pytest.mark.parametrize(
    ("setting", "error", "expected"),
    [
        ({"default_script": ""}, SettingsError, "SCRIPT_LOCATION"),
        ({"min_free_bytes": 10**18}, ScratchFullError, "SPARKLET_MIN_FREE_BYTES"),
    ],
)
def test_a_missing_setting_or_space_is_reported_before_work(
    bench: Bench, setting: dict[str, Any], error: type[Exception], expected: str
) -> None:
    bench.configure(**setting)

    met = run_event(bench, {}).error

    assert isinstance(met, error) and expected in str(met)
    assert bench.runner.calls == []


@pytest.mark.parametrize(
    "content", ["no json", "[1]", '{"rows": "many"}', '{"outputs": 3}', '{"state": 7}', "[" * 10_000]
)
def test_a_broken_outcome_file_fails_the_task(bench: Bench, content: str) -> None:
    assert isinstance(run_event(bench, {}, reports(content)).error, EventError)


def test_one_bad_record_does_not_stop_the_others(bench: Bench) -> None:
    first, second = bench.invoke({"Records": [sqs("a", '{"run_id": 1, "shard": 2}'), sqs("b", "hello")]})

    assert not first.acknowledged
    assert second.acknowledged


# --- answers, limits and skipped events ---


@pytest.mark.parametrize("expected", [{"answer": {"total": 7}, "state": {"n": 1}}, {"answer": None}, {}])
def test_the_scripts_answer_and_state_are_passed_on(bench: Bench, expected: dict[str, Any]) -> None:
    """An answer that is null differs from no answer."""
    outcome = run_event(bench, {}, reports({"rows": 1, **expected}))

    assert outcome.answer.get("answer", "none") == expected.get("answer", "none")
    assert outcome.state == expected.get("state")


def test_a_huge_outcome_file_is_not_read(bench: Bench) -> None:
    def write(call: ScriptCall, output: Output) -> ScriptResult:
        with Path(call.env["SPARKLET_OUTCOME_FILE"]).open("wb") as file:
            file.truncate(10 * 1024**3)  # takes no space
        return ScriptResult(0)

    error = run_event(bench, {}, write).error
    assert isinstance(error, EventError)
    assert "10737418240 bytes" in str(error)


def test_an_event_nested_too_deeply_is_an_error_before_work(bench: Bench) -> None:
    event: Any = {}
    for _ in range(5_000):
        event = {"in": event}

    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)  # Python's own: a library that another test loads raises it
    try:
        error = run_event(bench, event).error
    finally:
        sys.setrecursionlimit(usual)

    assert isinstance(error, EventError)
    assert bench.runner.calls == []


def test_the_test_event_of_s3_is_acknowledged_and_logged(bench: Bench) -> None:
    outcome = run_event(bench, {"Records": [sqs("a", json.dumps(s3_test_event()))]})

    assert outcome.acknowledged
    assert outcome.error is None
    assert bench.runner.calls == []
    assert any("s3:TestEvent" in line.get("reason", "") for line in bench.log_lines())


@pytest.mark.parametrize("key", ["output/part-0.parquet", "runs/x/manifest.json", "mine/part-0.parquet"])
def test_an_event_about_the_workers_own_output_starts_nothing(bench: Bench, key: str) -> None:
    prefixes = bench.worker.executor.settings.output_prefixes
    bench.configure(output_prefixes=(*prefixes, f"s3://{BUCKET}/mine/"))

    for event in (s3(key, BUCKET), {"Records": [sqs("a", json.dumps(s3(key, BUCKET)))]}):
        outcome = run_event(bench, event)
        assert outcome.acknowledged
        assert outcome.answer["state"] == "SKIPPED"
    assert bench.runner.calls == []
    assert any(key in line.get("reason", "") for line in bench.log_lines())


def test_an_event_that_is_also_about_another_object_is_run(bench: Bench) -> None:
    event = {"Records": s3("output/a", BUCKET)["Records"] + s3("input/a", BUCKET)["Records"]}

    assert run_event(bench, event).answer["state"] == "SUCCEEDED"
    assert len(bench.runner.calls) == 1
