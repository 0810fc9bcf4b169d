"""Calls beyond Lambda's 15 minutes or 10 GB: each in a container of its own, of the same image, in ECS Fargate.

A call's envelope lies in S3, since a task's overrides hold 8 KiB; the answer is recorded in the ledger's table, as that
of an asynchronous call of Lambda. In the container: ``python -m sparklet.functions.fargate s3://…/ID.call``.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.s3 import S3Store
from sparklet.engines.fargate import FargateTasks
from sparklet.errors import LedgerError, RemoteTaskError
from sparklet.functions.calls import Call, End
from sparklet.functions.deployed import LambdaFunctions
from sparklet.functions.handler import lambda_handler
from sparklet.model import Failure, TaskRecord

SIZES_MB = (16384, 30720, 61440, 122880)
MAX_TIMEOUT_S = 86_400.0
STARTS_WITHIN_S = 900.0  # fetching the image is most of it
ASK_EVERY_S = 5.0  # ECS, which needs some seconds itself to say that a task has stopped
ENTRY = ("python", "-P", "-m", "sparklet.functions.fargate")


class LambdaAndFargate(LambdaFunctions):
    """A ``Backend`` over a stack's functions, and over tasks of Fargate beyond their sizes and their time.

    A call without a ``timeout_s`` has the functions' time in Lambda and a day in Fargate; one with a longer
    ``timeout_s`` than the functions' goes to Fargate at once. ``containers`` are of a definition with the image, the
    settings and the rights of the stack's workers, ``sizes_mb`` the memory that they are tried with.
    """

    def __init__(self, containers: FargateTasks, sizes_mb: Sequence[int] = SIZES_MB, **options: Any) -> None:
        super().__init__(**options)
        self._functions, self._function_timeout_s = len(self.sizes), self.max_timeout_s
        self.sizes, self.max_timeout_s = [*self.sizes, *sizes_mb], MAX_TIMEOUT_S
        self._workers += [{"container_mb": size_mb} for size_mb in sizes_mb]
        self._containers, self._asked_s = containers, 0.0
        self._stopped: Mapping[str, Failure] = {}  # of them, when ECS was last asked

    def after_fork(self) -> None:
        """Leave the parent's containers alone."""
        super().after_fork()
        self._arns: dict[str, str] = {}  # of tasks under way, by the calls' records

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """In Lambda if the size and the time are Lambda's."""
        if size < self._functions:
            if self._function_timeout_s < call.timeout_s < self.max_timeout_s:
                return done(RemoteTaskError(f"functions end after {self._function_timeout_s:g} s", "timeout"))
            call = replace(call, timeout_s=min(call.timeout_s, self._function_timeout_s))
        return super().start(call, size, done)

    def patience_s(self, call: Call) -> float:
        """A container's start is waited for, too."""
        return super().patience_s(call) + STARTS_WITHIN_S

    def give_up(self, call: Call) -> None:
        """Stop its container."""
        super().give_up(call)
        if call.record_id in self._arns:
            self._threads.submit(lambda: self._stop(call.record_id))

    def close(self) -> None:
        """Stop all containers."""
        super().close()
        for name in list(self._arns):
            self._stop(name)

    def _stop(self, name: str) -> None:
        with suppress(RemoteTaskError, KeyError):  # it ends when its time is over
            self._containers.stop(self._arns.pop(name))

    def _send(self, transport: str, call: Call, worker: Any, ended: Callable[[End], None]) -> None:
        """In a container: its record tells the end, or ECS, which knows whether it lives."""
        if "container_mb" not in worker:
            return super()._send(transport, call, worker, ended)
        assert self.contents
        name, envelope = call.record_id, self._watched(call, ended, lost_s=math.inf)
        uri = self.contents.put(f"{name}.call", json.dumps(envelope).encode())
        self._arns[name] = self._containers.start(name, (*ENTRY, uri), worker["container_mb"])
        if self._closed or name not in self._poller.open:  # given up meanwhile
            self._stop(name)
        return None

    def _end(self, call: Call, record: TaskRecord | LedgerError, begun_s: float) -> End:
        self._arns.pop(call.record_id, None)
        return super()._end(call, record, begun_s)

    def _records(self, names: Sequence[str]) -> Iterable[TaskRecord]:
        """What the ledger says; where a container has stopped without an answer, what ECS says."""
        if time.monotonic() - self._asked_s >= ASK_EVERY_S:
            self._asked_s = time.monotonic()
            with suppress(RemoteTaskError):
                self._stopped = self._containers.stopped(list(self._arns.values()))
        found = {record.task_id: record for record in self._tasks.get_tasks(names)}  # after ECS: an answer came before
        for name in names:
            record, why = found.get(name, TaskRecord(name)), self._stopped.get(self._arns.get(name, ""))
            if why and not record.state.ended:
                found[name] = record.failed(why, time.time())
        return found.values()


def main(uri: str) -> None:
    """Perform the call that lies at ``uri``, as a function does it, and record its answer."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))  # process 1 would ignore it
    task = os.environ.get("ECS_CONTAINER_METADATA_URI_V4", "").rpartition("/")[2] or str(os.getpid())
    context = SimpleNamespace(aws_request_id=task, get_remaining_time_in_millis=lambda: MAX_TIMEOUT_S * 1000)
    lambda_handler(json.loads(S3Store(AwsClients()).get(uri)), context)


if __name__ == "__main__":
    main(sys.argv[1])
