"""Engine workers: the checker starts, restarts and stops them; nothing else touches their shards."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sparklet.errors import PlanError, RemoteTaskError, SettingsError
from sparklet.model import ClaimStatus, Failure, RunOptions, RunState, ShardRecord, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.routes import NO_WORKER
from sparklet.ports import Message
from sparklet.ports.deployment import A_WHILE_S
from sparklet.runs import handlers
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import Disposition, consume
from sparklet.runs.dispatch import CAPPED, CLAIMS_WITHIN_S, WORKER
from sparklet.runs.redrive import Again, redrive
from tests.stand_ins.memory import MemoryEngine
from tests.world import LEASE_S, World

ENGINE = "fargate"
TOO_MUCH = Failure("OutOfMemoryError", "the JVM ran out of memory")
PULL_FAILED = Failure("TaskFailedToStart", "CannotPullContainerError: no such image")


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def world(engine: MemoryEngine) -> World:
    return World(engines={ENGINE: engine})


def escalated(world: World, *engines: str) -> None:
    """A run with one shard for each named engine (by default one for ENGINE): each was too large for a function."""
    engines = engines or (ENGINE,)
    world.run(len(engines))
    for record, name in zip(world.shards(), engines, strict=True):
        world.ledger.attempts.escalate("run-1", record.number, claim_shard(world, record.number, ""), TOO_MUCH, name)
    world.queue.entries.clear()


def claim_shard(world: World, number: int = 0, engine: str = ENGINE) -> str:
    """Claim a shard for a worker of the engine. Return the attempt's id."""
    attempt_id, claim = world.claim_ref(world.shards()[number].ref, engine)
    assert claim.status is ClaimStatus.GRANTED
    return attempt_id


def test_an_engine_worker_is_started_once_and_ends_the_run(world: World, engine: MemoryEngine) -> None:
    escalated(world)

    assert world.check().started == 1
    assert world.check().started == 0

    [command] = engine.commands.values()
    assert command == ("shard", "--run", "run-1", "--shard", "0", "--generation", "0")
    world.ledger.attempts.succeed("run-1", 0, claim_shard(world), ShardResult(rows=1))
    assert world.check().run.state is RunState.SUCCEEDED
    [entry] = world.json("SUCCEEDED_0.json")
    assert entry["Engine"] == world.shards()[0].engine == ENGINE


def test_a_dead_letter_does_not_change_an_engines_shard(world: World) -> None:
    escalated(world)
    [record] = world.shards()

    assert consume(world.deployment, Message("m", record.ref.to_body())) is Disposition.DROPPED
    assert world.shards() == [record]


