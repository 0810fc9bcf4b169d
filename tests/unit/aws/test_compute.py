"""What the Lambda adapter makes of a function's error: AWS tells its type, the stand-in does not."""

import io
import json

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.functions import LambdaCompute
from sparklet.errors import RemoteTaskError


def invoke(body: bytes, function_error: str | None) -> object:
    clients = AwsClients()
    answer = {"StatusCode": 200, "Payload": StreamingBody(io.BytesIO(body), len(body))}
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


@pytest.mark.parametrize("body", [b"", b"null", b'"text"', b"\xff broken", b"[1]"])
def test_an_error_of_unknown_shape_is_reported_unchanged(body: bytes) -> None:
    with pytest.raises(RemoteTaskError, match="task failed"):
        invoke(body, "Unhandled")


def test_an_empty_answer_is_none() -> None:
    assert invoke(b"", None) is None
    assert invoke(b"null", None) is None


def test_an_answer_that_is_no_json_is_an_error() -> None:
    with pytest.raises(RemoteTaskError, match="not JSON"):
        invoke(b"<html>", None)
