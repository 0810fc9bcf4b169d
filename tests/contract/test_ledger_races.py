"""The ledger's promises when eight threads mean the same thing at the same time."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest

from sparklet.errors import CheckpointConflictError, LeaseLostError, RunExistsError
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import Claim, ClaimStatus, Failure, RunState, ShardRecord, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.samples import LEASE_S, MAX_ATTEMPTS, part, planned, ref, run, script, shard
from tests.stand_ins.memory import FakeClock

T = TypeVar("T")

THREADS = 8
ROUNDS = 40
FLAKY = Failure("GatewayLostError", "the JVM went away")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Call all at the same moment; each one's answer, or the error that it raised."""
    start = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T | Exception:
        start.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the error is what is asked for
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_one_of_eight_claims_is_granted(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, ROUNDS)
    for number in range(ROUNDS):
        answers = at_once(
            [
                lambda n=number, i=i: ledger.attempts.claim(ref(run_id, n), f"{n}-{i}", LEASE_S, MAX_ATTEMPTS)  # type: ignore[misc]
                for i in range(THREADS)
            ]
        )
        statuses = [answer.status for answer in answers]  # type: ignore[union-attr]
        assert sorted(statuses) == [ClaimStatus.GRANTED] + [ClaimStatus.HELD] * (THREADS - 1)
        record = ledger.shards.get(run_id, number)
        assert record.attempt_id == f"{number}-{statuses.index(ClaimStatus.GRANTED)}"
        assert record.attempts == 1


def test_one_of_eight_takes_a_expired_lease_over(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id, 1)

    def claim_as(attempt_id: str) -> Claim:
        return ledger.attempts.claim(ref(run_id), attempt_id, LEASE_S, ROUNDS + 1)

    claim_as("0")
    for number in range(1, ROUNDS):
        clock.advance(LEASE_S + LEASE_GRACE_S + 1)
        answers = at_once([partial(claim_as, f"{number}-{i}") for i in range(THREADS)])
        statuses = [answer.status for answer in answers]  # type: ignore[union-attr]
        assert statuses.count(ClaimStatus.GRANTED) == 1
        assert ledger.shards.get(run_id, 0).attempts == number + 1


def test_exhaustion_is_recorded_once_and_returned_to_all(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 10)
    for number in range(10):
        ledger.attempts.claim(ref(run_id, number), "a", LEASE_S, 1)
        ledger.attempts.release(run_id, number, "a", FLAKY)
        answers = at_once(
            [lambda n=number, i=i: ledger.attempts.claim(ref(run_id, n), f"b{i}", LEASE_S, 1) for i in range(THREADS)]  # type: ignore[misc]
        )
        statuses = {answer.status for answer in answers}  # type: ignore[union-attr]
        assert ClaimStatus.EXHAUSTED in statuses
        assert statuses <= {ClaimStatus.EXHAUSTED, ClaimStatus.DONE}
        assert ledger.shards.get(run_id, number).state is ShardState.FAILED


