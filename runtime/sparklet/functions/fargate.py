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
from functools import partial
from types import SimpleNamespace
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.containers import FargateTasks
from sparklet.aws.s3 import S3Store
from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.backend import End
from sparklet.functions.calls import Call
from sparklet.functions.deployed import LambdaFunctions
from sparklet.functions.handler import lambda_handler
from sparklet.functions.poller import Poller
from sparklet.functions.records import RECORDED, read_envelope, record_id
from sparklet.model import Failure, TaskRecord

SIZES_MB = (16384, 30720, 61440, 122880)
MAX_TIMEOUT_S = 86_400.0
STARTS_WITHIN_S = 900.0  # fetching the image is most of it
ASK_EVERY_S = 5.0  # ECS, which takes some seconds itself to say that a task has stopped
ENTRY = ("python", "-P", "-m", "sparklet.functions.fargate")


class LambdaAndFargate(LambdaFunctions):
    """A ``Backend`` over the functions of a stack, and beyond their sizes and their time over tasks of Fargate.

    A call without a ``timeout_s`` has the functions' time in Lambda, and a day in Fargate; one whose ``timeout_s`` is
    longer than the functions' goes to Fargate at once.

    ``containers`` are of a definition with the image, the settings and the rights of the stack's workers; ``sizes_mb``
    is the memory that they are tried with. ``options`` are those of ``LambdaFunctions``.
    """

    def __init__(self, containers: FargateTasks, sizes_mb: Sequence[int] = SIZES_MB, **options: Any) -> None:
        super().__init__(**options)
        self._functions, self._function_timeout_s = len(self.sizes), self.max_timeout_s
        self.sizes, self.max_timeout_s = [*self.sizes, *sizes_mb], MAX_TIMEOUT_S
        self._containers, self._asked_s = containers, 0.0
        self._arns: dict[str, str] = {}  # of tasks under way, by the calls' records
        self._container_poller = Poller(self._records, lost_s=math.inf)  # ECS says which containers live

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """In Lambda if the size and the time are Lambda's."""
        if size >= self._functions:
            self._run(partial(self._contain, call, self.sizes[size], done))
        elif self._function_timeout_s < call.timeout_s < self.max_timeout_s:
            done(RemoteTaskError(f"a function ends after {self._function_timeout_s:g} s", "timeout"))
        else:
            super().start(replace(call, timeout_s=min(call.timeout_s, self._function_timeout_s)), size, done)

    def patience_s(self, call: Call) -> float:
        """A container's start is waited for, too."""
        return super().patience_s(call) + STARTS_WITHIN_S

    def give_up(self, call: Call) -> None:
        """Stop its container."""
        super().give_up(call)
        name = record_id(call.task_id, call.attempt)
        self._container_poller.forget(name)
        if name in self._arns:
            self._run(partial(self._stop, name))

    def close(self) -> None:
        """Stop all containers."""
        self._container_poller.close()
        for name in list(self._arns):
            self._stop(name)
        super().close()

    def _stop(self, name: str) -> None:
        with suppress(RemoteTaskError, KeyError):  # it ends when its time is over
            self._containers.stop(self._arns.pop(name))

    def _contain(self, call: Call, memory_mb: int, done: Callable[[End], None]) -> None:
        """Start a container for a call; its record, or ECS, tells the end."""
        name, begun_s = record_id(call.task_id, call.attempt), time.monotonic()
        assert self.contents
        try:
            envelope = {**call.sealed(self.key), RECORDED: True}
            uri = self.contents.put(f"{name}.call", json.dumps(envelope).encode())
            self._arns[name] = self._containers.start(name, (*ENTRY, uri), memory_mb)
        except (PayloadError, RemoteTaskError) as error:
            return done(error if isinstance(error, RemoteTaskError) else RemoteTaskError(str(error)))

        def ended(record: TaskRecord) -> None:
            self._arns.pop(name, None)
            self._run(lambda: done(self._end(call, record, time.monotonic() - begun_s)))

        return self._container_poller.watch(name, ended)

    def _records(self, names: Sequence[str]) -> Iterable[TaskRecord]:
        """What the ledger says; where a container has stopped without an answer, what ECS says."""
        stopped: Mapping[str, Failure] = {}
        if time.monotonic() - self._asked_s >= ASK_EVERY_S:
            self._asked_s = time.monotonic()
            with suppress(RemoteTaskError):
                stopped = self._containers.stopped(list(self._arns.values()))
        found = {record.task_id: record for record in self._tasks.get_tasks(names)}  # after ECS: an answer came before
        for name in names:
            record, why = found.get(name, TaskRecord(name)), stopped.get(self._arns.get(name, ""))
            if why and not record.state.ended:
                found[name] = record.failed(why, time.time())
        return found.values()


def main(uri: str) -> None:
    """Perform the call that lies at ``uri``, as a function does it, and record its answer."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))  # as process 1 it would be ignored
    task = os.environ.get("ECS_CONTAINER_METADATA_URI_V4", "").rpartition("/")[2] or str(os.getpid())
    context = SimpleNamespace(aws_request_id=task, get_remaining_time_in_millis=lambda: MAX_TIMEOUT_S * 1000)
    lambda_handler(read_envelope(S3Store(AwsClients()).get(uri).decode()), context)


if __name__ == "__main__":
    main(sys.argv[1])
