"""The ledger's promises when eight threads, or processes, write the same thing at the same time."""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from multiprocessing import get_context
from typing import TypeVar

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.errors import CheckpointConflictError, LeaseLostError
from sparklet.model import ClaimStatus, Failure, RunState, ShardResult, ShardState
from sparklet.ports import Ledger
from tests.contract.conftest import TABLE
from tests.contract.samples import LEASE_S, MAX_ATTEMPTS, part, planned, ref, run
from tests.stand_ins.memory import FakeClock

T = TypeVar("T")

THREADS = 8
ROUNDS = 40
SHARDS = 200  # that processes contend for
FLAKY = Failure("GatewayLostError", "the JVM went away")


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Make all calls at the same moment; return each call's result, or the error that it raised."""
    start = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T | Exception:
        start.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the error is the result
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


def do_granted_shards(endpoint_url: str, run_id: str, process: int) -> list[int]:
    """Claim all shards, in the process's own order, and do the granted ones; return their numbers."""
    ledger, granted = DynamoLedger(AwsClients(endpoint_url=endpoint_url), TABLE), []
    for number in random.Random(process).sample(range(SHARDS), SHARDS):
        attempt_id = f"{process}-{number}"
        if ledger.attempts.claim(ref(run_id, number), attempt_id, LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.GRANTED:
            granted.append(number)
            ledger.attempts.succeed(run_id, number, attempt_id, ShardResult(1))
    return granted


@pytest.mark.nightly  # 1,600 claims
@pytest.mark.stack
@pytest.mark.parametrize("stand_in", ["ministack", "dynamodb_local"])
def test_eight_processes_do_each_shard_once(request: pytest.FixtureRequest, stand_in: str, run_id: str) -> None:
    clients: AwsClients = request.getfixturevalue(f"{stand_in}_clients")
    ledger, spawn = DynamoLedger(clients, TABLE), get_context("spawn")
    planned(ledger, run_id, SHARDS)
    ready = spawn.Barrier(THREADS)  # without it, the first process might do all shards before the last one starts
    with ProcessPoolExecutor(THREADS, spawn, ready.wait) as pool:
        granted = pool.map(partial(do_granted_shards, clients.dynamodb.meta.endpoint_url, run_id), range(THREADS))
        assert sorted(chain.from_iterable(granted)) == list(range(SHARDS))
    ends = {(record.state, record.attempts, record.rows) for record in ledger.shards.list(run_id)}
    assert ends == {(ShardState.SUCCEEDED, 1, 1)}


def test_one_of_eight_planners_seals_a_part(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    for index in range(ROUNDS):
        parts = [replace(part(index, index, 1), part=f"of-planner-{i}.jsonl") for i in range(THREADS)]
        answers = at_once([lambda p=p: ledger.runs.add_part(run_id, p) for p in parts])  # type: ignore[misc]
        assert answers.count(None) == 1
        assert sum(isinstance(answer, CheckpointConflictError) for answer in answers) == THREADS - 1
    winners = list(ledger.runs.parts(run_id))
    assert [p.index for p in winners] == list(range(ROUNDS))


def test_a_plan_is_not_sealed_while_a_part_is_added(ledger: Ledger, run_id: str) -> None:
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


def test_a_lease_expires_or_its_owner_succeeds_but_not_both(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id, ROUNDS)
    held = [ledger.attempts.claim(ref(run_id, n), f"a{n}", LEASE_S, MAX_ATTEMPTS).record for n in range(ROUNDS)]
    clock.advance(LEASE_S + 1)
    for number, record in enumerate(held):
        expires: list[Callable[[], object]] = [lambda r=record: ledger.attempts.expire(r, MAX_ATTEMPTS)] * (THREADS - 1)  # type: ignore[misc]
        *expired, succeeded = at_once(
            [*expires, lambda n=number: ledger.attempts.succeed(run_id, n, f"a{n}", ShardResult(1))]  # type: ignore[misc]
        )
        after = ledger.shards.get(run_id, number)
        changes = [answer for answer in expired if answer is not None]
        if succeeded is None:
            assert (after.state, after.attempt_id, changes) == (ShardState.SUCCEEDED, f"a{number}", [])
        else:
            assert isinstance(succeeded, LeaseLostError)
            assert (after.state, changes) == (ShardState.PENDING, [after])


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
