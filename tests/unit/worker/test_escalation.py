"""A shard that is too much for a function: released to an engine, acknowledged, and done by that engine's worker."""

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
from sparklet.events import Source, Task
from sparklet.model import ShardState
from sparklet.spark.runner import Deadline
from tests.unit.worker.conftest import Behaviour, Bench, exits, meanwhile, raises

ENGINE = "fargate"
LARGER: dict[str, Any] = {"too_large": "engine", "engine": ENGINE}
COMMAND = ShardCommand("run-1", 0, generation=0, timeout_s=7200, redrive=False)


def in_the_engine(bench: Bench) -> int:
    """What a worker that an engine started does; functions are as they were afterwards."""
    code = run_one(bench.claims, bench.worker, COMMAND)
    bench.claims.engine = ""
    return code


@pytest.mark.parametrize(
    ("ends", "error_class"),
    [
        (raises(OutOfMemoryError("heap space")), "OutOfMemoryError"),
        (raises(DeadlineExceededError("it was ended")), "DeadlineExceededError"),
        (raises(TooLargeError("unpacked")), "TooLargeError"),
        (exits(1, "MemoryError"), "MemoryError"),
        (exits(-9, cause="ended by SIGKILL: out of memory?"), "ScriptFailedError"),
    ],
)
def test_what_a_function_outgrows_its_engine_does(bench: Bench, ends: Behaviour, error_class: str) -> None:
    outcome = bench.attempt(ends, **LARGER)

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, ENGINE, 0)
    assert record.error_class == error_class
    assert outcome.acknowledged and len(bench.queue) == 0
    bench.runner.behaviour = exits(0)
    assert in_the_engine(bench) == DONE
    assert bench.record.state is ShardState.SUCCEEDED


@pytest.mark.parametrize(
    ("options", "error"), [({}, OutOfMemoryError("heap space")), (LARGER, GatewayLostError("it went away"))]
)
def test_anything_else_stays_in_functions(bench: Bench, options: dict[str, Any], error: SparkletError) -> None:
    bench.attempt(raises(error), **options)

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, "", 1)
    assert len(bench.queue) == 1


def test_a_maps_child_has_no_more_to_do_with_it(bench: Bench) -> None:
    (ref,) = bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))

    for _ in range(2):  # the second one is turned away
        assert bench.ask(ref)["state"] == "PENDING"

    assert len(bench.runner.calls) == 1


def test_what_is_too_much_there_stays_there_and_fails_at_last(bench: Bench) -> None:
    bench.attempt(raises(OutOfMemoryError("heap space")), **LARGER, max_attempts=2)

    assert [in_the_engine(bench) for _ in range(2)] == [LATER, FAILED]

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.FAILED, ENGINE, 2)


def test_a_double_start_does_the_shard_once(bench: Bench) -> None:
    bench.attempt(raises(OutOfMemoryError("heap space")), **LARGER)
    second: list[int] = []
    bench.runner.behaviour = meanwhile(lambda: second.append(run_one(bench.claims, bench.worker, COMMAND)))

    assert in_the_engine(bench) == DONE
    assert second == [LATER]


def test_a_container_started_by_hand_does_not_escalate(bench: Bench) -> None:
    bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))

    assert in_the_engine(bench) == LATER

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, "", 1)


def test_a_shard_moves_on_from_engine_to_engine(bench: Bench) -> None:
    bench.attempt(raises(OutOfMemoryError("heap space")), too_large="engine", engine="lambda-large,fargate")
    moves = [bench.record.engine]

    for engine in ("lambda-large", "fargate"):
        bench.claims.engine = engine
        deadline = Deadline.within(900, 10, bench.clock.now_s())
        bench.worker.run(Task(Source.DIRECT, {}, shard=bench.record.ref), deadline, request_id="")
        assert bench.record.state is ShardState.PENDING
        moves.append(bench.record.engine)

    assert moves == ["lambda-large", "fargate", "fargate"]  # the last one makes another attempt
