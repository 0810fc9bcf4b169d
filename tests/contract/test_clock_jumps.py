"""Clocks that are wrong or jump: a shard has one result all the same, and none is stuck.

An attempt owns a shard by its id alone; clocks only say when somebody else may try, and then one of the two is
refused. What a jump can cost is an attempt, never a result.
"""

import pytest

from sparklet.errors import LeaseLostError
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import ClaimStatus, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import FLAKY, LEASE_S, MAX_ATTEMPTS, claim
from tests.stand_ins.memory import FakeClock

HOUR_S = 3600.0


@pytest.mark.parametrize("jump_s", [-HOUR_S, -1.0, HOUR_S, 1e8])
def test_a_clock_jump_between_claim_and_result_changes_nothing(
    one: Ledger, run_id: str, clock: FakeClock, jump_s: float
) -> None:
    claim(one, run_id, "a")
    clock.advance(jump_s)

    one.attempts.succeed(run_id, 0, "a", ShardResult(7))

    record = one.shards.get(run_id, 0)
    assert (record.state, record.rows, record.attempts) == (ShardState.SUCCEEDED, 7, 1)
    assert claim(one, run_id, "b").status is ClaimStatus.DONE


@pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S])
def test_a_released_shard_is_claimable_whatever_the_clock_says(
    one: Ledger, run_id: str, clock: FakeClock, jump_s: float
) -> None:
    claim(one, run_id, "a")
    clock.advance(jump_s)
    one.attempts.release(run_id, 0, "a", FLAKY)
    clock.advance(-2 * jump_s)

    assert claim(one, run_id, "b").status is ClaimStatus.GRANTED


@pytest.mark.parametrize("behind_s", [1.0, LEASE_GRACE_S - 1])
def test_clocks_within_the_grace_never_take_over_a_shard(
    one: Ledger, run_id: str, clock: FakeClock, behind_s: float
) -> None:
    """GIVEN an owner whose clock is behind, WHEN another comes as its lease ends, THEN it has to wait."""
    clock.advance(-behind_s)
    claim(one, run_id, "a")
    clock.advance(behind_s + LEASE_S)

    assert claim(one, run_id, "b").status is ClaimStatus.HELD
    one.attempts.succeed(run_id, 0, "a", ShardResult(7))
    assert one.shards.get(run_id, 0).rows == 7


@pytest.mark.parametrize("first", ["owner", "thief"])
def test_a_takeover_by_a_fast_clock_still_gives_one_result(
    one: Ledger, run_id: str, clock: FakeClock, first: str
) -> None:
    claim(one, run_id, "owner")
    clock.advance(HOUR_S)
    assert claim(one, run_id, "thief").status is ClaimStatus.GRANTED
    clock.advance(-HOUR_S)

    for who in (first, "thief" if first == "owner" else "owner"):
        if who == "owner":
            with pytest.raises(LeaseLostError):
                one.attempts.succeed(run_id, 0, who, ShardResult(1))
        else:
            one.attempts.succeed(run_id, 0, who, ShardResult(2))

    record = one.shards.get(run_id, 0)
    assert (record.state, record.rows, record.attempts, record.attempt_id) == (ShardState.SUCCEEDED, 2, 2, "thief")


def test_a_lease_from_a_fast_clock_is_taken_over_in_the_end(one: Ledger, run_id: str, clock: FakeClock) -> None:
    """GIVEN an owner that vanished, THEN its shard is late by what its clock was ahead, not lost."""
    clock.advance(HOUR_S)
    claim(one, run_id, "vanished")
    clock.advance(-HOUR_S)

    held = claim(one, run_id, "b")
    assert held.status is ClaimStatus.HELD
    clock.advance(held.record.lease_end_s - clock.now_s() + LEASE_GRACE_S + 1)

    assert claim(one, run_id, "b").status is ClaimStatus.GRANTED


def test_a_checker_with_a_fast_clock_doubles_no_result(one: Ledger, run_id: str, clock: FakeClock) -> None:
    claim(one, run_id, "a")
    clock.advance(HOUR_S)
    expired = one.attempts.expire(one.shards.get(run_id, 0), MAX_ATTEMPTS)
    clock.advance(-HOUR_S)

    assert expired is not None
    with pytest.raises(LeaseLostError):
        one.attempts.succeed(run_id, 0, "a", ShardResult(1))
    assert claim(one, run_id, "b").status is ClaimStatus.GRANTED
    one.attempts.succeed(run_id, 0, "b", ShardResult(2))
    assert one.shards.get(run_id, 0).rows == 2