def test_one_of_eight_planners_seals_a_part(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    for index in range(ROUNDS):
        parts = [replace(part(index, index, 1), part=f"of-planner-{i}.jsonl") for i in range(THREADS)]
        answers = at_once([lambda p=p: ledger.runs.add_part(run_id, p) for p in parts])  # type: ignore[misc]
        assert answers.count(None) == 1
        assert sum(isinstance(answer, CheckpointConflictError) for answer in answers) == THREADS - 1
    winners = list(ledger.runs.parts(run_id))
    assert [p.index for p in winners] == list(range(ROUNDS))


def test_a_plan_is_not_sealed_without_a_part_that_was_sealed(ledger: Ledger, run_id: str) -> None:
    """GIVEN one planner that seals the plan while another seals one more part, THEN one of them must stop."""
    for number in range(ROUNDS):
        name = f"{run_id}-{number}"
        ledger.runs.create(run(name))
        ledger.runs.add_part(name, part(0, 0, 3))
        answers = at_once(
            [
                lambda n=name: ledger.runs.seal_plan(n, 3, 6, 30),  # type: ignore[misc]
                lambda n=name: ledger.runs.add_part(n, part(1, 3, 2)),  # type: ignore[misc]
            ]
        )
        assert sorted(str(type(answer).__name__) for answer in answers) == ["CheckpointConflictError", "NoneType"]
        sealed = ledger.runs.get(name)
        assert sealed.shard_count in (None, 3)
        assert sum(p.shard_count for p in ledger.runs.parts(name)) == (3 if sealed.sealed else 5)


def test_one_of_eight_creates_a_run(ledger: Ledger, run_id: str) -> None:
    for number in range(10):
        name = f"{run_id}-{number}"
        answers = at_once(
            [lambda n=name, i=i: ledger.runs.create(replace(run(n), output_uri=f"s3://o/{i}")) for i in range(THREADS)]  # type: ignore[misc]
        )
        assert answers.count(None) == 1
        assert sum(isinstance(answer, RunExistsError) for answer in answers) == THREADS - 1
        assert ledger.runs.get(name).output_uri == f"s3://o/{answers.index(None)}"
        assert [r.run_id for r in ledger.runs.list()].count(name) == 1


def test_one_of_eight_starts_a_generation(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    for generation in range(1, 10):
        answers = at_once(
            [
                lambda g=generation, i=i: ledger.runs.start_generation(run_id, g, script(f"{g}-{i}"))  # type: ignore[misc]
                for i in range(THREADS)
            ]
        )
        assert sum(not isinstance(answer, Exception) for answer in answers) == 1
    assert ledger.runs.get(run_id).generation == 9


def test_a_lease_expires_or_its_owner_succeeds_but_not_both(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id, ROUNDS)
    held = [ledger.attempts.claim(ref(run_id, n), f"a{n}", LEASE_S, MAX_ATTEMPTS).record for n in range(ROUNDS)]
    clock.advance(LEASE_S + 1)
    for number, record in enumerate(held):
        expires: list[Callable[[], object]] = [lambda r=record: ledger.attempts.expire(r, MAX_ATTEMPTS)] * (THREADS - 1)  # type: ignore[misc]
        *expired, said = at_once(
            [*expires, lambda n=number: ledger.attempts.succeed(run_id, n, f"a{n}", ShardResult(1))]  # type: ignore[misc]
        )
        after = ledger.shards.get(run_id, number)
        told = [answer for answer in expired if answer is not None]
        if said is None:
            assert (after.state, after.attempt_id, told) == (ShardState.SUCCEEDED, f"a{number}", [])
        else:
            assert isinstance(said, LeaseLostError)
            assert (after.state, told) == (ShardState.PENDING, [after])


def test_a_message_sent_again_is_counted_by_one(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    for number in range(10):
        seen = ledger.shards.get(run_id, 0)
        answers = at_once([lambda s=seen: ledger.attempts.count_requeue(s)] * THREADS)  # type: ignore[misc]
        assert sum(isinstance(answer, ShardRecord) for answer in answers) == 1
        assert ledger.shards.get(run_id, 0).requeues == number + 1


def test_a_shard_is_redriven_once_and_claimed_once(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 20)
    for number in range(20):
        ledger.attempts.claim(ref(run_id, number), "a", LEASE_S, MAX_ATTEMPTS)
        ledger.attempts.fail(run_id, number, "a", FLAKY)
        redrives: list[Callable[[], object]] = [lambda n=number: ledger.attempts.redrive(run_id, n, 1)] * 4  # type: ignore[misc]
        claims: list[Callable[[], object]] = [
            lambda n=number, i=i: ledger.attempts.claim(ref(run_id, n, 0), f"old{i}", LEASE_S, MAX_ATTEMPTS)  # type: ignore[misc]
            for i in range(4)
        ]
        answers = at_once([*redrives, *claims])
        assert sum(isinstance(answer, ShardRecord) for answer in answers[:4]) == 1
        # An old message finds the shard ended, or in a later generation: it never gets it.
        assert {answer.status for answer in answers[4:]} <= {ClaimStatus.DONE, ClaimStatus.STALE}  # type: ignore[attr-defined]
        record = ledger.shards.get(run_id, number)
        assert (record.state, record.generation, record.attempts) == (ShardState.PENDING, 1, 0)


def test_shards_entered_by_eight_planners_are_entered_once(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 100))

    answers = at_once([lambda: ledger.shards.add(shard(run_id, n) for n in range(100))] * THREADS)

    assert sum(answer for answer in answers if isinstance(answer, int)) == 100
    assert [r.number for r in ledger.shards.list(run_id)] == list(range(100))


@pytest.mark.parametrize("tries", [25])
def test_the_sum_over_states_is_constant_while_shards_move(ledger: Ledger, run_id: str, tries: int) -> None:
    """GIVEN workers that move shards all the time, THEN each count adds up, and none that ended comes back."""
    planned(ledger, run_id, 60)
    over = threading.Event()

    def work(worker: int) -> None:
        for number in range(worker, 60, 4):
            if over.is_set():
                return
            ledger.attempts.claim(ref(run_id, number), f"a{number}", LEASE_S, MAX_ATTEMPTS)
            ledger.attempts.release(run_id, number, f"a{number}", FLAKY)
            ledger.attempts.claim(ref(run_id, number), f"b{number}", LEASE_S, MAX_ATTEMPTS)
            ledger.attempts.succeed(run_id, number, f"b{number}", ShardResult(1))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, worker) for worker in range(4)]
        counts = [ledger.shards.count(run_id) for _ in range(tries)]
        over.set()
        for worker in workers:
            worker.result()

    assert {count.total for count in counts} == {60}
    assert [c.succeeded for c in counts] == sorted(c.succeeded for c in counts)
    assert ledger.runs.finish(run_id, 0, RunState.FAILED).state is RunState.FAILED
