"""What deployed workers wrote: streams of one CloudWatch log group."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sparklet.aws.clients import AwsClients
from sparklet.errors import LogsError


class CloudWatchLogs:
    """``WorkerLogs`` in a log group.

    Parameters
    ----------
    clients
        Where its client comes from.
    group
        The worker function's log group.
    """

    def __init__(self, clients: AwsClients, group: str) -> None:
        self._clients = clients
        self._group = group

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        """Streams with a worker's line about a run (and a shard), each from the first such line on."""
        about = f'$.run = "{run_id}"' + ("" if shard is None else f" && $.shard = {shard}")
        found: dict[str, float] = {}
        with self._faults():
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
        with self._faults():
            page = self._clients.logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **place
            )
        return [event["message"].rstrip("\n") for event in page["events"]], page["nextForwardToken"]

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn botocore's errors into ours, which name the group."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            remedy = {
                "ResourceNotFoundException": ": there is no such group or stream any more (its retention may be over)",
                "AccessDeniedException": ": you need logs:FilterLogEvents and logs:GetLogEvents on it",
            }.get(error.response["Error"].get("Code", ""), "")
            raise LogsError(f"the log group {self._group} cannot be read{remedy}: {error}") from error
        except BotoCoreError as error:
            raise LogsError(f"the log group {self._group} cannot be read: {error}") from error
