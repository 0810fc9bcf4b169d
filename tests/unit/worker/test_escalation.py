"""A shard that is too much for a function: released to an engine, acknowledged, and done by that engine's worker."""

import json
from typing import Any

import pytest

from sparklet.engines.one_shard import DONE, FAILED, LATER, ShardCommand, run_one
from sparklet.errors import (
    DeadlineExceededError,
    GatewayLostError,
    OutOfMemoryError,
    SparkletError,
    TooLargeError,
)
from sparklet.events import Source, Task, answer
from sparklet.model import ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.task_limits import Deadline
from tests.unit.worker.conftest import Bench, raises

ENGINE = "fargate"
LARGER: dict[str, Any] = {"too_large": "engine", "engine": ENGINE}
COMMAND = ShardCommand("run-1", 0, generation=0, timeout_s=7200, redrive=False)


def in_the_engine(bench: Bench, command: ShardCommand = COMMAND) -> int:
    """What a worker that an engine started does; functions are as they were afterwards."""
    shards = bench.worker.shards
    assert shards is not None
    try:
        return run_one(shards, bench.worker, command)
    finally:
        shards.engine = ""


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("heap space"), DeadlineExceededError("it was ended"), TooLargeError("unpacked")]
)
def test_what_a_function_outgrows_its_engine_does(bench: Bench, error: SparkletError) -> None:
    bench.plan(**LARGER)
    bench.runner.behaviour = raises(error)

    outcome = bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, ENGINE, 0)
    assert record.error_class == type(error).__name__
    assert outcome.acknowledged and len(bench.queue) == 0
    bench.runner.behaviour = lambda call, output: ScriptResult(0)
    assert in_the_engine(bench) == DONE
    assert bench.ledger.shards.get("run-1", 0).state is ShardState.SUCCEEDED


@pytest.mark.parametrize(
    "result", [ScriptResult(1, "", "MemoryError", ""), ScriptResult(-9, "", "", "ended by SIGKILL: out of memory?")]
)
def test_so_it_is_with_a_scripts_memory(bench: Bench, result: ScriptResult) -> None:
    bench.plan(**LARGER)
    bench.runner.behaviour = lambda call, output: result

    bench.deliver()

    assert bench.ledger.shards.get("run-1", 0).engine == ENGINE


@pytest.mark.parametrize(
    ("options", "error"), [({}, OutOfMemoryError("heap space")), (LARGER, GatewayLostError("it went away"))]
)
def test_anything_else_stays_in_functions(bench: Bench, options: dict[str, Any], error: SparkletError) -> None:
    bench.plan(**options)
    bench.runner.behaviour = raises(error)

    bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, "", 1)
    assert len(bench.queue) == 1


def test_a_maps_child_has_no_more_to_do_with_it(bench: Bench) -> None:
    (ref,) = bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))
    event = json.loads(ref.to_body())

    for _ in range(2):  # the second one is turned away
        assert answer(event, bench.invoke(event))["state"] == "PENDING"

    assert len(bench.runner.calls) == 1


def test_what_is_too_much_there_stays_there_and_fails_at_last(bench: Bench) -> None:
    bench.plan(**LARGER, max_attempts=2)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))
    bench.deliver()

    assert [in_the_engine(bench) for _ in range(2)] == [LATER, FAILED]

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.engine, record.attempts) == (ShardState.FAILED, ENGINE, 2)


def test_a_double_start_does_the_shard_once(bench: Bench) -> None:
    bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))
    bench.deliver()
    second: list[int] = []

    def meanwhile(call: ScriptCall, output: Output) -> ScriptResult:
        assert bench.worker.shards is not None
        second.append(run_one(bench.worker.shards, bench.worker, COMMAND))
        return ScriptResult(0)

    bench.runner.behaviour = meanwhile

    assert in_the_engine(bench) == DONE
    assert second == [LATER]


def test_a_container_started_by_hand_does_not_escalate(bench: Bench) -> None:
    bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))

    assert in_the_engine(bench) == LATER

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, "", 1)


@pytest.mark.parametrize(
    ("worker", "then", "state"),
    [
        ("lambda-large", "fargate", ShardState.PENDING),
        ("fargate", "fargate", ShardState.PENDING),  # the last one: another attempt
        ("by hand", "", ShardState.PENDING),  # a user's own container does not move it
    ],
)
def test_a_shard_moves_on_from_engine_to_engine(bench: Bench, worker: str, then: str, state: ShardState) -> None:
    bench.plan(too_large="engine", engine="lambda-large,fargate")
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))
    shards = bench.worker.shards
    assert shards is not None
    if worker != "by hand":
        bench.deliver()
        assert bench.ledger.shards.get("run-1", 0).engine == "lambda-large"
    if worker == "fargate":
        direct(bench, "lambda-large")

    direct(bench, worker)

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.engine) == (state, then)


def direct(bench: Bench, engine: str) -> None:
    """A worker of this engine does the shard, which a direct invocation names."""
    assert bench.worker.shards is not None
    bench.worker.shards.engine = engine
    ref = bench.ledger.shards.get("run-1", 0).ref
    deadline = Deadline.within(900, 10, bench.worker.shards.clock.now_s())
    bench.worker.run(Task(Source.DIRECT, {}, shard=ref), deadline, request_id="")
    bench.worker.shards.engine = ""
