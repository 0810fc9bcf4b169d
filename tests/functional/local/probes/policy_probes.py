"""A worker that does with its role what Sparklet's worker does, then what it must not be allowed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.messaging import SqsQueue
from sparklet.aws.s3 import S3Store
from sparklet.model import ClaimStatus, ShardRef, ShardResult


def worker(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Do the shard that the event names; answer what else was possible."""
    bucket, table, queue_url = (os.environ[f"SPARKLET_{name}"] for name in ("BUCKET", "LEDGER_TABLE", "QUEUE_URL"))
    clients = AwsClients()
    ledger, store = DynamoLedger(clients, table), S3Store(clients)
    ref = ShardRef.from_document(event["shard"])
    assert ref is not None
    run = ledger.runs.get(ref.run_id)
    claim = ledger.attempts.claim(ref, "attempt", 60, 3, "log")
    assert claim.status is ClaimStatus.GRANTED
    store.get(f"s3://{bucket}/runs/{ref.run_id}/plan/{claim.record.part}", claim.record.offset, claim.record.length)
    with tempfile.TemporaryDirectory() as folder:
        store.download(run.scripts[0].uri, Path(folder) / "script.py")
    for info in list(store.list(f"s3://{bucket}/input/")):
        store.get(info.uri)
    mine = f"s3://{bucket}/output/{ref.run_id}/part"
    store.put(mine, b"rows")
    store.put(mine + "-draft", b"rows")
    store.delete(mine + "-draft")
    SqsQueue(clients, queue_url).set_visibility(event["receipt"], 30)
    ledger.attempts.succeed(ref.run_id, ref.shard, "attempt", ShardResult(rows=1))
    return {"refused": {name: _refused(attempt) for name, attempt in _forbidden(bucket, table, queue_url).items()}}


def _forbidden(bucket: str, table: str, queue_url: str) -> dict[str, Callable[[], Any]]:
    s3, dynamodb, sqs = boto3.client("s3"), boto3.client("dynamodb"), boto3.client("sqs")
    item = {"pk": {"S": "forged"}, "sk": {"S": "0"}}
    return {
        "write a plan": lambda: s3.put_object(Bucket=bucket, Key="runs/forged/plan/0", Body=b""),
        "write a script": lambda: s3.put_object(Bucket=bucket, Key="scripts/forged.py", Body=b""),
        "delete an input": lambda: s3.delete_object(Bucket=bucket, Key="input/1"),
        "read dead letters": lambda: s3.get_object(Bucket=bucket, Key="dead-letters/1"),
        "enter a shard": lambda: dynamodb.put_item(TableName=table, Item=item),
        "delete a shard": lambda: dynamodb.delete_item(TableName=table, Key=item),
        "scan the ledger": lambda: dynamodb.scan(TableName=table),
        "send a message": lambda: sqs.send_message(QueueUrl=queue_url, MessageBody="forged"),
        "purge the queue": lambda: sqs.purge_queue(QueueUrl=queue_url),
        "make a bucket": lambda: s3.create_bucket(Bucket="forged"),
    }


def _refused(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False
