"""Shards that move from functions to an engine: one conditional write moves a shard, then no function claims it."""

from dataclasses import replace

import pytest

from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import Claim, ClaimStatus, Failure, ShardRecord, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import BROKEN, LEASE_S, MAX_ATTEMPTS, claim, planned, ref, shard
from tests.stand_ins.memory import FakeClock

ENGINE = "fargate"
OUT_OF_MEMORY = Failure("OutOfMemoryError", "the JVM ran out of memory")


@pytest.fixture
def moved(one: Ledger, run_id: str) -> Ledger:
    """A ledger with one shard, which was moved to an engine."""
    claim(one, run_id, "a")
    one.attempts.escalate(run_id, 0, "a", OUT_OF_MEMORY, ENGINE)
    return one


def engine_claim(
    ledger: Ledger, run_id: str, attempt_id: str, generation: int = 0, engine: str = ENGINE
) -> Claim[ShardRecord]:
    return ledger.attempts.claim(ref(run_id, 0, generation), attempt_id, LEASE_S, MAX_ATTEMPTS, engine=engine)


def waiting(ledger: Ledger, run_id: str) -> list[ShardRecord]:
    return list(ledger.shards.for_engines(run_id))


def test_an_escalated_shard_waits_with_all_its_attempts(moved: Ledger, run_id: str) -> None:
    record = moved.shards.get(run_id, 0)

    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, ENGINE, 0)
    assert (record.error_class, record.attempt_id) == ("OutOfMemoryError", "a")
    assert waiting(moved, run_id) == [record]
    assert moved.shards.glance(run_id).pending == 1


@pytest.mark.parametrize("by", ["checker", "claim"])
def test_a_function_that_is_always_lost_is_escalated(one: Ledger, run_id: str, clock: FakeClock, by: str) -> None:
    for number in range(MAX_ATTEMPTS):
        assert claim(one, run_id, f"a{number}").status is ClaimStatus.GRANTED
        clock.advance(2 * LEASE_S)

    if by == "checker":
        after = one.attempts.expire(one.shards.get(run_id, 0), MAX_ATTEMPTS, ENGINE)
    else:
        answer = one.attempts.claim(ref(run_id), "late", LEASE_S, MAX_ATTEMPTS, escalate=ENGINE)
        assert answer.status is ClaimStatus.HELD
        after = answer.record

    assert after == one.shards.get(run_id, 0)
    assert (after.state, after.engine, after.attempts) == (ShardState.PENDING, ENGINE, 0)
    assert after.error_class == LEASE_EXPIRED
    assert waiting(one, run_id) == [after]


def test_a_started_worker_is_noted_once(moved: Ledger, run_id: str, clock: FakeClock) -> None:
    [record] = waiting(moved, run_id)
    clock.advance(5.0)

    counted = moved.attempts.count_requeue(record, task_id="task-1")

    noted = replace(record, requeues=1, task_id="task-1", changed_s=clock.now_s())
    assert counted == replace(noted, started_s=0.0, worked_s=record.took_s)  # the time of its attempt is kept
    assert moved.attempts.count_requeue(record, task_id="task-2") is None
    assert engine_claim(moved, run_id, "b").record.task_id == "task-1"


@pytest.mark.parametrize("to", ["", "another"])
def test_a_redrive_keeps_the_engine_unless_it_names_one(moved: Ledger, run_id: str, to: str) -> None:
    moved.attempts.count_requeue(waiting(moved, run_id)[0], task_id="task-1")
    engine_claim(moved, run_id, "b")
    moved.attempts.fail(run_id, 0, "b", BROKEN)

    record = moved.attempts.redrive(run_id, 0, 1, to)

    assert record == moved.shards.get(run_id, 0)
    assert (record.state, record.engine) == (ShardState.PENDING, to or ENGINE)
    assert (record.attempts, record.requeues) == (0, 0)
    assert waiting(moved, run_id) == [record]
    assert moved.attempts.redrive(run_id, 0, 1, to) is None


def test_a_shard_can_be_planned_for_an_engine(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 2)
    ledger.shards.add([replace(shard(run_id, 2), engine=ENGINE)])

    [record] = waiting(ledger, run_id)
    assert (record.number, record.state, record.engine) == (2, ShardState.PENDING, ENGINE)
    assert ledger.attempts.claim(record.ref, "a", LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.HELD
    granted = ledger.attempts.claim(record.ref, "b", LEASE_S, MAX_ATTEMPTS, engine=ENGINE)
    assert granted.status is ClaimStatus.GRANTED
    assert waiting(ledger, run_id) == []
