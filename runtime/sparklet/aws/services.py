"""Where shards, functions, state machines, notices and logs are in AWS, each behind its port."""

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
MAX_BATCH_BYTES = 256 * 1024  # a queue takes 1 MiB; a larger body goes alone
MAX_VISIBILITY_S = 12 * 3600
SEND_TRIES = 6
SENDERS = 4
# SQS's codes for an expired receipt and a message that is visible, the emulator's for one whose message is gone.
OUTDATED_RECEIPT = ("InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid")


class SqsTaskQueue:
    """A ``TaskQueue`` in a standard SQS queue."""

    def __init__(self, clients: AwsClients, queue_url: str, clock: Clock | None = None) -> None:
        self._clients = clients
        self._queue_url = queue_url
        self._clock: Clock = clock or SystemClock()

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send every body, a few batches at a time; how many. After a lost answer a message may be there twice."""
        send = partial(self._send_batch, delay_s=delay_s)
        return sum(in_parallel(send, batches(bodies), min(SENDERS, self._clients.threads)))

    def _send_batch(self, batch: Sequence[str], delay_s: int) -> int:
        """Send a batch; entries that the queue could not take are sent again, those that are wrong are an error."""
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(index), "MessageBody": body, "DelaySeconds": delay_s} for index, body in enumerate(batch)
        ]
        for tries in range(1, SEND_TRIES + 1):
            with failing_as(QueueError, f"could not send messages to queue {self._queue_url}"):
                answer = self._clients.sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
            # SQS answers 200 even if it has refused single entries; botocore repeats only whole requests.
            refused = {entry["Id"]: entry for entry in answer.get("Failed", [])}
            if not refused:
                return len(batch)
            last = next(iter(refused.values()))
            why = f"{last['Code']}: {last.get('Message', '')}"
            if any(entry["SenderFault"] for entry in refused.values()):
                break
            entries = [entry for entry in entries if entry["Id"] in refused]
            self._clock.sleep(random.uniform(0, min(10.0, 0.1 * 2**tries)))
        raise QueueError(f"queue {self._queue_url} did not take {len(refused)} messages in {tries} tries: {why}")

    def set_visibility(self, receipt: str, visibility_s: int) -> None:
        """Make a received message visible again in ``visibility_s`` seconds, unless it is already, or is gone."""
        if not 0 <= visibility_s <= MAX_VISIBILITY_S:
            raise QueueError(f"a visibility of {visibility_s} s cannot be set: 0 to {MAX_VISIBILITY_S} can")
        with failing_as(QueueError, f"could not change a message's visibility in queue {self._queue_url}"):
            try:
                self._clients.sqs.change_message_visibility(
                    QueueUrl=self._queue_url, ReceiptHandle=receipt, VisibilityTimeout=visibility_s
                )
            except self._clients.sqs.exceptions.ClientError as error:
                if error_code(error).rpartition(".")[2] not in OUTDATED_RECEIPT:
                    raise


def queue_opener(clients: AwsClients) -> Callable[[str], SqsTaskQueue]:
    """Open a queue by its ARN; the function raises QueueError if there is no such queue or it may not be found."""

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


# Of a synchronous call, by AWS's page of Lambda's quotas
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
TIMED_OUT = 124  # exit status of a worker that ends itself since a call's time is over, as of coreutils' timeout
NOT_NOW = ("TooManyRequests", "Throttling", "EC2Throttled", "ENILimitReached", "ResourceConflict")
OF_THE_SERVICE = (500, 503, 504)  # 502 is a function that cannot be started (API reference, Invoke)
NOT_SENT = ("ConnectTimeoutError", "EndpointConnectionError")
NOT_BEGUN: tuple[str, ...] = ("PayloadError", "EventError", "SettingsError", "ImportModuleError")
NOT_BEGUN += ("NeverStarted", "EventAgeExceeded")
REPORT = re.compile(r"Memory Size: (\d+) MB\s+Max Memory Used: (\d+) MB")


class LambdaCompute:
    """A ``Compute`` over deployed functions."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any], *, wait: bool = True) -> Any:
        """Invoke, and never twice: a call whose answer was lost may have run. Without ``wait`` there is no answer.

        RemoteTaskError, with its error's type and message, if the function failed, and with the reason if its worker
        was lost; also if the event is too large.
        """
        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteTaskError(
                f"{function} cannot take {len(payload)} bytes: Lambda's limit is {MAX_PAYLOAD_BYTES}. "
                "Put the data into S3 and pass its URI"
            )
        kind: Any = {"LogType": "Tail"} if wait else {"InvocationType": "Event"}
        try:
            with failing_as(RemoteTaskError, f"{function} could not be invoked"):
                answer: Any = self._clients.functions.invoke(FunctionName=function, Payload=payload, **kind)
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
    """Type and message of a function's error, the answer's beginning if it names none; more if its worker was lost."""
    try:
        document = json.loads(body)
        cause = f"{document.get('errorType', 'Error')}: {document['errorMessage']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        cause = body[:500].decode(errors="replace")
    log_tail = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")
    if not (reason := reason_of(cause, log_tail)):
        return RemoteFailureError(f"{function} failed: {cause}")
    used, facts = REPORT.search(log_tail), {"request_id": answer["ResponseMetadata"]["RequestId"]}
    facts |= {"memory_mb": used[2]} if used else {}
    return RemoteFailureError(f"{function} failed: {cause}", reason, log_tail=log_tail, facts=facts)


