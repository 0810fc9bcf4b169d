"""The workers' logs in Amazon CloudWatch."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sparklet.aws.clients import AwsClients, failing_as
from sparklet.errors import LogsError

LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or stream is not there (its retention may be over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}


@dataclass(frozen=True)
class CloudWatchWorkerLogs:
    """``WorkerLogs`` in the worker function's log group."""

    _clients: AwsClients
    _group: str

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        about = f'$.run = "{run_id}"' + ("" if shard is None else f" && $.shard = {shard}")
        first_s_by_stream: dict[str, float] = {}
        with self._reading():
            pages = self._clients.logs.get_paginator("filter_log_events").paginate(
                logGroupName=self._group, filterPattern=f"{{ {about} }}", startTime=round(since_s * 1000)
            )
            for page in pages:
                for event in page["events"]:
                    first_s_by_stream.setdefault(event["logStreamName"], event["timestamp"] / 1000)
        return first_s_by_stream

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        position = {"nextToken": after} if after else {"startTime": round(since_s * 1000)}
        with self._reading():
            page = self._clients.logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **position
            )
        return [event["message"].rstrip("\n") for event in page["events"]], page["nextForwardToken"]

    def _reading(self) -> AbstractContextManager[None]:
        return failing_as(LogsError, f"the log group {self._group} cannot be read", LOG_REMEDIES)
