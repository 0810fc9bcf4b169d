"""The backend over deployed Lambda functions: ``sam/functions.yaml``.

A call goes by one of three ways. ``invoke``: a thread waits for the answer. ``event``: Lambda queues the call, and the
answer comes from the ledger's table, a large one from S3. ``queue``: SQS holds what is beyond Lambda's concurrency.
"""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoTasks
from sparklet.aws.functions import LambdaCompute, read_secret, reason_of
from sparklet.aws.messaging import SqsQueue, queue_opener
from sparklet.aws.s3 import S3Store
from sparklet.aws.stacks import stack_outputs, unreserved_concurrency
from sparklet.errors import PayloadError, QueueError, RemoteTaskError, SettingsError
from sparklet.functions.backend import End, StoredContents
from sparklet.functions.calls import Answer, Call, Contents
from sparklet.functions.poller import Poller
from sparklet.functions.records import RECORDED, record_id
from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import ShardState, TaskRecord

Transport = Literal["auto", "invoke", "event", "queue"]

OUTPUTS = ("BucketName", "FunctionTimeoutS", "LedgerTable", "SecretArn", "Workers")
INLINE_BYTES = 180 * 1024  # as base64 within 256 KiB, which every transport takes
THREADS = 64  # calls that wait for their answers at a time
SENDERS = 8  # threads beside them
LONG_S = 300.0  # a connection that is silent for longer may be cut off on its way
UNKNOWN_CONCURRENCY = 100
BEGINS_WITHIN_S = {"invoke": 60.0, "event": 360.0, "queue": 6 * 3600.0}  # the template lets messages expire then


