"""The local stack's life: clients share it, no process of it is left afterwards, and its state is kept."""

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import boto3
import pytest

from sparklet.errors import LocalStackError
from sparklet.local.emulator import EVERY_S
from sparklet.local.stack import LocalStack, running, stop
from sparklet.settings import with_worker_settings
from tests.functional.local.conftest import Lab, port_of, server_of
from tests.waiting import deadline_s, eventually, has_ended

pytestmark = pytest.mark.stack
ITEM: Any = {"pk": {"S": "pk"}, "sk": {"S": "sk"}}


def test_two_clients_at_once_share_one_stack(lab: Lab) -> None:
    one, two = (lab.await_client(process) for process in [lab.spawn(), lab.spawn()])

    assert one.info["endpoint_url"] == two.info["endpoint_url"]
    assert one.info["host_pid"] == two.info["host_pid"]
    one.leave()
    send(two.info["queue_url"], {"name": "of two", "do": "well"}, two.info["env"])
    lab.show("done", "of two")  # until then the host has checked which clients are left
    assert running(lab.root) is not None
    two.leave()
    lab.gone(port_of(two.info))


@pytest.mark.parametrize("whose", ["client", "host", "host and stand-in"])
def test_no_process_is_left_after_a_kill_during_a_shard(lab: Lab, whose: str) -> None:
    client = lab.client()
    pids, host = start_hanging(lab, client.info), client.info["host_pid"]
    killed = {"client": [client.process.pid], "host": [host], "host and stand-in": [host, server_of(host)]}

    for pid in killed[whose]:
        os.kill(pid, signal.SIGKILL)

    eventually(lambda: all(map(has_ended, pids)))  # if both are killed, the worker's own watch ends them
    lab.gone(port_of(client.info))
    if whose == "host":
        with lab.attach() as stack:
            assert stack.info.host_pid != host
            stack.check()


def test_a_killed_stand_in_leaves_no_process_and_clients_fail(lab: Lab) -> None:
    with lab.attach() as stack:
        stack.check()
        pids = start_hanging(lab, {**stack.info.env, "queue_url": stack.info.queue_url})

        os.kill(server_of(stack.info.host_pid), signal.SIGKILL)

        with pytest.raises(LocalStackError, match=r"killed by signal 9.*aws\.log.*next `sparklet run`"):
            stack.check(within_s=deadline_s())
        lab.gone(port_of(stack.info))
        assert all(map(has_ended, pids))


def test_stop_ends_a_used_stack_and_its_clients_fail(lab: Lab) -> None:
    assert stop(lab.root) is False
    with lab.attach() as stack:
        assert stop(lab.root) is True

        lab.gone(port_of(stack.info))
        with pytest.raises(LocalStackError, match="ended from outside"):
            stack.check()
    assert stop(lab.root) is False
    assert running(lab.root) is None


def test_a_kept_stack_outlives_clients_and_is_replaced_if_unused(lab: Lab) -> None:
    progress: list[str] = []
    with (
        lab.attach(keep=True, timeout_s=20) as one,
        lab.attach(progress, timeout_s=30, replace_kept=True, chosen=("timeout_s",)) as stack,
    ):
        assert stack.info.timeout_s == 20  # not replaced, since it has another client
        assert stack.info.host_pid == one.info.host_pid
    assert any("timeout_s: 20 instead of 30" in line and "sparklet stop" in line for line in progress)
    with lab.attach(timeout_s=30) as stack:
        assert stack.info.timeout_s == 20

    with lab.attach(timeout_s=30, replace_kept=True) as stack:
        assert stack.info.timeout_s == 30
        port = port_of(stack.info)

    send(stack.info.queue_url, {"name": "of nobody", "do": "well"}, stack.info.env)
    lab.show("done", "of nobody")  # until then the host has checked which clients are left
    info = running(lab.root)
    assert info is not None and port_of(info) == port  # it is still kept
    assert stop(lab.root) is True
    lab.gone(port)


def test_a_killed_stand_in_keeps_the_state_that_it_saved(lab: Lab) -> None:
    with lab.attach(processing=False) as stack:
        assert lab.root.stat().st_mode & 0o077 == lab.state.info_file.stat().st_mode & 0o077 == 0
        leave_traces(stack)
        lab.saved("dynamodb", "an item")
        lab.saved("sqs", "a message")
        os.kill(server_of(stack.info.host_pid), signal.SIGKILL)
        lab.gone(port_of(stack.info))

    with lab.attach(processing=False) as stack:
        assert traces(stack) == {"object": b"an object", "item": "an item", "message": "a message"}


