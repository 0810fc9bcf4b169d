"""The answers of a run's winning attempts become one file, in the order of the shards."""

import json
from typing import Any

import pytest

from sparklet.model import ClaimStatus, RunState, ShardResult
from sparklet.runs import summary as module
from sparklet.runs.redrive import redrive
from sparklet.runs.summary import results
from tests.world import BROKEN, World


def store_answer(world: World, shard: int, attempt_id: str, value: Any) -> None:
    """Store an answer as a worker does before it ends the shard in the ledger."""
    uri = f"s3://sparklet/runs/run-1/answers/{shard:09d}-{attempt_id}.json"
    world.store.put(uri, json.dumps({"shard": shard, "answer": value}).encode())


def work(world: World, *fails: int) -> None:
    """Do every message: a shard of ``fails`` fails, and each other shard answers with its number."""
    while message := world.receive():
        attempt_id, claim = world.claim(message)
        number = claim.record.number
        if number in fails:
            world.ledger.attempts.fail("run-1", number, attempt_id, BROKEN)
        else:
            store_answer(world, number, attempt_id, {"n": number})
            world.ledger.attempts.succeed("run-1", number, attempt_id, ShardResult())
        world.queue.delete(message.receipt)


def stored_results(world: World) -> list[Any]:
    return [json.loads(line) for line in world.store.get("s3://sparklet/runs/run-1/results.jsonl").splitlines()]


def current_results(world: World) -> list[Any]:
    return [json.loads(line) for line in results(world.deployment, world.ledger.runs.get("run-1"))]


def expected(*shards: int) -> list[Any]:
    return [{"shard": n, "answer": {"n": n}} for n in shards]


def test_the_end_of_a_run_writes_its_answers_in_order(world: World) -> None:
    world.run(12)
    work(world)

    assert world.check().run.state is RunState.SUCCEEDED

    assert stored_results(world) == current_results(world) == expected(*range(12))
    found = world.json("manifest.json")["Results"]
    assert (found["Key"], found["Answers"]) == ("runs/run-1/results.jsonl", 12)
    assert found["Size"] == len(world.store.get("s3://sparklet/runs/run-1/results.jsonl"))


def test_a_run_without_answers_has_no_results(world: World) -> None:
    world.ran(2)

    assert "Results" not in world.json("manifest.json")
    assert not world.keys("s3://sparklet/runs/run-1/results") and current_results(world) == []


def test_answers_of_attempts_that_did_not_win_are_left_out(world: World) -> None:
    world.run(2)
    store_answer(world, 0, "zombie", "wrong")
    store_answer(world, 1, "aaa", "wrong")
    work(world)
    store_answer(world, 0, "zzz", "late")
    world.check()

    assert stored_results(world) == expected(0, 1)


def test_a_winners_answer_counts_if_another_attempt_publishes_it(world: World) -> None:
    world.run(1)
    ref = world.shards()[0].ref
    first, _ = world.claim_ref(ref)
    store_answer(world, 0, first, {"n": 0})
    world.ledger.attempts.renew("run-1", 0, first, 1, ShardResult(rows=1))
    world.clock.advance(3600)
    second, claim = world.claim_ref(ref)
    assert claim.status is ClaimStatus.GRANTED
    world.ledger.attempts.succeed("run-1", 0, second, ShardResult(rows=1))
    world.check()

    assert stored_results(world) == expected(0)


def test_a_redrive_completes_the_results(world: World) -> None:
    world.run(4)
    work(world, 1, 3)
    world.check()
    assert stored_results(world) == expected(0, 2)

    redrive(world.deployment, "run-1")
    assert current_results(world) == expected(0, 2)
    work(world)
    world.check()

    assert stored_results(world) == current_results(world) == expected(0, 1, 2, 3)


def test_an_open_run_shows_the_answers_so_far(world: World) -> None:
    world.run(2)
    attempt_id, _ = world.claim_ref(world.shards()[1].ref)
    store_answer(world, 1, attempt_id, {"n": 1})
    assert current_results(world) == []

    world.ledger.attempts.succeed("run-1", 1, attempt_id, ShardResult())

    assert current_results(world) == expected(1)


@pytest.mark.parametrize(("limit", "value"), [("MAX_RESULTS_BYTES", 40), ("MAX_COLLECTING_S", -1.0)])
def test_results_over_a_limit_stay_in_a_folder_and_the_run_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    world.run(3)
    work(world)
    monkeypatch.setattr(module, limit, value)

    assert world.check().run.state is RunState.SUCCEEDED

    assert world.json("manifest.json")["Results"] == {"Folder": "runs/run-1/answers/"}
    assert not world.keys("s3://sparklet/runs/run-1/results") and current_results(world) == expected(0, 1, 2)
