"""A shard that is too large for a function is released to an engine, and done by the engine's worker."""

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
    """Do the shard as a worker that an engine started; afterwards the bench is a function's worker again."""
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
def test_a_shard_that_is_too_large_is_done_by_the_engine(bench: Bench, ends: Behaviour, error_class: str) -> None:
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
def test_other_errors_do_not_escalate_a_shard(bench: Bench, options: dict[str, Any], error: SparkletError) -> None:
    bench.attempt(raises(error), **options)

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, "", 1)
    assert len(bench.queue) == 1


def test_a_maps_child_runs_no_script_for_an_escalated_shard(bench: Bench) -> None:
    (ref,) = bench.plan(**LARGER)
    bench.runner.behaviour = raises(OutOfMemoryError("heap space"))

    for _ in range(2):  # the second request runs no script
        assert bench.ask(ref)["state"] == "PENDING"

    assert len(bench.runner.calls) == 1


def test_a_shard_too_large_for_the_last_engine_fails_there(bench: Bench) -> None:
    bench.attempt(raises(OutOfMemoryError("heap space")), **LARGER, max_attempts=2)

    assert [in_the_engine(bench) for _ in range(2)] == [LATER, FAILED]

    record = bench.record
    assert (record.state, record.engine, record.attempts) == (ShardState.FAILED, ENGINE, 2)


def test_two_workers_started_for_one_shard_run_it_once(bench: Bench) -> None:
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


def test_a_shard_escalates_from_engine_to_engine(bench: Bench) -> None:
    bench.attempt(raises(OutOfMemoryError("heap space")), too_large="engine", engine="lambda-large,fargate")
    moves = [bench.record.engine]

    for engine in ("lambda-large", "fargate"):
        bench.claims.engine = engine
        deadline = Deadline.within(900, 10, bench.clock.now_s())
        bench.worker.run(Task(Source.DIRECT, {}, shard=bench.record.ref), deadline, request_id="")
        assert bench.record.state is ShardState.PENDING
        moves.append(bench.record.engine)

    assert moves == ["lambda-large", "fargate", "fargate"]  # the last engine makes another attempt
