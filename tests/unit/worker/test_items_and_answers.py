"""Items reach the script unchanged, and the script's answer is stored under the winning attempt's id."""

import json
from typing import Any

import pytest

from sparklet.model import InputObject, ShardResult, ShardState
from sparklet.worker.shards import MAX_ANSWER_BYTES
from tests.unit.worker.conftest import BUCKET, Bench, exits, reports

ITEMS = [{"city": "Köln"}, "a?*.csv", None, 3]
ANSWERS = f"s3://{BUCKET}/runs/run-1/answers/"


def stored_answers(bench: Bench) -> dict[str, Any]:
    return {info.uri.removeprefix(ANSWERS): json.loads(bench.store.get(info.uri)) for info in bench.store.list(ANSWERS)}


def test_the_script_gets_the_items_and_no_inputs(bench: Bench) -> None:
    outcome = bench.attempt(inputs=[list(map(InputObject.of_item, ITEMS))])

    assert outcome.error is None, outcome.error
    event = bench.runner.event()
    assert event["items"] == ITEMS
    assert (event["inputs"], event["input_path"]) == ([], None)
    assert bench.runner.calls[0].env["input_path"] == ""


@pytest.mark.parametrize("answer", [{"total": 7}, None])  # null is a valid answer
def test_an_answer_is_stored_under_its_attempts_id(bench: Bench, answer: Any) -> None:
    bench.attempt(reports({"answer": answer}))

    name = f"000000000-{bench.record.attempt_id}.json"
    assert bench.record.answer_file == f"answers/{name}"
    assert stored_answers(bench) == {name: {"shard": 0, "answer": answer}}


RULES = [{"Rule": "ColumnCount > 0", "Outcome": "Passed"}, {"Rule": 'IsComplete "city"', "Outcome": "Failed"}]
QUALITY = [{"context": "node", "rules": RULES}, {"context": "sink", "rules": RULES}]


def test_results_of_data_quality_rules_are_an_answer_and_warn(bench: Bench) -> None:
    bench.attempt(reports({"quality": QUALITY}))

    assert [each["answer"] for each in stored_answers(bench).values()] == [{"data_quality": QUALITY}]
    assert bench.record.warning == 'rules of data quality failed: IsComplete "city"'


def test_a_scripts_own_answer_comes_before_its_rules(bench: Bench) -> None:
    bench.attempt(reports({"quality": QUALITY, "answer": 7}))

    assert [each["answer"] for each in stored_answers(bench).values()] == [7]


def test_the_answer_of_a_failed_attempt_is_not_stored(bench: Bench) -> None:
    bench.attempt(reports({"answer": "wrong"}, exits(1)))
    assert stored_answers(bench) == {}

    bench.clock.advance(3600)
    bench.runner.behaviour = reports({"answer": "right"})
    bench.deliver()

    assert [each["answer"] for each in stored_answers(bench).values()] == ["right"]


def test_an_answer_that_is_too_large_fails_the_shard(bench: Bench) -> None:
    bench.attempt(reports({"answer": "x" * MAX_ANSWER_BYTES}))

    assert "write it to job.output" in bench.failure[1] and bench.record.attempts == 1
    assert stored_answers(bench) == {}


def test_the_answer_of_a_lost_winner_stays_the_shards_answer(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.ledger.attempts.claim(ref, "winner", 1, 3)
    bench.store.put(f"{ANSWERS}000000000-winner.json", b'{"shard":0,"answer":1}')
    bench.store.put(f"s3://{BUCKET}/staged/run-1/000000-winner/rows.csv", b"1\n")
    bench.ledger.attempts.renew("run-1", 0, "winner", 1, ShardResult(rows=1))
    bench.clock.advance(60)

    bench.deliver()

    assert (bench.record.state, bench.record.answer_file) == (ShardState.SUCCEEDED, "answers/000000000-winner.json")
    assert not bench.runner.calls