def reason_of(cause: str, log_tail: str = "") -> str:
    """Why a function gave no answer, in the words of ``RemoteTaskError``; ``cause`` is its error's type and message."""
    if "Sandbox.Timedout" in cause or "timed out after" in cause or cause.endswith(f"exit status {TIMED_OUT}"):
        return "timeout"
    # A killed process need not have lacked memory: the report's line tells what it used. Without that line it is
    # assumed.
    used = REPORT.search(log_tail)
    if "OutOfMemory" in cause or ("signal: killed" in cause and (not used or int(used[2]) >= 0.95 * int(used[1]))):
        return "memory"
    if "ExitError" in cause or cause.startswith(("Sandbox.", "Extension.", "LeaseExpired")):
        return "killed"
    return "refused" if cause.partition(":")[0].endswith(NOT_BEGUN) else ""


def _reason_of_refusal(error: Any) -> str:
    """Why Lambda's API did not make a call; ``killed`` if it is not known whether it did."""
    code = error_code(error) or type(error).__name__
    if code.startswith(NOT_NOW) or code in NOT_SENT or "NotReady" in code:
        return "throttled"
    # Without an answer, or with an error of the service's own, the call may have been carried out.
    return "" if error_code(error) and http_status(error) not in OF_THE_SERVICE else "killed"


MAX_INPUT_BYTES = 256_000  # of a state's 256 KiB: the machine adds a key


