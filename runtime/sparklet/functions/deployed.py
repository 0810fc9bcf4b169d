"""The backend over deployed Lambda functions (``sam/functions.yaml``).

Lambda queues a call. Its answer is read from the ledger's table, or from S3 if it is large.
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparklet.aws.clients import AwsClients, read_secret
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import LambdaCompute, reason_of
from sparklet.aws.stacks import described_stack, unreserved_concurrency
from sparklet.errors import RemoteTaskError, SettingsError, SparkletError
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import Answer, Call, Contents, TryResult
from sparklet.functions.recorded_calls import Poller
from sparklet.model import TaskRecord
from sparklet.ports.forks import renew_after_fork

OUTPUTS = ("BucketName", "FunctionTimeoutS", "LedgerTable", "SecretArn", "Workers")
INLINE_BYTES = 180 * 1024  # as base64 below 256 KiB, the limit of an asynchronous invocation
THREADS = 16  # which send calls and read answers
SHARE = 0.5  # of the account's free concurrency, by default
UNKNOWN_CONCURRENCY = 100  # how many calls there are at a time if the free concurrency cannot be read
WAITING_S = 3600.0  # how long a call waits for a worker, by the template's MaximumEventAgeInSeconds; then it expires


class LambdaFunctions:
    """A ``Backend`` over a stack's functions.

    Parameters
    ----------
    slots
        How many calls are under way at a time. If None, as many as the stack reserves for each size, or else half of
        the account's free concurrency.

    Raises
    ------
    SettingsError
        If there is no such stack, or its outputs or its secret cannot be read.
    """

    inline_bytes = INLINE_BYTES
    waiting_s = WAITING_S

    def __init__(self, stack: str = "sparklet-functions", slots: int | None = None) -> None:
        clients = AwsClients(THREADS + 1)  # one more for the poller
        outputs, _ = described_stack(clients, stack, OUTPUTS, "functions.yaml")
        self._workers = sorted(json.loads(outputs["Workers"]), key=lambda worker: int(worker["memory_mb"]))
        self.sizes: Sequence[int] = [int(worker["memory_mb"]) for worker in self._workers]
        self.key = read_secret(clients, outputs["SecretArn"])
        self.contents: Contents = StoredContents(S3ObjectStore(clients), f"s3://{outputs['BucketName']}/functions/")
        self.max_timeout_s = float(outputs["FunctionTimeoutS"]) - 1
        self.slots = slots or self._workers[0]["reserved"] or _share_of_concurrency(clients)
        self._compute, self._tasks = LambdaCompute(clients), DynamoLedger(clients, outputs["LedgerTable"]).tasks
        self._closed = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin without calls, with a poller and threads of this process."""
        self._poller, self._threads = Poller(self._tasks.get_many), ThreadPoolExecutor(THREADS, "sparklet-functions")

    def start(self, call: Call, size: int, done: Callable[[TryResult], None]) -> None:
        """Have a thread send the call."""
        if self._closed:
            raise RemoteTaskError("the backend is closed", "killed")
        self._threads.submit(self._send, call, self._workers[size]["function"], done)

    def give_up(self, call: Call) -> None:
        """Stop polling for the call. It expires, or its worker exits when the call's time is over."""
        self._poller.forget(call.record_id)

    def close(self) -> None:
        """Stop waiting. Lambda completes the calls that it has begun; waiting calls expire."""
        self._closed = True
        self._poller.close()
        self._threads.shutdown(wait=False)

    def _send(self, call: Call, function: str, done: Callable[[TryResult], None]) -> None:
        """Send a call, and poll for its record from now on."""
        if self._closed:
            return
        sent_s = time.monotonic()

        def on_record(record: TaskRecord | Exception) -> None:
            # In a thread of the pool, since one poller serves all calls, and reading an answer takes requests.
            with contextlib.suppress(RuntimeError):  # the pool was closed meanwhile
                self._threads.submit(lambda: done(self._result_of(call, record, sent_s)))

        self._poller.watch(call.record_id, on_record)
        try:
            self._compute.invoke(function, call.sealed(self.key), wait=False)
        except SparkletError as error:
            # The call may have been queued. It can be sent again all the same: only one claim of its record is granted.
            is_worth_retry = error.retryable or getattr(error, "reason", "") in ("throttled", "killed")
            # The poller may have reported the result already, if the call has ended although Lambda's answer was lost,
            # or if its record cannot be read.
            if self._poller.forget(call.record_id):
                done(RemoteTaskError(str(error), "throttled" if is_worth_retry else ""))

    def _result_of(self, call: Call, record: TaskRecord | Exception, sent_s: float) -> TryResult:
        """A call's result by its record in the ledger: the worker's answer, else a RemoteTaskError.

        A large answer is fetched from S3.
        """
        try:
            if isinstance(record, Exception):
                raise record
            if record.answer:
                envelope: Any = record.answer[0]
                if "stored" in envelope:
                    envelope = json.loads(self.contents.get(envelope["stored"]))
                return Answer.opened(envelope, self.key)
        except Exception as error:  # noqa: BLE001 - whatever reading raises, the call must end
            return RemoteTaskError(f"{call.name}: its answer cannot be read: {type(error).__name__}: {error}")
        cause = f"{record.error_class}: {record.error_message}"
        reason, facts = reason_of(cause), {"log_stream": record.log_stream}
        if reason == "killed" and time.monotonic() - sent_s >= call.timeout_s:
            reason = "timeout"  # the worker exited at the time limit; Lambda does not always report this
        return RemoteTaskError(f"{call.name}: {cause}", reason, facts=facts)


def _share_of_concurrency(clients: AwsClients) -> int:
    """Half of the account's free concurrency; a fixed number if that cannot be read."""
    with contextlib.suppress(SettingsError):  # the caller may have no permission to read it
        if concurrency := unreserved_concurrency(clients):
            return max(1, int(SHARE * concurrency))
    return UNKNOWN_CONCURRENCY
