"""The ports over AWS, composed once: of the functions, a worker, and the command line's work on any stack."""

from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.aws.task_queue import SqsTaskQueue
from sparklet.ports.deployment import Deployment


def compose(clients: AwsClients, bucket: str, ledger_table: str, queue_url: str, **more: Any) -> Deployment:
    """A deployment's core, with the ledger's clock, and what else is given."""
    ledger, queue = DynamoLedger(clients, ledger_table), SqsTaskQueue(clients, queue_url)
    ports = {"clock": ledger.clock, "open_inputs": input_stores(clients), **more}
    return Deployment(bucket, S3ObjectStore(clients), ledger, queue, **ports)
