"""Deployed functions: invoked in AWS Lambda, their logs read from a CloudWatch log group."""

import base64
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from sparklet.aws.clients import AwsClients, error_code, failing_as
from sparklet.errors import LogsError, RemoteFailureError, RemoteTaskError, SettingsError
from sparklet.settings import of_workers

LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or stream is not there (its retention may be over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}
FRESH_S = 60  # AWS allows 15 such requests a second
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
TIMED_OUT = 124  # exit status of a worker that ends itself since a call's time is over, as of coreutils' timeout
NOT_NOW = ("TooManyRequests", "Throttling", "EC2Throttled", "ENILimitReached", "ResourceConflict")
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


def settings_of(clients: AwsClients, function: str) -> Mapping[str, str]:
    """What a worker function's scripts are set to (``settings.of_workers``), as it was a minute ago at most."""
    return _settings_of(clients, function, int(time.time() // FRESH_S))


@lru_cache(maxsize=1)
def _settings_of(clients: AwsClients, function: str, minute: int) -> Mapping[str, str]:
    with failing_as(SettingsError, f"the settings of {function}, which engines' workers need, cannot be read"):
        found = clients.functions.get_function_configuration(FunctionName=function).get("Environment", {})
    if "Error" in found:
        raise SettingsError(f"the settings of {function} cannot be read: {found['Error'].get('Message', '')}")
    return of_workers(found.get("Variables", {}))


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
    """Why a function gave no answer, in the words of ``RemoteTaskError``; ``cause`` is an error's type and message.

    Lambda's ``signal: killed`` means out of memory, unless its report says that there was enough.
    """
    if "Sandbox.Timedout" in cause or "timed out after" in cause or cause.endswith(f"exit status {TIMED_OUT}"):
        return "timeout"
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
    return "" if error_code(error) else "killed"


def read_secret(clients: AwsClients, secret: str) -> bytes:
    """A secret's text; SettingsError if it cannot be read."""
    with failing_as(SettingsError, f"the secret {secret} cannot be read"):
        return str(clients.secrets.get_secret_value(SecretId=secret)["SecretString"]).encode()


class CloudWatchLogs:
    """``WorkerLogs`` in the worker function's log group."""

    def __init__(self, clients: AwsClients, group: str) -> None:
        self._clients = clients
        self._group = group

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        """Streams with a worker's line about a run (and a shard), each from the first such line on."""
        about = f'$.run = "{run_id}"' + ("" if shard is None else f" && $.shard = {shard}")
        found: dict[str, float] = {}
        with self._reading():
            pages = self._clients.logs.get_paginator("filter_log_events").paginate(
                logGroupName=self._group, filterPattern=f"{{ {about} }}", startTime=round(since_s * 1000)
            )
            for page in pages:
                for event in page["events"]:
                    found.setdefault(event["logStreamName"], event["timestamp"] / 1000)
        return found

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        """The next page of a stream."""
        place = {"nextToken": after} if after else {"startTime": round(since_s * 1000)}
        with self._reading():
            page = self._clients.logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **place
            )
        return [event["message"].rstrip("\n") for event in page["events"]], page["nextForwardToken"]

    def _reading(self) -> AbstractContextManager[None]:
        return failing_as(LogsError, f"the log group {self._group} cannot be read", LOG_REMEDIES)
