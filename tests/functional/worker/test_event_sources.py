"""The real handler with real events: S3 notifications through SQS, HTTP requests, and windows of a stream."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.worker.ledgered import BUCKET, Function, deployed
from tests.unit.events.samples import http_request, kinesis, sqs, window
from tests.waiting import eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

KEY = "in/a b+c%.csv"
SCRIPT = b"""
import json
from sparklet.job import EventError, Job

job = Job.from_args()
records = job.event.get("Records", [])
print("inputs", json.dumps(job.inputs), "bodies", [record.get("body") for record in records])
if "window" in job.event:
    job.keep_state({"seen": job.state.get("seen", 0) + len(records)})
if "requestContext" in job.event:
    body = json.loads(job.event["body"])
    if "n" not in body:
        raise EventError("hunter2: there is no n")
    job.answer({"tenth": 10 / body["n"]})
"""


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """A function whose script starts no Spark."""
    folder, scratch = tmp_path_factory.mktemp("function"), tmp_path_factory.mktemp("scratch")
    with deployed(folder, scratch, SCRIPT_LOCATION=f"s3://{BUCKET}/scripts/event.py") as function:
        function.store.put(f"s3://{BUCKET}/scripts/event.py", SCRIPT)
        yield function


def answer(function: Function, event: Any) -> Any:
    response = function.invoke(event)
    assert "answer" in response, response
    return response["answer"]


def notified_queue(function: Function) -> str:
    """Create a queue that S3 notifies of new objects in the function's bucket; return the queue's URL."""
    url: str = function.clients.sqs.create_queue(QueueName="notices")["QueueUrl"]
    attributes = function.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    target: Any = {"QueueArn": attributes["Attributes"]["QueueArn"], "Events": ["s3:ObjectCreated:*"]}
    function.clients.s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": [target]}
    )
    return url


def test_an_s3_event_in_a_queue_gives_the_object_to_the_script(function: Function) -> None:
    store, own = function.store, f"s3://{BUCKET}"
    url = notified_queue(function)
    store.put(f"{own}/{KEY}", b"1,2\n")
    store.put(f"{own}/output/part-0.csv", b"1,2\n")

    bodies: list[str] = []

    def all_received() -> bool:
        messages = function.clients.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in messages.get("Messages", []):
            bodies.append(message["Body"])
            function.clients.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return len(bodies) == 3

    eventually(all_received, "S3 has told of the queue itself and of both objects")
    bodies.sort(key=len)
    response = answer(function, {"Records": [sqs(str(n), body) for n, body in enumerate(bodies)]})

    assert response == {"batchItemFailures": []}
    log = function.new_log().decode()
    inputs = [json.loads(line.split(" bodies ")[0][7:]) for line in log.splitlines() if line.startswith("inputs [")]
    assert inputs == [[f"{own}/{KEY}"]]  # the script ran neither for S3's test message nor for the function's output
    assert store.get(inputs[0][0]) == b"1,2\n"
    assert "s3:TestEvent" in log
    assert f"is an output of this function: {own}/output/part-0.csv" in log


def test_a_request_returns_the_scripts_response_or_a_status(function: Function) -> None:
    done = answer(function, http_request('{"n": 4}'))
    refused = answer(function, http_request("{}"))
    failed = answer(function, http_request('{"n": 0}'))
    broken = answer(function, http_request("{"))

    assert (done["statusCode"], json.loads(done["body"])) == (200, {"tenth": 2.5})
    assert [response["statusCode"] for response in (refused, failed, broken)] == [400, 500, 400]
    assert "hunter2" not in refused["body"]
    assert "ZeroDivisionError" not in failed["body"]
    assert b"ZeroDivisionError" in function.new_log()


def test_the_state_of_a_window_goes_from_call_to_call(function: Function) -> None:
    first = answer(function, window(kinesis("1"), kinesis("2"), state={}))
    second = answer(function, window(kinesis("3"), state=first["state"]))
    last = answer(function, window(state=second["state"], final=True))

    assert [response["state"] for response in (first, second, last)] == [{"seen": 2}, {"seen": 3}, {"seen": 3}]
    assert all(response["batchItemFailures"] == [] for response in (first, second, last))
