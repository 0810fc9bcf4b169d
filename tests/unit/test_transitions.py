"""Transitions over the ledger's store: each write's presumed state is enough, and the write units of a shard."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import LedgerError
from sparklet.ledger import items, transitions
from sparklet.ledger.rules import LEASE_EXPIRED, not_owned
from sparklet.ledger.store import Change, New, Update, Written
from sparklet.model import HALVES, ClaimStatus, Failure, ShardRecord, ShardRef, ShardResult, ShardState, TaskRecord
from tests.stand_ins.memory import FakeClock, MemoryLedger

REF = ShardRef("run-1", 3, 0, "part", 0, 9)
FAILURE = Failure("Broken", "by the test")
CONFLICT = Failure("io.delta.exceptions.ConcurrentAppendException", "another came first")
RESULT = ShardResult(7, 8, ("s3://out/x",), memory_mb=9, schemas={"a": "b"})
Say = Callable[[MemoryLedger, ShardRecord], object]
Pure = Callable[[ShardRecord, float], ShardRecord]
SAYINGS: dict[str, tuple[Say, Pure]] = {
    "renew": (
        lambda ledger, r: ledger.attempts.renew("run-1", 3, "mine", 16.0),
        lambda r, now_s: transitions.renew(r, "mine", now_s, 16.0),
    ),
    "win": (
        lambda ledger, r: ledger.attempts.renew("run-1", 3, "mine", 16.0, RESULT),
        lambda r, now_s: transitions.renew(r, "mine", now_s, 16.0, RESULT),
    ),
    "succeed": (
        lambda ledger, r: ledger.attempts.succeed("run-1", 3, "mine", ShardResult(), inherited=True),
        lambda r, now_s: transitions.succeed(r, "mine", now_s, ShardResult(), inherited=True),
    ),
    "fail": (
        lambda ledger, r: ledger.attempts.fail("run-1", 3, "mine", FAILURE),
        lambda r, now_s: transitions.fail(r, "mine", now_s, FAILURE),
    ),
    "release": (
        lambda ledger, r: ledger.attempts.release("run-1", 3, "mine", FAILURE, r.engine),
        lambda r, now_s: transitions.release(r, "mine", now_s, FAILURE),
    ),
    "meet a conflict": (
        lambda ledger, r: ledger.attempts.release("run-1", 3, "mine", CONFLICT, r.engine),
        lambda r, now_s: transitions.release(r, "mine", now_s, CONFLICT),
    ),
    "be split": (
        lambda ledger, r: ledger.attempts.release("run-1", 3, "mine", FAILURE, r.engine, HALVES),
        lambda r, now_s: transitions.release(r, "mine", now_s, FAILURE, HALVES),
    ),
    "escalate": (
        lambda ledger, r: ledger.attempts.escalate("run-1", 3, "mine", FAILURE, "fargate"),
        lambda r, now_s: transitions.escalate(r, "mine", now_s, FAILURE, "fargate"),
    ),
}
MINE = st.builds(
    ShardRecord,
    run_id=st.just("run-1"),
    number=st.just(3),
    part=st.just("part"),
    offset=st.integers(0, 9),
    length=st.integers(1, 9),
    object_count=st.integers(1, 9),
    size_bytes=st.integers(0, 9),
    generation=st.integers(0, 3),
    state=st.just(ShardState.RUNNING),
    attempts=st.integers(1, 3),
    requeues=st.integers(0, 3),
    unrun=st.integers(0, 3),
    conflicts=st.integers(0, 3),
    attempt_id=st.just("mine"),
    winner=st.sampled_from(["", "mine"]),
    lease_end_s=st.floats(1, 9),
    changed_s=st.floats(1, 9),
    error_class=st.sampled_from(["", "Older"]),
    rows=st.none() | st.integers(0, 9),
    outputs=st.sampled_from([(), ("s3://older",)]),
    engine=st.sampled_from(["", "fargate", "emr"]),
    isolate=st.integers(0, 2),
)


class Counted(MemoryLedger):
    """Counts DynamoDB's write units: one for the table, and one or two for the index if ``open`` changes."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.units = 0
        self._write = self.store.write
        self.store.write = self._counted  # type: ignore[method-assign]

    def _counted(self, *changes: Change) -> Written:
        places = []
        for change in changes:
            before = (self.store.get(change.key) or {}).get("open")
            after = change.item.get("open") if isinstance(change, New) else before
            if isinstance(change, Update) and "open" in change.sets:
                after = change.sets["open"]
            places.append((before, after))
        written = self._write(*changes)
        self.units += len(changes)
        if written.applied:
            self.units += sum((b is not None) + (a is not None) for b, a in places if a != b)
        return written


