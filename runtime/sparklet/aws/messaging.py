"""Shard messages in Amazon SQS; notices to Amazon SNS and Amazon EventBridge."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from sparklet.aws.clients import AwsClients, error_code, failing_as
from sparklet.aws.parallel import in_parallel
from sparklet.clock import SystemClock
from sparklet.errors import NoticeError, QueueError
from sparklet.model import Notice
from sparklet.ports import Clock, Notifier

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

MAX_ENTRIES = 10
MAX_BATCH_BYTES = 256 * 1024  # a queue takes 1 MiB; a larger body goes alone
MAX_VISIBILITY_S = 12 * 3600
SEND_TRIES = 6
SENDERS = 4
EVENT_SOURCE = "sparklet"  # of notices on EventBridge
# SQS's codes for an expired receipt and a message that is visible, the stand-in's for one whose message is gone.
OUTDATED_RECEIPT = ("InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid")


class SqsQueue:
    """A ``TaskQueue`` in a standard SQS queue."""

    def __init__(self, clients: AwsClients, queue_url: str, clock: Clock | None = None) -> None:
        self._clients = clients
        self._queue_url = queue_url
        self._clock: Clock = clock or SystemClock()

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send every body, a few batches at one time; how many were sent.

        A batch whose answer is lost is sent again: a message may then be there twice, which the ledger tolerates.
        """
        send = partial(self._send_batch, delay_s=delay_s)
        return sum(in_parallel(send, batches(bodies), min(SENDERS, self._clients.threads)))

    def _send_batch(self, batch: Sequence[str], delay_s: int) -> int:
        """Send a batch; entries that the queue could not take are sent again, those that are wrong are an error."""
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(place), "MessageBody": body, "DelaySeconds": delay_s} for place, body in enumerate(batch)
        ]
        for tries in range(1, SEND_TRIES + 1):
            with self._calling("send messages to"):
                answer = self._clients.sqs.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
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
        with self._calling("change a message's visibility in", outdated=OUTDATED_RECEIPT):
            self._clients.sqs.change_message_visibility(
                QueueUrl=self._queue_url, ReceiptHandle=receipt, VisibilityTimeout=visibility_s
            )

    @contextmanager
    def _calling(self, what: str, outdated: tuple[str, ...] = ()) -> Iterator[None]:
        """Turn botocore's errors into ours, but ignore those for an ``outdated`` receipt."""
        from botocore.exceptions import ClientError

        with failing_as(QueueError, f"could not {what} queue {self._queue_url}"):
            try:
                yield
            except ClientError as error:
                if error_code(error).rpartition(".")[2] not in outdated:
                    raise


def queue_opener(clients: AwsClients) -> Callable[[str], SqsQueue]:
    """Open a queue by its ARN; the function raises QueueError if there is no such queue or it may not be found."""

    def open_queue(arn: str) -> SqsQueue:
        account, _, name = arn.rpartition(":")
        with failing_as(QueueError, f"the queue {arn} could not be found"):
            found = clients.sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account.rpartition(":")[2])
        return SqsQueue(clients, found["QueueUrl"])

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


class SnsNotifier:
    """A ``Notifier`` to an SNS topic; subscriptions can filter by the attributes ``kind`` and ``state``."""

    def __init__(self, clients: AwsClients, topic_arn: str) -> None:
        self._clients = clients
        self._topic_arn = topic_arn

    def notify(self, notice: Notice) -> None:
        """Publish a notice."""
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


class EventBridgeNotifier:
    """A ``Notifier`` to an EventBridge bus: source ``sparklet``, detail type ``Sparklet Run Ended`` and the like."""

    def __init__(self, clients: AwsClients, bus: str) -> None:
        self._clients = clients
        self._bus = bus

    def notify(self, notice: Notice) -> None:
        """Put a notice as an event."""
        entry = {"EventBusName": self._bus, "Source": EVENT_SOURCE, "Detail": notice.to_json()}
        detail_type = f"Sparklet {notice.kind.title()} Ended"
        with failing_as(NoticeError, f"the bus {self._bus} took no notice"):
            answer = self._clients.events.put_events(Entries=[{**entry, "DetailType": detail_type}])  # type: ignore[typeddict-item]
        if answer["FailedEntryCount"]:
            refused = answer["Entries"][0]
            why = f"{refused.get('ErrorCode', '')}: {refused.get('ErrorMessage', '')}"
            raise NoticeError(f"the bus {self._bus} took no notice: {why}")


class EveryNotifier:
    """A ``Notifier`` to several: one that cannot be reached does not keep the notice from the others."""

    def __init__(self, notifiers: Sequence[Notifier]) -> None:
        self._notifiers = notifiers

    def notify(self, notice: Notice) -> None:
        """Notify each; those that could not be reached are in the error."""
        problems = []
        for notifier in self._notifiers:
            try:
                notifier.notify(notice)
            except NoticeError as error:
                problems.append(str(error))
        if problems:
            raise NoticeError("; ".join(problems))


def notifier_for(clients: AwsClients, topic_arn: str, bus: str) -> Notifier | None:
    """The notifier that the settings name; None if they name none."""
    named: list[Notifier] = [SnsNotifier(clients, topic_arn)] if topic_arn else []
    if bus:
        named.append(EventBridgeNotifier(clients, bus))
    return EveryNotifier(named) if named else None
