"""The deployed template's behaviour in the stand-in: mappings, dead letters, environment, ends of workers, access."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import psutil
import pytest

from sparklet.local.stack import LocalStack
from tests.functional.local.conftest import Lab, make_lab, port_of
from tests.waiting import eventually, has_ended

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with make_lab(tmp_path_factory.mktemp("services")) as lab:
        yield lab


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[LocalStack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAREALONE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-real-secret")
        patch.setenv("AWS_PROFILE", "no-such-profile")
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://192.0.2.1:1")
        patch.setenv("HTTP_PROXY", "http://192.0.2.1:1")
        patch.setenv("http_proxy", "http://192.0.2.1:1")
        with lab.attach(workers=2, timeout_s=3) as stack:
            yield stack


def send(stack: LocalStack, name: str, do: str) -> None:
    stack.clients.sqs.send_message(QueueUrl=stack.info.queue_url, MessageBody=json.dumps({"name": name, "do": do}))


def is_empty(stack: LocalStack, queue_url: str) -> bool:
    found = stack.clients.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    return found["ApproximateNumberOfMessages"] == found["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_a_failing_message_reaches_the_dead_letter_consumer(lab: Lab, stack: LocalStack) -> None:
    sqs = stack.clients.sqs
    sqs.set_queue_attributes(QueueUrl=stack.info.queue_url, Attributes={"VisibilityTimeout": "0"})
    try:
        send(stack, "hopeless", "fail")
        lab.show("dead", "hopeless")
    finally:
        sqs.set_queue_attributes(QueueUrl=stack.info.queue_url, Attributes={"VisibilityTimeout": "18"})

    receives = lab.shown / "receives of hopeless"
    eventually(lambda: {path.name for path in receives.glob("[!.]*")} == {"1", "2", "3", "4", "5"})  # maxReceiveCount
    eventually(lambda: is_empty(stack, stack.info.dlq_url))


def test_workers_and_clients_get_no_aws_setting_of_the_user(lab: Lab, stack: LocalStack) -> None:
    send(stack, "environment", "environment")

    environment = json.loads(lab.show("environment", "environment"))

    for env in (environment, os.environ):
        foreign = [name for name in env if name == "AWS_PROFILE" or name.lower().endswith("_proxy")]
        assert not foreign
        assert "AWS_ENDPOINT_URL_S3" not in env
        assert env["AWS_ENDPOINT_URL"] == stack.info.endpoint_url
        assert "REAL" not in env["AWS_ACCESS_KEY_ID"]
        assert "real" not in env["AWS_SECRET_ACCESS_KEY"]
        assert Path(env["AWS_SHARED_CREDENTIALS_FILE"]).read_bytes() == b""
        assert Path(env["AWS_CONFIG_FILE"]).read_bytes() == b""
    eventually(lambda: is_empty(stack, stack.info.queue_url))  # the worker has succeeded


@pytest.mark.parametrize("end", ["beyond its time", "killed"])
def test_a_worker_ends_with_its_whole_process_tree(lab: Lab, stack: LocalStack, end: str) -> None:
    send(stack, end, "hang")  # the stand-in ends the worker after 3 s
    pids = json.loads(lab.show("pids", end))

    if end == "killed":
        os.kill(pids[0], 9)

    eventually(lambda: all(map(has_ended, pids)))
    assert end == "killed" or lab.show("stopped", end) == "WorkerStoppedError"
    stack.clients.sqs.purge_queue(QueueUrl=stack.info.queue_url)


def test_the_stand_in_listens_on_loopback_only(lab: Lab, stack: LocalStack) -> None:
    found = [each for pid in lab.processes() for each in psutil.Process(pid).net_connections("tcp")]

    listening = {(each.laddr.ip, each.laddr.port) for each in found if each.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port_of(stack.info))}


def test_a_request_without_the_token_is_refused(stack: LocalStack) -> None:
    stranger = boto3.Session().client(
        "s3", aws_access_key_id="000000000000", aws_secret_access_key="x", aws_session_token="guess"
    )

    with pytest.raises(stranger.exceptions.ClientError, match="403"):
        stranger.list_buckets()
