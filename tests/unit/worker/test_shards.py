"""How a worker does a shard: the ledger records how every attempt ended, or the message comes back."""

import os
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import GatewayLostError, LedgerError
from sparklet.events import Outcome
from sparklet.model import MAX_CONFLICTS, ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.attempt import MAX_BACK_OFF_S
from tests.unit.worker.conftest import Bench, exits, meanwhile, raises, reports, succeed


def test_a_success_is_recorded_with_the_scripts_report(bench: Bench) -> None:
    bench.claims.peak_mb = lambda: 812.4
    outcome = bench.attempt(reports({"rows": 842, "output_bytes": 9, "outputs": ["s3://out/x/shard=000000"]}))

    record = bench.record
    assert outcome.acknowledged
    assert record.memory_mb == 812
    assert (record.state, record.rows, record.outputs) == (ShardState.SUCCEEDED, 842, ("s3://out/x/shard=000000",))
    assert bench.queue.receive() == []


def test_the_script_gets_the_runs_inputs_output_and_arguments(bench: Bench) -> None:
    bench.attempt()

    event = bench.runner.event()
    assert event["inputs"] == ["s3://in/0.csv"]
    assert event["input_path"] == "s3://in/0.csv"
    assert event["output_path"] == f"s3://bucket/staged/run-1/000000-{event['sparklet']['attempt']}"
    assert event["params"] == {"k": 1}
    assert "items" not in event
    assert event["sparklet"].keys() == {"run", "identity", "shard", "attempt", "generation"}
    assert bench.runner.calls[0].args[:-1] == ("--level", "3", "--event")


def test_a_plan_line_in_the_message_is_not_fetched_from_the_plan(bench: Bench) -> None:
    (ref,) = bench.plan()
    part = f"s3://bucket/runs/run-1/plan/{ref.part}"
    line = bench.store.get(part)
    bench.store.delete(part)

    bench.ask(replace(ref, line=line.decode()))

    assert bench.record.state is ShardState.SUCCEEDED
    assert bench.runner.event()["inputs"] == ["s3://in/0.csv"]


@pytest.mark.parametrize("of_other", [{"part": "part-00001-x.jsonl"}, {"offset": 1}, {"length": 5}, {"line": "{}"}])
def test_a_plan_line_of_another_shard_is_not_used(bench: Bench, of_other: dict[str, Any]) -> None:
    """For example, a shard that has been split since the message was sent."""
    (ref,) = bench.plan()
    other = bench.store.get(f"s3://bucket/runs/run-1/plan/{ref.part}").replace(b"0.csv", b"1.csv").decode()

    bench.ask(replace(ref, **{"line": other, **of_other}))

    assert bench.runner.event()["inputs"] == ["s3://in/0.csv"]


def test_a_message_of_a_held_shard_is_acknowledged(bench: Bench) -> None:
    """If the worker that holds the shard is lost, the checker sends another message."""
    (ref,) = bench.plan()
    bench.queue.send([ref.to_body()])
    held: list[Outcome] = []
    bench.runner.behaviour = meanwhile(lambda: held.append(bench.deliver()))

    bench.deliver()

    assert len(bench.runner.calls) == 1
    assert held[0].acknowledged and held[0].error is None
    bench.clock.advance(3600)
    assert bench.queue.receive() == []


def test_a_retryable_failure_is_released_and_returns_soon(bench: Bench) -> None:
    outcome = bench.attempt(exits(1, "SparkException", "503 Slow Down"))

    record = bench.record
    assert not outcome.acknowledged
    assert (record.state, record.attempts) == (ShardState.PENDING, 1)
    assert "503 Slow Down" in record.error_message
    bench.clock.advance(6)
    assert len(bench.queue.receive()) == 1


def test_a_shard_without_attempts_left_fails_with_its_last_cause(bench: Bench) -> None:
    bench.attempt(raises(GatewayLostError("the JVM exited with -9")), max_attempts=2)
    bench.clock.advance(400)
    outcome = bench.deliver()

    assert outcome.acknowledged
    assert (bench.failure, bench.record.attempts) == (("GatewayLostError", "the JVM exited with -9"), 2)


