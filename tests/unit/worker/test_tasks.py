"""A task of the asynchronous API runs once, its state is in the ledger, and a notice tells its end."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from sparklet.errors import LedgerError, SettingsError
from sparklet.events import Outcome
from sparklet.events.sqs import OWN_ID, TASK_ATTRIBUTE
from sparklet.model import ShardState, TaskRecord
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.task_requests import MAX_ATTEMPTS, RequestClaims
from tests.stand_ins.memory import MemoryLedger, MemoryNotifier, MemoryTaskQueue
from tests.stand_ins.read_queues import Received
from tests.unit.worker.conftest import BUCKET, Bench, delivered, exits, meanwhile, raises, reports

QUEUE_ARN = "arn:aws:sqs:eu-west-1:123456789012:tasks"
LEASE_OVER_S = 600 + 6


@dataclass
class Api:
    """A worker with the ledger, notifier and queue of the API's stack."""

    bench: Bench
    ledger: MemoryLedger
    notifier: MemoryNotifier
    queue: MemoryTaskQueue

    def post(self, body: Any, task_id: str = OWN_ID) -> dict[str, Any]:
        """Send a message, and return it as the record of Lambda's SQS event."""
        self.queue.send([body if isinstance(body, str) else json.dumps(body)])
        (message,) = self.queue.receive(1)
        return self.record(message, task_id)

    def record(self, message: Received, task_id: str) -> dict[str, Any]:
        attribute = {TASK_ATTRIBUTE: {"stringValue": task_id, "dataType": "String"}}
        return {**delivered(message), "eventSourceARN": QUEUE_ARN, "messageAttributes": attribute}

    def deliver(self, record: dict[str, Any]) -> Outcome:
        (outcome,) = self.bench.invoke({"Records": [record]})
        return outcome

    def state(self, task_id: str) -> TaskRecord:
        (found,) = self.ledger.tasks.get_many([task_id])
        return found


@pytest.fixture
def api(bench: Bench) -> Api:
    ledger, notifier = MemoryLedger(bench.clock), MemoryNotifier()
    queue = MemoryTaskQueue(clock=bench.clock, visibility_s=3600)
    bench.worker.requests = RequestClaims(ledger, notifier, {QUEUE_ARN: queue}.__getitem__, bench.worker.executor)
    return Api(bench, ledger, notifier, queue)


def test_a_succeeded_task_is_shown_with_its_scripts_report(api: Api) -> None:
    api.bench.runner.behaviour = reports({"rows": 7, "outputs": ["s3://out/x"], "answer": {"total": 3}})
    record = api.post({"day": "2013-01-01"})

    outcome = api.deliver(record)

    task = api.state(record["messageId"])
    assert outcome.acknowledged
    assert api.bench.runner.event() == {"day": "2013-01-01", "sparklet": {"task": record["messageId"]}}
    document = task.to_document()
    assert (document["state"], document["rows"], document["answer"]) == ("SUCCEEDED", 7, {"total": 3})
    assert document["accepted_s"] == 1_545_082_649.183


def test_a_client_may_choose_id_and_allowed_script(api: Api) -> None:
    mine = f"s3://{BUCKET}/scripts/mine.py"
    api.bench.store.put(mine, b"print(1)")

    api.deliver(api.post({"sparklet": {"script": mine, "args": ["--x"]}}, "order-7"))

    assert api.state("order-7").state is ShardState.SUCCEEDED
    assert api.bench.runner.calls[0].script.read_bytes() == b"print(1)"
    assert api.bench.runner.calls[0].args[:-1] == ("--x", "--event")


def test_a_message_delivered_twice_runs_once(api: Api) -> None:
    record = api.post({}, "t")

    outcomes = [api.deliver(record), api.deliver(record), api.deliver(api.post({"other": 1}, "t"))]

    assert all(outcome.acknowledged for outcome in outcomes)
    assert len(api.bench.runner.calls) == 1
    assert len(api.notifier.notices) == 1


def test_a_message_of_a_held_task_returns_after_the_lease(api: Api) -> None:
    inner: list[Outcome] = []
    record = api.post({}, "t")
    api.bench.runner.behaviour = meanwhile(lambda: inner.append(api.deliver(record)))
    assert api.deliver(record).acknowledged

    assert not inner[0].acknowledged
    assert len(api.bench.runner.calls) == 1
    api.bench.clock.advance(LEASE_OVER_S - 2)
    assert api.queue.receive() == []
    api.bench.clock.advance(8)
    assert len(api.queue.receive()) == 1