@pytest.mark.nightly
def test_other_settings_are_deployed_without_loss_of_state(lab: Lab) -> None:
    with lab.attach(processing=False, workers=2) as stack:
        leave_traces(stack)

    with lab.attach(workers=5, timeout_s=7, memory_mb=1024, runner="submit") as stack:
        functions = boto3.Session().client("lambda")
        worker = functions.get_function_configuration(FunctionName=stack.info.worker_function)
        mappings = functions.list_event_source_mappings(FunctionName=stack.info.worker_function)["EventSourceMappings"]
        queue = stack.clients.sqs.get_queue_attributes(QueueUrl=stack.info.queue_url, AttributeNames=["All"])

        assert (worker["Timeout"], worker["MemorySize"]) == (7, 1024)
        assert with_worker_settings(worker["Environment"]["Variables"])["SPARKLET_RUNNER"] == "submit"
        assert [mapping["ScalingConfig"]["MaximumConcurrency"] for mapping in mappings] == [5]
        assert queue["Attributes"]["VisibilityTimeout"] == "42"
        assert traces(stack, message=False) == {"object": b"an object", "item": "an item"}
        lab.show("received", "a message")  # the message was not lost, and a worker got it


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_shards_run_than_there_are_workers(lab: Lab, workers: int) -> None:
    names = [f"overlap-{number}" for number in range(2 * workers + 1)]
    with lab.attach(workers=workers, timeout_s=2 * int(deadline_s())) as stack:
        for name in names:
            send(stack.info.queue_url, {"name": name, "do": "overlap"})
        eventually(lambda: len(list((lab.shown / "at work").glob("[!.]*"))) == workers, "all workers are at work")
        lab.saved("sqs", names[-1])  # until then the stand-in has looked for another worker
        (lab.shown / "go on").touch()

        assert max(int(lab.show("at once", name)) for name in names) == workers


@pytest.mark.nightly
def test_a_reader_starts_no_worker_and_changes_no_deployment(lab: Lab) -> None:
    with lab.attach(processing=False, workers=3) as stack:
        send(stack.info.queue_url, {"name": "resting", "do": "well"})

    with lab.attach(processing=False, workers=9) as stack:
        assert stack.info.workers == 3
        leave_traces(stack)
        lab.saved("dynamodb", "an item")  # until then a mapping would have polled its queue
        assert not (lab.shown / "received").exists()
        with lab.attach(workers=3):
            lab.show("done", "resting")


def test_a_stopped_worker_gives_its_shard_back_before_it_ends(lab: Lab) -> None:
    client = lab.client()
    start_hanging(lab, client.info)

    client.leave()

    assert lab.show("stopped", "hanging") == "WorkerStoppedError"
    lab.gone(port_of(client.info))


@pytest.mark.nightly
def test_a_failed_deployment_names_the_cause_and_ends_the_stack(lab: Lab) -> None:
    with pytest.raises(LocalStackError, match=r"cannot be deployed: .*MaxReceiveCount"):
        lab.attach(max_receive_count=2)  # the template wants at least 5

    eventually(lambda: not lab.processes())
    with lab.attach() as stack:
        stack.check()


def start_hanging(lab: Lab, info: dict[str, Any]) -> list[int]:
    """Let a worker hang at a message; return its process id and those of its children."""
    send(info["queue_url"], {"name": "hanging", "do": "hang"}, info.get("env", info))
    pids: list[int] = json.loads(lab.show("pids", "hanging"))
    assert not any(map(has_ended, pids))
    return pids


def send(queue_url: str, body: dict[str, Any], env: Mapping[str, str] | None = None) -> None:
    env = env or dict(os.environ)
    sqs = boto3.Session().client(
        "sqs",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=env["AWS_SESSION_TOKEN"],
    )
    sqs.send_message(QueueUrl=queue_url, MessageBody=json.dumps(body))


def leave_traces(stack: LocalStack) -> None:
    stack.clients.s3.put_object(Bucket=stack.info.bucket, Key="runs/a run/plan", Body=b"an object")
    item: Any = {**ITEM, "text": {"S": "an item"}}
    stack.clients.dynamodb.put_item(TableName=stack.info.ledger_table, Item=item)
    send(stack.info.queue_url, {"name": "a message", "do": "well"})


def traces(stack: LocalStack, *, message: bool = True) -> dict[str, Any]:
    stored = stack.clients.s3.get_object(Bucket=stack.info.bucket, Key="runs/a run/plan")["Body"].read()
    item = stack.clients.dynamodb.get_item(TableName=stack.info.ledger_table, Key=ITEM)["Item"]
    found = {"object": stored, "item": item["text"]["S"]}
    if message:
        (received,) = stack.clients.sqs.receive_message(QueueUrl=stack.info.queue_url)["Messages"]
        found["message"] = json.loads(received["Body"])["name"]
    return found


@pytest.mark.nightly
def test_a_start_from_a_slow_disk_loses_no_state(lab: Lab) -> None:
    with lab.attach(processing=False) as stack:
        leave_traces(stack)
    lab.gone(port_of(stack.info))
    slow = lab.state.services / "cognito.json"  # the stand-in reads it after all imports and before the tables
    content = slow.read_text()
    slow.unlink()
    os.mkfifo(slow)

    client = lab.spawn(processing=False)
    with open(slow, "w") as pipe:  # the stand-in waits for this file, longer than the interval of two saves
        end_s = time.monotonic() + 2 * EVERY_S
        eventually(lambda: time.monotonic() > end_s)
        slow.unlink()
        pipe.write(content)
    lab.await_client(client)

    with lab.attach(processing=False) as stack:
        assert traces(stack) == {"object": b"an object", "item": "an item", "message": "a message"}


def test_an_unsaved_state_fails_the_start_and_names_the_log(lab: Lab) -> None:
    lab.state.create()
    (lab.state.services / "sqs.json").mkdir()  # a folder in place of the file

    with pytest.raises(LocalStackError, match=r"cannot be saved in .*services.*disk full"):
        lab.attach(processing=False)
