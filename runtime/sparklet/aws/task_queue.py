"""Shard messages in Amazon SQS."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sparklet.aws.clients import AwsClients, error_code, failing_as
from sparklet.aws.parallel import in_parallel
from sparklet.errors import QueueError
from sparklet.ledger.clock import SystemClock
from sparklet.ports import Clock

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
