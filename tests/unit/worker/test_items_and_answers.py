"""Items reach the script as they are, and what it answers is kept under the attempt that counts."""

import json
from typing import Any

from sparklet.model import InputObject, Shard, ShardRecord, ShardResult, ShardState
from sparklet.worker.shards import MAX_ANSWER_BYTES
from tests.unit.worker.conftest import BUCKET, Bench, reports

ITEMS = [{"city": "Köln"}, "a?*.csv", None, 3]
ANSWERS = f"s3://{BUCKET}/runs/run-1/answers/"


def kept(bench: Bench) -> dict[str, Any]:
    return {info.uri.removeprefix(ANSWERS): json.loads(bench.store.get(info.uri)) for info in bench.store.list(ANSWERS)}


def plan_items(bench: Bench, *values: Any) -> None:
    """One shard of these items, besides the one that the bench plans."""
    bench.plan()
    bench.queue.receive(1)
    shard = Shard(1, tuple(InputObject.of_item(value) for value in values))
    line, part = shard.to_line(), "part-00001-test.jsonl"
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/{part}", line)
    record = ShardRecord("run-1", 1, part, 0, len(line), len(values), shard.size_bytes)
    bench.ledger.shards.add([record])
    bench.queue.send([record.ref.to_body()])


def test_the_script_gets_the_items_and_no_inputs(bench: Bench) -> None:
    plan_items(bench, *ITEMS)

    outcome = bench.deliver()

    assert outcome.error is None, outcome.error
    event = bench.runner.event()
    assert event["items"] == ITEMS
    assert (event["inputs"], event["input_path"]) == ([], None)
    assert bench.runner.calls[0].env["input_path"] == ""


def test_a_shard_of_objects_has_no_items(bench: Bench) -> None:
    bench.plan()
    bench.deliver()

    assert "items" not in bench.runner.event()


def test_an_answer_is_kept_under_its_attempt(bench: Bench) -> None:
    bench.plan()
    bench.runner.behaviour = reports({"answer": {"total": 7}})

    bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert record.answer_file == f"answers/000000000-{record.attempt_id}.json"
    assert kept(bench) == {f"000000000-{record.attempt_id}.json": {"shard": 0, "answer": {"total": 7}}}


def test_null_is_an_answer_too(bench: Bench) -> None:
    bench.plan()
    bench.runner.behaviour = reports({"answer": None})

    bench.deliver()

    assert [each["answer"] for each in kept(bench).values()] == [None]


def test_a_failed_attempt_keeps_no_answer(bench: Bench) -> None:
    bench.plan()
    bench.runner.behaviour = reports({"answer": "wrong"}, code=1)
    bench.deliver()
    assert kept(bench) == {}

    bench.clock.advance(3600)
    bench.runner.behaviour = reports({"answer": "right"})
    bench.deliver()

    assert [each["answer"] for each in kept(bench).values()] == ["right"]


def test_an_answer_that_is_too_large_ends_the_shard(bench: Bench) -> None:
    bench.plan()
    bench.runner.behaviour = reports({"answer": "x" * MAX_ANSWER_BYTES})

    bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.attempts) == (ShardState.FAILED, 1)
    assert "write it to job.output" in record.error_message and kept(bench) == {}


def test_a_winner_that_is_lost_leaves_its_answer_to_the_shard(bench: Bench) -> None:
    (ref,) = bench.plan()
    winner = bench.ledger.attempts.claim(ref, "winner", 1, 3).record
    bench.store.put(f"{ANSWERS}000000000-winner.json", b'{"shard":0,"answer":1}')
    bench.store.put(f"s3://{BUCKET}/staged/run-1/000000-winner/rows.csv", b"1\n")
    assert winner.attempt_id == "winner"
    bench.ledger.attempts.renew("run-1", 0, "winner", 1, ShardResult(rows=1))
    bench.clock.advance(60)

    bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.answer_file) == (ShardState.SUCCEEDED, "answers/000000000-winner.json")
    assert not bench.runner.calls
