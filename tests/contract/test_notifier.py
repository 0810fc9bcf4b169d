"""What every notifier promises: a notice arrives whole; an unreachable receiver is an error that names it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import AwsNotifier, notifier_for
from sparklet.errors import NoticeError
from sparklet.ledger import transitions
from sparklet.model import Failure, Notice, Run, RunState, ScriptRef, ShardResult, TaskRecord
from sparklet.ports import Notifier
from tests.contract.conftest import ON_STACK
from tests.stand_ins.memory import MemoryNotifier
from tests.stand_ins.read_queues import ReadSqsQueue
from tests.waiting import eventually

Channel = tuple[Notifier, Callable[[int], list[Any]]]
"""A notifier, and a function that waits for so many notices and returns those that arrived."""


def notice_of(task_id: str = "t-ü", failed: bool = False) -> Notice:
    task = transitions.claim_task(TaskRecord(task_id), "a", 1.5, 60, 1, "log").record
    done = transitions.succeed(task, "a", 2.5, ShardResult(1, answer=({"k": "é"},)))
    return Notice.of_task(transitions.fail(task, "a", 2.5, Failure("E", "why")) if failed else done)


def notice_of_run(state: RunState = RunState.SUCCEEDED_WITH_FAILURES) -> Notice:
    run = Run("run-1", ("s3://b/i/",), "s3://b/o/", (ScriptRef("s3://b/s", "0", "s.py"),), state=state, ended_s=2.5)
    return Notice.of_run(run, {"id": "run-1", "name": "täglich", "causes": [{"message": "<a> & \n'b'"}]})


def notice_of_execution() -> Notice:
    return Notice.of_execution("e-ü", "RunMachine", "Plan", "PlanError", "the input is empty", "run-1", "s3://b/x")


def inbox(clients: AwsClients, name: str) -> tuple[str, ReadSqsQueue]:
    """Create a queue for notices; return its ARN, and a reader of it."""
    url = clients.sqs.create_queue(QueueName=name)["QueueUrl"]
    attributes = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    return attributes["QueueArn"], ReadSqsQueue(clients, url)


def bodies(queue: ReadSqsQueue, least: int) -> list[Any]:
    arrived: list[Any] = []

    def all_arrived() -> bool:
        for message in queue.receive(wait_s=1):
            queue.delete(message.receipt)
            arrived.append(json.loads(message.body))
        return len(arrived) >= least

    eventually(all_arrived)
    return arrived


def over_sns(clients: AwsClients, name: str) -> Channel:
    topic = clients.sns.create_topic(Name=name)["TopicArn"]
    arn, queue = inbox(clients, name)
    states = ["SUCCEEDED", "SUCCEEDED_WITH_FAILURES", "FAILED"]
    policy = {"kind": ["task", "run", "execution"], "state": states}
    attributes = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps(policy)}
    clients.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
    return AwsNotifier(clients, topic, ""), lambda least: bodies(queue, least)


def over_eventbridge(clients: AwsClients, name: str) -> Channel:
    clients.events.create_event_bus(Name=name)
    arn, queue = inbox(clients, name)
    pattern = {
        "source": ["sparklet"],
        "detail-type": ["Sparklet Task Ended", "Sparklet Run Ended", "Sparklet Execution Ended"],
        "detail": {"state": ["SUCCEEDED", "SUCCEEDED_WITH_FAILURES", "FAILED"]},
    }
    clients.events.put_rule(Name=name, EventBusName=name, EventPattern=json.dumps(pattern))
    clients.events.put_targets(Rule=name, EventBusName=name, Targets=[{"Id": "inbox", "Arn": arn}])
    return AwsNotifier(clients, "", name), lambda least: [event["detail"] for event in bodies(queue, least)]


@pytest.fixture(params=["memory", pytest.param("sns", marks=ON_STACK), pytest.param("eventbridge", marks=ON_STACK)])
def channel(request: pytest.FixtureRequest, run_id: str) -> Channel:
    if request.param == "memory":
        notifier = MemoryNotifier()
        return notifier, lambda least: [json.loads(notice.to_json()) for notice in notifier.notices]
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    return (over_sns if request.param == "sns" else over_eventbridge)(clients, run_id)


def test_a_notice_arrives_whole(channel: Channel) -> None:
    notifier, received = channel
    notices = [notice_of(), notice_of("t-2", failed=True), notice_of_run(), notice_of_execution()]

    for notice in notices:
        notifier.notify(notice)

    expected: list[Any] = [{"version": 1, "kind": n.kind, "state": n.state, n.kind: dict(n.document)} for n in notices]
    assert sorted(received(len(notices)), key=str) == sorted(expected, key=str)


@pytest.mark.stack
def test_a_topic_that_is_not_there_is_an_error_that_names_it(ministack_clients: AwsClients) -> None:
    with pytest.raises(NoticeError, match="nowhere"):
        AwsNotifier(ministack_clients, "arn:aws:sns:us-east-1:000000000000:nowhere", "").notify(notice_of())


@pytest.mark.stack
def test_a_failing_notifier_does_not_stop_the_others(ministack_clients: AwsClients, run_id: str) -> None:
    _, received = over_eventbridge(ministack_clients, run_id)
    both = notifier_for(ministack_clients, "arn:aws:sns:us-east-1:000000000000:nowhere", run_id)
    assert both is not None

    with pytest.raises(NoticeError, match="nowhere"):
        both.notify(notice_of())

    assert len(received(1)) == 1


def test_without_a_notifier_nothing_is_sent() -> None:
    assert notifier_for(AwsClients(), "", "") is None
    assert notifier_for(AwsClients(), "", "bus") is not None
