"""Shards whose bad objects are looked for, settled without them, and split in one transaction."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sparklet.errors import LeaseLostError
from sparklet.ledger.isolation import MAX_BAD
from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S
from sparklet.model import (
    ClaimStatus,
    Failure,
    Isolation,
    PartRecord,
    RunState,
    ShardRecord,
    ShardResult,
    ShardState,
)
from sparklet.ports import Ledger
from tests.contract.samples import BROKEN, LEASE_S, MAX_ATTEMPTS, claim, part, planned, ref, run, shard
from tests.stand_ins.memory import FakeClock

OBJECTS = 40
CAUSE = Failure("BadRecordException", "malformed: 'größe'", by_input=True)
FOUND = Isolation(((3, "BadRecordException", "malformed"),), (0, 39), (0, 19))
ONE_BAD = Isolation(FOUND.bad)


@pytest.fixture
def packed(ledger: Ledger, run_id: str) -> Ledger:
    """A ledger with a run of one shard of many objects, which are isolated for whatever cause."""
    return entered(ledger, run_id)


def entered(ledger: Ledger, run_id: str, isolate: int = 2) -> Ledger:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 1))
    ledger.shards.add([replace(shard(run_id, 0), object_count=OBJECTS, isolate=isolate)])
    ledger.runs.seal_plan(run_id, 1, OBJECTS, 10)
    return ledger


def found(ledger: Ledger, run_id: str, isolation: Isolation, attempt_id: str = "a") -> ShardRecord:
    """The shard, PENDING, after an attempt by which this was found."""
    ledger.attempts.isolate(claim(ledger, run_id, attempt_id).record, CAUSE, isolation)
    return ledger.shards.get(run_id, 0)


def settled(ledger: Ledger, run_id: str) -> ShardRecord:
    found(ledger, run_id, ONE_BAD)
    ledger.attempts.settle(claim(ledger, run_id, "b").record, ShardResult(rows=390, outputs=("s3://out/x",)))
    return ledger.shards.get(run_id, 0)


def halves(record: ShardRecord, shard_count: int = 1, index: int = 1) -> tuple[ShardRecord, PartRecord, ShardRecord]:
    rest = replace(record, part="isolated-rest.jsonl", offset=0, length=9, object_count=OBJECTS - 1, size_bytes=7)
    bad = replace(
        ShardRecord(record.run_id, shard_count, "isolated-0.jsonl", 0, 5, 1, 3),
        state=ShardState.FAILED,
        attempts=1,
        attempt_id="b",
        started_s=5.0,
        changed_s=6.0,
        error_class="BadRecordException",
        error_message="malformed",
        log_stream="stream",
    )
    return rest, replace(part(index, shard_count, 1), part="isolated-0.jsonl", dispatched=True), bad


def test_what_was_found_comes_back_and_nothing_is_counted(packed: Ledger, run_id: str) -> None:
    record = found(packed, run_id, FOUND)

    assert Isolation(record.bad, record.suspects, record.trial) == FOUND
    assert (record.state, record.attempts, record.error_class) == (ShardState.PENDING, 0, "BadRecordException")
    assert claim(packed, run_id, "b").record.trial == FOUND.trial


def test_only_the_owner_says_what_it_found(packed: Ledger, run_id: str) -> None:
    record = claim(packed, run_id, "a").record
    with pytest.raises(LeaseLostError):
        packed.attempts.isolate(replace(record, attempt_id="zombie"), CAUSE, FOUND)

    packed.attempts.isolate(record, CAUSE, FOUND)
    before = packed.shards.get(run_id, 0)
    packed.attempts.isolate(record, CAUSE, FOUND)

    assert packed.shards.get(run_id, 0) == before


@pytest.mark.parametrize("by", ["checker", "claim"])
def test_lost_workers_are_isolated_if_asked(packed: Ledger, run_id: str, clock: FakeClock, by: str) -> None:
    for number in range(MAX_ATTEMPTS):
        claim(packed, run_id, f"a{number}")
        clock.advance(2 * LEASE_S)

    if by == "checker":
        record = packed.attempts.expire(packed.shards.get(run_id, 0), MAX_ATTEMPTS)
        assert record is not None and record.state is ShardState.PENDING
    else:
        answer = claim(packed, run_id, "late")
        assert answer.status is ClaimStatus.GRANTED
        record = answer.record

    assert (record.suspects, record.trial, record.error_class) == ((0, 40), (0, 20), LEASE_EXPIRED)


def test_lost_workers_are_not_isolated_unasked(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    entered(ledger, run_id, isolate=1)
    for number in range(MAX_ATTEMPTS):
        claim(ledger, run_id, f"a{number}")
        clock.advance(2 * LEASE_S)

    assert claim(ledger, run_id, "late").status is ClaimStatus.EXHAUSTED


def test_a_settled_shard_runs_until_it_is_split(packed: Ledger, run_id: str, clock: FakeClock) -> None:
    record = settled(packed, run_id)

    assert (record.state, record.settled, record.rows, record.bad) == (ShardState.RUNNING, True, 390, ONE_BAD.bad)
    clock.advance(LEASE_S + LEASE_GRACE_S)
    assert claim(packed, run_id, "c").status is ClaimStatus.HELD
    assert list(packed.shards.expired(run_id, ShardState.RUNNING, clock.now_s())) == [record]


def test_only_the_owner_settles(packed: Ledger, run_id: str) -> None:
    record = claim(packed, run_id, "a").record

    with pytest.raises(LeaseLostError):
        packed.attempts.settle(replace(record, attempt_id="zombie"), ShardResult())


def test_a_split_is_one_step_and_keeps_the_sums(packed: Ledger, run_id: str) -> None:
    record = settled(packed, run_id)
    rest, lone_part, bad = halves(record)

    assert packed.attempts.split(rest, lone_part, [bad])

    done, failed = packed.shards.list(run_id)
    assert done == packed.shards.get(run_id, 0)
    assert (done.state, done.part, done.offset, done.length) == (ShardState.SUCCEEDED, rest.part, 0, 9)
    assert (done.bad, done.settled, done.rows, done.changed_s) == ((), False, 390, record.changed_s)
    assert failed == bad
    assert done.object_count + failed.object_count == OBJECTS
    run_now = packed.runs.get(run_id)
    assert (run_now.shard_count, run_now.object_count) == (2, OBJECTS)
    counts = packed.shards.count(run_id)
    assert (counts.succeeded, counts.failed, counts.open) == (1, 1, 0)
    assert packed.shards.glance(run_id) == counts
    assert [each.part for each in packed.runs.parts(run_id)] == [part(0, 0, 1).part, lone_part.part]


def test_a_split_is_made_once(packed: Ledger, run_id: str) -> None:
    rest, lone_part, bad = halves(settled(packed, run_id))
    packed.attempts.split(rest, lone_part, [bad])

    assert not packed.attempts.split(rest, lone_part, [bad])
    assert not packed.attempts.split(*_moved(rest, bad, 2))

    assert packed.runs.get(run_id).shard_count == 2


def test_a_run_does_not_end_without_the_shards_of_a_split(packed: Ledger, run_id: str) -> None:
    rest, lone_part, bad = halves(settled(packed, run_id))
    packed.attempts.split(rest, lone_part, [bad])

    assert packed.runs.finish(run_id, 0, RunState.SUCCEEDED, 1).state is RunState.RUNNING  # counted too early
    assert packed.runs.finish(run_id, 0, RunState.FAILED, 2).state is RunState.FAILED


def _moved(rest: ShardRecord, bad: ShardRecord, number: int) -> tuple[ShardRecord, PartRecord, Sequence[ShardRecord]]:
    _, lone_part, _ = halves(rest, number, number)
    return rest, lone_part, [replace(bad, number=number)]


@pytest.mark.parametrize("why", ["not settled", "another part", "another number", "ended"])
def test_a_split_is_refused_whole(packed: Ledger, run_id: str, why: str) -> None:
    record = settled(packed, run_id)
    rest, lone_part, bad = halves(record)
    if why == "not settled":
        packed.attempts.expire(record, MAX_ATTEMPTS)
    if why == "another part":
        lone_part = replace(lone_part, index=0)
    if why == "another number":
        lone_part, bad = replace(lone_part, first_shard=2), replace(bad, number=2)
    if why == "ended":
        packed.runs.finish(run_id, 0, RunState.FAILED)
    before = packed.shards.get(run_id, 0)

    assert not packed.attempts.split(rest, lone_part, [bad])

    assert list(packed.shards.list(run_id)) == [before]
    assert packed.runs.get(run_id).shard_count == 1


def test_the_most_bad_objects_fit_into_one_split(packed: Ledger, run_id: str) -> None:
    causes = tuple((place, "E" * 64, "m" * 160) for place in range(MAX_BAD))
    found(packed, run_id, Isolation(causes))
    packed.attempts.settle(claim(packed, run_id, "b").record, ShardResult())
    rest, lone_part, bad = halves(packed.shards.get(run_id, 0))
    every = [replace(bad, number=number) for number in range(1, MAX_BAD + 1)]

    assert packed.attempts.split(rest, replace(lone_part, shard_count=MAX_BAD), every)

    assert packed.shards.count(run_id).failed == MAX_BAD


def test_a_bad_object_is_redriven_as_any_shard(packed: Ledger, run_id: str) -> None:
    rest, lone_part, bad = halves(settled(packed, run_id))
    packed.attempts.split(rest, lone_part, [bad])

    again = packed.attempts.redrive(run_id, 1, 1)

    assert again is not None and again.state is ShardState.PENDING
    answer = packed.attempts.claim(replace(ref(run_id, 1), generation=1), "c", LEASE_S, MAX_ATTEMPTS)
    assert (answer.status, answer.record.part) == (ClaimStatus.GRANTED, "isolated-0.jsonl")


@pytest.mark.parametrize("won", [False, True])
def test_a_redrive_forgets_bad_objects_unless_won(packed: Ledger, run_id: str, won: bool) -> None:
    found(packed, run_id, FOUND)
    claim(packed, run_id, "b")
    if won:
        packed.attempts.renew(run_id, 0, "b", LEASE_S, ShardResult(rows=1))
    packed.attempts.fail(run_id, 0, "b", BROKEN)

    record = packed.attempts.redrive(run_id, 0, 1, "", 1)

    assert record == packed.shards.get(run_id, 0)
    assert record.isolate == 1
    assert record.bad == (FOUND.bad if won else ())
    assert record.trial == (FOUND.trial if won else ())


def test_a_shard_that_cannot_be_split_is_done_again(packed: Ledger, run_id: str) -> None:
    packed.attempts.expire(settled(packed, run_id), MAX_ATTEMPTS)

    answer = claim(packed, run_id, "c")

    assert (answer.status, answer.record.settled, answer.record.bad) == (ClaimStatus.GRANTED, False, ONE_BAD.bad)


def test_shards_of_other_runs_isolate_nothing(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 1)

    record = ledger.shards.get(run_id, 0)

    assert (record.isolate, record.bad, record.suspects, record.trial, record.settled) == (0, (), (), (), False)
