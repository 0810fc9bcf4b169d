"""Renews the leases of calls from a process of its own: a function may hold its interpreter as long as it works."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Pipe
from typing import Any

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.model import ShardState, TaskRecord
from sparklet.ports import Clock, TaskStore


def write_over(tasks: TaskStore, after: TaskRecord, was: TaskRecord) -> TaskRecord:
    """Put ``after`` where ``was`` stands, or a renewal of the same attempt; LeaseLostError if another owns the task."""
    while not tasks.replace_task(after, was):
        stands = tasks.get_task(was.task_id)
        if not stands or (stands.attempt_id, stands.state) != (was.attempt_id, ShardState.RUNNING):
            raise LeaseLostError(f"attempt {was.attempt_id} does not own task {was.task_id} any more")
        was, after = stands, replace(after, revision=stands.revision + 1)
    return after


class Renewer:
    """Renews one lease at a time, twice in its length.

    Its process is forked at once, while this one is small: a later fork would copy what functions change in memory. It
    renews for no longer than this one lives.
    """

    def __init__(self, tasks: TaskStore, clock: Clock) -> None:
        self._tasks, self._clock = tasks, clock
        self._start()

    @contextmanager
    def renewing(self, record: TaskRecord, lease_s: float) -> Iterator[None]:
        """Renew the lease of a claimed task as long as the block runs."""
        self._tell(record, lease_s)
        try:
            yield
        finally:
            self._tell(None, 0.0)

    def _tell(self, record: TaskRecord | None, lease_s: float) -> None:
        try:
            self._pipe.send((record, lease_s))
        except OSError:  # the process has ended
            self._start()
            self._pipe.send((record, lease_s))

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid:
            return theirs.close()
        try:
            self._pipe.close()
            self._serve(theirs, parent)
        finally:
            os._exit(0)  # also where the lease was lost, or the parent has closed the pipe

    def _serve(self, calls: Any, parent: int) -> None:
        record, lease_s = calls.recv()
        while os.getppid() == parent:
            if calls.poll(lease_s / 2 if record else None):
                record, lease_s = calls.recv()
                continue
            try:
                record = write_over(self._tasks, record.renewed(self._clock.now_s(), lease_s), record)
            except LedgerError as error:
                print(f"the lease of {record.task_id} could not be renewed; the work goes on: {error}", flush=True)
