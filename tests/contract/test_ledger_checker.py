"""The ledger's promises to the checker, the consumer of dead letters and redrive."""

from dataclasses import replace

from sparklet.model import ClaimStatus, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import FLAKY, LEASE_S, MAX_ATTEMPTS, claim, use_up
from tests.stand_ins.memory import FakeClock


def test_a_shard_whose_lease_expired_is_pending_with_the_reason(one: Ledger, run_id: str, clock: FakeClock) -> None:
    held = claim(one, run_id, "a").record
    clock.advance(LEASE_S)

    expired = one.attempts.expire(held, MAX_ATTEMPTS)

    assert expired == one.shards.get(run_id, 0)
    assert expired is not None
    assert (expired.state, expired.attempts, expired.changed_s) == (ShardState.PENDING, 1, clock.now_s())
    assert expired.error_class == "LeaseExpired"
    assert claim(one, run_id, "b").record.attempts == 2


def test_a_shard_whose_last_lease_expired_is_failed(one: Ledger, run_id: str, clock: FakeClock) -> None:
    for number in range(MAX_ATTEMPTS - 1):
        claim(one, run_id, f"a{number}")
        one.attempts.release(run_id, 0, f"a{number}", FLAKY)
    held = claim(one, run_id, "last").record
    clock.advance(LEASE_S + 1)

    expired = one.attempts.expire(held, MAX_ATTEMPTS)

    assert expired is not None
    assert expired.state is ShardState.FAILED
    assert "attempt last" in expired.error_message
    assert FLAKY.message in expired.error_message


def test_a_message_sent_again_is_counted_once(one: Ledger, run_id: str, clock: FakeClock) -> None:
    """GIVEN two checkers that read the same record, THEN one of them counts, and the shard's waiting time restarts."""
    seen = one.shards.get(run_id, 0)
    clock.advance(500)

    counted = one.attempts.count_requeue(seen)

    assert counted == one.shards.get(run_id, 0) == replace(seen, requeues=1, changed_s=clock.now_s())
    assert one.attempts.count_requeue(seen) is None
    assert one.shards.get(run_id, 0).requeues == 1
    again = one.attempts.count_requeue(counted, unrun=True)
    assert again == one.shards.get(run_id, 0) == replace(counted, requeues=2, unrun=1, changed_s=clock.now_s())


def test_redrive_opens_a_failed_shard_afresh(one: Ledger, run_id: str, clock: FakeClock) -> None:
    counted = one.attempts.count_requeue(one.shards.get(run_id, 0), unrun=True)
    assert counted is not None
    use_up(one, run_id)
    claim(one, run_id, "late")
    clock.advance(9)

    driven = one.attempts.redrive(run_id, 0, 1)

    assert driven == one.shards.get(run_id, 0)
    assert driven is not None
    assert (driven.state, driven.generation, driven.attempts) == (ShardState.PENDING, 1, 0)
    assert (driven.requeues, driven.unrun) == (0, 0)
    assert driven.changed_s == clock.now_s()
    assert driven.ref.generation == 1
    assert claim(one, run_id, "new", generation=1).status is ClaimStatus.GRANTED
