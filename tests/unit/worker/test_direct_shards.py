"""A shard asked for directly, as a Map state's child does: three errors by name, and the same answer each time."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sparklet.errors import (
    LeaseLostError,
    LedgerError,
    RunNotFoundError,
    SettingsError,
    ShardFailedError,
    ShardNotDoneError,
)
from sparklet.events import answer
from sparklet.model import ShardRef, ShardState
from tests.unit.worker.conftest import Bench, exits, raises


def ask(bench: Bench, ref: ShardRef, remaining_s: float = 600) -> Any:
    """What Lambda answers to a child that invokes the worker with this reference."""
    event = json.loads(ref.to_body())
    return answer(event, bench.invoke(event, remaining_s))


def test_a_succeeded_shard_answers_every_request_alike(bench: Bench) -> None:
    (ref,) = bench.plan()

    assert ask(bench, ref) == {"shard": 0, "state": "SUCCEEDED", "rows": None}
    assert ask(bench, ref) == {"shard": 0, "claim": "DONE", "state": "SUCCEEDED"}
    assert len(bench.runner.calls) == 1


def test_a_failed_shard_fails_every_request_alike(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.runner.behaviour = exits(1, "SyntaxError", "because")

    with pytest.raises(ShardFailedError, match=r"shard 0 of run run-1 has FAILED: ScriptFailedError: .*SyntaxError"):
        ask(bench, ref)
    with pytest.raises(ShardFailedError, match="has FAILED before: SyntaxError: because"):
        ask(bench, ref)
    assert len(bench.runner.calls) == 1


def test_a_failed_attempt_is_not_done_until_no_attempt_is_left(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=2)
    bench.runner.behaviour = exits(1, "OSError", "because")

    with pytest.raises(ShardNotDoneError, match=r"has not ended: ScriptFailedError: .*OSError: because"):
        ask(bench, ref)
    assert bench.record.state is ShardState.PENDING
    with pytest.raises(ShardFailedError):
        ask(bench, ref)


def test_a_shard_whose_attempts_all_died_fails_on_request(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=1)
    bench.ledger.attempts.claim(ref, "killed", lease_s=60, max_attempts=1)
    bench.clock.advance(500)

    with pytest.raises(ShardFailedError, match="LeaseExpired"):
        ask(bench, ref)
    assert bench.record.state is ShardState.FAILED


def test_a_shard_that_another_attempt_holds_is_a_lost_lease(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.ledger.attempts.claim(ref, "another", lease_s=60, max_attempts=3)

    with pytest.raises(LeaseLostError, match="held by attempt another"):
        ask(bench, ref)


def test_a_reference_of_an_older_generation_is_no_failure(bench: Bench) -> None:
    (ref,) = bench.plan(max_attempts=1)
    bench.runner.behaviour = exits(1, cause="because")
    with pytest.raises(ShardFailedError):
        ask(bench, ref)
    redriven = bench.redrive()

    assert ask(bench, ref)["claim"] == "STALE"
    with pytest.raises(ShardFailedError):
        ask(bench, redriven)
    assert ask(bench, ref)["claim"] == "STALE"
    assert bench.deliver().acknowledged  # the first message, which is as old
    assert len(bench.runner.calls) == 2


@pytest.mark.parametrize(("port", "method"), [("runs", "get"), ("attempts", "claim")])
def test_a_ledger_that_does_not_answer_leaves_the_shard_not_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, port: str, method: str
) -> None:
    (ref,) = bench.plan()
    monkeypatch.setattr(getattr(bench.ledger, port), method, raises(LedgerError("the ledger does not answer")))
    with pytest.raises(ShardNotDoneError, match="LedgerError: the ledger does not answer"):
        ask(bench, ref)


def test_too_little_time_leaves_the_shard_not_done(bench: Bench) -> None:
    (ref,) = bench.plan()
    with pytest.raises(ShardNotDoneError, match="DeadlineExceededError"):
        ask(bench, ref, remaining_s=10)


def drop_ledger(bench: Bench) -> None:
    bench.worker.shards = None


def forget_runs(bench: Bench) -> None:
    bench.ledger.runs.get = raises(RunNotFoundError("no run"))  # type: ignore[method-assign]


@pytest.mark.parametrize(("spoil", "error"), [(drop_ledger, SettingsError), (forget_runs, RunNotFoundError)])
def test_a_worker_that_cannot_do_shards_names_the_reason(
    bench: Bench, spoil: Callable[[Bench], None], error: type[Exception]
) -> None:
    (ref,) = bench.plan()
    spoil(bench)
    with pytest.raises(error):
        ask(bench, ref)
