"""Compare the ledger with a simple model of it: after any calls in any order both agree, and the invariants hold.

Hypothesis invents the order: workers that claim, die, wake up as zombies and report at the wrong time, checkers with
old records, redrives in between, clocks that jump. An attempt owns a shard by its id alone: a jump of a clock can cost
an attempt, never a result. Many examples run in memory, some on each stand-in.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.errors import LeaseLostError, LedgerError
from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S
from sparklet.model import HALVES, MAX_CONFLICTS, ClaimStatus, Counts, Failure, ShardRecord, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.conftest import TABLE
from tests.contract.samples import part, planned, ref, script
from tests.stand_ins.memory import FakeClock, MemoryLedger

SHARDS = 3
MAX_ATTEMPTS = 2
LEASE_S = 50.0
NUMBERS = st.integers(0, SHARDS - 1)
FAILURE = Failure("Broken", "by the test")
CONFLICT = Failure("MetadataChangedException", "by another writer")
ENGINES = st.sampled_from(["", "fargate", "another"])  # the engine of a worker, or to which exhausted shards move

P, R, S, F = ShardState.PENDING, ShardState.RUNNING, ShardState.SUCCEEDED, ShardState.FAILED
SPLIT = ShardState.SPLIT


@dataclass
class Expected:
    """The state that a shard should have: the architecture page's state machine, written again in a simpler form."""

    state: ShardState = P
    generation: int = 0
    attempts: int = 0
    conflicts: int = 0
    requeues: int = 0
    owner: str = ""
    winner: str = ""
    redone: int = 0
    engine: str = ""
    lease_end_s: float = 0.0
    claimed_until_s: float = 0.0  # the end of the lease that the claim granted
    used: list[str] = field(default_factory=list)  # the ids of all attempts, in order
    split: str = ""
    objects: int = 2
    into: tuple[int, ...] = ()  # the shards into which it was split last


