"""An attempt holds its shard by signs of life: a lost worker's shard is soon another's, a slow ledger ends nothing.

The lease's own thread waits in real time, for parts of a second; all else goes by the test's clock, so that no lease
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
def short(bench: Bench) -> Bench:
    """A worker whose leases are renewed often."""
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


def test_an_attempt_that_works_for_long_keeps_its_shard(short: Bench) -> None:
    (ref,) = short.plan()
    answers: list[ClaimStatus] = []

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        for _ in range(3):
            short.clock.advance(0.9 * SHORT_S)
            eventually(lambda: short.record.lease_end_s > short.clock.now_s() + 0.5 * SHORT_S)
        answers.append(short.ledger.attempts.claim(ref, "another", SHORT_S, 3).status)
        return ScriptResult(0)

    short.runner.behaviour = work

    assert short.deliver().error is None
    assert answers == [ClaimStatus.HELD]
    assert short.record.attempts == 1


def test_a_script_that_lost_its_shard_is_stopped_at_once(short: Bench) -> None:
    (ref,) = short.plan()
    stopped: list[bool] = []

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        record = short.record  # what the checker and another worker do once the lease is over; here, though it is not
        short.ledger.attempts.release("run-1", 0, record.attempt_id, Failure("LeaseExpired", "not heard of"))
        assert short.ledger.attempts.claim(ref, "another", 600.0, 3).status is ClaimStatus.GRANTED
        eventually(lambda: not call.deadline.remaining_s())  # what both runners look at, once a second at least
        stopped.append(call.deadline.grace_end_s(time.time()) < time.time())  # it must not commit any more
        raise DeadlineExceededError("ended at its deadline")

    short.runner.behaviour = work

    outcome = short.deliver()

    assert stopped == [True] and isinstance(outcome.error, LeaseLostError) and not outcome.acknowledged
    assert (short.record.state, short.record.attempt_id) == (ShardState.RUNNING, "another")


def test_a_ledger_that_does_not_answer_stops_no_script(short: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    short.plan()
    refusals: list[str] = []

    def down(*_: object) -> None:
        refusals.append("ThrottlingException")
        raise LedgerError("throttled")

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        short.clock.advance(3 * SHORT_S)
        eventually(lambda: len(refusals) >= 3)
        assert call.deadline.remaining_s() > 0
        return ScriptResult(0)

    monkeypatch.setattr(short.ledger.attempts, "renew", down)
    short.runner.behaviour = work

    assert short.deliver().error is None
    assert short.record.state is ShardState.SUCCEEDED


def test_a_thawed_attempt_without_its_lease_does_not_count(bench: Bench) -> None:
    """GIVEN an attempt that was frozen past its lease, WHEN it goes on, THEN it asks the ledger before it publishes."""
    (ref,) = bench.plan()

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        bench.let_the_lease_end()
        assert bench.ledger.attempts.claim(ref, "another", LEASE_S, 3).status is ClaimStatus.GRANTED
        return ScriptResult(0)

    bench.runner.behaviour = bench.writes("part-0", then=work)

    assert isinstance(bench.deliver().error, LeaseLostError)

    assert list(bench.store.list("s3://out/")) == []
    bench.ledger.attempts.succeed("run-1", 0, "another", ShardResult(rows=1))
