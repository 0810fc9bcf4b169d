"""Python functions in deployed workers: what the transports promise. (The contract of all backends is elsewhere.)"""

import json
import os
import time
from concurrent.futures import Future
from typing import Any, get_args

import boto3
import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoTaskStore
from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.calls import Answer, Call, Content, encode
from sparklet.functions.deployed import LambdaFunctions, Transport
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.recorded_calls import RECORDED
from sparklet.model import ShardState
from tests.functional.functions import called
from tests.functional.functions.conftest import STACK, Functions
from tests.functional.local.conftest import eventually

pytestmark = pytest.mark.stack
TRANSPORTS = [transport for transport in get_args(Transport) if transport != "auto"]
WITHIN_S = 40.0  # a lost worker's lease, and the stand-in's own pace; its function may take longer


def executor(transport: Transport = "auto", **options: Any) -> LambdaExecutor:
    return LambdaExecutor(LambdaFunctions(STACK, transport=transport), **options)


def failure(future: "Future[Any]") -> RemoteTaskError:
    error = future.exception(WITHIN_S)
    assert isinstance(error, RemoteTaskError), error
    return error


def sealed(backend: LambdaFunctions, task_id: str, function: Any, *args: Any, key: bytes = b"") -> dict[str, str]:
    content = Content.of("pickle", encode("pickle", (args, {})), 10**6, None)
    name = f"{function.__module__}:{function.__qualname__}"
    return Call(task_id, name, content, 30.0, time.time() + 600, 10**6).sealed(key or backend.key)


def worker_of(functions: Functions, size: int = 0) -> Any:
    return json.loads(functions.outputs["Workers"])[size]


@pytest.mark.parametrize("transport", ["event", "queue"])
def test_a_call_delivered_twice_is_performed_and_answered_once(functions: Functions, transport: str) -> None:
    backend, tasks = LambdaFunctions(STACK), DynamoTaskStore(AwsClients(), functions.outputs["LedgerTable"])
    name = f"twice-{transport}"
    envelope = json.dumps({**sealed(backend, name, called.count, str(functions.shown), name, 1.0), RECORDED: "yes"})
    worker = worker_of(functions)
    for _ in range(2):
        if transport == "event":
            client = boto3.Session().client("lambda")
            client.invoke(FunctionName=worker["function"], InvocationType="Event", Payload=envelope)
        else:
            backend._queue(worker["queue"]).send([envelope])

    def answered() -> Any:
        record = tasks.get_task(f"{name}.1")
        return record if record and record.state.ended else None

    record = eventually(answered)
    assert record.state is ShardState.SUCCEEDED
    assert Answer.opened(record.result.answer[0], backend.key).task_id == name
    time.sleep(2.0)  # the second delivery is at work, or over
    assert (functions.shown / name).read_text() == "x\n"
    assert tasks.get_task(f"{name}.1") == record


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_caller_with_another_key_is_refused(functions: Functions, transport: Transport) -> None:
    backend = LambdaFunctions(STACK, transport=transport)
    backend.key = b"another"
    with LambdaExecutor(backend) as pool:
        error = failure(pool.submit(called.count, str(functions.shown), "forged"))

    assert error.reason == "refused"
    assert "signed" in str(error)
    assert not (functions.shown / "forged").exists()


def test_what_the_operator_does_not_allow_is_refused(functions: Functions) -> None:
    with executor() as pool:
        by_value = failure(pool.submit_with(pool.options.__class__(codec="cloudpickle"), lambda: 1, ((), {})))
        by_name = failure(pool.submit(os.getpid))

    assert (by_value.reason, by_name.reason) == ("refused", "refused")


def test_a_malformed_event_is_refused_and_leaves_nothing(functions: Functions) -> None:
    client = boto3.Session().client("lambda")
    events: list[Any] = [{}, [], None, {"sparklet_call": 3, "signature": []}, {RECORDED: "yes"}]
    for event in events:
        payload = json.dumps(event)
        answer: Any = client.invoke(FunctionName=worker_of(functions)["function"], Payload=payload)
        assert json.loads(answer["Payload"].read())["errorType"] == PayloadError.__name__, event


def test_a_throttled_call_is_tried_again(functions: Functions) -> None:
    client, name = boto3.Session().client("lambda"), worker_of(functions)["function"]
    with executor("invoke") as pool:
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
        try:
            waiting = pool.submit(called.echo, 7)
            eventually(lambda: pool.stats().get("retried"))
        finally:
            client.delete_function_concurrency(FunctionName=name)
        assert waiting.result(WITHIN_S) == 7
        assert waiting.exception() is None