def test_a_conflict_of_two_writers_uses_up_no_attempt(bench: Bench) -> None:
    outcome = bench.attempt(
        exits(1, "io.delta.exceptions.ConcurrentAppendException", "files were added"), max_attempts=1
    )

    record = bench.record
    assert (outcome.acknowledged, record.state, record.conflicts) == (False, ShardState.PENDING, 1)
    assert record.error_class.endswith("ConcurrentAppendException")
    bench.clock.advance(6)
    bench.runner.behaviour = succeed
    bench.deliver()
    assert bench.record.state is ShardState.SUCCEEDED


@pytest.mark.parametrize(
    ("cause_class", "cause"),
    [
        ("io.delta.exceptions.ProtocolChangedException", "the table was made meanwhile"),
        ("org.apache.iceberg.exceptions.CommitFailedException", "Version 2 already exists"),
        ("java.util.ConcurrentModificationException", "Cannot resolve conflicts for overlapping writes"),
    ],
)
def test_repeated_write_conflicts_fail_the_shard_in_the_end(bench: Bench, cause_class: str, cause: str) -> None:
    bench.plan(max_attempts=2)
    bench.runner.behaviour = exits(1, cause_class, cause)
    pauses_s = []
    while not bench.record.state.ended:
        began_s = bench.clock.now_s()
        while not (messages := bench.queue.receive(1)):
            bench.clock.advance(1)
        bench.deliver(messages[0])
        pauses_s.append(bench.clock.now_s() - began_s)

    assert len(bench.runner.calls) == MAX_CONFLICTS + 2
    assert bench.failure[0] == cause_class
    assert max(pauses_s[:3]) < 30 < pauses_s[-1] <= MAX_BACK_OFF_S


def test_a_conflict_about_the_creation_of_a_table_is_retried(bench: Bench) -> None:
    bench.attempt(exits(1, "AnalysisException", "[DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION] Cannot create table"))

    assert bench.record.state is ShardState.PENDING


@pytest.mark.parametrize(
    "cause", ["AnalysisException", "SyntaxError", "ModuleNotFoundError", "org.apache.spark.sql.AnalysisException"]
)
def test_a_permanent_failure_ends_the_shard_at_once(bench: Bench, cause: str) -> None:
    outcome = bench.attempt(exits(1, cause, "no such column"))

    assert outcome.acknowledged
    assert bench.failure[0] == cause and "no such column" in bench.failure[1]


def test_a_success_is_recorded_once_the_ledger_is_back(bench: Bench) -> None:
    bench.plan()
    real, down = bench.ledger.attempts.succeed, iter(range(10))

    def flaky(*args: Any, **named: Any) -> None:
        if next(down, None) is not None:
            raise LedgerError("connection refused")
        real(*args, **named)

    bench.ledger.attempts.succeed = flaky  # type: ignore[method-assign]

    assert bench.deliver().acknowledged
    assert bench.record.state is ShardState.SUCCEEDED
    assert len(bench.runner.calls) == 1


@pytest.mark.parametrize("refused", [("succeed",), ("succeed", "fail")])
def test_a_write_that_the_ledger_refuses_is_not_repeated(bench: Bench, refused: tuple[str, ...]) -> None:
    """The shard is recorded as FAILED if the ledger accepts that, else the message comes back."""
    bench.plan()
    began_s = bench.clock.now_s()
    refusal = LedgerError("a write in table t failed: ValidationException")
    refusal.retryable = False  # DynamoDB would refuse it again
    for name in refused:
        setattr(bench.ledger.attempts, name, raises(refusal))
    outcome = bench.deliver()

    record = bench.record
    expected = (ShardState.FAILED, "LedgerError", "a write in table t failed: ValidationException")
    assert bench.clock.now_s() == began_s
    assert isinstance(outcome.error, LedgerError)
    assert outcome.acknowledged == (len(refused) == 1)
    assert ((record.state, record.error_class, record.error_message) == expected) == outcome.acknowledged


@pytest.mark.parametrize(
    ("method", "then"),
    [("claim", ShardState.PENDING), ("succeed", ShardState.RUNNING)],  # its lease will expire
)
def test_a_ledger_that_stays_down_keeps_the_message_queued(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, then: ShardState
) -> None:
    bench.plan()
    monkeypatch.setattr(bench.ledger.attempts, method, raises(LedgerError("connection refused")))

    outcome = bench.deliver()

    assert not outcome.acknowledged and "connection refused" in str(outcome.error)
    assert bench.record.state is then


