"""The ledger's promises about entering, listing and counting shards."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from sparklet.model import Counts, Failure, ShardRecord, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import LEASE_S, MAX_ATTEMPTS, part, planned, ref, run, shard
from tests.stand_ins.memory import FakeClock

BROKEN = Failure("AnalysisException", "no such column", retryable=False)


@pytest.fixture
def mixed(ledger: Ledger, run_id: str) -> Ledger:
    """Twelve shards: 0–2 SUCCEEDED, 3–4 FAILED, 5 RUNNING, the rest PENDING."""
    planned(ledger, run_id, 12)
    for number in range(6):
        ledger.attempts.claim(ref(run_id, number), f"a{number}", LEASE_S, MAX_ATTEMPTS)
    for number in range(3):
        ledger.attempts.succeed(run_id, number, f"a{number}", ShardResult(number))
    for number in (3, 4):
        ledger.attempts.fail(run_id, number, f"a{number}", BROKEN)
    return ledger


def test_a_shard_is_entered_with_the_present_time(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    ledger.runs.create(run(run_id))

    assert ledger.shards.add([shard(run_id, 0)]) == 1

    assert ledger.shards.get(run_id, 0) == replace(shard(run_id, 0), changed_s=clock.now_s())


def test_a_shard_that_is_entered_again_stays_unchanged(mixed: Ledger, run_id: str) -> None:
    """GIVEN a planner that died after it entered shards, WHEN another planner enters them again, THEN none is reset."""
    before = list(mixed.shards.list(run_id))

    assert mixed.shards.add(shard(run_id, number) for number in range(15)) == 3

    assert list(mixed.shards.list(run_id))[:12] == before
    assert mixed.shards.add(shard(run_id, number) for number in range(15)) == 0


def test_a_fault_in_the_source_of_shards_is_not_swallowed(ledger: Ledger, run_id: str) -> None:
    def source() -> Iterator[ShardRecord]:
        yield from (shard(run_id, number) for number in range(40))
        raise OSError("the plan part cannot be read")

    ledger.runs.create(run(run_id))
    with pytest.raises(OSError, match="cannot be read"):
        ledger.shards.add(source())


def test_shards_in_several_ledger_buckets_come_in_order(ledger: Ledger, run_id: str) -> None:
    """A run of 50,000 has eight buckets; a few of its shards are entered."""
    numbers = [0, 1, 9_999, 10_000, 10_001, 19_999, 20_000, 30_001, *range(40_000, 40_050), 49_999]
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 50_000))
    ledger.shards.add(shard(run_id, number) for number in reversed(numbers))

    assert [record.number for record in ledger.shards.list(run_id)] == numbers
    assert ledger.shards.count(run_id) == ledger.shards.glance(run_id) == Counts(pending=len(numbers))
    ledger.runs.seal_plan(run_id, 50_000, 1, 1)
    assert [record.number for record in ledger.shards.list(run_id)] == numbers
    assert ledger.shards.count(run_id) == Counts(pending=len(numbers))
    assert sorted(r.number for r in ledger.shards.expired(run_id, ShardState.PENDING, 2e9)) == numbers


def test_shards_in_one_state_are_found(mixed: Ledger, run_id: str) -> None:
    by_state = {state: [r.number for r in mixed.shards.list(run_id, state)] for state in ShardState}

    assert by_state == {
        ShardState.SUCCEEDED: [0, 1, 2],
        ShardState.FAILED: [3, 4],
        ShardState.RUNNING: [5],
        ShardState.PENDING: [6, 7, 8, 9, 10, 11],
        ShardState.SPLIT: [],
    }


def test_a_glance_does_not_count_the_succeeded_shards(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 3))
    ledger.shards.add(shard(run_id, number) for number in range(3))
    ledger.attempts.claim(ref(run_id, 0), "a", LEASE_S, MAX_ATTEMPTS)
    ledger.attempts.succeed(run_id, 0, "a", ShardResult(1))

    assert ledger.shards.glance(run_id) == Counts(pending=2)
    assert ledger.shards.count(run_id) == Counts(pending=2, succeeded=1)


def test_shards_that_wait_for_long_are_found(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id, 4)
    entered_s = clock.now_s()
    clock.advance(100)
    ledger.attempts.claim(ref(run_id, 1), "a", LEASE_S, MAX_ATTEMPTS)
    ledger.attempts.release(run_id, 1, "a", BROKEN)
    ledger.attempts.count_requeue(ledger.shards.get(run_id, 2))

    waiting = ledger.shards.expired(run_id, ShardState.PENDING, entered_s + 50)

    assert sorted(waiting, key=lambda r: r.number) == [ledger.shards.get(run_id, 0), ledger.shards.get(run_id, 3)]
    assert list(ledger.shards.expired(run_id, ShardState.PENDING, entered_s)) == []
    later = ledger.shards.expired(run_id, ShardState.PENDING, clock.now_s() + 1)
    assert sorted(r.number for r in later) == [0, 1, 2, 3]


def test_shards_that_have_changed_since_are_found(mixed: Ledger, run_id: str, clock: FakeClock) -> None:
    clock.advance(100)
    since_s = clock.now_s()
    states = (ShardState.PENDING, ShardState.RUNNING, ShardState.FAILED)
    assert not [r for state in states for r in mixed.shards.recent(run_id, state, since_s)]

    for number in (6, 7, 8):
        mixed.attempts.claim(ref(run_id, number), f"a{number}", LEASE_S, MAX_ATTEMPTS)
    mixed.attempts.release(run_id, 6, "a6", BROKEN)
    mixed.attempts.fail(run_id, 7, "a7", BROKEN)

    found = {state: list(mixed.shards.recent(run_id, state, since_s)) for state in states}
    assert {state: [r.number for r in records] for state, records in found.items()} == {
        ShardState.PENDING: [6],
        ShardState.RUNNING: [8],
        ShardState.FAILED: [7],
    }
    assert found[ShardState.FAILED] == [mixed.shards.get(run_id, 7)]


@pytest.mark.parametrize("state", [ShardState.SUCCEEDED, ShardState.FAILED])
def test_ended_shards_do_not_expire(ledger: Ledger, run_id: str, state: ShardState) -> None:
    planned(ledger, run_id)

    with pytest.raises(ValueError, match=state):
        list(ledger.shards.expired(run_id, state, 2e9))


def test_more_shards_than_fit_on_a_page_are_all_found(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id, 2_500)
    clock.advance(1)

    assert ledger.shards.count(run_id) == ledger.shards.glance(run_id) == Counts(pending=2_500)
    assert len({r.number for r in ledger.shards.expired(run_id, ShardState.PENDING, clock.now_s())}) == 2_500
    assert [record.number for record in ledger.shards.list(run_id)] == list(range(2_500))
