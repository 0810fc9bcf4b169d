"""A machine whose clock is an hour wrong ends no lease of a living attempt, but takes over a lost one.

The stand-ins have the real time, and send it in their responses.
"""

import time
from dataclasses import replace

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.errors import LeaseLostError
from sparklet.events import TaskRequest
from sparklet.ledger.clock import ServiceClock
from sparklet.model import ClaimStatus, ShardState, TaskRecord
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.ports import Message
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import Disposition, consume, consume_task
from tests.contract.conftest import TABLE
from tests.waiting import deadline_s, eventually
from tests.world import World

pytestmark = pytest.mark.stack
MAX_ATTEMPTS = 3
LEASE_S = deadline_s()  # longer than a test takes, and much shorter than the clocks' error


def machine(clients: AwsClients, world: World, wrong_by_s: float = 0.0) -> Deployment:
    ledger = DynamoLedger(clients, TABLE, ServiceClock(lambda: time.time() + wrong_by_s))
    return replace(world.deployment, ledger=ledger, clock=ledger.clock)


@pytest.fixture(params=["ministack", "dynamodb_local"])
def clients(request: pytest.FixtureRequest) -> AwsClients:
    clients: AwsClients = request.getfixturevalue(f"{request.param}_clients")
    return clients


@pytest.fixture(params=[-3600.0, 3600.0])
def wrong_by_s(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def world(clients: AwsClients, run_id: str) -> World:
    """A world with a planned run of one shard."""
    world = World()
    world.put(1)
    plan(machine(clients, world), new_run(machine(clients, world), world.request(run_id=run_id)).run_id)
    return world


def test_a_living_attempt_is_left_alone(clients: AwsClients, world: World, run_id: str, wrong_by_s: float) -> None:
    right, wrong = machine(clients, world), machine(clients, world, wrong_by_s)
    message = Message("m", world.bodies()[0].to_body())
    ref = world.bodies()[0]
    assert right.ledger.attempts.claim(ref, "alive", LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.GRANTED

    assert check(wrong, run_id).expired == 0
    assert consume(wrong, message) is Disposition.DROPPED
    wrong.ledger.runs.get(run_id)  # the first call of every worker; its response corrects the clock
    assert wrong.ledger.attempts.claim(ref, "thief", LEASE_S, MAX_ATTEMPTS).status is ClaimStatus.HELD
    assert right.ledger.shards.get(run_id, 0).attempt_id == "alive"


def test_a_lost_attempt_is_taken_over(clients: AwsClients, world: World, run_id: str, wrong_by_s: float) -> None:
    right, wrong = machine(clients, world), machine(clients, world, wrong_by_s)
    right.ledger.attempts.claim(world.bodies()[0], "lost", 1.0, MAX_ATTEMPTS)

    eventually(lambda: check(wrong, run_id).expired == 1)

    assert wrong.ledger.shards.get(run_id, 0).state is ShardState.PENDING


def test_a_lease_from_a_wrong_clock_ends_in_time(
    clients: AwsClients, world: World, run_id: str, wrong_by_s: float
) -> None:
    right, wrong = machine(clients, world), machine(clients, world, wrong_by_s)
    before_s = time.time()
    wrong.ledger.runs.get(run_id)
    wrong.ledger.attempts.claim(world.bodies()[0], "mine", LEASE_S, MAX_ATTEMPTS)
    took_s = time.time() - before_s

    claimed_s = right.ledger.shards.get(run_id, 0).lease_end_s - LEASE_S
    # The time comes from a response, which has whole seconds.
    assert before_s - 1.1 <= claimed_s <= before_s + took_s + 1.1 + took_s
    assert check(right, run_id).expired == 0


def test_the_task_of_a_living_attempt_is_left_alone(
    clients: AwsClients, world: World, run_id: str, wrong_by_s: float
) -> None:
    right, wrong = machine(clients, world), machine(clients, world, wrong_by_s)
    right.ledger.tasks.claim(TaskRecord(run_id), "alive", time.time() + LEASE_S, MAX_ATTEMPTS)

    with pytest.raises(LeaseLostError, match="alive"):
        consume_task(wrong, TaskRequest(run_id, queue_arn=""))


def test_a_clock_within_a_second_is_left_as_it_is() -> None:
    clock = ServiceClock(lambda: 1_000.4)
    clock.correct(1_000.0, 0.02)
    assert clock.now_s() == 1_000.4

    clock.correct(1_030.0, 0.02)
    assert 1_030.0 <= clock.now_s() <= 1_031.02
