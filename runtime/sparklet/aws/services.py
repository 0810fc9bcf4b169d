"""AWS's queues, functions, state machines, topics, event buses and logs, each behind its port."""

import base64
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sparklet.aws.clients import AwsClients, error_code, failing_as, http_status, in_parallel
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.errors import (
    ExecutionExistsError,
    LogsError,
    NoticeError,
    OrchestrationError,
    QueueError,
    RemoteFailureError,
    RemoteTaskError,
)
from sparklet.ledger.clock import SystemClock
from sparklet.model import MAX_NAME, ExecutionState, ExecutionStatus, Notice
from sparklet.ports import Clock, Notifier
from sparklet.ports.deployment import Deployment

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

MAX_ENTRIES = 10
MAX_BATCH_BYTES = 256 * 1024  # a queue takes 1 MiB; a body larger than this is sent in a batch of its own
MAX_VISIBILITY_S = 12 * 3600
SEND_TRIES = 6
SENDERS = 4
# SQS's error codes for an expired receipt and for a message that is visible; the emulator's for a deleted message.
OUTDATED_RECEIPT = ("InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid")


class SqsTaskQueue:
    """A ``TaskQueue`` in a standard SQS queue."""

    def __init__(self, clients: AwsClients, queue_url: str, clock: Clock | None = None) -> None:
        self._clients = clients
        self._queue_url = queue_url
        self._clock: Clock = clock or SystemClock()

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send all bodies, a few batches at a time; return how many. After a lost answer a message can arrive twice."""
        send = partial(self._send_batch, delay_s=delay_s)
        return sum(in_parallel(send, batches(bodies), min(SENDERS, self._clients.threads)))

    def _send_batch(self, batch: Sequence[str], delay_s: int) -> int:
        """Send a batch; return its size. Refused entries are sent again; QueueError if SQS calls them wrong."""
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(index), "MessageBody": body, "DelaySeconds": delay_s} for index, body in enumerate(batch)
        ]
        for tries in range(1, SEND_TRIES + 1):
            with failing_as(QueueError, f"could not send messages to queue {self._queue_url}"):
                answer = self._clients.sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            # SQS answers 200 even if it has refused some entries, and botocore repeats only whole requests.
            refused_entries = answer.get("Failed", [])
            if not refused_entries:
                return len(batch)
            reason = f"{refused_entries[0]['Code']}: {refused_entries[0].get('Message', '')}"
            if any(entry["SenderFault"] for entry in refused_entries):
                break
            refused_ids = {entry["Id"] for entry in refused_entries}
            entries = [entry for entry in entries if entry["Id"] in refused_ids]
            self._clock.sleep(random.uniform(0, min(10.0, 0.1 * 2**tries)))
        raise QueueError(
            f"queue {self._queue_url} did not take {len(refused_entries)} messages in {tries} tries: {reason}"
        )

    def set_visibility(self, receipt: str, visibility_s: int) -> None:
        """Make a received message visible again in ``visibility_s`` seconds; do nothing if it is visible or deleted."""
        if not 0 <= visibility_s <= MAX_VISIBILITY_S:
            raise QueueError(f"a visibility timeout of {visibility_s} s is not allowed: 0 to {MAX_VISIBILITY_S} s are")
        with failing_as(QueueError, f"could not change a message's visibility in queue {self._queue_url}"):
            try:
                self._clients.sqs.change_message_visibility(
                    QueueUrl=self._queue_url, ReceiptHandle=receipt, VisibilityTimeout=visibility_s
                )
            except self._clients.sqs.exceptions.ClientError as error:
                if error_code(error).rpartition(".")[2] not in OUTDATED_RECEIPT:
                    raise


def queue_opener(clients: AwsClients) -> Callable[[str], SqsTaskQueue]:
    """A function that opens a queue by its ARN; it raises QueueError if there is no such queue or access is denied."""

    def open_queue(arn: str) -> SqsTaskQueue:
        account, _, name = arn.rpartition(":")
        with failing_as(QueueError, f"the queue {arn} could not be found"):
            answer = clients.sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account.rpartition(":")[2])
        return SqsTaskQueue(clients, answer["QueueUrl"])

    return open_queue


def batches(bodies: Iterable[str]) -> Iterator[list[str]]:
    """Group bodies, in order, into batches that a queue takes."""
    batch: list[str] = []
    batch_bytes = 0
    for body in bodies:
        size_bytes = len(body.encode())
        if batch and (len(batch) == MAX_ENTRIES or batch_bytes + size_bytes > MAX_BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(body)
        batch_bytes += size_bytes
    if batch:
        yield batch


# For a synchronous call, by AWS's page of Lambda's quotas
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
TIMED_OUT = 124  # exit status of a worker that ends itself at a call's time limit; the same as of coreutils' timeout
NOT_NOW = ("TooManyRequests", "Throttling", "EC2Throttled", "ENILimitReached", "ResourceConflict")
OF_THE_SERVICE = (500, 503, 504)  # the service's own failures; 502 means that a function cannot be started
NOT_SENT = ("ConnectTimeoutError", "EndpointConnectionError")
NOT_BEGUN: tuple[str, ...] = ("PayloadError", "EventError", "SettingsError", "ImportModuleError")
NOT_BEGUN += ("NeverStarted", "EventAgeExceeded")
REPORT = re.compile(r"Memory Size: (\d+) MB\s+Max Memory Used: (\d+) MB")


class LambdaCompute:
    """A ``Compute`` over deployed functions."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any], *, wait: bool = True) -> Any:
        """Invoke a function once, and return its decoded answer; None without ``wait``.

        A call is never repeated, since the function may have run even if its answer was lost. RemoteTaskError if the
        function fails, with the type and message of its error, and with the reason if its worker was lost; also if the
        event is too large.
        """
        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteTaskError(
                f"{function} cannot take {len(payload)} bytes: Lambda's limit is {MAX_PAYLOAD_BYTES}. "
                "Put the data into S3 and pass its URI"
            )
        mode: Any = {"LogType": "Tail"} if wait else {"InvocationType": "Event"}
        try:
            with failing_as(RemoteTaskError, f"{function} could not be invoked"):
                answer: Any = self._clients.functions.invoke(FunctionName=function, Payload=payload, **mode)
                body = answer["Payload"].read()
        except RemoteTaskError as error:
            error.reason = _reason_of_refusal(error.__cause__)
            raise
        if answer.get("FunctionError"):
            raise _failure(function, answer, body)
        try:
            return json.loads(body) if body else None
        except ValueError as error:
            raise RemoteTaskError(f"{function} answered with text that is not JSON: {body[:200]!r}") from error