@pytest.mark.parametrize("saying", SAYINGS)
@given(record=MINE)
def test_the_presumed_state_of_an_attempt_is_enough(saying: str, record: ShardRecord) -> None:
    """A write without a read changes any shard as the transition does, or is refused."""
    say, pure = SAYINGS[saying]
    ledger = Counted()
    ledger.put(record)
    writes: list[tuple[Change, ...]] = []
    write = ledger.store.write

    def noted(*changes: Change) -> Written:
        writes.append(changes)
        return write(*changes)

    ledger.store.write = noted  # type: ignore[method-assign]

    say(ledger, record)

    stands, expected = ledger.shards.get("run-1", 3), pure(record, ledger.clock.now_s())
    assert stands == expected
    refused = saying == "win" and record.winner  # it was presumed that nobody has won
    assert len(writes) == (2 if refused else 1)
    place = (ledger.store.get(items.shard_key("run-1", 3)) or {}).get("open")
    before, after = items.shard_item(record).get("open"), items.shard_item(expected).get("open")
    assert place == (before if saying in ("renew", "win") else after)


def test_a_refused_attempt_gets_the_owner_of_the_record() -> None:
    shard = ShardRecord("run-1", 3, "part", 0, 9, 1, 1, state=ShardState.RUNNING, attempt_id="mine")

    told = [str(not_owned(record, "other")) for record in (shard, TaskRecord("t", state=ShardState.PENDING))]

    assert told[0] == "attempt other does not own shard 3 of run run-1: it is RUNNING by attempt mine"
    assert told[1] == "attempt other does not own task t: it is PENDING by attempt (none)"


def test_a_transition_may_read_only_presumed_fields() -> None:
    record = items.presumed_shard("run-1", 3, state=ShardState.RUNNING)

    with pytest.raises(AssertionError, match="presumed"):
        transitions.succeed(record, "mine", 1.0, RESULT)
    with pytest.raises(AssertionError, match="presumed"):
        str(record.attempts + 1)


def test_the_time_of_each_attempt_is_counted_once() -> None:
    """Neither waiting nor changes of the shard's times change the seconds of its attempts."""
    record = ShardRecord("run-1", 3, "part", 0, 9, 1, 1)

    def at(step: Callable[..., ShardRecord | None], *what: object) -> None:
        nonlocal record
        found = step(record, *what)
        assert found
        record = found

    def claims(attempt_id: str, now_s: float, generation: int = 0) -> None:
        at(lambda *it: transitions.claim(*it).record, replace(REF, generation=generation), attempt_id, now_s, 16.0, 3)

    claims("a", 10.0)
    at(transitions.release, "a", 15.0, FAILURE)
    at(transitions.count_requeue, 115.0, False, "")
    claims("b", 165.0)
    at(transitions.expire, 190.0, 3, "")  # its worker was lost, and this is noticed after 25 s
    claims("c", 200.0)
    at(transitions.fail, "c", 203.0, FAILURE)
    at(transitions.redrive, 300.0, 1, "", 0)
    claims("d", 400.0, generation=1)
    at(transitions.succeed, "d", 402.0, RESULT)

    assert (record.worked_s, record.took_s) == (5 + 25 + 3, 2)


