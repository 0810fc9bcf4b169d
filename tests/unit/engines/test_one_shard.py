"""The command ``shard`` in a container: it uses the ledger but no queue; SIGTERM gives the shard back."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines import one_shard
from sparklet.engines.one_shard import (
    DONE,
    FAILED,
    LATER,
    WRONG,
    ShardCommand,
    container_memory_mb,
    main,
    parse,
    run_one,
    settings_of_the_functions,
)
from sparklet.errors import DeadlineExceededError, EventError, LedgerError
from sparklet.model import Failure, ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import Bench, exits

COMMAND = ShardCommand("run-1", 0, generation=None, timeout_s=7200, redrive=False)
REDRIVE = ShardCommand("run-1", 0, generation=None, timeout_s=7200, redrive=True)


def run(bench: Bench, command: ShardCommand = COMMAND) -> int:
    assert bench.worker.shards is not None
    return run_one(bench.worker.shards, bench.worker, command)


def state(bench: Bench) -> ShardState:
    return bench.ledger.shards.get("run-1", 0).state


def fail_it(bench: Bench) -> None:
    """Fail the shard as a planner does if it is too large for a function."""
    assert bench.ledger.attempts.abandon(bench.ledger.shards.get("run-1", 0), Failure("TooLargeError", "9 GB"))


def test_the_script_may_run_for_hours(bench: Bench) -> None:
    bench.plan()

    def long_job(call: ScriptCall, output: Output) -> ScriptResult:
        assert call.deadline.guard_s - bench.clock.now_s() == pytest.approx(7200)
        bench.clock.advance(7000)
        return ScriptResult(0)

    bench.runner.behaviour = long_job

    assert run(bench) == DONE


def test_a_shard_that_is_done_already_is_not_done_again(bench: Bench) -> None:
    bench.plan()

    assert (run(bench), run(bench)) == (DONE, DONE)

    assert len(bench.runner.calls) == 1


def test_a_script_at_fault_fails_the_shard(bench: Bench) -> None:
    bench.plan()
    bench.runner.behaviour = exits(1, "AnalysisException", "no such column")

    assert run(bench) == FAILED
    assert state(bench) is ShardState.FAILED
    assert run(bench) == FAILED
    assert len(bench.runner.calls) == 1


def test_a_message_of_an_older_generation_runs_nothing(bench: Bench) -> None:
    bench.plan()
    fail_it(bench)
    script = bench.ledger.runs.get("run-1").scripts[-1]
    bench.ledger.runs.start_generation("run-1", 1, script)
    bench.ledger.attempts.redrive("run-1", 0, 1)

    assert run(bench, ShardCommand("run-1", 0, generation=0, timeout_s=60, redrive=False)) == LATER
    assert bench.runner.calls == []


def test_a_failed_shard_is_reopened_only_on_request(bench: Bench) -> None:
    bench.plan()
    fail_it(bench)

    assert run(bench) == FAILED
    assert run(bench, REDRIVE) == DONE

    assert bench.ledger.shards.get("run-1", 0).generation == 1
    assert bench.runner.event()["sparklet"]["generation"] == 1


def test_concurrent_workers_reopen_a_failed_shard_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.plan(shards=2)
    fail_it(bench)
    opened: list[int] = []
    start = bench.ledger.runs.start_generation

    def somebody_else_is_faster(run_id: str, generation: int, script: object) -> object:
        opened.append(generation)
        if len(opened) == 1:
            start(run_id, generation, script)  # type: ignore[arg-type]
            raise LedgerError("generation 1 is there already")
        return start(run_id, generation, script)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.ledger.runs, "start_generation", somebody_else_is_faster)

    assert run(bench, REDRIVE) == DONE
    assert opened == [1, 2]
    assert len(bench.runner.calls) == 1


@pytest.mark.parametrize("run_id", ["run-1", "run-2"])
def test_an_unknown_run_or_shard_is_no_reason_to_try_again(bench: Bench, run_id: str) -> None:
    bench.plan()

    assert run(bench, ShardCommand(run_id, 7, None, 60, False)) == WRONG


def test_a_silent_ledger_is_a_reason_to_retry(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.plan()

    def silent(run_id: str, number: int) -> None:
        raise LedgerError("no answer")

    monkeypatch.setattr(bench.ledger.shards, "get", silent)

    assert run(bench) == LATER


# --- SIGTERM ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def usual_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_the_script_and_releases_the_shard(bench: Bench) -> None:
    def stopped(call: ScriptCall, output: Output) -> ScriptResult:
        stop()
        assert not call.deadline.remaining_s()  # what both runners look at, once a second at least
        raise DeadlineExceededError(call.deadline.reason)

    bench.plan()
    bench.runner.behaviour = stopped

    assert run(bench) == LATER

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.error_class) == (ShardState.PENDING, "DeadlineExceededError")
    assert "SIGTERM" in record.error_message


@pytest.mark.parametrize(("port", "method"), [("shards", "get"), ("attempts", "claim")])
def test_sigterm_before_the_script_lets_nothing_begin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, port: str, method: str
) -> None:
    bench.plan()
    ledger = getattr(bench.ledger, port)
    real = getattr(ledger, method)

    def interrupted(*arguments: object, **named: object) -> object:
        monkeypatch.setattr(ledger, method, real)
        stop()
        return real(*arguments, **named)

    monkeypatch.setattr(ledger, method, interrupted)

    assert run(bench) == LATER
    assert bench.runner.calls == []
    assert state(bench) is ShardState.PENDING


def test_sigterm_after_the_script_does_not_take_its_success_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.plan()
    succeed = bench.ledger.attempts.succeed

    def interrupted(*arguments: Any, **named: Any) -> None:
        stop()
        succeed(*arguments, **named)

    monkeypatch.setattr(bench.ledger.attempts, "succeed", interrupted)

    assert run(bench) == DONE
    assert state(bench) is ShardState.SUCCEEDED


# --- the command's options ------------------------------------------------------------------


def test_a_shard_is_named_by_options() -> None:
    named = ["--run", "r", "--shard", "3", "--generation", "1", "--timeout", "60", "--redrive"]

    assert parse(named) == ShardCommand("r", 3, 1, 60, redrive=True)
    assert parse([*named, "--conf", "a=1", "--conf", "b=c=d"]).conf == {"a": "1", "b": "c=d"}


@pytest.mark.parametrize("by_argument", [True, False])
def test_a_shard_is_named_by_a_message_of_the_queue(by_argument: bool) -> None:
    message = json.dumps({"run_id": "r", "shard": 3, "generation": 2, "part": "p", "offset": 0, "length": 9})
    conf = ["--conf", "spark.master=spark://10.0.0.7:7077"]

    command = parse([*conf, "--message", message]) if by_argument else parse(conf, message)

    assert (command.run_id, command.shard, command.generation) == ("r", 3, 2)
    assert command.conf == {"spark.master": "spark://10.0.0.7:7077"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no shard"),
        (["--run", "r"], "no shard"),
        (["--message", "{"], "not JSON"),
        (["--message", "{}"], "no shard"),
        (["--timeout", "0"], "more than 0"),
        (["--run", "r", "--shard", "7", "--conf", "spark.master"], "KEY=VALUE"),
    ],
)
def test_a_command_that_names_no_shard_is_refused(arguments: list[str], says: str) -> None:
    with pytest.raises(EventError, match=says):
        parse(arguments)


def test_the_memory_is_the_containers_limit_if_there_is_one(tmp_path: Path) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "other.max"
    none.write_text("max\n")
    limit.write_text(str(256 * 1024**2))

    assert container_memory_mb([limit, none]) == 256
    assert container_memory_mb([none, tmp_path / "not there"]) > 256


def test_a_task_started_by_hand_gets_the_functions_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"SPARKLET_SCRIPT_ENV": '{"DAY": "7"}', "PYICEBERG_CATALOG__ICEBERG__TYPE": "glue"}
    asked = []

    def settings_of(clients: object, function: str) -> dict[str, str]:
        asked.append(function)
        return theirs

    monkeypatch.setattr(one_shard, "settings_of", settings_of)
    here = {"SPARKLET_LEDGER_TABLE": "l", "SPARKLET_BUCKET": "b", "JAVA_HOME": str(tmp_path), "AWS_REGION": "us-east-1"}
    for name, value in {**theirs, **here, "DAY": "", "SPARKLET_WORKER_FUNCTION": "arn"}.items():
        monkeypatch.setenv(name, value)
    for name in (*theirs, "DAY"):  # so that they are taken away afterwards
        monkeypatch.delenv(name)

    main(["--run", "run-1", "--shard", "7"])

    assert asked == ["arn"]
    assert {name: os.environ[name] for name in theirs} == theirs
    assert os.environ["DAY"] == "7"
    assert settings_of_the_functions(AwsClients(), {"SPARKLET_WORKER_FUNCTION": ""}) == {}  # as an engine starts it


def test_a_container_without_java_cannot_do_any_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"SPARKLET_LEDGER_TABLE": "ledger", "SPARKLET_BUCKET": "bucket", "SPARKLET_SCRATCH": str(tmp_path)}
    for name, value in {**here, "AWS_REGION": "us-east-1", "JAVA_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)

    assert main(["--run", "run-1", "--shard", "7"]) == WRONG  # 1 would say that the shard has FAILED
