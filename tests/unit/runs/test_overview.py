"""Queue, ledger and results compared: what lasts is told, what is a moment's lag is not."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import QueueError, RemoteTaskError
from sparklet.local.local_template import load_template
from sparklet.metrics import Emitter, Meter
from sparklet.model import Counts, Failure, ShardResult
from sparklet.ports import Message, QueueDepth
from sparklet.runs.dead_letters import keep
from sparklet.runs.handlers import handle_check
from sparklet.runs.overview import (
    Difference,
    Kind,
    Watch,
    missing_messages,
    queue_differences,
    recent_manifest_differences,
    stored_dead_letters,
    verify,
)
from tests.stand_ins.memory import MemoryEngine
from tests.unit.test_metrics import METRICS, check_emf
from tests.world import BUCKET, LEASE_S, World


def glance(world: World) -> list[Difference]:
    run = world.ledger.runs.get("run-1")
    if run.state.ended:
        return list(recent_manifest_differences(world.at, run))
    return list(queue_differences(world.at, [(run, world.ledger.shards.glance("run-1"))]))


def kinds(found: list[Difference]) -> list[Kind]:
    return [each.kind for each in found]


# --- queue and ledger ---


def test_nothing_differs_while_a_run_goes_well(world: World) -> None:
    world.run(30)
    message = world.receive()
    assert message
    world.claim(message)
    assert glance(world) == []

    world.queue.delete(message.receipt)
    world.work()
    assert glance(world) == []


def test_pending_shards_without_messages_are_found_and_counted(world: World) -> None:
    world.run(30)
    first = world.receive()
    assert first
    world.claim(first)
    while len(world.queue) > 10:
        gone = world.receive()
        assert gone
        world.queue.delete(gone.receipt)

    (found,) = glance(world)

    assert (found.kind, found.subject, found.count) == (Kind.NO_MESSAGE, "queue", 29 - 9)
    assert "20 of 29 PENDING shards have no message" in found.found


def test_a_message_in_the_dead_letter_queue_is_not_missing(world: World) -> None:
    world.run(30)
    world.dead_letters.send(entry.body for entry in world.queue._entries.values())
    world.queue._entries.clear()

    assert kinds(list(queue_differences(world.at, glanced(world)))) == [Kind.NO_MESSAGE]
    assert list(queue_differences(replace(world.at, dead_letters=world.dead_letters), glanced(world))) == []


def glanced(world: World) -> list[tuple[Any, Counts]]:
    return [(world.ledger.runs.get("run-1"), world.ledger.shards.glance("run-1"))]


@pytest.mark.parametrize(
    ("pending", "running", "depth", "letters", "missing"),
    [
        (100, 0, QueueDepth(100, 0, 0), 0, 0),
        (100, 0, QueueDepth(40, 30, 30), 0, 0),
        (100, 20, QueueDepth(100, 20, 0), 0, 0),
        (100, 20, QueueDepth(80, 40, 0), 0, 0),  # twenty in flight belong to PENDING shards: they back off
        (100, 20, QueueDepth(80, 20, 0), 0, 20),
        (100, 20, QueueDepth(80, 20, 0), 20, 0),
        (100, 20, QueueDepth(99, 20, 0), 0, 0),  # within what approximate numbers may be wrong by
        (100, 20, QueueDepth(900, 0, 0), 0, 0),  # sent twice: harmless
        (1, 0, QueueDepth(0, 0, 0), 0, 1),
        (0, 5, QueueDepth(0, 0, 0), 0, 0),  # a killed worker's message is the checker's to replace
    ],
)
def test_messages_are_missing_only_beyond_doubt(
    pending: int, running: int, depth: QueueDepth, letters: int, missing: int
) -> None:
    assert missing_messages(pending, running, depth, letters) == missing


def test_messages_that_no_worker_takes_are_found(world: World) -> None:
    """A mapping that somebody has disabled: all is well by the ledger, and nothing happens."""
    world.run(3)
    assert kinds(glance(world)) == [Kind.NOT_TAKEN]
    world.receive()
    assert glance(world) == []


def test_runs_of_a_map_and_cancelled_ones_are_owed_no_messages(world: World) -> None:
    from sparklet.model import Dispatch

    run = world.run(30)
    world.queue._entries.clear()
    counts = world.ledger.shards.glance("run-1")

    assert kinds(list(queue_differences(world.at, [(run, counts)]))) == [Kind.NO_MESSAGE]
    assert list(queue_differences(world.at, [(replace(run, dispatch=Dispatch.MAP), counts)])) == []
    assert list(queue_differences(world.at, [(replace(run, cancelled_s=1.0), counts)])) == []


# --- what lasts ---


def test_only_lasting_differences_are_reported() -> None:
    watch = Watch()
    here, there = Difference(Kind.NO_MESSAGE, "queue", "3"), Difference(Kind.MANIFEST, "run-1", "x")

    assert watch.look([here]) == ()
    assert watch.look([here, there]) == ()
    newer = replace(here, found="now 5", count=5)
    assert watch.look([newer]) == (newer,)
    assert watch.look([there]) == ()
    assert watch.look([here]) == ()


# --- ledger and results ---


def ended(world: World, do: Callable[[int], ShardResult | Failure] = lambda _: ShardResult(rows=1)) -> None:
    world.run(4)
    world.work(do)
    assert world.check().run.state.ended


def test_a_manifest_equal_to_the_ledger_is_no_difference(world: World) -> None:
    ended(world, lambda n: Failure("X", "y", retryable=False) if n == 2 else ShardResult(rows=1))
    assert glance(world) == []


def test_a_manifest_with_other_counts_is_found_for_a_while(world: World) -> None:
    ended(world)
    uri = f"s3://{BUCKET}/runs/run-1/manifest.json"
    document = json.loads(world.store.get(uri))
    document["ItemCounts"] |= {"Succeeded": 3, "Failed": 1}
    world.store.put(uri, json.dumps(document).encode())

    (found,) = glance(world)
    assert (found.kind, found.subject) == (Kind.MANIFEST, "run-1")
    assert "(3 succeeded, 1 failed, 0 open), the ledger SUCCEEDED (4 succeeded, 0 failed, 0 open)" in found.found

    world.store.put(uri, b"[]")
    assert kinds(glance(world)) == [Kind.MANIFEST]
    world.store.delete(uri)
    assert "no manifest" in glance(world)[0].found
    world.clock.advance(3601)
    assert glance(world) == []
    assert Kind.MANIFEST in kinds(list(verify(world.at, "run-1")))


def test_missing_output_of_shards_with_rows_is_found_on_demand(world: World) -> None:
    def results(number: int) -> ShardResult:
        elsewhere = ("s3://data/elsewhere/7/",) if number == 3 else ()
        return ShardResult(rows=0 if number == 1 else 5, outputs=elsewhere)

    run = world.run(5)
    world.work(results)
    world.check()
    world.store.put(f"{run.shard_output(0)}/year=2026/part-0.parquet", b"x")
    world.store.put(f"{run.shard_output(2)}/_SUCCESS", b"")
    world.store.put("s3://data/out/shard=000004/part-0.parquet", b"of another run")
    world.store.put("s3://data/elsewhere/7/part-0.parquet", b"x")

    (found,) = verify(world.at, "run-1")

    assert (found.kind, found.count) == (Kind.NO_OUTPUT, 2)
    assert "(shards 2, 4)" in found.found

    for number in (2, 4):
        world.store.put(f"{run.shard_output(number)}/part-0.parquet", b"x")
    assert list(verify(world.at, "run-1")) == []


def test_a_ledger_that_does_not_hold_what_was_planned_is_found(world: World) -> None:
    world.run(3)
    world.ledger.runs._runs["run-1"] = replace(world.ledger.runs.get("run-1"), shard_count=5)

    (found,) = verify(world.at, "run-1")

    assert (found.kind, found.count) == (Kind.COUNTS, 2)


# --- what the checker says ---


def measured(world: World, watch: Watch) -> dict[str, Any]:
    """The metrics of a scheduled check."""
    lines: list[str] = []
    meter = Meter("Sparklet/test", Emitter.CHECKER, lines.append)
    handle_check(replace(world.at, dead_letters=world.dead_letters, meter=meter), watch)
    meter.emit()
    (line,) = lines
    return {name: value for name, value in check_emf(line).items() if name in METRICS}


def test_the_checker_measures_open_work_and_its_own_actions(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    world.run(4, max_attempts=1)
    first = world.receive()
    assert first
    world.claim(first)
    world.clock.advance(40)

    told = measured(world, watch)
    assert (told["RunsOpen"], told["ShardsPending"], told["ShardsRunning"]) == (1, 3, 1)
    assert (told["OldestOpenShardSeconds"], told["Differences"], told["DeadLettersStored"]) == (40, 0, 0)

    world.clock.advance(100)
    told = measured(world, watch)
    assert (told["LeasesLapsed"], told["ShardsFailed"], told["RunsFailed"]) == (1, 1, 0)
    world.work()
    keep(world.at, Message("id-9", "?"), "nobody can read it")
    told = measured(world, watch)
    assert (told["RunsOpen"], told["RunsFailed"], told["RunsSucceeded"]) == (0, 1, 0)
    assert told["DeadLettersStored"] == stored_dead_letters(world.at) == 1
    assert "RunsFailed" not in measured(world, watch)  # it was counted once
    assert "differ" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "fail",
    [
        lambda world: world.ledger.attempts.fail("run-1", 0, "there", Failure("ValueError", "", retryable=False)),
        lambda world: world.clock.advance(1000),  # its lease is over
        lambda world: world.ledger.attempts.release("run-1", 0, "there", Failure("GatewayLostError", ""), "fargate"),
    ],
)
def test_a_failure_in_an_engine_is_counted_once(fail: Callable[[World], object]) -> None:
    """Its worker writes no metrics: the check does, whoever made the shard FAILED."""
    engine, watch = MemoryEngine(), Watch()
    engine.trouble = RemoteTaskError("the subnet does not exist")
    world = World(engines={"fargate": engine})
    world.run(2, engine="fargate", max_attempts=1)
    first, second = world.shards()
    for record, attempt_id in ((first, "there"), (second, "also")):
        world.ledger.attempts.claim(record.ref, attempt_id, LEASE_S, 1, engine="fargate")
    world.ledger.attempts.succeed("run-1", 1, "also", ShardResult())

    fail(world)

    told = [measured(world, watch) for _ in range(3)]
    assert sum(each.get("ShardsFailed", 0) for each in told) == 1
    assert world.ledger.runs.get("run-1").state.ended


def test_no_room_for_days_raises_an_alarm() -> None:
    """Also while other shards wait for a moment only."""
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

    assert measured(world, Watch())[alarm["MetricName"]] > limit_s
    assert (alarm["Statistic"], alarm["ComparisonOperator"]) == ("Maximum", "GreaterThanThreshold")


def test_a_difference_that_lasts_is_measured_and_logged(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    world.run(3)

    told = [measured(world, watch)["Differences"] for _ in range(3)]

    assert told == [0, 0, 1]
    (line,) = [json.loads(each) for each in capsys.readouterr().out.splitlines() if "differ" in each]
    assert (line["level"], line["subject"], line["kind"], line["count"]) == ("WARNING", "queue", "NOT_TAKEN", 3)


def test_a_check_does_not_depend_on_the_comparison(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down() -> QueueDepth:
        raise QueueError("the queue does not answer")

    world.run(1)
    world.work()
    monkeypatch.setattr(world.queue, "depth", down)

    told = measured(world, Watch())

    assert world.ledger.runs.get("run-1").state.ended
    assert "Differences" not in told and told["RunsSucceeded"] == 1
    assert "the queue does not answer" in capsys.readouterr().out


def test_cancelled_shards_are_not_counted_as_failed(world: World) -> None:
    world.run(3)
    world.ledger.runs.cancel("run-1")

    told = measured(world, Watch())

    assert (told["ShardsAbandoned"], told["ShardsFailed"], told["RunsFailed"]) == (3, 0, 0)
