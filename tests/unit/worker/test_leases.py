"""An attempt renews the lease of its shard; a lost lease stops the script, an unavailable ledger does not.

The lease's thread waits in real time, for parts of a second; all else uses the test's clock, so that no lease
ends because the machine is busy.
"""

import time
from dataclasses import replace

import pytest

from sparklet.errors import DeadlineExceededError, LeaseLostError, LedgerError
from sparklet.events import Source, Task
from sparklet.ledger.rules import LEASE_S, RENEWALS_PER_S
from sparklet.log import Log
from sparklet.model import ClaimStatus, Dispatch, Failure, ShardResult, ShardState
from sparklet.spark.runner import Deadline, Output, ScriptCall, ScriptResult
from sparklet.worker.attempt import Attempt
from sparklet.worker.shards import ClaimedShard
from tests.unit.worker.conftest import Bench
from tests.waiting import eventually

SHORT_S = 0.2


@pytest.fixture
def bench_with_short_leases(bench: Bench) -> Bench:
    """A bench whose worker renews leases often."""
    bench.worker.shards = replace(bench.claims, lease_s=SHORT_S)
    return bench


@pytest.mark.parametrize(
    ("shards", "dispatch", "most", "expected_s"),
    [
        (10_000, "map", 10_000, 40.0),
        (10_000, "map", 1000, LEASE_S),
        (5, "map", 10_000, LEASE_S),
        (5, "queue", 0, LEASE_S),
    ],
)
def test_renewals_of_a_large_run_stay_within_its_partition(
    bench: Bench, shards: int, dispatch: Dispatch, most: int, expected_s: float
) -> None:
    ref = bench.plan(shards=1)[0]
    run = replace(bench.ledger.runs.get("run-1"), dispatch=Dispatch(dispatch), shard_count=shards)
    claims = bench.worker.shards = replace(bench.claims, map_concurrency=most, _runs={"run-1": run})
    task = Task(Source.DIRECT, {}, shard=ref)

    claimed = claims.claim(Attempt("a", task, Deadline.within(600), Log()))

    assert isinstance(claimed, ClaimedShard)
    assert claimed.lease.lease_s == claimed.record.lease_end_s - bench.clock.now_s() == expected_s
    assert shards / (expected_s / 2) <= RENEWALS_PER_S or most < shards


def test_a_long_attempt_keeps_its_shard_by_renewals(bench_with_short_leases: Bench) -> None:
    (ref,) = bench_with_short_leases.plan()
    answers: list[ClaimStatus] = []

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        for _ in range(3):
            bench_with_short_leases.clock.advance(0.9 * SHORT_S)
            eventually(
                lambda: (
                    bench_with_short_leases.record.lease_end_s > bench_with_short_leases.clock.now_s() + 0.5 * SHORT_S
                )
            )
        answers.append(bench_with_short_leases.ledger.attempts.claim(ref, "another", SHORT_S, 3).status)
        return ScriptResult(0)

    bench_with_short_leases.runner.behaviour = work

    assert bench_with_short_leases.deliver().error is None
    assert answers == [ClaimStatus.HELD]
    assert bench_with_short_leases.record.attempts == 1


def test_a_script_that_lost_its_shard_is_stopped_at_once(bench_with_short_leases: Bench) -> None:
    (ref,) = bench_with_short_leases.plan()
    stopped: list[bool] = []

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        record = bench_with_short_leases.record  # here the checker and another worker act before the lease is over
        bench_with_short_leases.ledger.attempts.release(
            "run-1", 0, record.attempt_id, Failure("LeaseExpired", "not heard of")
        )
        assert bench_with_short_leases.ledger.attempts.claim(ref, "another", 600.0, 3).status is ClaimStatus.GRANTED
        eventually(lambda: not call.deadline.remaining_s())  # both runners check this at least once a second
        stopped.append(call.deadline.grace_end_s(time.time()) < time.time())  # it must not commit any more
        raise DeadlineExceededError("ended at its deadline")

    bench_with_short_leases.runner.behaviour = work

    outcome = bench_with_short_leases.deliver()

    assert stopped == [True] and isinstance(outcome.error, LeaseLostError) and not outcome.acknowledged
    assert (bench_with_short_leases.record.state, bench_with_short_leases.record.attempt_id) == (
        ShardState.RUNNING,
        "another",
    )


def test_failed_renewals_do_not_stop_the_script(
    bench_with_short_leases: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_with_short_leases.plan()
    refusals: list[str] = []

    def down(*_: object) -> None:
        refusals.append("ThrottlingException")
        raise LedgerError("throttled")

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        bench_with_short_leases.clock.advance(3 * SHORT_S)
        eventually(lambda: len(refusals) >= 3)
        assert call.deadline.remaining_s() > 0
        return ScriptResult(0)

    monkeypatch.setattr(bench_with_short_leases.ledger.attempts, "renew", down)
    bench_with_short_leases.runner.behaviour = work

    assert bench_with_short_leases.deliver().error is None
    assert bench_with_short_leases.record.state is ShardState.SUCCEEDED


def test_an_attempt_frozen_past_its_lease_publishes_nothing(bench: Bench) -> None:
    """GIVEN an attempt frozen past its lease, WHEN it goes on, THEN it looks its lease up before it publishes."""
    (ref,) = bench.plan()

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        bench.let_the_lease_end()
        assert bench.ledger.attempts.claim(ref, "another", LEASE_S, 3).status is ClaimStatus.GRANTED
        return ScriptResult(0)

    bench.runner.behaviour = bench.writes("part-0", then=work)

    assert isinstance(bench.deliver().error, LeaseLostError)

    assert list(bench.store.list("s3://out/")) == []
    bench.ledger.attempts.succeed("run-1", 0, "another", ShardResult(rows=1))
