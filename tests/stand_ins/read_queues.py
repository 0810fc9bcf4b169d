"""Queues that tests can read. Sparklet itself receives and deletes no message: Lambda does that for the functions."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from sparklet.aws.clients import error_code, failing_as
from sparklet.aws.services import OUTDATED_RECEIPT, SqsTaskQueue
from sparklet.errors import QueueError
from sparklet.ports import Message, TaskQueue


@dataclass(frozen=True, slots=True)
class Received(Message):
    """A message as received; ``receipt`` deletes it or changes its visibility."""

    receipt: str = ""
    receive_count: int = 1


class ReadQueue(TaskQueue, Protocol):
    """A queue whose messages can be received."""

    def receive(self, most: int = 10, wait_s: int = 0) -> Sequence[Received]:
        """Up to ``most`` (at most 10) messages; waits up to ``wait_s`` for the first."""

    def delete(self, receipt: str) -> None:
        """Acknowledge a message; nothing happens if it was received again since, or is gone."""

    def __len__(self) -> int:
        """The number of messages in the queue, visible or not."""


def readable(queue: TaskQueue) -> ReadQueue:
    """A deployment's queue with the type of a ReadQueue; the test must have made it as one."""
    assert hasattr(queue, "receive")
    return cast(ReadQueue, queue)


class ReadSqsQueue(SqsTaskQueue):
    """A ``ReadQueue`` in SQS."""

    def receive(self, most: int = 10, wait_s: int = 0) -> Sequence[Received]:
        with self._calling("receive from"):
            answer = self._clients.sqs.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=min(most, 10),
                WaitTimeSeconds=wait_s,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return [
            Received(
                found["MessageId"],
                found["Body"],
                receipt=found["ReceiptHandle"],
                receive_count=int(found["Attributes"]["ApproximateReceiveCount"]),
            )
            for found in answer.get("Messages", [])
        ]

    def delete(self, receipt: str) -> None:
        with self._calling("delete from"):
            try:
                self._clients.sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=receipt)
            except self._clients.sqs.exceptions.ClientError as error:
                if error_code(error).rpartition(".")[2] not in OUTDATED_RECEIPT:
                    raise

    def __len__(self) -> int:
        """The number of messages in the queue, visible or not; the stand-in knows it exactly."""
        with self._calling("count the messages of"):
            answer = self._clients.sqs.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["All"])
        attributes: Any = answer["Attributes"]
        return sum(int(attributes[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible", "Delayed"))

    def _calling(self, action: str) -> AbstractContextManager[None]:
        return failing_as(QueueError, f"could not {action} queue {self._queue_url}")