class LedgerMachine(RuleBasedStateMachine):
    """The rules are the actions of workers, checkers and operators."""

    def __init__(self, make: Callable[[FakeClock], Ledger]) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = make(self.clock)
        self.run_id = f"run-{uuid.uuid4().hex[:12]}"
        self.expected = [Expected() for _ in range(SHARDS)]
        self.generation = 0
        self.ids = 0
        self.splits = 0
        self.seen: list[ShardRecord] = []  # records that checkers hold, however old
        self.winners: dict[int, str] = {}

    @initialize()
    def plan(self) -> None:
        planned(self.ledger, self.run_id, SHARDS)

    @rule(duration_s=st.sampled_from([1.0, LEASE_S, LEASE_S + LEASE_GRACE_S, 3600.0, -1.0, -3600.0]))
    def a_clock_goes_on_or_jumps(self, duration_s: float) -> None:
        self.clock.advance(duration_s)

    @rule(number=NUMBERS)
    def a_checker_reads(self, number: int) -> None:
        self.seen.append(self.ledger.shards.get(self.run_id, number))

    # --- workers ---

    @rule(number=NUMBERS, age=st.integers(-1, 2), engine=ENGINES, escalate=ENGINES)
    def a_worker_claims(self, number: int, age: int, engine: str, escalate: str) -> None:
        want, now_s = self.expected[number], self.clock.now_s()
        generation = max(0, want.generation - age)
        self.ids += 1
        attempt_id = f"a{self.ids}"
        if generation > want.generation:
            with pytest.raises(LedgerError):
                self.ledger.attempts.claim(ref(self.run_id, number, generation), attempt_id, LEASE_S, MAX_ATTEMPTS)
            return

        before = self.ledger.shards.get(self.run_id, number)
        answer = self.ledger.attempts.claim(
            ref(self.run_id, number, generation), attempt_id, LEASE_S, MAX_ATTEMPTS, engine=engine, escalate=escalate
        )

        if generation < want.generation:
            assert answer.status is ClaimStatus.STALE
        elif want.state in (S, F, SPLIT):
            assert answer.status is ClaimStatus.DONE
        elif (
            want.split
            or (want.state is R and want.lease_end_s + LEASE_GRACE_S >= now_s)
            or want.engine not in ("", engine)
        ):
            assert answer.status is ClaimStatus.HELD
        elif want.attempts - want.conflicts >= MAX_ATTEMPTS:
            lost = want.state is R or before.error_class == LEASE_EXPIRED  # otherwise it was released with a cause
            moves = self._exhaust(want, escalate if lost else "")
            assert answer.status is (ClaimStatus.HELD if moves else ClaimStatus.EXHAUSTED)
        else:
            assert answer.status is ClaimStatus.GRANTED
            want.state, want.owner, want.lease_end_s = R, attempt_id, now_s + LEASE_S
            want.claimed_until_s = want.lease_end_s
            want.attempts += 1
            want.used.append(attempt_id)
        self._agrees(answer.record)

    @rule(number=NUMBERS)
    def a_worker_claims_again(self, number: int) -> None:
        want = self.expected[number]
        if want.state is R:
            answer = self.ledger.attempts.claim(
                ref(self.run_id, number, want.generation), want.owner, LEASE_S, MAX_ATTEMPTS, engine=want.engine
            )
            assert answer.status is ClaimStatus.GRANTED
            self._agrees(answer.record)

    @rule(number=NUMBERS, age=st.integers(0, 5), to=st.sampled_from([S, F, P]))
    def an_attempt_reports(self, number: int, age: int, to: ShardState) -> None:
        """It is any attempt that ever existed, so it is mostly a zombie."""
        want = self.expected[number]
        if not want.used:
            return
        attempt_id = want.used[-1 - age % len(want.used)]
        before = self.ledger.shards.get(self.run_id, number)
        if want.state is R and want.owner == attempt_id:
            self._report(number, attempt_id, to)
            want.state = to
            if to is S:
                self.winners[number] = attempt_id
            return
        if want.owner == attempt_id and want.state is to:
            self._report(number, attempt_id, to)
        else:
            with pytest.raises(LeaseLostError):
                self._report(number, attempt_id, to)
        assert self.ledger.shards.get(self.run_id, number) == before, "a zombie changed a shard"

    @rule(number=NUMBERS)
    def an_attempt_meets_a_conflict(self, number: int) -> None:
        want = self.expected[number]
        if want.state is R and want.conflicts < MAX_CONFLICTS:
            for _ in "once more after a lost answer", "":
                self.ledger.attempts.release(self.run_id, number, want.owner, CONFLICT, want.engine)
            want.state, want.conflicts = P, want.conflicts + 1

    @rule(number=NUMBERS)
    def an_attempt_has_too_little_memory(self, number: int) -> None:
        want = self.expected[number]
        if want.state is R and not want.engine:
            self.ledger.attempts.escalate(self.run_id, number, want.owner, FAILURE, "fargate")
            want.state, want.engine, want.attempts, want.requeues, want.conflicts = P, "fargate", 0, 0, 0
        elif want.used and want.state is not P:
            with pytest.raises(LeaseLostError):
                self.ledger.attempts.escalate(self.run_id, number, "never", FAILURE, "fargate")

    @rule(number=NUMBERS)
    def an_attempt_asks_for_a_split(self, number: int) -> None:
        want = self.expected[number]
        if want.state is R:
            self.ledger.attempts.release(self.run_id, number, want.owner, FAILURE, want.engine, HALVES)
            want.state, want.split = P, HALVES

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), late=st.booleans())
    def a_checker_splits(self, data: st.DataObject, late: bool) -> None:
        """It uses a record that it read at any time before; with ``late``, another checker has split a shard since."""
        record, run = data.draw(st.sampled_from(self.seen)), self.ledger.runs.get(self.run_id)
        want, first = self.expected[record.number], len(self.expected)
        current = self._is_current(record) and record.state is P and bool(record.split)
        if not record.split:
            return
        if late and self.splits:
            run = replace(run, shard_count=first - 1, split_count=0)
        piece = ShardRecord(self.run_id, first, f"split-{first}", 0, 9, 1, 1, generation=record.generation)
        into = [piece, replace(piece, number=first + 1)]

        done = self.ledger.attempts.split(record, run, replace(part(first, first, 2), part=piece.part), into)

        assert done is (current and not (late and self.splits))
        if done:
            self.splits += 1
            want.state, want.split, want.into = SPLIT, "", (first, first + 1)
            self.expected += [Expected(generation=record.generation, objects=1) for _ in into]

    @rule(number=NUMBERS)
    def a_checker_joins(self, number: int) -> None:
        want = self.expected[number]
        if want.state is not SPLIT:
            return
        pieces = [self.ledger.shards.get(self.run_id, each) for each in want.into]
        whole, run = self.ledger.shards.get(self.run_id, number), self.ledger.runs.get(self.run_id)

        assert self.ledger.attempts.join(whole, run, pieces, FAILURE)
        assert not self.ledger.attempts.join(whole, run, pieces, FAILURE)

        want.state = F
        for each in want.into:
            self.expected[each].state = SPLIT

    def _exhaust(self, want: Expected, escalate: str) -> bool:
        """Set what is expected of a shard with no attempt left; return whether it moves to the engine ``escalate``."""
        moves = bool(escalate) and not want.engine
        if moves:
            want.state, want.engine, want.attempts, want.requeues, want.conflicts = P, escalate, 0, 0, 0
        else:
            want.state = F
        return moves

    @rule(number=NUMBERS, age=st.integers(0, 5), wins=st.booleans())
    def an_attempt_renews(self, number: int, age: int, wins: bool) -> None:
        """It is any attempt that ever existed; if it ``wins``, its output is staged."""
        self.clock.advance(0.001)  # otherwise it could renew at the very moment of its claim
        want = self.expected[number]
        if not want.used:
            return
        attempt_id = want.used[-1 - age % len(want.used)]
        owns = want.state is R and want.owner == attempt_id and (not wins or want.winner in ("", attempt_id))
        before = self.ledger.shards.get(self.run_id, number)
        if owns:
            self.ledger.attempts.renew(self.run_id, number, attempt_id, LEASE_S, ShardResult(number) if wins else None)
            want.lease_end_s = self.clock.now_s() + LEASE_S
            want.winner = attempt_id if wins else want.winner
        else:
            with pytest.raises(LeaseLostError):
                self.ledger.attempts.renew(
                    self.run_id, number, attempt_id, LEASE_S, ShardResult(number) if wins else None
                )
            assert self.ledger.shards.get(self.run_id, number) == before

    def _report(self, number: int, attempt_id: str, to: ShardState) -> None:
        if to is S:
            self.ledger.attempts.succeed(self.run_id, number, attempt_id, ShardResult(number))
        elif to is F:
            self.ledger.attempts.fail(self.run_id, number, attempt_id, FAILURE)
        else:
            self.ledger.attempts.release(self.run_id, number, attempt_id, FAILURE, self.expected[number].engine)

    # --- checkers, dead letters, operators ---

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), escalate=ENGINES)
    def a_checker_ends_a_lease(self, data: st.DataObject, escalate: str) -> None:
        record = data.draw(st.sampled_from(self.seen))
        want = self.expected[record.number]
        over = record.state is R and self._is_current(record) and record.lease_end_s <= self.clock.now_s()

        after = self.ledger.attempts.expire(record, MAX_ATTEMPTS, escalate)

        assert (after is not None) is over
        if after is not None:
            if want.attempts - want.conflicts < MAX_ATTEMPTS:
                want.state = P
            else:
                self._exhaust(want, escalate)
            self._agrees(after)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def a_checker_sends_a_message_again(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.seen))
        current = record.state is P and not record.split and self._is_current(record)

        after = self.ledger.attempts.count_requeue(record)

        assert (after is not None) is current
        if after is not None:
            self.expected[record.number].requeues += 1
            self._agrees(after)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def a_shard_is_abandoned(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.seen))
        current = record.state is P and self._is_current(record)

        assert self.ledger.attempts.abandon(record, FAILURE) is current

        if current:
            self.expected[record.number].state, self.expected[record.number].split = F, ""

    @rule(numbers=st.sets(NUMBERS))
    def an_operator_redrives(self, numbers: set[int]) -> None:
        self.generation += 1
        self.ledger.runs.start_generation(self.run_id, self.generation, script(f"v{self.generation}"))
        for number in numbers:
            self._redrive(number, self.generation)

    @rule(number=NUMBERS)
    def an_operator_redrives_once_more(self, number: int) -> None:
        self._redrive(number, self.generation)

    def _redrive(self, number: int, generation: int) -> None:
        want = self.expected[number]
        redriven = want.state in (F, S) and want.generation < generation

        after = self.ledger.attempts.redrive(self.run_id, number, generation)

        assert (after is not None) is redriven
        if after is not None:
            if want.state is S:
                want.winner, want.redone = "", generation
                del self.winners[number]
            want.state, want.generation, want.attempts, want.requeues, want.conflicts = P, generation, 0, 0, 0
            self._agrees(after)

    def _is_current(self, record: ShardRecord) -> bool:
        """Whether a checker's record is the same as the shard's present record."""
        want = self.expected[record.number]
        if record.state is R and (record.lease_end_s, record.winner) != (want.lease_end_s, want.winner):
            return False
        if record.split != want.split:
            return False
        return (record.state, record.generation, record.attempts, record.requeues, record.attempt_id) == (
            want.state,
            want.generation,
            want.attempts,
            want.requeues,
            want.owner,
        )

    # --- invariants ---

    def _agrees(self, record: ShardRecord) -> None:
        want = self.expected[record.number]
        assert (record.state, record.generation) == (want.state, want.generation)
        counted = record.attempts, record.conflicts, record.requeues
        assert counted == (want.attempts, want.conflicts, want.requeues)
        assert (record.attempt_id, record.winner, record.engine) == (want.owner, want.winner, want.engine)
        assert (record.split, record.redone) == (want.split, want.redone)
        assert record == self.ledger.shards.get(self.run_id, record.number)

    @invariant()
    def every_shard_is_as_expected(self) -> None:
        records = list(self.ledger.shards.list(self.run_id))
        assert [record.number for record in records] == list(range(len(self.expected)))
        counted = sum(record.object_count for record in records if record.state is not SPLIT)
        assert counted == 2 * SHARDS, "an object is in no shard, or in two"
        for record in records:
            self._agrees(record)
            assert record.object_count == self.expected[record.number].objects
            assert record.attempts <= MAX_ATTEMPTS + record.conflicts
            assert record.generation <= self.generation

    @invariant()
    def the_counts_add_up(self) -> None:
        states = [want.state for want in self.expected]
        counts = self.ledger.shards.count(self.run_id)
        assert counts == Counts(states.count(P), states.count(R), states.count(S), states.count(F))
        run = self.ledger.runs.get(self.run_id)
        assert (counts.total, run.numbers) == (run.shard_count, len(self.expected))
        assert self.ledger.shards.glance(self.run_id) == counts

    @invariant()
    def success_is_final_until_a_redrive(self) -> None:
        for number, attempt_id in self.winners.items():
            record = self.ledger.shards.get(self.run_id, number)
            assert (record.state, record.attempt_id) == (S, attempt_id)

    @invariant()
    def engines_find_the_shards_that_wait_for_them(self) -> None:
        found = {record.number for record in self.ledger.shards.for_engines(self.run_id)}
        assert found == {
            n for n, want in enumerate(self.expected) if want.state is P and want.engine and not want.split
        }

    @invariant()
    def shards_that_wait_for_a_split_are_found(self) -> None:
        found = {record.number for record in self.ledger.shards.to_split(self.run_id)}
        assert found == {n for n, want in enumerate(self.expected) if want.split}

    @invariant()
    def expired_leases_are_found(self) -> None:
        now_s = self.clock.now_s()
        found = {r.number for r in self.ledger.shards.expired(self.run_id, R, now_s)}
        over = {n for n, want in enumerate(self.expected) if want.state is R and want.lease_end_s < now_s}
        # Renewed by a clock that was behind: the end of such a lease is found later.
        late = {n for n in over if self.expected[n].claimed_until_s >= now_s}
        assert over - late <= found <= over


def _check(make: Callable[[FakeClock], Ledger], examples: int, steps: int) -> None:
    class Machine(LedgerMachine):
        def __init__(self) -> None:
            super().__init__(make)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def full(examples: int) -> Any:
    return pytest.param(examples, marks=[pytest.mark.campaign, pytest.mark.timeout(600)], id="full")


@pytest.mark.parametrize("examples", [pytest.param(120, id="small"), full(300)])
def test_the_memory_ledger_keeps_to_the_model(examples: int) -> None:
    """At full size: ``make pytest ARGS='-n 0 -m campaign tests/contract/test_ledger_stateful.py'``."""
    _check(MemoryLedger, examples, steps=60)


@pytest.mark.stack
@pytest.mark.slow
@pytest.mark.parametrize("examples", [pytest.param(8, id="small"), full(15)])
@pytest.mark.parametrize("stand_in", ["ministack", pytest.param("dynamodb_local", marks=pytest.mark.nightly)])
def test_dynamodb_keeps_to_the_model(request: pytest.FixtureRequest, stand_in: str, examples: int) -> None:
    clients: AwsClients = request.getfixturevalue(f"{stand_in}_clients")
    _check(lambda clock: DynamoLedger(clients, TABLE, clock), examples, steps=30)
