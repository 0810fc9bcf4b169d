"""Asynchronous calls, recorded as tasks in the ledger's table: the caller's part, the worker's, and the dead letters'.

The caller polls the records (``Poller``); a worker renews its record's lease (``Renewer``). Lambda's reports of failed
calls (killed, out of memory, timed out, never begun) and undelivered messages go to the dead-letter queue, whose
consumer is ``failures_handler``.
"""

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

from sparklet.errors import LeaseLostError, LedgerError, PayloadError
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.ledger.task_leases import give_up, write_over
from sparklet.model import TASK_ID, Failure, ShardState, TaskRecord
from sparklet.ports import Clock, TaskStore
from sparklet.settings import ledger_table

if TYPE_CHECKING:
    from sparklet.aws.dynamodb import DynamoTaskStore

RECORDED = "recorded"  # marks an envelope whose answer goes into the ledger
MIN_POLL_S, MAX_POLL_S = 0.05, 2.0
POLL_SHARE = 0.2  # of the time for which a call has been open
LOST_S = LEASE_S + LEASE_GRACE_S  # a living worker renews its lease earlier


def claimed_id(envelope: Any) -> str:
    """The id of an envelope's record, its signature unverified; PayloadError if it has none."""
    try:
        document = json.loads(envelope["sparklet_call"])
        found = f"{document['task_id']}.{document['attempt']}"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"this is no sparklet_call: {type(error).__name__}") from error
    if not TASK_ID.fullmatch(found):
        raise PayloadError("this is no sparklet_call: no task has such an id")
    return found


@dataclass(slots=True)
class _Watched:
    ended: "Callable[[TaskRecord | Exception], None]"
    began_s: float = field(default_factory=time.monotonic)
    due_s: float = 0.0
    revision: int = -1
    changed_s: float = 0.0  # when that revision was first seen


@dataclass
class Poller:
    """Reports each record that has ended, or is RUNNING without renewals: one thread reads all records.

    The thread stays when it has nothing to do: a thread that ends while another one forks leaves OpenSSL's lock taken
    in the child, for good (seen in 2 of 1,500 forks beside ending threads).
    """

    read: Callable[[Sequence[str]], Iterable[TaskRecord]]  # the existing records of these ids; may raise any error
    lost_s: float = LOST_S  # a RUNNING record that was not renewed for so long counts as lost
    open: dict[str, _Watched] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _closed: bool = False

    def watch(self, record_id: str, ended: "Callable[[TaskRecord | Exception], None]") -> None:
        """Call ``ended`` once, in the poller's thread, with the record or the error of reading it; it must be quick."""
        with self._changed:
            self.open[record_id] = _Watched(ended)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-poller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, record_id: str) -> bool:
        """Stop watching a record; whether it was watched."""
        return self.open.pop(record_id, None) is not None

    def close(self) -> None:
        """Watch nothing any more."""
        with self._changed:
            self._closed = True
            self.open.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            time.sleep(MIN_POLL_S)
            with self._changed:
                self._changed.wait_for(lambda: self.open or self._closed)
                if self._closed:
                    return
                now_s, watched = time.monotonic(), list(self.open.items())  # a copy: other threads remove entries
            due = {name: each for name, each in watched if each.due_s <= now_s}
            try:
                found = {record.task_id: record for record in self.read(list(due))}
            except Exception as error:  # noqa: BLE001 - else this thread would end, and its callers wait for good
                found = {}
                for name, each in watched:
                    each.changed_s = time.monotonic()  # renewals fail, too, so no worker counts as lost
                    if not getattr(error, "retryable", False) and self.forget(name):
                        each.ended(error)
            for name, each in due.items():
                self._look(each, name, found.get(name))

    def _look(self, watched: _Watched, name: str, record: TaskRecord | None) -> None:
        now_s = time.monotonic()
        watched.due_s = now_s + min(MAX_POLL_S, POLL_SHARE * (now_s - watched.began_s))
        if record is None:
            return
        if record.revision != watched.revision:
            watched.revision, watched.changed_s = record.revision, now_s
        lost = record.state is ShardState.RUNNING and now_s - watched.changed_s > self.lost_s
        if (record.state.ended or lost) and self.forget(name):
            watched.ended(record)


class Renewer:
    """Renews one lease at a time, after half its length, in a process of its own: a function may hold the interpreter.

    The process is forked at once, while this one is small, since a later fork would copy memory that functions change.
    It ends with this one.
    """

    def __init__(self, tasks: TaskStore, clock: Clock) -> None:
        self._tasks, self._clock = tasks, clock
        self._start()

    @contextmanager
    def renewing(self, record: TaskRecord, lease_s: float) -> Iterator[None]:
        """Renew the lease of a claimed task during the block."""
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


def failures_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Record FAILED for each dead letter; the batch response names the messages that must come back."""
    failed = []
    for message in event["Records"]:
        try:
            fail(_tasks(), json.loads(message["body"]), _tasks().clock.now_s)
        except (LeaseLostError, LedgerError) as error:
            print(json.dumps({"level": "WARNING", "message": str(error)}))
            failed.append({"itemIdentifier": message["messageId"]})
        except (PayloadError, ValueError, AttributeError) as error:
            print(json.dumps({"level": "ERROR", "message": f"{message['messageId']} cannot be read: {error}"}))
    return {"batchItemFailures": failed}


def fail(tasks: TaskStore, given_up: Mapping[str, Any], now_s: Callable[[], float]) -> None:
    """Record FAILED for a call: its envelope from the queue, or Lambda's report (``requestPayload``, …).

    LedgerError if the ledger does not answer, LeaseLostError if another invocation has the call.
    """
    task, context = TaskRecord(claimed_id(given_up.get("requestPayload", given_up))), given_up.get("requestContext")
    if not context:
        give_up(tasks, task, now_s)
        return
    found = given_up.get("responsePayload") or {"errorMessage": "Lambda gave the call up"}
    failure = Failure(found.get("errorType", context.get("condition", "")), found["errorMessage"], retryable=False)
    request_id = context.get("requestId", "")
    give_up(tasks, task, now_s, failure, lambda record: record.attempt_id.startswith(request_id))


@functools.cache
def _tasks() -> "DynamoTaskStore":
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoTaskStore

    return DynamoTaskStore(AwsClients(), ledger_table())
