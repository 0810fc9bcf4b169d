"""The ledger's promises about runs that are not finalized, and what a poll of the checker costs: see decision 0079."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.model import Run, RunState, ShardResult
from sparklet.ports import Ledger
from sparklet.ports.deployment import Deployment
from sparklet.runs.handlers import handle_check
from tests.contract.conftest import ON_STACK
from tests.contract.samples import LEASE_S, MAX_ATTEMPTS, part, planned, ref, run, script, shard
from tests.contract.test_ledger_races import at_once
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue

ADAPTERS = [
    "memory",
    pytest.param("ministack", marks=ON_STACK),
    pytest.param("dynamodb-local", marks=ON_STACK),
]


@dataclass
class Place:
    """A ledger that only this test uses."""

    ledger: Ledger
    clock: FakeClock
    clients: AwsClients | None = None
    table: str = ""

    @property
    def deployment(self) -> Deployment:
        store = MemoryObjectStore(self.clock, buckets=["b"])
        return Deployment("b", store, self.ledger, MemoryTaskQueue(self.clock), self.clock)

    def unsettled(self) -> list[str]:
        return [each.run_id for each in self.ledger.runs.unfinalized()]


def in_dynamodb(clients: AwsClients, clock: FakeClock) -> Place:
    table = f"unsettled-{uuid.uuid4().hex[:12]}"
    create_table(clients.dynamodb, table)
    return Place(DynamoLedger(clients, table, clock), clock, clients, table)


@pytest.fixture(params=ADAPTERS)
def place(request: pytest.FixtureRequest, clock: FakeClock) -> Place:
    if request.param == "memory":
        return Place(MemoryLedger(clock), clock)
    return in_dynamodb(request.getfixturevalue(f"{request.param.replace('-', '_')}_clients"), clock)


def ended(ledger: Ledger, run_id: str, created_s: float = 1.0, *, settled: bool = True) -> Run:
    """Enter a run without shards that has SUCCEEDED, and finalize it if it is to be ``settled``."""
    ledger.runs.create(run(run_id, created_s))
    ledger.runs.seal_plan(run_id, 0, 0, 0)
    ledger.runs.finish(run_id, 0, RunState.SUCCEEDED)
    if settled:
        assert ledger.runs.finalize(ledger.runs.get(run_id))
    return ledger.runs.get(run_id)


def test_a_run_is_open_from_its_entry_until_it_is_finalized(place: Place) -> None:
    ledger = place.ledger
    for name, created_s in (("old", 5.5), ("new", 1_000.0), ("oldest", 0.25)):
        ledger.runs.create(run(name, created_s))
    assert list(ledger.runs.unfinalized()) == [ledger.runs.get(name) for name in ("new", "old", "oldest")]

    ledger.runs.seal_plan("old", 0, 0, 0)
    finished = ledger.runs.finish("old", 0, RunState.FAILED)
    assert place.unsettled() == ["new", "old", "oldest"]

    assert ledger.runs.finalize(finished) is True
    assert ledger.runs.finalize(finished) is True
    assert place.unsettled() == ["new", "oldest"]
    assert ledger.runs.get("old") == finished
    assert [each.run_id for each in ledger.runs.list()] == ["new", "old", "oldest"]


def test_a_run_that_has_not_ended_is_not_finalized(place: Place) -> None:
    planned(place.ledger, "open")
    opened = place.ledger.runs.get("open")

    assert place.ledger.runs.finalize(opened) is False
    assert place.ledger.runs.finalize(replace(opened, state=RunState.FAILED)) is False

    assert place.unsettled() == ["open"]


def test_a_redrive_reopens_a_run_against_a_stale_reader(place: Place) -> None:
    before = ended(place.ledger, "r")

    place.ledger.runs.start_generation("r", 1, script("repaired"))
    assert place.unsettled() == ["r"]

    assert place.ledger.runs.finalize(before) is False
    again = place.ledger.runs.finish("r", 1, RunState.SUCCEEDED)
    assert place.ledger.runs.finalize(before) is False  # that record is of the earlier generation
    assert place.ledger.runs.finalize(again) is True
    assert place.unsettled() == []


def test_a_redrive_wins_over_a_concurrent_finalization(place: Place) -> None:
    for number in range(20):
        name = f"r{number}"
        seen = ended(place.ledger, name, settled=False)
        calls: list[Callable[[], object]] = [lambda s=seen: place.ledger.runs.finalize(s)] * 4  # type: ignore[misc]
        calls.insert(2, lambda n=name: place.ledger.runs.start_generation(n, 1, script()))  # type: ignore[misc]
        at_once(calls)
        assert place.ledger.runs.get(name).generation == 1
    assert len(place.unsettled()) == 20


def test_a_deleted_run_is_in_no_list(place: Place) -> None:
    for name, settled in (("a", True), ("b", False)):
        gone = ended(place.ledger, name, settled=settled)
        place.ledger.runs.retire(name)
        place.ledger.runs.delete(name)
        place.ledger.runs.finalize(gone)

    assert place.unsettled() == []
    assert list(place.ledger.runs.list()) == []


# --- what a poll costs ---


def requests_of(place: Place, work: Callable[[], object]) -> list[tuple[str, int]]:
    """The operations of DynamoDB that ``work`` calls, each with the number of items in the response."""
    assert place.clients
    calls: list[tuple[str, int]] = []

    def note(parsed: dict[str, Any], model: Any, **_: object) -> None:
        found = sum(len(items) for items in parsed.get("Responses", {}).values())
        calls.append((model.name, found + len(parsed.get("Items", ()))))

    place.clients.dynamodb.meta.events.register("after-call.dynamodb", note)
    try:
        work()
    finally:
        place.clients.dynamodb.meta.events.unregister("after-call.dynamodb", note)
    return calls


@pytest.mark.stack
def test_a_poll_does_not_read_more_for_runs_that_have_ended(ministack_clients: AwsClients, clock: FakeClock) -> None:
    place = in_dynamodb(ministack_clients, clock)
    planned(place.ledger, "open", 3)
    polls = []
    for count in (30, 60, 90):
        for number in range(count - 30, count):
            ended(place.ledger, f"r{number}", float(number), settled=False)
        handle_check(place.deployment)
        for _ in range(2):
            handle_check(place.deployment)
        assert place.unsettled() == ["open"]
        polls.append(requests_of(place, lambda: handle_check(place.deployment)))

    assert len(polls[0]) == len(polls[1]) == len(polls[2])
    assert max(items for _, items in polls[2]) <= 25


@pytest.mark.stack
def test_a_poll_does_not_read_more_for_shards_that_are_done(ministack_clients: AwsClients, clock: FakeClock) -> None:
    place = in_dynamodb(ministack_clients, clock)
    shards, run_id = 120, "r"
    place.ledger.runs.create(replace(run(run_id), created_s=clock.now_s()))
    place.ledger.runs.add_part(run_id, part(0, 0, shards))
    place.ledger.shards.add(shard(run_id, number) for number in range(shards))
    place.ledger.runs.seal_plan(run_id, shards, shards, shards)
    polls = []
    for number in range(shards - 1):
        if number % 59 == 0:
            polls.append(requests_of(place, lambda: handle_check(place.deployment)))
        place.ledger.attempts.claim(ref(run_id, number), f"a{number}", LEASE_S, MAX_ATTEMPTS)
        place.ledger.attempts.succeed(run_id, number, f"a{number}", ShardResult(rows=1))

    assert len(polls) == 3
    assert len(polls[0]) >= len(polls[1]) >= len(polls[2]), polls
    read = [sum(items for _, items in poll) for poll in polls]
    assert read[0] >= read[1] >= read[2]