def _failure(function: str, answer: Any, body: bytes) -> RemoteFailureError:
    """The exception for a function's error: with the error's type and message, or else the beginning of the answer.

    If the function's worker was lost, the exception also has the reason, the last log lines and facts of the worker.
    """
    try:
        document = json.loads(body)
        cause = f"{document.get('errorType', 'Error')}: {document['errorMessage']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        cause = body[:500].decode(errors="replace")
    log_tail = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")
    if not (reason := reason_of(cause, log_tail)):
        return RemoteFailureError(f"{function} failed: {cause}")
    report, facts = REPORT.search(log_tail), {"request_id": answer["ResponseMetadata"]["RequestId"]}
    facts |= {"memory_mb": report[2]} if report else {}
    return RemoteFailureError(f"{function} failed: {cause}", reason, log_tail=log_tail, facts=facts)


def reason_of(cause: str, log_tail: str = "") -> str:
    """Why a function's worker was lost or did not begin: a reason of ``RemoteTaskError``; "" if the function failed.

    ``cause`` is the type and the message of the function's error.
    """
    if "Sandbox.Timedout" in cause or "timed out after" in cause or cause.endswith(f"exit status {TIMED_OUT}"):
        return "timeout"
    # Lambda's report line shows how much memory a killed process had used. Without it, a lack of memory is assumed.
    report = REPORT.search(log_tail)
    was_full = report is None or int(report[2]) >= 0.95 * int(report[1])
    if "OutOfMemory" in cause or ("signal: killed" in cause and was_full):
        return "memory"
    if "ExitError" in cause or cause.startswith(("Sandbox.", "Extension.", "LeaseExpired")):
        return "killed"
    return "refused" if cause.partition(":")[0].endswith(NOT_BEGUN) else ""


