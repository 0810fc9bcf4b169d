"""Python functions in deployed workers: what the transports promise. (The contract of all backends is elsewhere.)"""

import json
import os
from concurrent.futures import Future
from typing import Any

import boto3
import pytest

from sparklet.errors import RemoteTaskError
from sparklet.functions.deployed import LambdaFunctions, Transport
from sparklet.functions.executor import LambdaExecutor
from tests.functional.functions import called
from tests.functional.functions.conftest import STACK, Functions
from tests.waiting import deadline_s, eventually

pytestmark = pytest.mark.stack
WITHIN_S = deadline_s(40)  # a lost worker's lease, and the stand-in's own pace; its function may take longer


def executor(transport: Transport = "auto", **options: Any) -> LambdaExecutor:
    return LambdaExecutor(LambdaFunctions(STACK, transport=transport), **options)


def failure(future: "Future[Any]") -> RemoteTaskError:
    error = future.exception(WITHIN_S)
    assert isinstance(error, RemoteTaskError), error
    return error


def worker_of(functions: Functions, size: int = 0) -> Any:
    return json.loads(functions.outputs["Workers"])[size]


def test_what_the_operator_does_not_allow_is_refused(functions: Functions) -> None:
    with executor() as pool:
        by_value = failure(pool.submit_with(pool.options.__class__(codec="cloudpickle"), lambda: 1, ((), {})))
        by_name = failure(pool.submit(os.getpid))

    assert (by_value.reason, by_name.reason) == ("refused", "refused")


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
