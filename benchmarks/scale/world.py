"""Where a pass takes place: the stand-in's address, the names in it, the folder of its notes."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import MAX_ENTRIES, SqsTaskQueue
from sparklet.ledger.clock import SystemClock
from sparklet.model import Dispatch, RunOptions
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from tests.stand_ins.ledger_table import create_table

BUCKET, DATA, REGION = "scale", "scale-data", "us-east-1"
OUTPUT, SCRIPT = f"s3://{DATA}/out/", f"s3://{DATA}/job.py"
THREADS = 4  # the stand-in answers one at a time: more would only wait, and longer than a client waits
MAX_RECEIVES = 20  # as in the template
MAX_ATTEMPTS = 5  # faults of several kinds may meet in one shard; none of them may end it
GRACE_S = 2.0


class PacedQueue(SqsTaskQueue):
    """A queue that a planner fills slowly enough for the stand-in."""

    rate_per_s = 0.0

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send, and wait for as long as so many messages take."""
        sent, left = 0, iter(bodies)
        while batch := list(islice(left, MAX_ENTRIES)):
            sent += super().send(batch, delay_s)
            time.sleep(len(batch) / self.rate_per_s if self.rate_per_s else 0)
        return sent


@dataclass(frozen=True, slots=True)
class World:
    """One pass: everything its processes must know, handed to each as one JSON argument."""

    endpoint: str
    folder: str  # of notes, scratch space and results
    name: str  # of the pass: its run, its queues, its table
    shards: int
    pollers: int
    timeout_s: float  # of the worker function: its lease
    visibility_s: int
    dispatch: str = "queue"
    rate_per_s: float = 0.0  # messages sent a second; 0: no limit
    seed: int = 0
    faults: float = 0.0  # share of shards that each kind of fault meets

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """This pass as an argument."""
        return json.dumps(asdict(self))

    @property
    def run_id(self) -> str:
        """The pass's one run."""
        return f"scale-{self.name}"

    @property
    def input(self) -> str:
        """Folder of as many objects as there are shards."""
        return f"s3://{DATA}/in-{self.shards}/"

    def object_name(self, number: int) -> str:
        """Address of an input object."""
        return f"{self.input}{number:07d}.csv"

    @property
    def notes(self) -> Path:
        """Where processes note what they did."""
        return Path(self.folder) / self.name

    def clients(self) -> AwsClients:
        """Clients of the stand-in."""
        return AwsClients(THREADS, endpoint_url=self.endpoint, region=REGION)

    def queue_url(self, clients: AwsClients, suffix: str = "") -> str:
        """URL of the queue, or of its dead-letter queue."""
        return clients.sqs.get_queue_url(QueueName=f"{self.run_id}{suffix}")["QueueUrl"]

    def deployment(self, clients: AwsClients) -> Deployment:
        """The ports of planner, checker and recovery."""
        queue = PacedQueue(clients, self.queue_url(clients))
        queue.rate_per_s = self.rate_per_s
        return Deployment(BUCKET, S3ObjectStore(clients), DynamoLedger(clients, self.run_id), queue, SystemClock())

    def create(self, clients: AwsClients) -> None:
        """The pass's queues and its table."""
        self.notes.mkdir(parents=True)
        dead = clients.sqs.create_queue(QueueName=f"{self.run_id}-dead")["QueueUrl"]
        arn = clients.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES})
        attributes: Any = {"VisibilityTimeout": str(self.visibility_s), "RedrivePolicy": redrive}
        clients.sqs.create_queue(QueueName=self.run_id, Attributes=attributes)
        create_table(clients.dynamodb, self.run_id)

    def request(self) -> RunRequest:
        """One object a shard; failures are tolerated, so that their number alone decides nothing."""
        options = RunOptions(max_objects=1, max_attempts=MAX_ATTEMPTS, tolerated_failure_percentage=50)
        return RunRequest(
            SCRIPT, (self.input,), OUTPUT, run_id=self.run_id, options=options, dispatch=Dispatch(self.dispatch)
        )

    def function_environment(self, clients: AwsClients, scratch: Path) -> Mapping[str, str]:
        """The worker function's variables, as the template sets them."""
        return {
            "SPARKLET_LEDGER_TABLE": self.run_id,
            "SPARKLET_BUCKET": BUCKET,
            "SPARKLET_QUEUE_URL": self.queue_url(clients),
            "SPARKLET_SCRATCH": str(scratch),
            "SPARKLET_GRACE_S": str(GRACE_S),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
        }


def set_environment() -> None:
    """Credentials that are none, and nothing of the caller's own account."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SPARKLET_"))]:
        del os.environ[name]
    os.environ |= {"AWS_ACCESS_KEY_ID": "scale", "AWS_SECRET_ACCESS_KEY": "scale", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ["AWS_CONFIG_FILE"] = os.devnull
    os.environ["LOG_LEVEL"] = "WARNING"  # of the stand-in