def _reason_of_refusal(error: Any) -> str:
    """Why Lambda's API refused a call, as a reason of ``RemoteTaskError``; ``killed`` if the function may have run."""
    code = error_code(error) or type(error).__name__
    if code.startswith(NOT_NOW) or code in NOT_SENT or "NotReady" in code:
        return "throttled"
    # Only an error of the caller excludes a run: there may be no answer, or the service itself may have failed.
    is_callers_error = error_code(error) and http_status(error) not in OF_THE_SERVICE
    return "" if is_callers_error else "killed"


MAX_INPUT_BYTES = 256_000  # less than the 256 KiB of a state's input, since the machine adds a key


class StepFunctionsOrchestrator:
    """An ``Orchestrator`` over deployed state machines, named by their ARNs."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        # Sorted, so that the same request has the same text: Step Functions accepts a start again if name and text are
        # the same.
        body = json.dumps(input, ensure_ascii=False, sort_keys=True)
        if (size_bytes := len(body.encode())) > MAX_INPUT_BYTES or not 0 < len(name) <= MAX_NAME:
            raise OrchestrationError(
                f"{name} cannot be started: a name has 1 to {MAX_NAME} characters (it has {len(name)}), an input "
                f"at most {MAX_INPUT_BYTES} bytes ({size_bytes}). Put lists of inputs into S3 and pass their URI"
            )
        with failing_as(OrchestrationError, f"{machine} cannot be started"):
            states = self._clients.states
            # The name is taken by an execution with another input, or by one that has ended; its status is read below.
            with suppress(states.exceptions.ExecutionAlreadyExists):
                answer = states.start_execution(stateMachineArn=machine, name=name, input=body)
                return str(answer["executionArn"])
        status = self.status(execution_arn(machine, name))
        if status.state.ended:
            raise ExecutionExistsError(f"{name} has {status.state} already: choose another name to start it again")
        if status.input != input:  # the emulator does not compare inputs
            raise ExecutionExistsError(f"{name} runs with another input: choose another name")
        return status.execution

    def status(self, execution: str) -> ExecutionStatus:
        with failing_as(OrchestrationError, f"{execution} cannot be looked up"):
            answer = self._clients.states.describe_execution(executionArn=execution)
        return ExecutionStatus(
            execution=execution,
            state=ExecutionState(answer["status"]),
            started_s=answer["startDate"].timestamp(),
            ended_s=answer["stopDate"].timestamp() if answer.get("stopDate") else 0.0,
            input=json.loads(answer.get("input") or "{}"),
            output=json.loads(answer["output"]) if answer["status"] == "SUCCEEDED" and answer.get("output") else None,
            error=answer.get("error", ""),
            cause=answer.get("cause", ""),
        )

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name; None if there is none. Step Functions forgets executions after 90 days."""
        try:
            return self.status(execution_arn(machine, name))
        except OrchestrationError as error:
            if isinstance(error.__cause__, Exception) and error_code(error.__cause__) == "ExecutionDoesNotExist":
                return None
            raise

    def stop(self, execution: str, cause: str = "") -> None:
        try:
            with failing_as(OrchestrationError, f"{execution} cannot be stopped"):
                self._clients.states.stop_execution(executionArn=execution, cause=cause)
        except OrchestrationError:
            # No error if the execution has ended by itself meanwhile.
            if not self.status(execution).state.ended:
                raise


def execution_arn(machine: str, name: str) -> str:
    """The ARN of an execution, by the ARN of its state machine and the execution's name."""
    return f"{machine.replace(':stateMachine:', ':execution:', 1)}:{name}"