class LambdaFunctions:
    """A ``Backend`` over the functions of a stack.

    Parameters
    ----------
    stack
        Made from ``sam/functions.yaml``.
    transport
        ``auto``: ``invoke`` for calls of up to five minutes while threads are free, else ``event``; ``queue`` for those
        that are beyond the account's concurrency, if ``slots`` allows as many.
    slots
        Calls under way at a time; None: what the account's concurrency allows.

    Raises
    ------
    SettingsError
        If there is no such stack, or its outputs or its secret cannot be read.
    """

    inline_bytes = INLINE_BYTES

    def __init__(
        self,
        stack: str = "sparklet-functions",
        slots: int | None = None,
        transport: Transport = "auto",
        threads: int = THREADS,
        clients: AwsClients | None = None,
    ) -> None:
        if transport not in get_args(Transport):
            raise ValueError(f"transport must be one of {', '.join(get_args(Transport))}")
        clients = clients or AwsClients(threads + SENDERS + 1)
        outputs = stack_outputs(clients, stack, OUTPUTS, "functions.yaml")
        self._workers = sorted(json.loads(outputs["Workers"]), key=lambda worker: int(worker["memory_mb"]))
        self.sizes = [int(worker["memory_mb"]) for worker in self._workers]
        self.key = read_secret(clients, outputs["SecretArn"])
        self.contents: Contents | None = StoredContents(S3Store(clients), f"s3://{outputs['BucketName']}/functions/")
        self.max_timeout_s = float(outputs["FunctionTimeoutS"]) - 1
        self._concurrency = UNKNOWN_CONCURRENCY
        with contextlib.suppress(SettingsError):  # not everybody may ask
            self._concurrency = unreserved_concurrency(clients) or UNKNOWN_CONCURRENCY
        self._transport, self._threads = transport, threads
        self.slots = slots or (threads if transport == "invoke" else self._concurrency)
        self._compute, self._open_queue = LambdaCompute(clients), queue_opener(clients)
        self._queues: dict[str, SqsQueue] = {}
        self._tasks = DynamoTasks(clients, outputs["LedgerTable"])
        self._poller = Poller(self._tasks.get_tasks)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = self._invoking = self._underway = 0
        self._lock = threading.Lock()

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Hand it to a thread, with the transport that suits it now."""
        with self._lock:
            transport = self._chosen(call)
            self._invoking += transport == "invoke"
            self._underway += 1

        def ended(end: End) -> None:
            with self._lock:
                self._invoking -= transport == "invoke"
                self._underway -= 1
            done(end)

        self._run(partial(self._perform, call, self._workers[size], transport, ended))

    def _chosen(self, call: Call) -> str:
        if self._transport != "auto":
            return self._transport
        if self._underway >= self._concurrency:
            return "queue"
        return "invoke" if call.timeout_s <= LONG_S and self._invoking < self._threads else "event"

    def patience_s(self, call: Call) -> float:
        """Its own time, and what it may wait for."""
        floods = "queue" if self.slots > self._concurrency else "event"
        return call.timeout_s + BEGINS_WITHIN_S[floods if self._transport == "auto" else self._transport]

    def give_up(self, call: Call) -> None:
        """Ask for it no more. It has expired; if it has begun its worker ends it when its time is over."""
        self._poller.forget(record_id(call.task_id, call.attempt))

    def close(self) -> None:
        """Wait for nothing any more. What Lambda has begun it ends, unseen; what waits in the queue expires there."""
        self._poller.close()
        for _ in range(self._started):
            self._jobs.put(None)

    # --- threads ---

    def _run(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._started < min(self._threads + SENDERS, self._underway + 1):
                self._started += 1
                threading.Thread(target=self._serve, name="sparklet-functions", daemon=True).start()
        self._jobs.put(job)

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()
            del job

    # --- a call's way ---

    def _perform(self, call: Call, worker: Any, transport: str, ended: Callable[[End], None]) -> None:
        begun_s, name = time.monotonic(), record_id(call.task_id, call.attempt)
        envelope: dict[str, Any] = call.sealed(self.key)
        try:
            if transport == "invoke":
                ended(self._opened(call, self._compute.call(worker["function"], envelope)))
                return
            envelope[RECORDED] = True
            self._poller.watch(
                name, lambda record: self._run(lambda: ended(self._end(call, record, time.monotonic() - begun_s)))
            )
            if transport == "event":
                self._compute.call(worker["function"], envelope, wait=False)
            else:
                self._queue(worker["queue"]).send([json.dumps(envelope)])
        except RemoteTaskError as error:
            self._poller.forget(name)
            ended(_timed(error, call, time.monotonic() - begun_s))
        except QueueError as error:
            self._poller.forget(name)
            ended(RemoteTaskError(str(error), "throttled" if error.retryable else ""))

    def _queue(self, arn: str) -> SqsQueue:
        if arn not in self._queues:
            self._queues[arn] = self._open_queue(arn)
        return self._queues[arn]

    def _end(self, call: Call, record: TaskRecord, worked_s: float) -> End:
        """What a record says."""
        facts = {"log_stream": record.log_stream}
        if record.state is ShardState.SUCCEEDED:
            answer = record.result.answer if record.result else ()
            return self._opened(call, answer[0]) if answer else RemoteTaskError("its answer is not there", facts=facts)
        kind, message = LEASE_EXPIRED, "its worker was lost"
        if record.failure:
            kind, message = record.failure.error_class, record.failure.message
        lost = RemoteTaskError(f"{call.function or 'a call'}: {kind}: {message}", reason_of(kind, message), facts=facts)
        return _timed(lost, call, worked_s)

    def _opened(self, call: Call, envelope: Any) -> End:
        """The answer, which may lie in S3."""
        try:
            if self.contents and isinstance(envelope, dict) and "stored" in envelope:
                envelope = json.loads(self.contents.get(envelope["stored"]))
            answer = Answer.opened(envelope, self.key)
            if answer.task_id != call.task_id:
                raise PayloadError(f"the answer is one to {answer.task_id}")
        except (PayloadError, ValueError) as error:
            return RemoteTaskError(f"{call.function or 'a call'}: its answer cannot be read: {error}")
        return answer


def _timed(error: RemoteTaskError, call: Call, worked_s: float) -> RemoteTaskError:
    """A worker ends itself when a call's time is over, and not every transport says so."""
    if error.reason == "killed" and worked_s >= call.timeout_s:
        error.reason = "timeout"
    return error
