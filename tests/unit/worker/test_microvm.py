"""A MicroVM's program: which shards it takes, and what it answers to Lambda's hooks."""

import http.client
import json
import threading
from typing import Any

import pytest

from sparklet.errors import GatewayLostError
from sparklet.ledger.rules import LEASE_S
from sparklet.model import Failure, ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.microvm import HOOKS, Machine, drain
from sparklet.worker.one_shard import ShardCommand
from tests.unit.worker.conftest import Bench

ENGINE, MACHINE, OTHER = "microvm", "mvm-1", "mvm-2"
LIFE_S = 28_680.0
COMMAND = ShardCommand("run-1", 0, generation=0, timeout_s=LIFE_S, redrive=False)


def waiting(bench: Bench, shards: int, **options: Any) -> None:
    """A run whose shards wait for the engine."""
    bench.plan(shards=shards, escalate=ENGINE, **options)
    for number in range(shards):
        record = bench.ledger.shards.get("run-1", number)
        bench.ledger.attempts.claim(record.ref, f"a-{number}", LEASE_S, 3, escalate=ENGINE)
        bench.ledger.attempts.escalate("run-1", number, f"a-{number}", Failure("OutOfMemoryError", ""), ENGINE)


def work(bench: Bench, machine: Machine | None = None) -> list[str]:
    """Have a machine do what it may; the inputs of the scripts that ran."""
    assert bench.worker.shards is not None
    drain(bench.worker.shards, bench.worker, COMMAND, MACHINE, machine or Machine())
    return [call.inputs[0].uri for call in bench.runner.calls]


def states(bench: Bench) -> list[ShardState]:
    return [record.state for record in bench.ledger.shards.list("run-1")]


def test_a_machine_goes_on_until_no_shard_waits(bench: Bench) -> None:
    waiting(bench, 3)

    assert sorted(work(bench)) == ["s3://in/0.csv", "s3://in/1.csv", "s3://in/2.csv"]

    assert states(bench) == [ShardState.SUCCEEDED] * 3
    assert {record.task_id for record in bench.ledger.shards.list("run-1")} == {MACHINE}  # whom a cancelled run stops


def test_a_shard_that_another_worker_was_started_for_is_left(bench: Bench) -> None:
    waiting(bench, 2)
    bench.ledger.attempts.count_requeue(bench.ledger.shards.get("run-1", 1), task_id=OTHER)

    assert work(bench) == ["s3://in/0.csv"]

    assert bench.ledger.shards.get("run-1", 1).task_id == OTHER


def test_a_shard_of_the_functions_is_left(bench: Bench) -> None:
    waiting(bench, 1)
    bench.plan("run-2")

    work(bench)

    assert bench.ledger.shards.get("run-2", 0).state is ShardState.PENDING


def test_a_capped_run_gets_one_shard_a_machine(bench: Bench) -> None:
    waiting(bench, 2, max_concurrency=1)

    assert work(bench) == ["s3://in/0.csv"]


def test_no_shard_is_begun_in_the_second_half_of_a_life(bench: Bench) -> None:
    def long_job(call: ScriptCall, output: Output) -> ScriptResult:
        bench.clock.advance(LIFE_S / 2 + 1)
        return ScriptResult(0)

    waiting(bench, 2)
    bench.runner.behaviour = long_job

    assert work(bench) == ["s3://in/0.csv"]


def test_a_further_shard_has_what_is_left(bench: Bench) -> None:
    def job(call: ScriptCall, output: Output) -> ScriptResult:
        bench.clock.advance(1_000)
        return ScriptResult(0)

    waiting(bench, 2)
    bench.runner.behaviour = job
    began_s = bench.clock.now_s()

    work(bench)

    first, second = (call.deadline.guard_s - began_s for call in bench.runner.calls)
    assert first == pytest.approx(LIFE_S)
    assert second == pytest.approx(LIFE_S)


def test_a_machine_that_is_stopped_takes_no_other_shard(bench: Bench) -> None:
    machine = Machine()

    def stopped(call: ScriptCall, output: Output) -> ScriptResult:
        machine.stopping.set()
        raise GatewayLostError("it was told to end")

    waiting(bench, 2)
    bench.runner.behaviour = stopped

    assert work(bench, machine) == ["s3://in/0.csv"]

    assert states(bench) == [ShardState.PENDING] * 2


def test_failed_attempts_end_with_their_number(bench: Bench) -> None:
    def lose(call: ScriptCall, output: Output) -> ScriptResult:
        raise GatewayLostError("the JVM exited with -9")

    waiting(bench, 1)
    bench.runner.behaviour = lose

    assert len(work(bench)) == 3

    assert states(bench) == [ShardState.FAILED]


# --- hooks ---


def call(port: int, hook: str, body: str = "{}", at: str = HOOKS) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", f"{at}{hook}", body, {"Content-Type": "application/json"})
    return connection.getresponse().status


def test_hooks_are_answered_as_lambda_asks() -> None:
    machine = Machine()
    with machine.serve(0) as server:
        port = server.server_address[1]
        assert call(port, "ready") == 503  # it asks again
        machine.ready.set()
        assert (call(port, "ready"), call(port, "validate")) == (200, 200)
        asked = {"microvmId": MACHINE, "runHookPayload": json.dumps({"command": ["shard"]})}
        assert call(port, "run", json.dumps(asked)) == 200
        assert machine.asked.get(timeout=10) == asked
        machine.done.set()
        assert call(port, "terminate") == 200
        assert call(port, "ready", at="/") == 404
        server.shutdown()


def test_the_end_waits_until_the_shard_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, told = Machine(), threading.Event()
    monkeypatch.setattr("os.kill", lambda pid, number: told.set())
    with machine.serve(0) as server:
        answers: list[int] = []
        hook = threading.Thread(target=lambda: answers.append(call(server.server_address[1], "terminate")))
        hook.start()
        assert told.wait(10)
        assert machine.stopping.is_set() and not answers
        machine.done.set()
        hook.join(10)
        assert answers == [200]
        server.shutdown()
