"""Deployed functions: invoked in AWS Lambda, their logs read from a CloudWatch log group."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sparklet.aws.clients import AwsClients, error_code, failing_as
from sparklet.errors import LogsError, RemoteFailureError, RemoteTaskError

LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or stream is not there (its retention may be over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024


class LambdaCompute:
    """A ``Compute`` over deployed functions."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Invoke synchronously, and never twice: a call whose answer was lost may have run.

        RemoteTaskError, with its error's type and message, if the function failed; also if the event is too large.
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
