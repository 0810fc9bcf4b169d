"""A worker whose script gets a batch of messages: failed messages, groups, own outputs, and batches done in two."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sparklet.errors import ScriptError
from sparklet.events import answer
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.events.samples import s3, sqs
from tests.unit.worker.conftest import BUCKET, Bench, exits, reports


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.configure(batch_handling="batch")
    return bench


def batch(*ids: str, group: Callable[[str], str] = lambda _: "") -> dict[str, Any]:
    return {"Records": [sqs(each, f"body of {each}", group(each)) for each in ids]}


def returned(bench: Bench, event: dict[str, Any], remaining_s: float = 600) -> list[str]:
    return [each["itemIdentifier"] for each in answer(event, bench.invoke(event, remaining_s))["batchItemFailures"]]


def test_one_script_gets_all_messages_of_the_event(bench: Bench) -> None:
    event = batch(*map(str, range(10)))

    assert returned(bench, event) == []
    assert len(bench.runner.calls) == 1
    assert bench.runner.event() == event


def test_an_invocation_may_choose_its_batch_handling(bench: Bench) -> None:
    task = {"script": f"s3://{BUCKET}/scripts/default.py", "event": batch("a", "b", "c")}

    bench.invoke({"sparklet": {**task, "batch_handling": "message"}})
    bench.invoke({"sparklet": task})

    assert len(bench.runner.calls) == 3 + 1


def test_failed_messages_are_reported_and_their_causes_logged(bench: Bench) -> None:
    bench.runner.behaviour = reports({"failed": {"b": "no shop 7"}})
    event = batch("a", "b", "c")

    (outcome,) = bench.invoke(event)

    assert answer(event, [outcome]) == {"batchItemFailures": [{"itemIdentifier": "b"}]}
    assert isinstance(outcome.error, ScriptError)
    assert "1 of 3 messages failed; b: no shop 7" in str(outcome.error)
    (line,) = [line for line in bench.log_lines() if line["message"] == "message failed"]
    assert (line["record"], line["cause"]) == ("b", "no shop 7")


@pytest.mark.parametrize(
    "ends",
    [
        exits(1, "ValueError", "bad"),
        reports({"failed": {"a": "bad"}}, exits(1)),
        reports({"answer": {"batchItemFailures": [{"itemIdentifier": "x"}]}}),
        reports({"failed": ["a"]}),
    ],
)
def test_a_script_that_raises_or_names_unknown_ids_returns_all(bench: Bench, ends: Any) -> None:
    bench.runner.behaviour = ends

    assert returned(bench, batch("a", "b", "c")) == ["a", "b", "c"]
    assert len(bench.runner.calls) == 1


def test_all_messages_return_if_too_little_time_is_left(bench: Bench) -> None:
    assert returned(bench, batch("a", "b"), remaining_s=0.5) == ["a", "b"]
    assert not bench.runner.calls


def test_behind_a_failed_message_its_group_returns(bench: Bench) -> None:
    """This holds for later batches, too: "s" cannot be read, so the messages behind it are another batch."""
    event = batch("x1", "y1", "x2", "s", "x3", "y2", group=lambda each: each[0])
    event["Records"][3]["body"] = None

    def script(call: ScriptCall, output: Output) -> ScriptResult:
        ids = [record["messageId"] for record in bench.runner.event()["Records"]]
        return reports({"failed": {"x1": "bad"}} if "x1" in ids else {})(call, output)

    bench.runner.behaviour = script

    assert returned(bench, event) == ["x1", "x2", "s", "x3"]
    assert [record["messageId"] for record in bench.runner.event()["Records"]] == ["y2"]


def test_messages_about_own_outputs_do_not_reach_the_script(bench: Bench) -> None:
    event = batch("a", "own", "b")
    event["Records"][0]["body"] = json.dumps(s3("in/a.csv"))
    event["Records"][1]["body"] = json.dumps(s3("output/part-0.csv", bucket=BUCKET))

    assert returned(bench, event) == []
    assert [record["messageId"] for record in bench.runner.event()["Records"]] == ["a", "b"]
    assert b"is an output of this function" in bench.lines.getvalue()


@pytest.mark.parametrize(("failing", "expected"), [("", []), ("c", ["a", "c"])])
def test_a_batch_that_is_partly_committed_is_done_in_two(bench: Bench, failing: str, expected: list[str]) -> None:
    """Each of the two parts succeeds or fails for itself."""
    table, seen = {"b", "d"}, list[Any]()

    def script(call: ScriptCall, output: Output) -> ScriptResult:
        """A script whose table has some of the messages: it reports them, and fails, if it gets others as well."""
        event = bench.runner.event()
        ids = [record["messageId"] for record in event["Records"]]
        seen.append((ids, event.get("sparklet")))
        if old := [each for each in ids if each in table and set(ids) - table]:
            return reports({"committed": old}, exits(1))(call, output)
        return exits(int(failing in ids))(call, output)

    bench.runner.behaviour = script

    assert returned(bench, batch("a", "b", "c", "d")) == expected
    about_committed = {"committed": ["b", "d"]}
    assert seen == [(["a", "b", "c", "d"], None), (["b", "d"], about_committed), (["a", "c"], about_committed)]


def test_a_batch_reported_as_wholly_committed_fails_unsplit(bench: Bench) -> None:
    bench.runner.behaviour = reports({"committed": ["a", "b"]}, exits(1))

    assert returned(bench, batch("a", "b")) == ["a", "b"]
    assert len(bench.runner.calls) == 1