def test_a_message_of_an_unknown_run_is_not_lost(bench: Bench) -> None:
    (ref,) = bench.plan()
    body = ref.to_body().replace("run-1", "run-9")
    bench.queue.receive()
    bench.queue.send([body])

    outcome = bench.deliver()

    assert not outcome.acknowledged
    assert "run-9" in str(outcome.error)


def test_log_lines_carry_run_shard_attempt_and_request(bench: Bench) -> None:
    def chatty(call: ScriptCall, output: Output) -> ScriptResult:
        output("stdout", b"as it comes\n")
        return ScriptResult(0)

    bench.attempt(chatty)

    started = next(line for line in bench.log_lines() if line["message"] == "script started")
    expected = {"run": "run-1", "shard": 0, "request_id": "request-1", "attempt": bench.record.attempt_id}
    assert started == started | expected
    assert b"\nas it comes\n" in bench.lines.getvalue()


@pytest.mark.parametrize(
    ("damaged", "expected"),
    [
        (b"", "damaged at byte 0: a plan part holds a line that is no shard: b''"),
        (b'{"shard":0,"obj', "a line that is no shard"),
        (b"\xff" * 200, "a line that is no shard"),
        (b"[" * 100_000, "a line that is no shard"),
        (b'{"shard":7,"objects":[["s3://in/0.csv",10,"e"]]}\n', "(7, 1, 10), but (0, 1, 10) was planned"),
        (b'{"shard":0,"objects":[["s3://in/0.csv",9e9,""]]}\n', "(0, 1, 9000000000), but (0, 1, 10) was planned"),
        (b'{"shard":0,"objects":[["s3://in/0.csv",1e999,""]]}\n', "a line that is no shard"),
    ],
)
def test_an_altered_plan_part_fails_the_shard_with_the_cause(bench: Bench, damaged: bytes, expected: str) -> None:
    (ref,) = bench.plan()
    part_uri = f"s3://bucket/runs/run-1/plan/{ref.part}"
    bench.store.put(part_uri, damaged)

    assert bench.deliver().acknowledged

    cause, message = bench.failure
    assert (cause, bench.record.attempts) == ("PlanError", 1)
    assert f"{part_uri} is damaged" in message and expected in message
    assert bench.runner.calls == []


def test_a_missing_plan_part_fails_the_shard_at_once(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.store.delete(f"s3://bucket/runs/run-1/plan/{ref.part}")

    assert bench.deliver().acknowledged

    assert bench.failure[0] == "ObjectNotFoundError" and ref.part in bench.failure[1]


@pytest.mark.parametrize("what", ["script", "py-file"])
def test_a_script_changed_after_planning_fails_the_shard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (ref,) = bench.plan()
    run = bench.ledger.runs.get(ref.run_id)
    uri = run.scripts[0].uri
    if what == "py-file":
        uri = f"s3://bucket/runs/run-1/script/{'0' * 64}/deps.zip"
        with_it = replace(run, scripts=(replace(run.scripts[0], py_files=(uri,)),))
        monkeypatch.setattr(bench.ledger.runs, "get", lambda run_id: with_it)
    bench.store.put(uri, b"not what the digest says")

    assert bench.deliver().acknowledged

    cause, message = bench.failure
    assert cause == "ScriptFetchError" and f"changed after planning: {uri} has the digest" in message
    assert bench.runner.calls == []


def test_a_deep_folder_in_the_task_folder_is_deleted(bench: Bench) -> None:
    bench.plan(shards=2)

    def dig(call: ScriptCall, output: Output) -> ScriptResult:
        at = os.open(call.work_dir, os.O_RDONLY)
        for _ in range(50):
            os.mkdir("d" * 200, dir_fd=at)
            outer, at = at, os.open("d" * 200, os.O_RDONLY, dir_fd=at)
            os.close(outer)
        os.close(at)
        return ScriptResult(0)

    bench.runner.behaviour = dig
    bench.deliver_together(list(bench.queue.receive(10)))

    assert {record.state for record in bench.ledger.shards.list("run-1")} == {ShardState.SUCCEEDED}
    assert [path.name for path in bench.worker.executor.settings.scratch.iterdir()] == ["scripts"]
