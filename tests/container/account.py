"""An AWS account in the stand-in: bucket, ledger and queue of a function, and what drives runs in it."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import SqsTaskQueue
from sparklet.ledger.clock import SystemClock
from sparklet.local import environment
from sparklet.model import Run, RunOptions, ShardRecord
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import CheckReport, check
from tests.container.container import Answer, Container
from tests.stand_ins.ledger_table import create_table
from tests.unit.events import samples

TOKEN = "session-token"  # Lambda's credentials have one
EXAMPLES = Path(__file__).parents[2] / "spark_scripts"


@dataclass(frozen=True)
class Account:
    """What a deployed stack consists of beside its functions."""

    endpoint: str
    clients: AwsClients
    deployment: Deployment
    queue_url: str

    @property
    def env(self) -> dict[str, str]:
        """The worker function's environment, as the template sets it and the local mode does."""
        own = {
            "SPARKLET_BUCKET": self.deployment.bucket,
            "SPARKLET_LEDGER_TABLE": self.deployment.bucket,
            "SPARKLET_QUEUE_URL": self.queue_url,
            "SCRIPT_LOCATION": self.uri("scripts/default.py"),
        }
        return {**environment.client_env(self.endpoint, TOKEN), **own}

    def uri(self, key: str) -> str:
        """An object or folder of the bucket."""
        return f"s3://{self.deployment.bucket}/{key}"

    def put(self, key: str, body: bytes | str) -> str:
        """Put an object; its address."""
        uri = self.uri(key)
        self.deployment.store.put(uri, body.encode() if isinstance(body, str) else body)
        return uri

    def asking(self, script: Path | str, **event: Any) -> dict[str, Any]:
        """A direct event for a script: one of the examples, or code."""
        code = script.read_bytes() if isinstance(script, Path) else script.encode()
        name = script.name if isinstance(script, Path) else "job.py"
        return {"sparklet": {"script": self.put(f"scripts/{uuid.uuid4().hex[:8]}/{name}", code)}, **event}

    def start(self, script: Path, inputs: Sequence[str], params: Mapping[str, str], **options: Any) -> Run:
        """Plan and dispatch a run, a shard for each object, as the command line does."""
        name = f"run-{uuid.uuid4().hex[:8]}"
        given = RunOptions(**{"max_objects": 1, **options})
        request = RunRequest(
            str(script), tuple(inputs), self.uri(f"output/{name}/"), run_id=name, params=params, options=given
        )
        return plan(self.deployment, new_run(self.deployment, request).run_id)

    def check(self, run: Run) -> CheckReport:
        """Look after a run, as the scheduled checker does."""
        return check(self.deployment, run.run_id)

    def shard(self, run: Run, number: int = 0) -> ShardRecord:
        """What the ledger says."""
        return self.deployment.ledger.shards.get(run.run_id, number)

    def deliver(self, function: Container) -> Answer:
        """Let a function have the next message, which must be there, as an event source mapping does.

        As Lambda's with batch size 1 and ReportBatchItemFailures: what the function reports as failed, and what it did
        not answer, stays in the queue and comes back when its visibility ends; all else is deleted.
        """
        sqs, queue_url = self.clients.sqs, self.queue_url
        received = sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=1, WaitTimeSeconds=0, MessageSystemAttributeNames=["All"]
        ).get("Messages", [])
        assert received, "there is no message in the queue"
        (message,) = received
        record = samples.sqs(message["MessageId"], message["Body"]) | {
            "receiptHandle": message["ReceiptHandle"],
            "attributes": message.get("Attributes", {}),
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:queue",
        }
        answer = function.invoke({"Records": [record]})
        if _took(answer, message["MessageId"]):
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return answer

    def download(self, uri: str, folder: Path) -> Path:
        """What lies below ``uri``, in a local folder."""
        for info in self.deployment.store.list(f"{uri.rstrip('/')}/"):
            path = folder / info.uri.removeprefix(uri).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.deployment.store.get(info.uri))
        return folder


def _took(answer: Answer, message_id: str) -> bool:
    """Whether Lambda would delete the message; an answer that is no report counts as failure."""
    try:
        document = json.loads(answer.text)
    except ValueError:
        return False
    if answer.status != 200 or not isinstance(document, dict) or "errorType" in document:
        return False
    return message_id not in [failure["itemIdentifier"] for failure in document.get("batchItemFailures", [])]


@contextmanager
def new_account(endpoint: str, visibility_s: int) -> Iterator[Account]:
    """Bucket, table and queue of a fresh name; this process' own AWS settings lead there for a while."""
    name = f"sparklet-{uuid.uuid4().hex[:8]}"
    with environment.applied(environment.client_env(endpoint, TOKEN)):
        clients = AwsClients(8, endpoint_url=endpoint, region="us-east-1")
        clients.s3.create_bucket(Bucket=name)
        create_table(clients.dynamodb, name)
        made = clients.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": str(visibility_s)})
        queue_url = "/".join([endpoint, *made["QueueUrl"].split("/")[-2:]])
        ledger, queue = DynamoLedger(clients, name), SqsTaskQueue(clients, queue_url)
        yield Account(
            endpoint, clients, Deployment(name, S3ObjectStore(clients), ledger, queue, SystemClock()), queue_url
        )
