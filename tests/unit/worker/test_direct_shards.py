"""A direct invocation for a shard, as by a Map's child: its result or one of three errors, the same each time."""

import pytest

from sparklet.errors import (
    LeaseLostError,
    LedgerError,
    RunNotFoundError,
    SettingsError,
    ShardFailedError,
    ShardNotDoneError,
)
from sparklet.model import ShardState
from tests.unit.worker.conftest import Bench, exits, raises


def test_a_repeated_request_for_a_done_shard_runs_no_script(bench: Bench) -> None:
    (ref,) = bench.plan()

    assert bench.ask(ref) == {"shard": 0, "state": "SUCCEEDED", "rows": None}
    assert bench.ask(ref) == {"shard": 0, "claim": "DONE", "state": "SUCCEEDED"}
    assert len(bench.runner.calls) == 1


def test_a_repeated_request_for_a_failed_shard_fails_again(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.runner.behaviour = exits(1, "SyntaxError", "because")

    with pytest.raises(ShardFailedError, match=r"shard 0 of run run-1 has FAILED: ScriptFailedError: .*SyntaxError"):
        bench.ask(ref)
    with pytest.raises(ShardFailedError, match="has FAILED before: SyntaxError: because"):
        bench.ask(ref)
    assert len(bench.runner.calls) == 1


def test_a_failed_attempt_raises_not_done_if_another_is_left(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=2)
    bench.runner.behaviour = exits(1, "OSError", "because")

    with pytest.raises(ShardNotDoneError, match=r"has not ended: ScriptFailedError: .*OSError: because"):
        bench.ask(ref)
    assert bench.record.state is ShardState.PENDING
    with pytest.raises(ShardFailedError):
        bench.ask(ref)


def test_a_request_fails_a_shard_whose_last_attempt_died(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=1)
    bench.ledger.attempts.claim(ref, "killed", lease_s=60, max_attempts=1)
    bench.clock.advance(500)

    with pytest.raises(ShardFailedError, match="LeaseExpired"):
        bench.ask(ref)
    assert bench.record.state is ShardState.FAILED


def test_a_request_for_a_held_shard_raises_lease_lost(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.ledger.attempts.claim(ref, "another", lease_s=60, max_attempts=3)

    with pytest.raises(LeaseLostError, match="held by attempt another"):
        bench.ask(ref)


def test_a_reference_of_an_older_generation_is_stale(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=1)
    bench.runner.behaviour = exits(1, cause="because")
    with pytest.raises(ShardFailedError):
        bench.ask(ref)
    redriven = bench.redrive()

    assert bench.ask(ref)["claim"] == "STALE"
    with pytest.raises(ShardFailedError):
        bench.ask(redriven)
    assert bench.ask(ref)["claim"] == "STALE"
    assert bench.deliver().acknowledged  # the first message is of the older generation, too
    assert len(bench.runner.calls) == 2


@pytest.mark.parametrize(
    ("port", "method", "met", "error", "message"),
    [
        ("runs", "get", LedgerError("no answer"), ShardNotDoneError, "LedgerError: no answer"),
        ("attempts", "claim", LedgerError("no answer"), ShardNotDoneError, "LedgerError: no answer"),
        ("runs", "get", RunNotFoundError("no run"), RunNotFoundError, "no run"),
    ],
)
def test_an_error_of_the_ledger_is_raised_with_its_reason(
    bench: Bench, port: str, method: str, met: Exception, error: type[Exception], message: str
) -> None:
    (ref,) = bench.plan()
    setattr(getattr(bench.ledger, port), method, raises(met))
    with pytest.raises(error, match=message):
        bench.ask(ref)


def test_too_little_time_raises_not_done(bench: Bench) -> None:
    (ref,) = bench.plan()
    with pytest.raises(ShardNotDoneError, match="DeadlineExceededError"):
        bench.ask(ref, remaining_s=10)


def test_a_worker_without_a_ledger_refuses_shards(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.worker.shards = None
    with pytest.raises(SettingsError):
        bench.ask(ref)