EVENT_SOURCE = "sparklet"  # the source of notices on EventBridge


@dataclass(frozen=True)
class AwsNotifier:
    """A ``Notifier`` to an SNS topic, an EventBridge bus, or both. If one of them fails, the other is still notified.

    Subscriptions to the topic can filter by the attributes ``kind`` and ``state``. On the bus the source is
    ``sparklet``, the detail type ``Sparklet Run Ended`` and the like.
    """

    _clients: AwsClients
    _topic_arn: str
    _bus: str

    def notify(self, notice: Notice) -> None:
        problems = []
        for target, send in ((self._topic_arn, self._publish), (self._bus, self._put_event)):
            try:
                if target:
                    send(notice)
            except NoticeError as error:
                problems.append(str(error))
        if problems:
            raise NoticeError("; ".join(problems))

    def _publish(self, notice: Notice) -> None:
        kind_and_state = {"kind": notice.kind, "state": notice.state}
        with failing_as(NoticeError, f"a notice could not be sent to the topic {self._topic_arn}"):
            self._clients.sns.publish(
                TopicArn=self._topic_arn,
                Subject=notice.subject,
                Message=notice.to_json(),
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in kind_and_state.items()
                },
            )

    def _put_event(self, notice: Notice) -> None:
        entry = {"EventBusName": self._bus, "Source": EVENT_SOURCE, "Detail": notice.to_json()}
        detail_type = f"Sparklet {notice.kind.title()} Ended"
        with failing_as(NoticeError, f"a notice could not be sent to the bus {self._bus}"):
            answer = self._clients.events.put_events(Entries=[{**entry, "DetailType": detail_type}])  # type: ignore[typeddict-item]
        # EventBridge answers 200 even if it has refused all entries.
        if answer["FailedEntryCount"]:
            refused_entry = answer["Entries"][0]
            reason = f"{refused_entry.get('ErrorCode', '')}: {refused_entry.get('ErrorMessage', '')}"
            raise NoticeError(f"a notice could not be sent to the bus {self._bus}: {reason}")


def notifier_for(clients: AwsClients, topic_arn: str, bus: str) -> Notifier | None:
    """The notifier to the topic and the bus; None if both are ""."""
    return AwsNotifier(clients, topic_arn, bus) if topic_arn or bus else None


LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or the stream does not exist (any more, if its retention time is over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}


@dataclass(frozen=True)
class CloudWatchWorkerLogs:
    """``WorkerLogs`` in the worker function's log group."""

    _clients: AwsClients
    _group: str

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        condition = f'$.run = "{run_id}"' + ("" if shard is None else f" && $.shard = {shard}")
        first_s_by_stream: dict[str, float] = {}
        with self._log_errors():
            pages = self._clients.logs.get_paginator("filter_log_events").paginate(
                logGroupName=self._group, filterPattern=f"{{ {condition} }}", startTime=round(since_s * 1000)
            )
            for page in pages:
                for event in page["events"]:
                    first_s_by_stream.setdefault(event["logStreamName"], event["timestamp"] / 1000)
        return first_s_by_stream

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        position = {"nextToken": after} if after else {"startTime": round(since_s * 1000)}
        with self._log_errors():
            page = self._clients.logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **position
            )
        return [event["message"].rstrip("\n") for event in page["events"]], page["nextForwardToken"]

    def _log_errors(self) -> AbstractContextManager[None]:
        return failing_as(LogsError, f"the log group {self._group} cannot be read", LOG_REMEDIES)


def compose(clients: AwsClients, bucket: str, ledger_table: str, queue_url: str, **other_ports: Any) -> Deployment:
    """A deployment with these resources, the ledger's clock, and ``other_ports``."""
    ledger, queue = DynamoLedger(clients, ledger_table), SqsTaskQueue(clients, queue_url)
    ports = {"clock": ledger.clock, "open_inputs": input_stores(clients), **other_ports}
    return Deployment(bucket, S3ObjectStore(clients), ledger, queue, **ports)
