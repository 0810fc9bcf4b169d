"""An AWS account in the stand-in: bucket, ledger and queue of a function, and helpers that plan and deliver runs."""

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

TOKEN = "session-token"  # Lambda's credentials have a token
EXAMPLES = Path(__file__).parents[2] / "spark_scripts"


@dataclass(frozen=True)
class Account:
    """The parts of a deployed stack other than its functions."""

    endpoint: str
    clients: AwsClients
    deployment: Deployment
    queue_url: str

    @property
    def env(self) -> dict[str, str]:
        """The worker function's environment variables, as set by the template and by the local stack."""
        own = {
            "SPARKLET_BUCKET": self.deployment.bucket,
            "SPARKLET_LEDGER_TABLE": self.deployment.bucket,
            "SPARKLET_QUEUE_URL": self.queue_url,
            "SCRIPT_LOCATION": self.uri("scripts/default.py"),
        }
        return {**environment.client_env(self.endpoint, TOKEN), **own}

    def uri(self, key: str) -> str:
        """The address of an object or folder in the bucket."""
        return f"s3://{self.deployment.bucket}/{key}"

    def put(self, key: str, body: bytes | str) -> str:
        """Put an object; return its address."""
        uri = self.uri(key)
        self.deployment.store.put(uri, body.encode() if isinstance(body, str) else body)
        return uri

    def event_for(self, script: Path | str, **event: Any) -> dict[str, Any]:
        """An event that invokes the function directly with a script, which is a file or source code."""
        code = script.read_bytes() if isinstance(script, Path) else script.encode()
        name = script.name if isinstance(script, Path) else "job.py"
        return {"sparklet": {"script": self.put(f"scripts/{uuid.uuid4().hex[:8]}/{name}", code)}, **event}

    def start(self, script: Path, inputs: Sequence[str], params: Mapping[str, str], **options: Any) -> Run:
        """Plan and dispatch a run with one shard per object, as the command line does."""
        name = f"run-{uuid.uuid4().hex[:8]}"
        run_options = RunOptions(**{"max_objects": 1, **options})
        request = RunRequest(
            str(script), tuple(inputs), self.uri(f"output/{name}/"), run_id=name, params=params, options=run_options
        )
        return plan(self.deployment, new_run(self.deployment, request).run_id)

    def check(self, run: Run) -> CheckReport:
        """Check a run, as the scheduled checker does."""
        return check(self.deployment, run.run_id)

    def shard(self, run: Run, number: int = 0) -> ShardRecord:
        """A shard's record in the ledger."""
        return self.deployment.ledger.shards.get(run.run_id, number)

    def deliver(self, function: Container) -> Answer:
        """Invoke a function with the next message, as an event source mapping does; there must be a message.

        The mapping has batch size 1 and ReportBatchItemFailures. If the function reports the message as failed, or
        fails itself, the message stays in the queue and comes back at the end of its visibility; else it is deleted.
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
        if _is_done(answer, message["MessageId"]):
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return answer

    def download(self, uri: str, folder: Path) -> Path:
        """Download all objects below ``uri`` into a folder, and return the folder."""
        for info in self.deployment.store.list(f"{uri.rstrip('/')}/"):
            path = folder / info.uri.removeprefix(uri).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.deployment.store.get(info.uri))
        return folder


def _is_done(answer: Answer, message_id: str) -> bool:
    """Whether Lambda would delete the message. An answer that is not a report of failures counts as a failure."""
    try:
        document = json.loads(answer.text)
    except ValueError:
        return False
    if answer.status != 200 or not isinstance(document, dict) or "errorType" in document:
        return False
    return message_id not in [failure["itemIdentifier"] for failure in document.get("batchItemFailures", [])]


@contextmanager
def new_account(endpoint: str, visibility_s: int) -> Iterator[Account]:
    """Create a bucket, a table and a queue with a new name; meanwhile this process's AWS settings point to them."""
    name = f"sparklet-{uuid.uuid4().hex[:8]}"
    with environment.applied(environment.client_env(endpoint, TOKEN)):
        clients = AwsClients(8, endpoint_url=endpoint, region="us-east-1")
        clients.s3.create_bucket(Bucket=name)
        create_table(clients.dynamodb, name)
        new_queue = clients.sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": str(visibility_s)})
        queue_url = "/".join([endpoint, *new_queue["QueueUrl"].split("/")[-2:]])
        ledger, queue = DynamoLedger(clients, name), SqsTaskQueue(clients, queue_url)
        yield Account(
            endpoint, clients, Deployment(name, S3ObjectStore(clients), ledger, queue, SystemClock()), queue_url
        )