class StepFunctionsOrchestrator:
    """An ``Orchestrator`` over deployed state machines, named by their ARNs."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        # Sorted, so that the same request is the same text: Step Functions takes a start of the same name and input for
        # a repetition.
        body = json.dumps(input, ensure_ascii=False, sort_keys=True)
        if (size_bytes := len(body.encode())) > MAX_INPUT_BYTES or not 0 < len(name) <= MAX_NAME:
            raise OrchestrationError(
                f"{name} cannot be started: a name has 1 to {MAX_NAME} characters (it has {len(name)}), an input "
                f"at most {MAX_INPUT_BYTES} bytes ({size_bytes}). Put lists of inputs into S3 and pass their URI"
            )
        with failing_as(OrchestrationError, f"{machine} cannot be started"):
            states = self._clients.states
            # The name is taken by another input, or by an execution that has ended: the status tells which.
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
        """The execution of this name, if there is one; Step Functions forgets them after 90 days."""
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
            # It may have ended by itself in between, which is as good.
            if not self.status(execution).state.ended:
                raise


def execution_arn(machine: str, name: str) -> str:
    """The ARN of an execution, from that of its machine."""
    return f"{machine.replace(':stateMachine:', ':execution:', 1)}:{name}"


EVENT_SOURCE = "sparklet"  # of notices on EventBridge


@dataclass(frozen=True)
class AwsNotifier:
    """A ``Notifier`` to an SNS topic, an EventBridge bus or both; one that fails does not keep it from the other.

    Subscriptions to the topic can filter by the attributes ``kind`` and ``state``. On the bus the source is
    ``sparklet``, the detail type ``Sparklet Run Ended`` and the like.
    """

    _clients: AwsClients
    _topic_arn: str
    _bus: str

    def notify(self, notice: Notice) -> None:
        problems = []
        for target, tell in ((self._topic_arn, self._publish), (self._bus, self._put_event)):
            try:
                if target:
                    tell(notice)
            except NoticeError as error:
                problems.append(str(error))
        if problems:
            raise NoticeError("; ".join(problems))

    def _publish(self, notice: Notice) -> None:
        kind_and_state = {"kind": notice.kind, "state": notice.state}
        with failing_as(NoticeError, f"the topic {self._topic_arn} took no notice"):
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
        with failing_as(NoticeError, f"the bus {self._bus} took no notice"):
            answer = self._clients.events.put_events(Entries=[{**entry, "DetailType": detail_type}])  # type: ignore[typeddict-item]
        # PutEvents answers 200 even if it has taken none of the entries.
        if answer["FailedEntryCount"]:
            refused = answer["Entries"][0]
            why = f"{refused.get('ErrorCode', '')}: {refused.get('ErrorMessage', '')}"
            raise NoticeError(f"the bus {self._bus} took no notice: {why}")


def notifier_for(clients: AwsClients, topic_arn: str, bus: str) -> Notifier | None:
    """The notifier that the settings name; None if they name none."""
    return AwsNotifier(clients, topic_arn, bus) if topic_arn or bus else None


LOG_REMEDIES = {
    "ResourceNotFoundException": "the group or stream is not there (its retention may be over)",
    "AccessDeniedException": "you need logs:FilterLogEvents and logs:GetLogEvents on it",
}


@dataclass(frozen=True)
class CloudWatchWorkerLogs:
    """``WorkerLogs`` in the worker function's log group."""

    _clients: AwsClients
    _group: str

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        about = f'$.run = "{run_id}"' + ("" if shard is None else f" && $.shard = {shard}")
        first_s_by_stream: dict[str, float] = {}
        with self._reading():
            pages = self._clients.logs.get_paginator("filter_log_events").paginate(
                logGroupName=self._group, filterPattern=f"{{ {about} }}", startTime=round(since_s * 1000)
            )
            for page in pages:
                for event in page["events"]:
                    first_s_by_stream.setdefault(event["logStreamName"], event["timestamp"] / 1000)
        return first_s_by_stream

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        position = {"nextToken": after} if after else {"startTime": round(since_s * 1000)}
        with self._reading():
            page = self._clients.logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **position
            )
        return [event["message"].rstrip("\n") for event in page["events"]], page["nextForwardToken"]

    def _reading(self) -> AbstractContextManager[None]:
        return failing_as(LogsError, f"the log group {self._group} cannot be read", LOG_REMEDIES)


def compose(clients: AwsClients, bucket: str, ledger_table: str, queue_url: str, **more: Any) -> Deployment:
    """A deployment's core, with the ledger's clock, and what else is given."""
    ledger, queue = DynamoLedger(clients, ledger_table), SqsTaskQueue(clients, queue_url)
    ports = {"clock": ledger.clock, "open_inputs": input_stores(clients), **more}
    return Deployment(bucket, S3ObjectStore(clients), ledger, queue, **ports)
