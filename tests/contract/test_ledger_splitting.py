"""The largest split of a shard is one transaction, and can be joined again.

``test_ledger_stateful`` tests what can happen in between; ``ledger.transitions`` decides which shards are split.
"""

from dataclasses import replace

from sparklet.model import HALVES, ClaimStatus, RunState, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import BROKEN, LEASE_S, MAX_ATTEMPTS, claim, part, planned, ref, shard

MOST = 92  # the most shards that one split makes: the named objects, one object that is tried alone, and the rest


def test_a_split_is_one_transaction_and_can_be_undone(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    claim(ledger, run_id, "a")
    ledger.attempts.release(run_id, 0, "a", BROKEN, split=HALVES)
    record, run = ledger.shards.get(run_id, 0), ledger.runs.get(run_id)
    off = replace(part(1, 1, MOST), part="split-000000-000000-1.jsonl")
    fresh = replace(shard(run_id, 0), part=off.part, object_count=1, error_class=record.error_class, isolate=1)
    pieces = [replace(fresh, number=1 + n) for n in range(MOST)]

    assert ledger.attempts.split(record, run, off, pieces)
    assert not ledger.attempts.split(record, ledger.runs.get(run_id), off, pieces)

    whole, *into = ledger.shards.list(run_id)
    assert (whole.state, whole.split, whole.changed_s) == (ShardState.SPLIT, "", record.changed_s)
    assert [each.number for each in into] == [each.number for each in pieces]
    now, counts = ledger.runs.get(run_id), ledger.shards.count(run_id)
    assert (now.shard_count, now.split_count, now.numbers) == (MOST, 1, MOST + 1)
    assert (counts.pending, counts.total) == (MOST, MOST)
    # The count of the call is older than the split.
    assert ledger.runs.finish(run_id, 0, RunState.SUCCEEDED, 1).state is RunState.RUNNING

    answer = ledger.attempts.claim(replace(ref(run_id, 1), part=off.part), "b", LEASE_S, MAX_ATTEMPTS)
    assert (answer.status, answer.record.object_count) == (ClaimStatus.GRANTED, 1)
    ledger.attempts.fail(run_id, 1, "b", BROKEN)
    ended = [ledger.shards.get(run_id, 1), *into[1:]]

    assert not ledger.attempts.join(whole, now, into, BROKEN)
    assert ledger.attempts.join(whole, now, ended, BROKEN)
    assert not ledger.attempts.join(whole, now, ended, BROKEN)

    assert [each.state for each in ledger.shards.list(run_id)] == [ShardState.FAILED, *[ShardState.SPLIT] * MOST]
    assert (ledger.shards.count(run_id).total, ledger.runs.get(run_id).shard_count) == (1, 1)
    assert ledger.attempts.redrive(run_id, 0, 1) and ledger.attempts.redrive(run_id, 1, 1) is None