def test_a_transient_failure_is_retried_and_the_last_is_final(api: Api) -> None:
    api.bench.runner.behaviour = exits(1, "ValueError", "bad value")
    record = api.post({}, "t")

    for attempt in range(1, MAX_ATTEMPTS):
        assert not api.deliver(record).acknowledged
        task = api.state("t")
        assert (task.state, task.attempts) == (ShardState.PENDING, attempt)
        assert api.notifier.notices == []
        api.bench.clock.advance(10 * attempt)
        (message,) = api.queue.receive()  # long before the visibility timeout
        record = api.record(message, "t")
    assert api.deliver(record).acknowledged

    document = api.state("t").to_document()
    assert document["state"] == "FAILED"
    assert document["error"] == {"class": "ValueError", "message": "bad value (exit code 1)"}
    (notice,) = api.notifier.notices
    assert json.loads(notice.to_json()) == {"version": 1, "kind": "task", "state": "FAILED", "task": document}


def test_a_task_that_succeeds_after_a_failure_has_no_error(api: Api) -> None:
    record = api.post({}, "t")
    for script in (exits(1, "ValueError", "bad value"), reports({"rows": 1})):
        api.bench.runner.behaviour = script
        api.deliver(record)

    document = api.state("t").to_document()
    assert (document["state"], document["error"], document["attempts"]) == ("SUCCEEDED", None, 2)


def test_a_killed_workers_task_is_retried_and_finally_failed(api: Api) -> None:
    api.bench.runner.behaviour = raises(KeyboardInterrupt())  # in place of a kill
    record = api.post({}, "t")
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            api.deliver(record)
        assert not api.deliver(record).acknowledged  # the lease still runs
        api.bench.clock.advance(LEASE_OVER_S)

    assert api.deliver(record).acknowledged
    assert api.state("t").error_class == "LeaseExpired"
    assert [notice.state for notice in api.notifier.notices] == ["FAILED"]


def test_the_result_of_a_worker_that_lost_its_lease_is_dropped(api: Api) -> None:
    record = api.post({}, "t")

    def late(call: ScriptCall, output: Output) -> ScriptResult:
        api.bench.clock.advance(LEASE_OVER_S)
        api.bench.runner.behaviour = reports({"rows": 2})
        assert api.deliver(record).acknowledged
        return reports({"rows": 1})(call, output)

    api.bench.runner.behaviour = late

    assert not api.deliver(record).acknowledged
    assert api.state("t").to_document()["rows"] == 2
    assert len(api.notifier.notices) == 1


@pytest.mark.parametrize("body", ["no json", "[1]", '"text"', "[" * 100_000, "", '{"sparklet": 1}'])
def test_a_body_that_is_no_json_object_fails_the_task(api: Api, body: str) -> None:
    record = {**api.post({}, "t"), "body": body}

    assert api.deliver(record).acknowledged
    assert api.state("t").error_class == "EventError"


@pytest.mark.parametrize("task_id", ["", "a/b", "a" * 129, "a b", "é", None, 3])
def test_a_message_with_an_invalid_id_returns_unrecorded(api: Api, task_id: Any) -> None:
    outcome = api.deliver(api.post({}, task_id))

    assert not outcome.acknowledged
    assert api.ledger.store.partitions == {}
    assert api.bench.runner.calls == []


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"outputs": ["s3://b/\ud800", "s3://b/k"]}, ["s3://b/?", "s3://b/k"]),
        ({"answer": "x" * 17_000, "outputs": ["s3://o/" + "y" * 2000, "s3://o/z"]}, ["s3://o/z"]),
    ],
    ids=["invalid", "too large"],
)
def test_results_too_large_for_an_item_are_left_out(api: Api, outcome: dict[str, Any], expected: list[str]) -> None:
    api.bench.runner.behaviour = reports(outcome)

    assert api.deliver(api.post({}, "t")).acknowledged

    document = api.state("t").to_document()
    assert (document["state"], document["outputs"]) == ("SUCCEEDED", expected)
    assert "answer" not in document


def test_an_unsent_notice_is_logged_and_fails_nothing(api: Api) -> None:
    api.notifier.down = True

    assert api.deliver(api.post({}, "t")).acknowledged

    assert api.state("t").state is ShardState.SUCCEEDED
    assert "a notice was not sent" in [line["message"] for line in api.bench.log_lines()]


def test_the_message_returns_unrun_while_the_ledger_is_down(api: Api) -> None:
    api.ledger.store.write = raises(LedgerError("no answer"))  # type: ignore[method-assign]

    assert not api.deliver(api.post({}, "t")).acknowledged
    assert api.bench.runner.calls == []
    api.bench.clock.advance(10)
    assert len(api.queue.receive()) == 1


def test_a_worker_without_a_ledger_returns_the_message(api: Api) -> None:
    record = api.post({}, "t")
    api.bench.worker.requests = None

    outcome = api.deliver(record)

    assert not outcome.acknowledged
    assert isinstance(outcome.error, SettingsError)


def test_a_message_without_a_task_attribute_is_a_plain_event(api: Api) -> None:
    record = api.post({"sparklet": {"script": "s3://elsewhere/x.py"}}, "t")
    del record["messageAttributes"]

    assert api.deliver(record).error is None

    assert api.ledger.store.partitions == {}
    assert api.bench.runner.event() == {"Records": [record]}
