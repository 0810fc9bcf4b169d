"""Lambda entry point and composition root of the workers of Python functions.

A synchronous event is a call's envelope, and its answer's envelope is returned. Asynchronous events and messages of the
queue are marked: they are claimed in the ledger, so that a call that is delivered twice is performed and answered once,
and their answers are recorded there.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparklet.aws.functions import TIMED_OUT
from sparklet.clock import SystemClock
from sparklet.errors import LeaseLostError, LedgerError
from sparklet.events import Event, Outcome, Source, Task, TaskRequest, parse_event
from sparklet.events.sqs import respond as batch_response
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import Call
from sparklet.functions.perform import Performer
from sparklet.functions.records import RECORDED, claimed_id, read_envelope
from sparklet.ledger.rules import LEASE_S
from sparklet.model import ShardResult, ShardState, TaskRecord
from sparklet.model.tasks import ANSWER_BYTES
from sparklet.settings import FunctionSettings, function_settings
from sparklet.spark.guards import Deadline
from sparklet.worker.attempt import Attempt, make_attempt, persist
from sparklet.worker.log import Log
from sparklet.worker.task_requests import ClaimedRequest, RequestClaims

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 - 64 * 1024  # of a synchronous invocation; Lambda's limit is 6 MiB
MAX_ATTEMPTS = 1  # at a try; the caller decides whether there is another one


def lambda_handler(event: Event, context: Any) -> Any:
    """Perform a call, or those of an SQS event."""
    worker = _worker()
    worker.performer.facts = {**worker.facts, "request_id": context.aws_request_id}
    marks = event if isinstance(event, dict) else {}
    if "Records" not in marks and RECORDED not in marks:
        return worker.answer(event, MAX_RESPONSE_BYTES)
    deadline = Deadline.within(context.get_remaining_time_in_millis() / 1000)
    outcomes = [worker.record(_claims(), task, context.aws_request_id, deadline) for task in _tasks(event)]
    if "Records" in event:
        return batch_response(event, outcomes)
    for outcome in outcomes:
        if not outcome.acknowledged and not isinstance(outcome.error, LeaseLostError):  # that is another delivery's
            outcome.raise_failure()
    return None


def _tasks(event: Event) -> Iterator[Task]:
    """The calls of an event; each task's event is an envelope."""
    for task in parse_event(event) if "Records" in event else (Task(Source.DIRECT, event),):
        record = task.event["Records"][0] if task.record_ids else {}
        envelope = read_envelope(record["body"]) if record else task.event
        yield replace(task, event=envelope, request=TaskRequest(claimed_id(envelope), record.get("eventSourceARN", "")))


@dataclass
class FunctionWorker:
    """Performs calls, and records the answers to those that are marked."""

    performer: Performer
    contents: StoredContents
    facts: Mapping[str, Any]  # of this worker, beside the request's id

    def answer(self, envelope: Any, max_bytes: int) -> dict[str, str]:
        """The signed answer's envelope, or ``{"stored": its URI}`` if that is larger; PayloadError as of a Performer.

        When the call's time is over, this process ends: nothing else stops any Python code.
        """
        call = Call.opened(envelope, self.performer.key)
        timer = threading.Timer(call.timeout_s, _end, [call])
        timer.daemon = True
        timer.start()
        try:
            found = self.performer.perform(envelope)
        finally:
            timer.cancel()
            sys.stdout.flush()
        encoded = json.dumps(found).encode()
        if len(encoded) <= max_bytes:
            return found
        return {"stored": self.contents.put(hashlib.sha256(encoded).hexdigest(), encoded)}

    def execute_task(self, attempt: Attempt) -> ShardResult:
        """Perform a claimed call; its answer is what the ledger keeps."""
        return ShardResult(answer=(self.answer(attempt.task.event, ANSWER_BYTES),))

    def record(self, claims: RequestClaims, task: Task, request_id: str, deadline: Deadline) -> Outcome:
        """Perform a call, unless it was delivered before, and record its answer."""
        log = Log().bind(request_id=request_id, task=task.request and task.request.task_id)
        return make_attempt(claims, Attempt(f"{request_id}.{uuid.uuid4().hex[:8]}", task, deadline, log))


def _end(call: Call) -> None:
    print(f"{call.function or call.task_id} took longer than {call.timeout_s:g} s: its worker ends")
    sys.stdout.flush()
    os._exit(TIMED_OUT)


class CallClaims(RequestClaims):
    """Claims calls. A ledger that does not answer for a while delays a call, and does not fail it."""

    def claim(self, attempt: Attempt) -> "ClaimedRequest | Outcome":
        """The call, with a lease that is renewed while it is performed: who polls sees whether its worker lives."""
        claimed = persist(lambda: super(CallClaims, self).claim(attempt), self.clock, attempt)
        return ClaimedCall(self, attempt, claimed.record) if isinstance(claimed, ClaimedRequest) else claimed


class ClaimedCall(ClaimedRequest):
    """A call that this worker owns."""

    def execute(self) -> ShardResult:
        """Perform it."""
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(done,), name="lease", daemon=True)
        keeper.start()
        try:
            return super().execute()
        finally:
            done.set()
            keeper.join()

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 2):
            with contextlib.suppress(LedgerError, LeaseLostError):
                self._replace(self.record.renewed(self.claims.clock.now_s(), LEASE_S))

    def _replace(self, after: TaskRecord) -> None:
        try:
            super()._replace(after)
        except LeaseLostError:
            stands = self.claims.tasks.get_task(self.record.task_id)
            if not stands or (stands.attempt_id, stands.state) != (self.record.attempt_id, ShardState.RUNNING):
                raise
            self.record = stands  # a renewal was written, and the answer to it lost
            super()._replace(replace(after, revision=stands.revision + 1))


@functools.cache
def _settings() -> FunctionSettings:
    return function_settings()


@functools.cache
def _worker() -> FunctionWorker:
    """The worker of this environment."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.functions import read_secret
    from sparklet.aws.s3 import S3Store

    settings, clients = _settings(), AwsClients()
    contents = StoredContents(S3Store(clients), f"s3://{settings.bucket}/functions/")
    performer = Performer(read_secret(clients, settings.secret), settings.codec, settings.modules, contents)
    return FunctionWorker(performer, contents, {"log_stream": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")})


@functools.cache
def _claims() -> CallClaims:
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoTasks
    from sparklet.aws.messaging import queue_opener

    clients = AwsClients()
    return CallClaims(
        tasks=DynamoTasks(clients, _settings().ledger_table),
        notifier=None,
        open_queue=queue_opener(clients),
        executor=_worker(),
        clock=SystemClock(),
        log_stream=_worker().facts["log_stream"],
        max_attempts=MAX_ATTEMPTS,
    )


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:  # in Lambda, not in a test that imports this module
    _worker()
