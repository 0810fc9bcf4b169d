"""The backend over deployed Lambda functions (``sam/functions.yaml``).

A call takes one of three ways. ``invoke``: a thread waits for the answer. ``event``: Lambda queues the call, and the
answer comes from the ledger's table, or from S3 if it is large. ``queue``: the same, and SQS queues the call.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

from sparklet.aws.clients import AwsClients, read_secret
from sparklet.aws.compute import LambdaCompute, reason_of
from sparklet.aws.dynamodb import DynamoTaskStore
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.stacks import stack_outputs, unreserved_concurrency
from sparklet.aws.task_queue import queue_opener
from sparklet.errors import RemoteTaskError, SettingsError, SparkletError
from sparklet.forks import renew_after_fork
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import Answer, Call, Contents, End
from sparklet.functions.recorded_calls import RECORDED, Poller
from sparklet.functions.threads import DaemonThreads
from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import Failure, TaskRecord

Transport = Literal["auto", "invoke", "event", "queue"]

OUTPUTS = ("BucketName", "FunctionTimeoutS", "LedgerTable", "SecretArn", "Workers")
INLINE_BYTES = 180 * 1024  # as base64 below 256 KiB, the limit of all three ways
THREADS, SENDERS = 64, 8  # threads that wait for answers; that only send
SHORT_S = 300.0  # a longer silence may end a connection
SHARE = 0.5  # of the account's free concurrency, by default
UNKNOWN_CONCURRENCY = 100
WAITING_S = {"invoke": 60.0, "event": 360.0, "queue": 6 * 3600.0}  # for a worker; then the call has expired


class LambdaFunctions:
    """A ``Backend`` over a stack's functions.

    Parameters
    ----------
    slots
        Calls under way at a time; None: the stack's reserved concurrency of a size, or half of the account's free one.
    transport
        ``auto``: ``queue`` for calls beyond that concurrency, if ``slots`` is larger; else ``invoke`` for calls below
        five minutes while threads are free; else ``event``.

    Raises
    ------
    SettingsError
        If there is no such stack, or its outputs or its secret cannot be read.
    """

    inline_bytes = INLINE_BYTES

    def __init__(
        self, stack: str = "sparklet-functions", slots: int | None = None, transport: Transport = "auto"
    ) -> None:
        if transport not in get_args(Transport):
            raise ValueError(f"transport must be one of {', '.join(get_args(Transport))}")
        clients = AwsClients(THREADS + SENDERS + 1)
        outputs = stack_outputs(clients, stack, OUTPUTS, "functions.yaml")
        self._workers = sorted(json.loads(outputs["Workers"]), key=lambda worker: int(worker["memory_mb"]))
        self.sizes: Sequence[int] = [int(worker["memory_mb"]) for worker in self._workers]
        self.key = read_secret(clients, outputs["SecretArn"])
        self.contents: Contents | None = StoredContents(
            S3ObjectStore(clients), f"s3://{outputs['BucketName']}/functions/"
        )
        self.max_timeout_s = float(outputs["FunctionTimeoutS"]) - 1
        self._concurrency = self._workers[0].get("reserved") or _share(clients)
        self._transport, self.slots = transport, slots or (THREADS if transport == "invoke" else self._concurrency)
        self._compute, self._queue = LambdaCompute(clients), functools.cache(queue_opener(clients))
        self._tasks = DynamoTaskStore(clients, outputs["LedgerTable"])
        self._closed = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin without calls, in threads of this process."""
        self._poller, self._threads = Poller(self._tasks.get_tasks), DaemonThreads(THREADS + SENDERS)
        self._underway: set[str] = set()

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Have a thread send the call, by the transport that fits now."""
        if self._closed:
            raise RemoteTaskError("the backend was closed", "killed")
        transport, worker = str(self._transport), self._workers[size]
        if transport == "auto":
            short = call.timeout_s <= SHORT_S and self._threads.unfinished < THREADS
            transport = "queue" if len(self._underway) >= self._concurrency else "invoke" if short else "event"
        self._underway.add(call.record_id)

        def ended(end: End) -> None:
            self._underway.discard(call.record_id)
            done(end)

        self._threads.submit(partial(self._perform, transport, call, worker, ended))

    def patience_s(self, call: Call) -> float:
        """The call's own time, and its wait for a worker."""
        slowest: str = "queue" if self.slots > self._concurrency else "event"
        return call.timeout_s + WAITING_S[slowest if self._transport == "auto" else self._transport]

    def give_up(self, call: Call) -> None:
        """Stop polling for the call. It expires, or its worker ends it when its time is over."""
        if self._poller.forget(call.record_id):
            self._underway.discard(call.record_id)

    def close(self) -> None:
        """Stop waiting. Lambda completes the calls that it has begun; waiting ones expire in the queue."""
        self._closed = True
        self._poller.close()
        self._threads.close()

    def _perform(self, transport: str, call: Call, worker: Any, ended: Callable[[End], None]) -> None:
        if self._closed:
            return None
        if transport == "invoke":
            return ended(self._invoke(call, worker))
        try:
            self._send(transport, call, worker, ended)
        except SparkletError as error:  # it may be sent again: the ledger decides
            again = error.retryable or getattr(error, "reason", "") in ("throttled", "killed")
            if self._poller.forget(call.record_id):
                ended(RemoteTaskError(str(error), "throttled" if again else ""))

    def _invoke(self, call: Call, worker: Any) -> End:
        begun_s = time.monotonic()
        try:
            return self._opened(call, self._compute.invoke(worker["function"], call.sealed(self.key)))
        except RemoteTaskError as error:
            return _timed(error, call, begun_s)

    def _send(self, transport: str, call: Call, worker: Any, ended: Callable[[End], None]) -> None:
        """Send a call, whose record is polled from now on."""
        begun_s = time.monotonic()

        def recorded(record: TaskRecord | Exception) -> None:
            self._threads.submit(lambda: ended(self._end(call, record, begun_s)))

        self._poller.watch(call.record_id, recorded)
        envelope = {**call.sealed(self.key), RECORDED: "yes"}
        if transport == "event":
            self._compute.invoke(worker["function"], envelope, wait=False)
        else:
            self._queue(worker["queue"]).send([json.dumps(envelope)])

    def _end(self, call: Call, record: TaskRecord | Exception, begun_s: float) -> End:
        """The end in a record that has ended, or is renewed no more."""
        if isinstance(record, Exception):
            return RemoteTaskError(f"{call.name}: its answer cannot be read: {type(record).__name__}: {record}")
        if record.result:
            return self._opened(call, record.result.answer[0])
        failure = record.failure or Failure(LEASE_EXPIRED, "its worker was lost", retryable=False)
        cause = f"{failure.error_class}: {failure.message}"
        error = RemoteTaskError(f"{call.name}: {cause}", reason_of(cause), facts={"log_stream": record.log_stream})
        return _timed(error, call, begun_s)

    def _opened(self, call: Call, envelope: Any) -> End:
        """The answer; a large one is stored."""
        try:
            if self.contents and isinstance(envelope, dict) and "stored" in envelope:
                envelope = json.loads(self.contents.get(envelope["stored"]))
            return Answer.opened(envelope, self.key)
        except (SparkletError, ValueError) as error:
            return RemoteTaskError(f"{call.name}: its answer cannot be read: {error}")


def _share(clients: AwsClients) -> int:
    with contextlib.suppress(SettingsError):  # the caller may lack the right
        if found := unreserved_concurrency(clients):
            return max(1, int(SHARE * found))
    return UNKNOWN_CONCURRENCY


def _timed(error: RemoteTaskError, call: Call, begun_s: float) -> RemoteTaskError:
    """The error, as a timeout if the time is over: then the worker ends itself, and not every transport says so."""
    if error.reason == "killed" and time.monotonic() - begun_s >= call.timeout_s:
        error.reason = "timeout"
    return error
