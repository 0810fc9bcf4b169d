"""Deployed functions: invoked in AWS Lambda, their logs read from a CloudWatch log group."""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sparklet.aws.clients import AwsClients, error_code, explained, failing_as
from sparklet.errors import LogsError, RemoteFailureError, RemoteTaskError, SettingsError

LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or stream is not there (its retention may be over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
TIMED_OUT = 124  # exit status of a worker that ends itself when a call's time is over, as of coreutils' timeout
NOT_NOW = frozenset(
    {
        *("TooManyRequestsException", "ThrottlingException", "EC2ThrottledException", "ENILimitReachedException"),
        *("ResourceConflictException", "ResourceNotReadyException", "SnapStartNotReadyException"),
    }
)
"""Lambda's refusals of an invocation that another try may overcome."""
NOT_SENT = frozenset({"ConnectTimeoutError", "EndpointConnectionError"})
NOT_BEGUN = (
    "PayloadError",
    "EventError",
    "SettingsError",
    "NeverStarted",
    "EventAgeExceeded",
    "ImportModuleError",
    "TaskFailedToStart",
)
REPORT = re.compile(r"Memory Size: (\d+) MB\s+Max Memory Used: (\d+) MB")


class LambdaCompute:
    """A ``Compute`` over deployed functions."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Invoke synchronously, and never twice: a call whose answer was lost may have run.

        Raises
        ------
        RemoteTaskError
            If the event is too large, the function cannot be invoked, or failed: with its error's type and message.
        """
        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteTaskError(
                f"{function} cannot take {len(payload)} bytes: Lambda's limit is {MAX_PAYLOAD_BYTES}. "
                "Put the data into S3 and pass its URI"
            )
        with failing_as(RemoteTaskError, f"{function} could not be invoked"):
            answer = self._clients.functions.invoke(
                FunctionName=function, InvocationType="RequestResponse", Payload=payload
            )
            body = answer["Payload"].read()
        if answer.get("FunctionError"):
            raise RemoteFailureError(f"{function} failed: {_cause(body)}")
        try:
            return json.loads(body) if body else None
        except ValueError as error:
            raise RemoteTaskError(f"{function} answered with text that is not JSON: {body[:200]!r}") from error

    def call(self, function: str, envelope: Mapping[str, Any], *, wait: bool = True) -> Any:
        """Invoke a worker of Python functions; its answer, None without ``wait``.

        Raises
        ------
        RemoteTaskError
            With the reason, what Lambda logged and the request's id.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        kind: Any = {"LogType": "Tail"} if wait else {"InvocationType": "Event"}
        try:
            answer: Any = self._clients.functions.invoke(
                FunctionName=function, Payload=json.dumps(envelope).encode(), **kind
            )
            body = answer["Payload"].read()
        except (BotoCoreError, ClientError) as error:
            not_begun = error_code(error) in NOT_NOW or type(error).__name__ in NOT_SENT
            lost = (
                "" if isinstance(error, ClientError) else "killed" if wait else "throttled"
            )  # the ledger sees twice the same
            what = f"{function} could not be invoked: {explained(error)}"
            raise RemoteTaskError(what, "throttled" if not_begun else lost) from error
        if not answer.get("FunctionError"):
            return json.loads(body) if wait else None
        found = json.loads(body)
        named = found.get("errorType", ""), found.get("errorMessage", "")
        log_tail = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")
        facts = {"request_id": answer["ResponseMetadata"]["RequestId"]}
        if used := REPORT.search(log_tail):
            facts["memory_mb"] = int(used[2])
        what = f"{function} failed: {': '.join(filter(None, named))}"
        raise RemoteTaskError(what, reason_of(*named, log_tail), log_tail=log_tail, facts=facts)


def reason_of(error_type: str, message: str, log_tail: str = "") -> str:
    """Why a function gave no answer, as ``RemoteTaskError`` names it.

    Lambda calls it ``signal: killed`` when a function is out of memory, too; its report of the memory used tells.
    """
    text = f"{error_type}: {message}"
    if "Timedout" in text or "timed out after" in text or text.endswith(f"exit status {TIMED_OUT}"):
        return "timeout"
    used = REPORT.search(log_tail)
    full = used is None or int(used[2]) >= 0.95 * int(used[1])
    if "OutOfMemory" in text or ("signal: killed" in text and full):
        return "memory"
    if "ExitError" in error_type or error_type.startswith(("Sandbox.", "LeaseExpired", "Extension.", "Stopped.")):
        return "killed"
    return "refused" if error_type.endswith(NOT_BEGUN) else ""


def read_secret(clients: AwsClients, secret: str) -> bytes:
    """A secret of Secrets Manager; SettingsError if it cannot be read."""
    with failing_as(SettingsError, f"the secret {secret} cannot be read"):
        return str(clients.secrets.get_secret_value(SecretId=secret)["SecretString"]).encode()


def _cause(body: bytes) -> str:
    """Type and message of a function's error; the answer's beginning if it names none."""
    try:
        document = json.loads(body)
        return f"{document.get('errorType', 'Error')}: {document['errorMessage']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:500].decode(errors="replace")


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

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn botocore's errors into ours, which name the group."""
        from botocore.exceptions import ClientError

        failed = f"the log group {self._group} cannot be read"
        with failing_as(LogsError, failed):
            try:
                yield
            except ClientError as error:
                if what_to_do := LOG_REMEDIES.get(error_code(error)):
                    raise LogsError(f"{failed}: {what_to_do}: {error}") from error
                raise
