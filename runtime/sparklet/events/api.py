"""API Gateway (REST and HTTP APIs, payload versions 1.0 and 2.0) and function URLs: a request is one task.

Every outcome is a response: 200 with the script's answer as JSON, 4xx for a request that cannot be read or that the
script refuses with ``EventError``, 5xx for other failures. Their causes are only in the log, under the request's id.
"""

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparklet.errors import DeadlineExceededError, EventError, ScriptFailedError, SparkletError
from sparklet.events.task import Outcome, Source, Task, shape_of
from sparklet.job.event_objects import text_at
from sparklet.model import MIB

MAX_CHECKED_BODY = MIB  # characters; a longer JSON body is not checked here, only read by the script
MAX_RESPONSE_BYTES = 6 * MIB - 1024  # Lambda's limit, less the response's envelope
# As AWS makes them. Nothing else from the event goes back to the client.
_REQUEST_ID = re.compile(r"[A-Za-z0-9=_-]{1,64}")
RESPONSE_KEYS = ("statusCode", "headers", "multiValueHeaders", "cookies", "body", "isBase64Encoded")


def is_request(event: Mapping[str, Any]) -> bool:
    """Whether this is an HTTP request."""
    context = event.get("requestContext")
    if not isinstance(context, dict):
        return False
    return isinstance(event.get("httpMethod"), str) or isinstance(context.get("http"), dict)


def split(event: Mapping[str, Any]) -> tuple[Task, ...]:
    """Return one task, which has a ``problem`` if the body contradicts the request's headers."""
    try:
        _check_body(event)
    except EventError as problem:
        return (Task(Source.API, event, problem=problem),)
    return (Task(Source.API, event),)


def respond(event: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Any:
    """The HTTP response: the script's answer, or the status and the message of a failure."""
    outcome = outcomes[0]
    if outcome.error is not None:
        return _failure(event, *_status(outcome.task, outcome.error))
    document = outcome.answer.get("answer", {key: outcome.answer.get(key) for key in ("state", "rows")})
    try:
        response = _response(document)
        size_bytes = len(json.dumps(response, ensure_ascii=False).encode())
    except (EventError, ValueError, RecursionError):
        return _failure(event, 500, "the script's answer is not an HTTP response")
    if size_bytes > MAX_RESPONSE_BYTES:
        return _failure(event, 500, "the answer is larger than the 6 MB that Lambda returns")
    return response


def _check_body(event: Mapping[str, Any]) -> None:
    body = event.get("body")
    if body is None:
        return
    if not isinstance(body, str):
        raise EventError(f"the request's body must be text, not {shape_of(body)}")
    text: str | bytes = body
    if event.get("isBase64Encoded"):
        try:
            # Without ``strict_mode`` Python skips characters that are not base64.
            text = binascii.a2b_base64(body.encode("ascii"), strict_mode=True)
        except ValueError:
            raise EventError(f"the request's body should be base64 and is not ({len(body)} characters)") from None
    if text and len(text) <= MAX_CHECKED_BODY and _is_json(event.get("headers")):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            raise EventError(f"the request's body should be JSON and is not ({len(body)} characters)") from None


def _is_json(headers: object) -> bool:
    if not isinstance(headers, dict):
        return False
    content_types = [value for name, value in headers.items() if name.lower() == "content-type"]
    return bool(content_types) and text_at(content_types[0]).split(";")[0].strip().lower() == "application/json"


def _status(task: Task, error: SparkletError) -> tuple[int, str]:
    """The HTTP status of a failure, and a message without its cause, unless the request is at fault."""
    if task.problem is not None:
        return 400, str(task.problem)
    if isinstance(error, ScriptFailedError):
        if error.cause_class.rsplit(".", 1)[-1] == EventError.__name__:
            return 400, "the request was refused"
        return 500, "the request failed"
    if isinstance(error, DeadlineExceededError):
        return 504, "the request took too long"
    if error.retryable:
        return 503, "the request could not be served; try again"
    return 500, "the request failed"


def _failure(event: Mapping[str, Any], status: int, message: str) -> dict[str, Any]:
    context = event.get("requestContext")
    request_id = text_at(context, "requestId")
    valid_request_id = request_id if _REQUEST_ID.fullmatch(request_id) else ""
    return _json_response(status, {"message": message, "requestId": valid_request_id})


def _response(document: Any) -> dict[str, Any]:
    """Make a script's answer a response; an answer with a ``statusCode`` is checked, and is the response itself."""
    if not isinstance(document, dict) or "statusCode" not in document:
        return _json_response(200, document)
    status, body = document["statusCode"], document.get("body", "")
    if type(status) is not int or not 100 <= status <= 599 or not document.keys() <= set(RESPONSE_KEYS):
        raise EventError(f"a response has a statusCode from 100 to 599 and no other keys than {RESPONSE_KEYS}")
    if isinstance(body, str):
        return {**document, "body": body}
    json_response = _json_response(status, body)
    headers = document.get("headers")
    own_headers = headers if isinstance(headers, dict) else {}
    return {**document, **json_response, "headers": {**json_response["headers"], **own_headers}}


def _json_response(status: int, document: Any) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(document, ensure_ascii=False, allow_nan=False),
        "isBase64Encoded": False,
    }
