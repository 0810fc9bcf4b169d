"""HTTP requests: the result is always a response, which shows no internals to the client."""

import base64
import json
from typing import Any

import pytest

from sparklet.errors import (
    DeadlineExceededError,
    EventError,
    GatewayLostError,
    ScriptFailedError,
    ScriptFetchError,
    SettingsError,
    SparkletError,
)
from sparklet.events import Outcome, Source, answer, parse_event
from tests.unit.events.samples import http_request, rest_request

SECRET = "hunter2-s3cr3t"
JSON = {"content-type": "application/json"}
REDIRECT = {"statusCode": 302, "headers": {"location": "/x"}, "body": "text"}


def response_to(event: Any, **outcome: Any) -> Any:
    (task,) = parse_event(event)
    return answer(event, [Outcome(task, **outcome)])


@pytest.mark.parametrize("event", [rest_request('{"a": 1}'), http_request('{"a": 1}'), http_request()])
def test_the_script_gets_the_request_and_its_answer_is_the_body(event: Any) -> None:
    (task,) = parse_event(event)
    assert (task.source, task.event, task.problem) == (Source.API, event, None)

    response = answer(event, [Outcome(task, answer={"state": "SUCCEEDED", "answer": {"ä": [1, None]}})])

    assert response["statusCode"] == 200
    assert response["headers"] == JSON
    assert json.loads(response["body"]) == {"ä": [1, None]}


def test_a_script_without_an_answer_returns_only_that_it_is_done() -> None:
    response = response_to(
        http_request(), answer={"state": "SUCCEEDED", "rows": 3, "attempt": "x", "outputs": ["s3://b/x"]}
    )

    assert json.loads(response["body"]) == {"state": "SUCCEEDED", "rows": 3}


@pytest.mark.parametrize(
    ("given", "response"),
    [
        ({"statusCode": 204}, {"statusCode": 204, "body": ""}),
        (REDIRECT, REDIRECT),
        (
            {"statusCode": 201, "headers": {"x": "y"}, "body": {"id": 7}},
            {"statusCode": 201, "headers": {**JSON, "x": "y"}, "body": '{"id": 7}', "isBase64Encoded": False},
        ),
    ],
)
def test_an_answer_with_a_status_code_is_the_response(given: Any, response: Any) -> None:
    assert response_to(http_request(), answer={"answer": given}) == response


@pytest.mark.parametrize(
    "given",
    [
        {"statusCode": 99},
        {"statusCode": "200"},
        {"statusCode": 200, "secret": SECRET},
        float("nan"),
        "\ud800",
        "x" * 6_291_456,
    ],
    ids=["status", "text", "keys", "nan", "surrogate", "size"],
)
def test_an_unreturnable_answer_is_a_server_error(given: Any) -> None:
    response = response_to(http_request(), answer={"answer": given})

    assert response["statusCode"] == 500
    assert SECRET not in response["body"]
    assert len(response["body"]) < 300


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ScriptFailedError("s3://b/x.py", 1, cause_class="KeyError", cause=SECRET, stderr_tail=SECRET), 500),
        (ScriptFailedError("s3://b/x.py", 1, cause_class="sparklet.job.errors.EventError", cause=SECRET), 400),
        (SettingsError(SECRET), 500),
        (ScriptFetchError(SECRET, retryable=False), 500),
        (GatewayLostError(SECRET), 503),
        (DeadlineExceededError(SECRET), 504),
    ],
)
def test_a_failure_is_a_status_without_internal_details(error: SparkletError, status: int) -> None:
    response = response_to(http_request(), error=error, acknowledged=False)

    assert response["statusCode"] == status
    assert SECRET not in json.dumps(response)
    assert "s3://" not in response["body"]
    assert json.loads(response["body"])["requestId"] == "request-7"


@pytest.mark.parametrize(
    ("body", "more", "why"),
    [
        ({"a": SECRET}, {}, "must be text, not the keys a"),
        (f"{{{SECRET}", {}, "should be JSON and is not"),
        ("[" * 10_000, {}, "should be JSON and is not"),
        (f"{SECRET}!", {"isBase64Encoded": True}, "should be base64 and is not"),
        (base64.b64encode(b"{").decode(), {"isBase64Encoded": True}, "should be JSON and is not"),
    ],
)
@pytest.mark.parametrize("request_of", [rest_request, http_request])
def test_a_bad_request_is_400_and_no_script_is_run(request_of: Any, body: Any, more: Any, why: str) -> None:
    event = request_of(body, **more)
    (task,) = parse_event(event)
    assert isinstance(task.problem, EventError)

    response = answer(event, [Outcome(task, task.problem, acknowledged=False)])

    assert response["statusCode"] == 400
    assert why in response["body"]
    assert SECRET not in response["body"]


@pytest.mark.parametrize(
    ("body", "more"),
    [
        (base64.b64encode(b'{"a": 1}').decode(), {"isBase64Encoded": True}),
        (base64.b64encode(bytes(range(256))).decode(), {"isBase64Encoded": True, "headers": None}),
        ("no JSON", {"headers": {"Content-Type": "text/csv"}}),
        ("no JSON", {"headers": {}}),
        ('{"a": 1, "a": 2}', {}),
        ("", {}),
        ("x" * 2_000_000, {}),
    ],
    ids=["base64", "binary", "csv", "no type", "twice", "empty", "long"],
)
def test_a_body_of_its_declared_type_reaches_the_script(body: str, more: Any) -> None:
    (task,) = parse_event(http_request(body, **more))

    assert task.problem is None
    assert task.event["body"] is body
