"""How the Lambda adapter reports a function's errors; AWS sends their type, the local stand-in does not."""

import base64
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import LambdaCompute
from sparklet.errors import RemoteTaskError

REPORT = "REPORT RequestId: 4f\tDuration: 9.81 ms\tMemory Size: 128 MB\tMax Memory Used: {} MB"


def invoke(body: bytes, function_error: str | None, log: str = "") -> object:
    clients = AwsClients()
    answer: dict[str, Any] = {"StatusCode": 200, "Payload": StreamingBody(io.BytesIO(body), len(body))}
    answer |= {"LogResult": base64.b64encode(log.encode()).decode(), "ResponseMetadata": {"RequestId": "4f"}}
    if function_error:
        answer["FunctionError"] = function_error
    with Stubber(clients.functions) as functions:
        functions.add_response("invoke", answer)
        return LambdaCompute(clients).invoke("task", {})


def test_a_functions_error_is_reported_with_its_type() -> None:
    body = json.dumps({"errorType": "ValueError", "errorMessage": "no such día", "stackTrace": ["…"]}).encode()

    with pytest.raises(RemoteTaskError, match="task failed: ValueError: no such día"):
        invoke(body, "Unhandled")


def test_a_function_timeout_is_reported() -> None:
    body = b'{"errorMessage":"2026-11-20T08:00:00Z 4f Task timed out after 3.00 seconds"}'

    with pytest.raises(RemoteTaskError, match=r"task failed: Error: .*Task timed out after 3\.00 seconds"):
        invoke(body, "Unhandled")


@pytest.mark.parametrize(
    ("error_type", "message", "used_mb", "reason"),
    [
        ("Sandbox.Timedout", "RequestId: 4f Error: Task timed out after 3.00 seconds", 40, "timeout"),
        ("Runtime.ExitError", "RequestId: 4f Error: Runtime exited with error: exit status 124", 40, "timeout"),
        ("Runtime.OutOfMemory", "RequestId: 4f Error: Runtime out of memory", 128, "memory"),
        ("Runtime.ExitError", "RequestId: 4f Error: Runtime exited with error: signal: killed", 128, "memory"),
        ("Runtime.ExitError", "RequestId: 4f Error: Runtime exited with error: signal: killed", 40, "killed"),
        ("Runtime.ExitError", "RequestId: 4f Error: Runtime exited with error: exit status 1", 40, "killed"),
        ("PayloadError", "the sparklet_call was not signed", 40, "refused"),
        ("Runtime.ImportModuleError", "Unable to import module 'x'", 40, "refused"),
        ("ValueError", "of the function's own", 40, ""),
    ],
)
def test_a_lost_workers_reason_is_known(error_type: str, message: str, used_mb: int, reason: str) -> None:
    log = f"the last line\n{REPORT.format(used_mb)}"

    with pytest.raises(RemoteTaskError) as raised:
        invoke(json.dumps({"errorType": error_type, "errorMessage": message}).encode(), "Unhandled", log)

    assert raised.value.reason == reason
    if reason:
        assert raised.value.facts == {"request_id": "4f", "memory_mb": str(used_mb)}
        assert raised.value.log_tail == log


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("TooManyRequestsException", 429, "throttled"),
        ("AccessDenied", 403, ""),
        ("KMSAccessDeniedException", 502, ""),
        ("ServiceException", 500, "killed"),  # it may have been called
    ],
)
def test_lambdas_refusals_say_whether_a_later_try_may_help(code: str, status: int, reason: str) -> None:
    clients = AwsClients()
    with Stubber(clients.functions) as functions:
        functions.add_client_error("invoke", code, http_status_code=status)
        with pytest.raises(RemoteTaskError) as raised:
            LambdaCompute(clients).invoke("task", {})

    assert raised.value.reason == reason


def test_a_call_whose_response_was_lost_may_have_run() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        clients = AwsClients(endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        hung_up = pool.submit(lambda: server.accept()[0].close())
        with pytest.raises(RemoteTaskError) as raised:
            LambdaCompute(clients).invoke("task", {})
        hung_up.result()
    assert raised.value.reason == "killed"

    with pytest.raises(RemoteTaskError) as refused:  # nobody listens there any more
        LambdaCompute(clients).invoke("task", {})
    assert refused.value.reason == "throttled"


@pytest.mark.parametrize("body", [b"", b"null", b'"text"', b"\xff broken", b"[1]"])
def test_an_error_of_unknown_shape_is_reported_unchanged(body: bytes) -> None:
    with pytest.raises(RemoteTaskError, match="task failed"):
        invoke(body, "Unhandled")


def test_an_empty_answer_is_none() -> None:
    assert invoke(b"", None) is None
    assert invoke(b"null", None) is None


def test_a_response_that_is_not_json_is_an_error() -> None:
    with pytest.raises(RemoteTaskError, match="not JSON"):
        invoke(b"<html>", None)