def test_a_crash_before_the_start_is_recorded_starts_one_worker(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    [before] = world.shards()
    world.check()
    world.ledger.put(before)  # the ledger's state before the start was recorded

    world.check()

    assert len(engine.commands) == 1


@pytest.mark.parametrize("trouble", ["throttled", "killed"])  # no room; or the response is lost, and the worker may run
def test_a_start_refused_for_lack_of_room_is_tried_again(world: World, engine: MemoryEngine, trouble: str) -> None:
    escalated(world)
    engine.trouble = RemoteTaskError("Capacity is unavailable", trouble)
    for _ in range(20):
        assert "Capacity" in world.check().trouble
    engine.trouble = None

    assert world.check().started == 1


def test_a_shard_whose_worker_cannot_start_fails_with_the_cause(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    engine.trouble = RemoteTaskError("the subnet does not exist")

    world.check()

    [record] = world.shards()
    assert (record.state, record.error_class) == (ShardState.FAILED, NO_WORKER)
    assert "the subnet does not exist" in record.error_message


def test_a_shard_fails_after_three_workers_that_never_claimed_it(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    for number in range(1, 4):
        assert world.check().started == 1
        assert len(engine.commands) == number
        engine.ended = dict.fromkeys(engine.commands, PULL_FAILED)
        if number < 3:
            assert world.check().started == 0
            world.clock.advance(WORKER.again_after_s * 2 ** (number - 1))

    world.check()

    [record] = world.shards()
    assert record.state is ShardState.FAILED
    assert "CannotPullContainerError" in record.error_message


def test_a_worker_that_never_claims_is_replaced(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    world.check()
    world.clock.advance(CLAIMS_WITHIN_S)

    assert world.check().started == 1
    assert len(engine.ended) == 1


def test_a_lost_engine_worker_is_replaced_for_three_attempts(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    for number in range(1, 4):
        world.check()
        assert len(engine.commands) == number
        claim_shard(world)
        world.clock.advance(2 * LEASE_S)

    world.check()

    [record] = world.shards()
    assert (record.state, record.error_class) == (ShardState.FAILED, "LeaseExpired")
    assert len(engine.commands) == 3


def test_a_shard_whose_functions_are_all_lost_goes_to_an_engine(world: World, engine: MemoryEngine) -> None:
    world.run(1, too_large="engine")
    for _ in range(3):
        world.claim_ref(world.shards()[0].ref)
        world.clock.advance(2 * LEASE_S)
        report = world.check()

    assert (report.counts.failed, len(engine.commands)) == (0, 1)
    claim_shard(world)
    assert world.shards()[0].engine == ENGINE


def test_cancelling_stops_workers(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    world.check()
    attempt_id = claim_shard(world)
    cancel(world.deployment, "run-1")

    world.check()

    assert list(engine.ended) == list(engine.commands)
    world.ledger.attempts.release("run-1", 0, attempt_id, TOO_MUCH, ENGINE)  # what SIGTERM does
    world.check()
    assert world.check().run.state is RunState.CANCELLED


def test_a_redrive_may_send_any_shard_to_an_engine(world: World, engine: MemoryEngine) -> None:
    world.ran(1, lambda _: Failure("TooLargeError", "9 GB", retryable=False))
    with pytest.raises(PlanError, match="emr"):
        redrive(world.deployment, "run-1", how=Again("emr"))

    redrive(world.deployment, "run-1", how=Again(ENGINE))

    assert world.check().started == 1


def test_a_run_is_refused_if_its_engine_lacks_a_library(world: World, engine: MemoryEngine) -> None:
    engine.lacks = "delta"
    world.put(1)
    to_delta = world.request(options=RunOptions(too_large="engine"), table="delta:s3://lake/flights")

    with pytest.raises(PlanError, match="it has no delta"):
        new_run(world.deployment, to_delta)

    assert world.deployment.known_run("run-1") is None
    assert new_run(world.deployment, replace(to_delta, table="")).options.engine == ENGINE


def test_only_a_deployment_with_the_right_to_starts_workers(
    world: World, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of state machines know the engines, for which they plan next runs, but have no right to start workers."""
    escalated(world)
    monkeypatch.setattr(handlers, "this_deployment", lambda: world.deployment)

    check(replace(world.deployment, starts_workers=False), "run-1")
    handlers.step_handler({"step": "check", "run_id": "run-1"}, None)

    assert engine.commands == {}
    assert world.check().started == 1


def test_a_worker_that_waits_for_room_is_not_replaced(world: World, engine: MemoryEngine) -> None:
    escalated(world)
    world.check()
    [task_id] = engine.commands
    engine.waits_until_s[task_id] = math.inf

    world.clock.advance(20 * CLAIMS_WITHIN_S)
    assert world.check().started == 0
    engine.waits_until_s[task_id] = world.clock.now_s() - CLAIMS_WITHIN_S + 1
    assert world.check().started == 0
    assert engine.ended == {}

    world.clock.advance(2)
    world.check()
    assert list(engine.ended) == [task_id]


def test_a_capped_run_sends_no_message_for_an_engines_shard(world: World, engine: MemoryEngine) -> None:
    engine.trouble = RemoteTaskError("no room", "throttled")
    world.run(2, too_large="engine", max_concurrency=1)
    world.check()
    world.ledger.attempts.escalate("run-1", 0, claim_shard(world, engine=""), TOO_MUCH, ENGINE)
    world.queue.entries.clear()

    world.check()
    world.clock.sleep(CAPPED.again_after_s)
    world.check()

    assert len(world.queue) == 0  # the engine's shard takes the run's only place
    engine.trouble = None
    world.check()
    world.ledger.attempts.succeed("run-1", 0, claim_shard(world), ShardResult())
    world.check()
    assert world.work_and_check().run.state is RunState.SUCCEEDED


@pytest.mark.parametrize("error", [SettingsError("no AWS client can be made"), KeyError("jobRunId")])
def test_an_error_of_one_engine_does_not_affect_the_others(
    world: World, engine: MemoryEngine, error: Exception
) -> None:
    broken = MemoryEngine()
    broken.trouble = error
    world.engines = {"glue": broken, **world.engines}
    escalated(world, "glue", ENGINE, "emr")  # the stack has no engine named emr

    report = world.check()

    assert report.started == len(engine.commands) == 1
    assert {record.state for record in world.shards()} == {ShardState.PENDING}
    assert "glue: " in report.trouble
    assert "emr: " in report.trouble


def test_a_slow_ledger_leaves_shards_to_the_next_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    escalated(world, *[ENGINE] * 10)
    listed = world.ledger.shards.for_engines

    def slowly(run_id: str) -> Iterator[ShardRecord]:
        for record in listed(run_id):
            world.clock.advance(A_WHILE_S / 4)
            yield record

    monkeypatch.setattr(world.ledger.shards, "for_engines", slowly)

    assert 0 < world.check().started < 10


def test_an_engine_with_a_limit_gets_that_many_workers_at_once() -> None:
    """Started and running workers count towards the limit; a worker that ended makes room."""
    world = World(engines={ENGINE: MemoryEngine(at_once=2)})
    escalated(world, *[ENGINE] * 4)

    assert [world.check().started for _ in range(3)] == [2, 0, 0]
    first, second = (record for record in world.shards() if record.unclaimed)
    attempt_id, _ = claim_shard(world, first.number), claim_shard(world, second.number)
    assert world.check().started == 0
    world.ledger.attempts.succeed("run-1", first.number, attempt_id, ShardResult(rows=1))
    assert world.check().started == 1


def test_a_shard_lost_in_lambda_large_goes_to_fargate() -> None:
    """All workers of lambda-large were killed: the checker moves the shard to Fargate, where it begins anew."""
    world = World(engines={"lambda-large": MemoryEngine(), ENGINE: MemoryEngine()})
    run = world.run(1, too_large="engine")
    world.ledger.attempts.escalate("run-1", 0, claim_shard(world, engine=""), TOO_MUCH, "lambda-large")

    for _ in range(run.options.max_attempts):
        world.check()
        claim_shard(world, engine="lambda-large")
        world.clock.advance(3600)
    world.check()

    [record] = world.shards()
    assert (record.state, record.engine, record.attempts) == (ShardState.PENDING, ENGINE, 0)
