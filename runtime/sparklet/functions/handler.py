"""Lambda entry point and composition root of the workers of Python functions.

An event is a call's envelope. The call is claimed in the ledger, so that a call that is delivered twice is performed
once, and its answer is recorded there.
"""

import functools
import hashlib
import json
import os
import sys
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from sparklet.aws.clients import AwsClients, read_secret
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import TIMED_OUT, queue_opener
from sparklet.errors import LeaseLostError
from sparklet.events import Event, Outcome, Source, Task, TaskRequest
from sparklet.functions.backend import StoredContents
from sparklet.functions.calls import Call
from sparklet.functions.performer import Performer
from sparklet.functions.recorded_calls import claimed_id
from sparklet.ledger.rules import TASK_ANSWER_BYTES
from sparklet.log import Log
from sparklet.model import ExecutionResult, JobOutcome
from sparklet.settings import function_settings
from sparklet.spark.runner import Deadline
from sparklet.worker.attempt import Attempt, make_attempt, persist
from sparklet.worker.task_requests import ClaimedRequest, RequestClaims


def lambda_handler(event: Event, context: Any) -> None:
    """Perform a call and record its answer; raise the error if that fails, so that Lambda reports the call."""
    claims, request_id = _claims(), context.aws_request_id
    claims.executor.facts = {**claims.executor.facts, "request_id": request_id}
    task = Task(Source.DIRECT, event, request=TaskRequest(claimed_id(event), queue_arn=""))
    log = Log().bind(request_id=request_id, task=claimed_id(event))
    deadline = Deadline.within(context.get_remaining_time_in_millis() / 1000)
    # The attempt's id begins with the request's id, by which Lambda reports a lost call. The rest differs for each
    # delivery of the request, so that the claim of a second delivery is refused.
    outcome = make_attempt(claims, Attempt(f"{request_id}.{uuid.uuid4().hex[:8]}", task, deadline, log))
    has_other_worker = isinstance(outcome.error, LeaseLostError)
    if not outcome.acknowledged and not has_other_worker:
        outcome.raise_failure()


class FunctionWorker(Performer):
    """Performs claimed calls. When a call's time is over the process exits: nothing else stops any Python code."""

    def execute_task(self, attempt: Attempt) -> ExecutionResult:
        """Perform a call; return its signed answer for the ledger, or the answer's address if it is large."""
        call = Call.opened(attempt.task.event, self.key)
        timer = threading.Timer(call.timeout_s, _exit, [call])
        timer.daemon = True
        timer.start()
        try:
            answer = self.perform_opened(call)
        finally:
            timer.cancel()
            # Lambda freezes or kills the process without flushing Python's buffer.
            sys.stdout.flush()
        encoded = json.dumps(answer).encode()
        if len(encoded) > TASK_ANSWER_BYTES:
            answer = {"stored": self.contents.put(hashlib.sha256(encoded).hexdigest(), encoded)}
        return ExecutionResult(JobOutcome(answer=(answer,)))


def _exit(call: Call) -> None:
    print(f"{call.name} took longer than {call.timeout_s:g} s: its worker ends", flush=True)
    # ``sys.exit`` would end only the timer's thread.
    os._exit(TIMED_OUT)


@dataclass
class CallClaims(RequestClaims):
    """Claims calls. A ledger that does not answer for a while delays a call, but does not fail it."""

    executor: FunctionWorker

    def claim(self, attempt: Attempt) -> "ClaimedRequest | Outcome":
        """Claim the call; an Outcome if the call has ended or another invocation has it."""
        return persist(lambda: super(CallClaims, self).claim(attempt), self.clock, attempt)


@functools.cache
def _claims() -> CallClaims:
    settings, clients, stream = function_settings(), AwsClients(), os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
    contents = StoredContents(S3ObjectStore(clients), f"s3://{settings.bucket}/functions/")
    key, facts = read_secret(clients, settings.secret), {"log_stream": stream}
    worker = FunctionWorker(key, settings.codec, contents, settings.modules, facts)
    ledger = DynamoLedger(clients, settings.ledger_table)
    # A lost call may have had effects, so its caller alone decides on another try.
    return CallClaims(ledger, None, queue_opener(clients), worker, stream, max_attempts=1)


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:  # in Lambda, not in a test that imports this module
    _claims()
