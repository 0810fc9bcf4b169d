"""``verify`` compares a run's ledger, manifest and output; a scheduled check measures a deployment."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from sparklet.errors import LedgerError, RemoteTaskError
from sparklet.local.deploy import load_template
from sparklet.model import Failure, ShardResult
from sparklet.ports import Message
from sparklet.ports.metrics import Emitter, Meter
from sparklet.runs.dead_letters import keep
from sparklet.runs.handlers import handle_check
from sparklet.runs.manifest import verify
from tests.stand_ins.memory import MemoryEngine
from tests.unit.test_metrics import METRICS, check_emf
from tests.world import BROKEN, BUCKET, PASSING, World

# --- ledger and results ---


def test_verify_finds_a_manifest_with_other_counts(world: World) -> None:
    assert world.ran(4, lambda n: BROKEN if n == 2 else ShardResult()).run.state.ended
    assert list(verify(world.deployment, "run-1")) == []
    uri = f"s3://{BUCKET}/runs/run-1/manifest.json"
    document = json.loads(world.store.get(uri))
    document["run"]["counts"] |= {"succeeded": 4, "failed": 0}
    world.store.put(uri, json.dumps(document).encode())

    (found,) = verify(world.deployment, "run-1")
    assert (found.kind, found.subject) == ("MANIFEST", "run-1")
    assert '"succeeded": 4, "failed": 0}}, the ledger' in found.found

    world.store.put(uri, b"[]")
    assert [each.kind for each in verify(world.deployment, "run-1")] == ["MANIFEST"]
    world.store.delete(uri)
    assert "no manifest" in next(verify(world.deployment, "run-1")).found


def test_verify_finds_shards_with_rows_whose_output_is_missing(world: World) -> None:
    def results(number: int) -> ShardResult:
        elsewhere = ("s3://data/elsewhere/7/",) if number == 3 else ()
        return ShardResult(rows=0 if number == 1 else 5, outputs=elsewhere)

    run = world.ran(5, results).run
    world.store.put(f"{run.shard_output(0)}/year=2026/part-0.parquet", b"x")
    world.store.put(f"{run.shard_output(2)}/_SUCCESS", b"")
    world.store.put("s3://data/out/shard=000004/part-0.parquet", b"of another run")
    world.store.put("s3://data/elsewhere/7/part-0.parquet", b"x")

    (found,) = verify(world.deployment, "run-1")

    assert (found.kind, found.count) == ("NO_OUTPUT", 2)
    assert "(shards 2, 4)" in found.found

    for number in (2, 4):
        world.store.put(f"{run.shard_output(number)}/part-0.parquet", b"x")
    assert list(verify(world.deployment, "run-1")) == []


def test_verify_finds_planned_shards_missing_in_the_ledger(world: World) -> None:
    world.run(3)
    world.ledger.put(replace(world.ledger.runs.get("run-1"), shard_count=5))

    (found,) = verify(world.deployment, "run-1")

    assert (found.kind, found.count) == ("COUNTS", 2)


# --- the checker's metrics ---


def measured(world: World) -> dict[str, Any]:
    """Do a scheduled check. Return the metrics that it writes."""
    lines: list[str] = []
    meter = Meter("Sparklet/test", Emitter.CHECKER, lines.append)
    handle_check(replace(world.deployment, meter=meter))
    meter.emit()
    (line,) = lines
    return {name: value for name, value in check_emf(line).items() if name in METRICS}


def test_the_checker_measures_open_work_and_its_own_actions(world: World) -> None:
    world.run(4, max_attempts=1)
    world.take()
    world.clock.advance(40)

    metrics = measured(world)
    assert (metrics["RunsOpen"], metrics["ShardsPending"], metrics["ShardsRunning"]) == (1, 3, 1)
    assert (metrics["OldestOpenShardSeconds"], metrics["DeadLettersStored"]) == (40, 0)

    world.clock.advance(100)
    metrics = measured(world)
    assert (metrics["LeasesLapsed"], metrics["ShardsFailed"], metrics["RunsFailed"]) == (1, 1, 0)
    world.work()
    keep(world.deployment, Message("id-9", "?"), "nobody can read it")
    metrics = measured(world)
    assert (metrics["RunsOpen"], metrics["RunsFailed"], metrics["RunsSucceeded"]) == (0, 1, 0)
    assert metrics["DeadLettersStored"] == 1
    assert "RunsFailed" not in measured(world)  # the failed run was counted before


@pytest.mark.parametrize(
    "fail",
    [
        lambda world, attempt_id: world.ledger.attempts.fail("run-1", 0, attempt_id, BROKEN),
        lambda world, _: world.clock.advance(1000),  # the lease expires
        lambda world, attempt_id: world.ledger.attempts.release("run-1", 0, attempt_id, PASSING, "fargate"),
    ],
)
def test_a_failure_in_an_engine_is_counted_once(fail: Callable[[World, str], object]) -> None:
    """An engine's worker writes no metrics: the check counts the shard, whoever made it FAILED."""
    engine = MemoryEngine()
    engine.trouble = RemoteTaskError("the subnet does not exist")
    world = World(engines={"fargate": engine})
    world.run(2, engine="fargate", max_attempts=1)
    (failing, _), (succeeding, _) = (world.claim_ref(record.ref, "fargate") for record in world.shards())
    world.ledger.attempts.succeed("run-1", 1, succeeding, ShardResult())

    fail(world, failing)

    metrics = [measured(world) for _ in range(3)]
    assert sum(each.get("ShardsFailed", 0) for each in metrics) == 1
    assert world.ledger.runs.get("run-1").state.ended


def test_a_shard_without_room_for_days_raises_an_alarm() -> None:
    """The alarm is raised although another shard waits only for a moment."""
    template = load_template()
    engine = MemoryEngine()
    engine.trouble = RemoteTaskError("Capacity is unavailable", "throttled")
    world = World(engines={"fargate": engine})
    world.run(2)
    attempt_id, _ = world.claim_ref(world.shards()[1].ref)
    world.ledger.attempts.escalate("run-1", 1, attempt_id, Failure("OutOfMemoryError", ""), "fargate")
    alarm = template["Resources"]["ShardsWaitAlarm"]["Properties"]
    limit_s = template["Parameters"][alarm["Threshold"]["Ref"]]["Default"]

    world.clock.advance(limit_s + 60)
    world.ledger.attempts.count_requeue(world.shards()[0])

    assert measured(world)[alarm["MetricName"]] > limit_s
    assert (alarm["Statistic"], alarm["ComparisonOperator"]) == ("Maximum", "GreaterThanThreshold")


def test_a_run_ends_although_the_ledger_cannot_finalize_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(1)
    world.work()
    handle_check(world.deployment)
    monkeypatch.setattr(world.ledger.runs, "finalize", Mock(side_effect=LedgerError("the ledger does not answer")))

    assert measured(world)["RunsOpen"] == 0

    assert world.ledger.runs.get("run-1").state.ended
    assert "the ledger does not answer" in capsys.readouterr().out


def test_cancelled_shards_are_not_counted_as_failed(world: World) -> None:
    world.run(3)
    world.ledger.runs.cancel("run-1")

    metrics = measured(world)

    assert (metrics["ShardsAbandoned"], metrics["ShardsFailed"], metrics["RunsFailed"]) == (3, 0, 0)
