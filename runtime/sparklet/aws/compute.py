"""Functions in AWS Lambda, invoked; and why one gave no answer."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from sparklet.aws.clients import AwsClients, error_code, failing_as, http_status
from sparklet.errors import RemoteFailureError, RemoteTaskError

# Of a synchronous call, by AWS's page of Lambda's quotas
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
TIMED_OUT = 124  # exit status of a worker that ends itself since a call's time is over, as of coreutils' timeout
NOT_NOW = ("TooManyRequests", "Throttling", "EC2Throttled", "ENILimitReached", "ResourceConflict")
OF_THE_SERVICE = (500, 503, 504)  # 502 is a function that cannot be started (API reference, Invoke)
NOT_SENT = ("ConnectTimeoutError", "EndpointConnectionError")
NOT_BEGUN: tuple[str, ...] = ("PayloadError", "EventError", "SettingsError", "ImportModuleError")
NOT_BEGUN += ("NeverStarted", "EventAgeExceeded")
REPORT = re.compile(r"Memory Size: (\d+) MB\s+Max Memory Used: (\d+) MB")


class LambdaCompute:
    """A ``Compute`` over deployed functions."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any], *, wait: bool = True) -> Any:
        """Invoke, and never twice: a call whose answer was lost may have run. Without ``wait`` there is no answer.

        RemoteTaskError, with its error's type and message, if the function failed, and with the reason if its worker
        was lost; also if the event is too large.
        """
        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteTaskError(
                f"{function} cannot take {len(payload)} bytes: Lambda's limit is {MAX_PAYLOAD_BYTES}. "
                "Put the data into S3 and pass its URI"
            )
        kind: Any = {"LogType": "Tail"} if wait else {"InvocationType": "Event"}
        try:
            with failing_as(RemoteTaskError, f"{function} could not be invoked"):
                answer: Any = self._clients.functions.invoke(FunctionName=function, Payload=payload, **kind)
                body = answer["Payload"].read()
        except RemoteTaskError as error:
            error.reason = _reason_of_refusal(error.__cause__)
            raise
        if answer.get("FunctionError"):
            raise _failure(function, answer, body)
        try:
            return json.loads(body) if body else None
        except ValueError as error:
            raise RemoteTaskError(f"{function} answered with text that is not JSON: {body[:200]!r}") from error


def _failure(function: str, answer: Any, body: bytes) -> RemoteFailureError:
    """Type and message of a function's error, the answer's beginning if it names none; more if its worker was lost."""
    try:
        document = json.loads(body)
        cause = f"{document.get('errorType', 'Error')}: {document['errorMessage']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        cause = body[:500].decode(errors="replace")
    log_tail = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")
    if not (reason := reason_of(cause, log_tail)):
        return RemoteFailureError(f"{function} failed: {cause}")
    used, facts = REPORT.search(log_tail), {"request_id": answer["ResponseMetadata"]["RequestId"]}
    facts |= {"memory_mb": used[2]} if used else {}
    return RemoteFailureError(f"{function} failed: {cause}", reason, log_tail=log_tail, facts=facts)


def reason_of(cause: str, log_tail: str = "") -> str:
    """Why a function gave no answer, in the words of ``RemoteTaskError``; ``cause`` is its error's type and message."""
    if "Sandbox.Timedout" in cause or "timed out after" in cause or cause.endswith(f"exit status {TIMED_OUT}"):
        return "timeout"
    # A killed process need not have lacked memory: the report's line tells what it used. Without that line it is
    # assumed.
    used = REPORT.search(log_tail)
    if "OutOfMemory" in cause or ("signal: killed" in cause and (not used or int(used[2]) >= 0.95 * int(used[1]))):
        return "memory"
    if "ExitError" in cause or cause.startswith(("Sandbox.", "Extension.", "LeaseExpired")):
        return "killed"
    return "refused" if cause.partition(":")[0].endswith(NOT_BEGUN) else ""


def _reason_of_refusal(error: Any) -> str:
    """Why Lambda's API did not do it; ``killed``: whether it did is not known."""
    code = error_code(error) or type(error).__name__
    if code.startswith(NOT_NOW) or code in NOT_SENT or "NotReady" in code:
        return "throttled"
    # Without an answer, or with an error of the service's own, the call may have been carried out.
    return "" if error_code(error) and http_status(error) not in OF_THE_SERVICE else "killed"
