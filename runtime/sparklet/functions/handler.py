"""Lambda entry point and composition root of the workers of Python functions.

A synchronous event is a call's envelope, and the answer's envelope is returned. Asynchronous events and the queue's
messages are marked: they are claimed in the ledger, so that a call that is delivered twice is performed once, and their
answers are recorded there.
"""

import functools
import hashlib
import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sparklet.aws.clients import AwsClients, read_secret
from sparklet.aws.compute import TIMED_OUT
from sparklet.aws.dynamodb import DynamoTaskStore
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.task_queue import queue_opener
from sparklet.errors import LeaseLostError
from sparklet.events import Event, Outcome, Source, Task, TaskRequest, parse_event
from sparklet.events.sqs import respond
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import Call, Contents
from sparklet.functions.performer import Performer
from sparklet.functions.recorded_calls import RECORDED, Renewer, claimed_id
from sparklet.ledger.rules import LEASE_S
from sparklet.log import Log
from sparklet.model import ShardResult
from sparklet.model.tasks import ANSWER_BYTES
from sparklet.settings import function_settings
from sparklet.spark.task_limits import Deadline
from sparklet.worker.attempt import Attempt, make_attempt, persist
from sparklet.worker.task_requests import ClaimedRequest, RequestClaims

MAX_RESPONSE_BYTES = 6 * 1024 * 1024 - 64 * 1024  # of a synchronous invocation; Lambda's limit is 6 MiB


def lambda_handler(event: Event, context: Any) -> Any:
    """Perform a call, or those of an SQS event."""
    claims, worker = _ports()
    worker.performer.facts = {**worker.performer.facts, "request_id": context.aws_request_id}
    if not isinstance(event, dict) or not event.keys() & {"Records", RECORDED}:
        return worker.answer(event, MAX_RESPONSE_BYTES)
    deadline = Deadline.within(context.get_remaining_time_in_millis() / 1000)
    outcomes = [_record(claims, task, context.aws_request_id, deadline) for task in _tasks(event)]
    if "Records" in event:
        return respond(event, outcomes)
    for outcome in outcomes:
        if not outcome.acknowledged:
            outcome.raise_failure()
    return None


def _tasks(event: Event) -> Iterator[Task]:
    """The calls of an event; each task's event is an envelope."""
    for task in parse_event(event) if "Records" in event else (Task(Source.DIRECT, event),):
        envelope = json.loads(task.event["Records"][0]["body"]) if task.record_ids else task.event
        yield replace(task, event=envelope, request=TaskRequest(claimed_id(envelope), queue_arn=""))


def _record(claims: RequestClaims, task: Task, request_id: str, deadline: Deadline) -> Outcome:
    log = Log().bind(request_id=request_id, task=task.request and task.request.task_id)
    outcome = make_attempt(claims, Attempt(f"{request_id}.{uuid.uuid4().hex[:8]}", task, deadline, log))
    return replace(outcome, acknowledged=outcome.acknowledged or isinstance(outcome.error, LeaseLostError))  # another's


@dataclass
class FunctionWorker:
    """Performs calls. When a call's time is over the process ends: nothing else stops any Python code."""

    performer: Performer
    contents: Contents

    def answer(self, envelope: Any, max_bytes: int) -> dict[str, str]:
        """The signed answer's envelope, or ``{"stored": URI}`` if that is larger; PayloadError as a Performer."""
        call = Call.opened(envelope, self.performer.key)
        timer = threading.Timer(call.timeout_s, _end, [call])
        timer.daemon = True
        timer.start()
        try:
            found = self.performer.perform_opened(call)
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


def _end(call: Call) -> None:
    print(f"{call.name} took longer than {call.timeout_s:g} s: its worker ends", flush=True)
    os._exit(TIMED_OUT)


@dataclass
class CallClaims(RequestClaims):
    """Claims calls. A ledger that does not answer for a while delays a call, and does not fail it."""

    def __post_init__(self) -> None:
        self.renewer = Renewer(self.tasks, self.clock)

    def claim(self, attempt: Attempt) -> "ClaimedRequest | Outcome":
        """The call, if it is not another invocation's."""
        claimed = persist(lambda: super(CallClaims, self).claim(attempt), self.clock, attempt)
        return ClaimedCall(self, attempt, claimed.record) if isinstance(claimed, ClaimedRequest) else claimed


class ClaimedCall(ClaimedRequest):
    """A call that this invocation owns. Its lease is renewed: who polls sees whether its worker lives."""

    claims: CallClaims

    def execute(self) -> ShardResult:
        """Perform it."""
        with self.claims.renewer.renewing(self.record, LEASE_S):
            return super().execute()


@functools.cache
def _ports() -> "tuple[CallClaims, FunctionWorker]":
    settings, clients, stream = function_settings(), AwsClients(), os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    contents = StoredContents(S3ObjectStore(clients), f"s3://{settings.bucket}/functions/")
    key, facts = read_secret(clients, settings.secret), {"log_stream": stream}
    worker = FunctionWorker(Performer(key, settings.codec, settings.modules, contents, facts), contents)
    tasks = DynamoTaskStore(clients, settings.ledger_table)
    return CallClaims(tasks, None, queue_opener(clients), worker, tasks.clock, stream, max_attempts=1), worker


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:  # in Lambda, not in a test that imports this module
    _ports()
