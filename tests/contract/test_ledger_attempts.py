"""The ledger's promises about attempts: which attempt owns a shard, and how it ends."""

from dataclasses import replace

import pytest

from sparklet.errors import LeaseLostError, LedgerError, ShardNotFoundError
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import ClaimStatus, Failure, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import (
    BROKEN,
    FLAKY,
    LEASE_S,
    MAX_ATTEMPTS,
    claim,
    ref,
    script,
    shard,
)
from tests.stand_ins.memory import FakeClock


def test_a_claim_is_granted_and_counted(one: Ledger, run_id: str, clock: FakeClock) -> None:
    clock.advance(5.125)

    answer = claim(one, run_id, "a")

    assert answer.status is ClaimStatus.GRANTED
    assert answer.record == replace(
        shard(run_id, 0),
        state=ShardState.RUNNING,
        attempts=1,
        attempt_id="a",
        taken_from="PENDING",
        lease_end_s=clock.now_s() + LEASE_S,
        changed_s=clock.now_s(),
        started_s=clock.now_s(),
        log_stream="2026/11/20/[$LATEST]abc",
    )
    assert one.shards.get(run_id, 0) == answer.record


def test_an_attempt_id_is_valid_for_one_attempt(one: Ledger, run_id: str) -> None:
    """GIVEN a released attempt, WHEN a late duplicate of its claim arrives, THEN no lease is given: nobody uses it."""
    claim(one, run_id, "a")
    one.attempts.release(run_id, 0, "a", FLAKY)

    with pytest.raises(LedgerError, match="attempt a "):
        claim(one, run_id, "a")

    assert one.shards.get(run_id, 0).state is ShardState.PENDING


def test_a_shard_that_succeeded_is_done(one: Ledger, run_id: str, clock: FakeClock) -> None:
    claim(one, run_id, "a")
    clock.advance(7)
    result = ShardResult(12, 3 * 1024**3, ("s3://out/x/shard=000000",), memory_mb=812, schemas={"0a-1b": "part-0"})
    one.attempts.succeed(run_id, 0, "a", result)

    answer = claim(one, run_id, "b")

    assert answer.status is ClaimStatus.DONE
    assert answer.record == one.shards.get(run_id, 0)
    assert answer.record.state is ShardState.SUCCEEDED
    assert answer.record.attempt_id == "a"
    assert answer.record.schemas == {"0a-1b": "part-0"}
    assert (answer.record.rows, answer.record.output_bytes, answer.record.memory_mb) == (12, 3 * 1024**3, 812)
    assert answer.record.outputs == ("s3://out/x/shard=000000",)
    assert answer.record.changed_s == clock.now_s()


def test_no_rows_are_not_the_same_as_unknown_rows(one: Ledger, run_id: str) -> None:
    claim(one, run_id, "a")
    one.attempts.succeed(run_id, 0, "a", ShardResult(rows=0, output_bytes=0))

    record = one.shards.get(run_id, 0)
    assert (record.rows, record.output_bytes) == (0, 0)


def test_a_released_shard_can_be_claimed_and_keeps_its_cause(one: Ledger, run_id: str) -> None:
    claim(one, run_id, "a")
    one.attempts.release(run_id, 0, "a", FLAKY)
    released = one.shards.get(run_id, 0)

    again = claim(one, run_id, "b")

    assert (released.state, released.attempts, released.attempt_id) == (ShardState.PENDING, 1, "a")
    assert (released.error_class, released.error_message) == (FLAKY.error_class, FLAKY.message)
    assert (again.status, again.record.attempts, again.record.attempt_id) == (ClaimStatus.GRANTED, 2, "b")
    assert (again.record.taken_from, again.record.error_class) == (ShardState.PENDING, FLAKY.error_class)


def test_the_attempt_that_won_stays_the_winner(one: Ledger, run_id: str, clock: FakeClock) -> None:
    """GIVEN an attempt whose output is staged, WHEN it is lost, THEN the next attempt knows which output to publish."""
    claim(one, run_id, "a")
    one.attempts.renew(run_id, 0, "a", LEASE_S, ShardResult(5, 7, ("s3://out/x",)))
    one.attempts.renew(run_id, 0, "a", LEASE_S, ShardResult(5, 7, ("s3://out/x",)))
    clock.advance(LEASE_S + LEASE_GRACE_S + 1)

    after = claim(one, run_id, "b").record

    assert (after.attempt_id, after.winner) == ("b", "a")
    assert (after.rows, after.output_bytes, after.outputs) == (5, 7, ("s3://out/x",))
    with pytest.raises(LeaseLostError):
        one.attempts.renew(run_id, 0, "b", LEASE_S, ShardResult(6))
    one.attempts.fail(run_id, 0, "b", BROKEN)
    one.runs.start_generation(run_id, 1, script())
    one.attempts.redrive(run_id, 0, 1)
    assert claim(one, run_id, "c", generation=1).record.winner == "a"
    one.attempts.renew(run_id, 0, "c", LEASE_S)
    one.attempts.succeed(run_id, 0, "c", ShardResult(5, 7))
    assert one.shards.get(run_id, 0).winner == "a"


def test_a_claim_for_a_later_generation_is_a_retryable_error(one: Ledger, run_id: str) -> None:
    with pytest.raises(LedgerError, match="generation 0") as caught:
        claim(one, run_id, "a", generation=1)

    assert caught.value.retryable
    assert one.shards.get(run_id, 0).state is ShardState.PENDING


def test_an_unknown_shard_is_named(one: Ledger, run_id: str) -> None:
    for call in (
        lambda: one.shards.get(run_id, 9),
        lambda: one.attempts.claim(ref(run_id, 9), "a", LEASE_S, MAX_ATTEMPTS),
        lambda: one.attempts.succeed(run_id, 9, "a", ShardResult()),
        lambda: one.attempts.fail(run_id, 9, "a", BROKEN),
        lambda: one.attempts.release(run_id, 9, "a", FLAKY),
        lambda: one.attempts.renew(run_id, 9, "a", LEASE_S),
        lambda: one.attempts.redrive(run_id, 9, 1),
        lambda: one.attempts.expire(replace(shard(run_id, 9), state=ShardState.RUNNING), 3),
        lambda: one.attempts.count_requeue(shard(run_id, 9)),
        lambda: one.attempts.abandon(shard(run_id, 9), BROKEN),
    ):
        with pytest.raises(ShardNotFoundError, match="shard 9"):
            call()


def test_a_long_text_is_cut_between_characters(one: Ledger, run_id: str) -> None:
    claim(one, run_id, "a")
    one.attempts.release(run_id, 0, "a", Failure("é" * 1000, "ü" * 100_000))

    record = one.shards.get(run_id, 0)
    assert record.error_class.rstrip("…") in "é" * 1000
    assert record.error_message.rstrip("…") in "ü" * 1000
    assert len(record.error_message) > 100


def test_outputs_are_kept_whole_or_not_at_all(one: Ledger, run_id: str) -> None:
    outputs = tuple(f"s3://out/shard=000000/{'é' * 30}-{number}" for number in range(100))
    claim(one, run_id, "a")
    one.attempts.succeed(run_id, 0, "a", ShardResult(1, 2, outputs))

    kept = one.shards.get(run_id, 0).outputs
    assert 0 < len(kept) < len(outputs)
    assert kept == outputs[: len(kept)]
