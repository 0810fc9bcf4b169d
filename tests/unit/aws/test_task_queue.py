"""The SQS adapter in cases that no stand-in shows: refused entries, batches, errors."""

from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import MAX_BATCH_BYTES, MAX_ENTRIES, SEND_TRIES, SqsTaskQueue, batches, queue_opener
from sparklet.errors import QueueError
from tests.stand_ins.memory import FakeClock

URL = "https://sqs.us-east-1.amazonaws.com/123456789012/q"


def entry(place: int, body: str) -> dict[str, Any]:
    return {"Id": str(place), "MessageBody": body, "DelaySeconds": 0}


def sent(*places: int) -> list[dict[str, str]]:
    return [{"Id": str(p), "MessageId": "m", "MD5OfMessageBody": "0"} for p in places]


def refused(place: int, *, sender_fault: bool) -> dict[str, Any]:
    return {"Id": str(place), "Code": "Busy", "Message": "not now", "SenderFault": sender_fault}


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(threads=1)


def test_only_refused_entries_are_sent_again(clients: AwsClients) -> None:
    clock = FakeClock(0.0)
    with Stubber(clients.sqs) as sqs:
        sqs.add_response(
            "send_message_batch",
            {"Successful": sent(0, 2), "Failed": [refused(1, sender_fault=False)]},
            {"QueueUrl": URL, "Entries": [entry(0, "a"), entry(1, "b"), entry(2, "c")]},
        )
        sqs.add_response(
            "send_message_batch",
            {"Successful": sent(1), "Failed": []},
            {"QueueUrl": URL, "Entries": [entry(1, "b")]},
        )

        assert SqsTaskQueue(clients, URL, clock).send(["a", "b", "c"]) == 3
    assert clock.now_s() > 0, "it waits before it sends again"


def test_an_entry_that_is_wrong_is_not_sent_again(clients: AwsClients) -> None:
    with Stubber(clients.sqs) as sqs:
        sqs.add_response(
            "send_message_batch", {"Successful": sent(0), "Failed": [refused(1, sender_fault=True)]}, ANY_REQUEST
        )

        with pytest.raises(QueueError, match="did not take 1 messages in 1 tries: Busy: not now"):
            SqsTaskQueue(clients, URL, FakeClock()).send(["a", "b"])


def test_a_queue_that_never_takes_an_entry_is_an_error(clients: AwsClients) -> None:
    with Stubber(clients.sqs) as sqs:
        for _ in range(SEND_TRIES):
            sqs.add_response(
                "send_message_batch", {"Successful": [], "Failed": [refused(0, sender_fault=False)]}, ANY_REQUEST
            )

        with pytest.raises(QueueError, match=f"in {SEND_TRIES} tries"):
            SqsTaskQueue(clients, URL, FakeClock()).send(["a"])


ANY_REQUEST = {"QueueUrl": URL, "Entries": ANY}


@pytest.mark.parametrize("code", ["AWS.SimpleQueueService.MessageNotInflight", "InvalidParameterValue"])
def test_an_expired_receipt_is_no_error(clients: AwsClients, code: str) -> None:
    with Stubber(clients.sqs) as sqs:
        sqs.add_client_error("change_message_visibility", code)

        SqsTaskQueue(clients, URL).set_visibility("r", 30)

        sqs.assert_no_pending_responses()


@pytest.mark.parametrize("code", ["AWS.SimpleQueueService.NonExistentQueue", "AccessDenied"])
def test_a_queue_that_cannot_be_used_is_named(clients: AwsClients, code: str) -> None:
    queue = SqsTaskQueue(clients, URL)
    with Stubber(clients.sqs) as sqs:
        for method in ("send_message_batch", "change_message_visibility"):
            sqs.add_client_error(method, code)

        for call in (
            lambda: queue.send(["x"]),
            lambda: queue.set_visibility("r", 1),
        ):
            with pytest.raises(QueueError, match=URL):
                call()


@given(st.lists(st.integers(1, MAX_BATCH_BYTES + 10) | st.integers(1, 300), max_size=60))
def test_batches_hold_every_body_in_order_and_fit(sizes: list[int]) -> None:
    bodies = ["x" * size for size in sizes]

    made = list(batches(bodies))

    assert [body for batch in made for body in batch] == bodies
    for batch in made:
        assert 1 <= len(batch) <= MAX_ENTRIES
        assert len(batch) == 1 or sum(map(len, batch)) <= MAX_BATCH_BYTES


def test_a_queue_is_opened_by_its_arn(clients: AwsClients) -> None:
    with Stubber(clients.sqs) as sqs:
        asked = {"QueueName": "q", "QueueOwnerAWSAccountId": "123456789012"}
        sqs.add_response("get_queue_url", {"QueueUrl": URL}, asked)
        sqs.add_response("send_message_batch", {"Successful": sent(0), "Failed": []}, {"QueueUrl": URL, "Entries": ANY})

        assert queue_opener(clients)("arn:aws:sqs:us-east-1:123456789012:q").send(["a"]) == 1