@pytest.mark.parametrize("isolate", [1, 2])
def test_a_shard_whose_workers_were_all_lost_is_split_if_asked(isolate: int) -> None:
    lost = ShardRecord("run-1", 3, "part", 0, 9, 10, 1, state=ShardState.RUNNING, attempts=3, isolate=isolate)

    expired = transitions.expire(lost, 100.0, 3, "")
    claimed = transitions.claim(lost, REF, "late", 100.0, 16.0, 3)

    assert expired == claimed.record
    assert (claimed.record.error_class, claimed.record.split) == (LEASE_EXPIRED, HALVES if isolate == 2 else "")
    assert claimed.status is (ClaimStatus.HELD if isolate == 2 else ClaimStatus.EXHAUSTED)


def test_the_write_units_of_a_shards_life() -> None:
    """The same as before transitions were pure: put 2, claim 3, renewal 1, win 1, success 2."""
    ledger = Counted()
    costs = []

    def cost(step: Callable[[], object]) -> None:
        before = ledger.units
        step()
        costs.append(ledger.units - before)
        ledger.clock.sleep(3.0)

    cost(lambda: ledger.shards.add([ShardRecord("run-1", 3, "part", 0, 9, 1, 1)]))
    cost(lambda: ledger.attempts.claim(REF, "mine", 16.0, 3))
    cost(lambda: ledger.attempts.renew("run-1", 3, "mine", 16.0))
    cost(lambda: ledger.attempts.renew("run-1", 3, "mine", 16.0, RESULT))
    cost(lambda: ledger.attempts.succeed("run-1", 3, "mine", RESULT))

    assert costs == [2, 3, 1, 1, 2]


def test_a_claim_after_a_release_costs_one_refused_write_more() -> None:
    ledger = Counted()
    ledger.shards.add([ShardRecord("run-1", 3, "part", 0, 9, 1, 1)])
    ledger.attempts.claim(REF, "a", 16.0, 3)
    ledger.attempts.release("run-1", 3, "a", FAILURE)
    before = ledger.units

    assert ledger.attempts.claim(REF, "b", 16.0, 3).status is ClaimStatus.GRANTED

    assert ledger.units - before == 3 + 1  # a claim, and the first try that was refused


def test_the_write_units_of_a_tasks_life() -> None:
    ledger, costs = Counted(), list[int]()
    ledger.tasks.claim(TaskRecord("t"), "a", 1e10, 3)
    costs.append(ledger.units)
    mine = ledger.tasks.claim(TaskRecord("u"), "a", 1e10, 3).record
    ledger.tasks.apply(mine, transitions.release, FAILURE)
    costs.append(ledger.units)
    mine = ledger.tasks.claim(TaskRecord("u"), "b", 1e10, 3).record
    costs.append(ledger.units)
    ledger.tasks.apply(mine, transitions.succeed, RESULT)
    costs.append(ledger.units)

    assert costs == [1, 3, 5, 6]


def test_a_shard_that_changes_all_the_time_is_a_retryable_error() -> None:
    ledger = MemoryLedger(FakeClock())
    ledger.shards.add([ShardRecord("run-1", 3, "part", 0, 9, 1, 1)])
    ledger.store.write = lambda *changes: Written(False, ledger.store.get(changes[0].key))  # type: ignore[method-assign]

    with pytest.raises(LedgerError, match="changed by another writer") as caught:
        ledger.attempts.claim(REF, "mine", 16.0, 3)

    assert caught.value.retryable


def test_a_revision_counts_every_change() -> None:
    ledger = MemoryLedger(FakeClock())
    ledger.shards.add([ShardRecord("run-1", 3, "part", 0, 9, 1, 1)])
    claimed = ledger.attempts.claim(REF, "mine", 16.0, 3).record
    ledger.attempts.renew("run-1", 3, "mine", 16.0)  # at the same time, so only the revision shows it
    ledger.clock.sleep(17.0)

    assert ledger.attempts.expire(claimed, 3) is None
    assert ledger.attempts.expire(replace(ledger.shards.get("run-1", 3)), 3) is not None
