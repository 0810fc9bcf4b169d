"""Shards that wait for a check which splits them, in one transaction, and shards that are joined again."""

from dataclasses import replace

import pytest

from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import HALVES, ClaimStatus, PartRecord, RunState, ShardRecord, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import BROKEN, LEASE_S, MAX_ATTEMPTS, claim, part, planned, ref, run, shard
from tests.stand_ins.memory import FakeClock

MOST = 92  # named ones, one that is tried alone, and the rest


def waiting(ledger: Ledger, run_id: str, split: str = HALVES) -> ShardRecord:
    planned(ledger, run_id)
    claim(ledger, run_id, "a")
    ledger.attempts.release(run_id, 0, "a", BROKEN, split=split)
    return ledger.shards.get(run_id, 0)


def pieces(record: ShardRecord, count: int = 2, first: int = 1, index: int = 1) -> tuple[PartRecord, list[ShardRecord]]:
    name = "split-000000-000000-1.jsonl"
    fresh = replace(shard(record.run_id, 0), part=name, object_count=1, error_class=record.error_class, isolate=1)
    return replace(part(index, first, count), part=name), [replace(fresh, number=first + n) for n in range(count)]


def is_split(ledger: Ledger, record: ShardRecord, count: int = 2) -> bool:
    return ledger.attempts.split(record, ledger.runs.get(record.run_id), *pieces(record, count))


def test_nobody_gets_a_shard_that_waits_for_its_split(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    record = waiting(ledger, run_id, "0 1")

    assert (record.state, record.split, record.error_class) == (ShardState.PENDING, "0 1", "AnalysisException")
    assert claim(ledger, run_id, "b").status is ClaimStatus.HELD
    assert ledger.attempts.count_requeue(record) is None
    assert list(ledger.shards.to_split(run_id)) == [record]
    assert ledger.shards.count(run_id).pending == 1
    assert ledger.attempts.abandon(record, BROKEN)
    assert ledger.shards.get(run_id, 0).split == ""


@pytest.mark.parametrize("by", ["checker", "claim"])
@pytest.mark.parametrize("isolate", [1, 2])
def test_lost_workers_shards_are_split_if_asked(
    ledger: Ledger, run_id: str, clock: FakeClock, by: str, isolate: int
) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 1))
    ledger.shards.add([replace(shard(run_id, 0), isolate=isolate)])
    ledger.runs.seal_plan(run_id, 1, 2, 10)
    for number in range(MAX_ATTEMPTS):
        claim(ledger, run_id, f"a{number}")
        clock.advance(2 * LEASE_S)

    if by == "checker":
        ledger.attempts.expire(ledger.shards.get(run_id, 0), MAX_ATTEMPTS)
    else:
        assert claim(ledger, run_id, "late").status is (ClaimStatus.EXHAUSTED, ClaimStatus.HELD)[isolate - 1]

    record = ledger.shards.get(run_id, 0)
    assert (record.split, record.error_class) == (HALVES if isolate == 2 else "", LEASE_EXPIRED)


@pytest.mark.parametrize("count", [2, MOST])
def test_a_split_is_one_step_and_keeps_the_sums(ledger: Ledger, run_id: str, count: int) -> None:
    record = waiting(ledger, run_id)

    assert is_split(ledger, record, count)
    assert not is_split(ledger, record, count)

    whole, *into = ledger.shards.list(run_id)
    assert (whole.state, whole.split, whole.changed_s) == (ShardState.SPLIT, "", record.changed_s)
    assert [each.number for each in into] == list(range(1, count + 1))
    now, counts = ledger.runs.get(run_id), ledger.shards.count(run_id)
    assert (now.shard_count, now.split_count, now.numbers) == (count, 1, count + 1)
    assert (counts.pending, counts.total) == (count, count)
    assert ledger.shards.glance(run_id) == counts
    assert claim(ledger, run_id, "late").status is ClaimStatus.DONE
    assert ledger.runs.finish(run_id, 0, RunState.SUCCEEDED, 1).state is RunState.RUNNING  # counted too early


def test_pieces_are_claimed_and_joined_again(ledger: Ledger, run_id: str) -> None:
    is_split(ledger, waiting(ledger, run_id), MOST)
    answer = ledger.attempts.claim(replace(ref(run_id, 1), part="split"), "b", LEASE_S, MAX_ATTEMPTS)
    assert (answer.status, answer.record.object_count) == (ClaimStatus.GRANTED, 1)
    whole, *old = ledger.shards.list(run_id)
    ledger.attempts.fail(run_id, 1, "b", BROKEN)
    into = [ledger.shards.get(run_id, each.number) for each in old]
    now = ledger.runs.get(run_id)

    assert not ledger.attempts.join(whole, now, old, BROKEN)
    assert ledger.attempts.join(whole, now, into, BROKEN)
    assert not ledger.attempts.join(whole, now, into, BROKEN)

    assert [each.state for each in ledger.shards.list(run_id)] == [ShardState.FAILED, *[ShardState.SPLIT] * MOST]
    assert (ledger.shards.count(run_id).total, ledger.runs.get(run_id).shard_count) == (1, 1)
    again = ledger.attempts.redrive(run_id, 0, 1)
    assert again is not None and again.state is ShardState.PENDING
    assert ledger.attempts.redrive(run_id, 1, 1) is None
