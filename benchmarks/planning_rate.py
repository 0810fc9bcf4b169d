"""How fast are shards planned, compared with a raw client that does the same writes?

Both work on one ministack, in turns, each turn in a process of its own: Sparklet lists a prefix and plans one object a
shard (plan parts, checkpoints, conditional puts, messages); the raw client does nothing but as many conditional puts of
items of the same size and as many messages in batches of ten, with as many threads. A wall ratio of 1 means that
listing, packing and checkpoints cost nothing.

    python -m benchmarks.planning_rate [--objects 20000] [--rounds 5]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish, say
from benchmarks.facts import ROOT
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger, attributes
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import SqsTaskQueue
from sparklet.ledger.clock import SystemClock
from sparklet.ledger.items import shard_item
from sparklet.model import RunOptions, ShardRecord, ShardRef
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.worker.handler import memory_peak_mb
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.ministack import ministack

RAW = "raw"
QUESTION = "How fast are shards planned, compared with a raw client that does the same writes?"
BUCKET, TABLE, RAW_TABLE = "bench", "bench-ledger", "bench-raw"
QUEUE, RAW_QUEUE = "bench", "bench-raw"
THREADS = 16
MESSAGES_A_BATCH = 10


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[20_000], help="each size is a case")
    parser.add_argument("--turn", nargs=4, metavar=("SIDE", "ENDPOINT", "NUMBER", "OBJECTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        side, endpoint, number, objects = given.turn
        print(json.dumps(_turn(side, endpoint, int(number), int(objects))))
        return
    cases = [Case(f"{objects:,} objects", [RAW]) for objects in given.objects]
    for case, objects in zip(cases, given.objects, strict=True):
        _measure(case, objects, given.rounds)
    parameters = {"threads": THREADS, "rounds": given.rounds, "shards": "one an object"}
    publish(document("planning_rate", QUESTION, parameters, cases))


def _measure(case: Case, objects: int, turns: int) -> None:
    """A stand-in of this case's own, filled once; the sides take turns on it, and who begins changes."""
    with tempfile.TemporaryDirectory() as folder, stand_in(Path(folder)) as endpoint:
        _prepare(endpoint, objects)
        for number in range(turns):
            for side in (SPARKLET, RAW) if number % 2 else (RAW, SPARKLET):
                command = [sys.executable, "-m", "benchmarks.planning_rate", "--turn", side, endpoint]
                done = subprocess.run(
                    [*command, str(number), str(objects)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
                )
                case.add(side, Run(**json.loads(done.stdout)))


def _turn(side: str, endpoint: str, number: int, objects: int) -> dict[str, float]:
    """One side's work, without the start of its process."""
    clients = AwsClients(THREADS, endpoint_url=endpoint, region="us-east-1")
    work = _plan if side == SPARKLET else _write_raw
    for service in ("s3", "sqs", "dynamodb"):
        getattr(clients, service)  # made before the clock runs
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    work(clients, number, objects)
    return {
        "wall_s": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - start_cpu_s,
        "peak_memory_mb": memory_peak_mb(),
    }


# --- the two sides ---


def _plan(clients: AwsClients, number: int, count: int) -> None:
    """Sparklet: from the prefix to the sealed plan."""
    queue = SqsTaskQueue(clients, clients.sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"])
    deployment = Deployment(BUCKET, S3ObjectStore(clients), DynamoLedger(clients, TABLE), queue, SystemClock())
    request = RunRequest(
        script=f"s3://{BUCKET}/job.py",
        inputs=(f"s3://{BUCKET}/in/",),
        output_uri=f"s3://{BUCKET}/out-{number}/",
        run_id=f"bench-{number}",
        options=RunOptions(max_objects=1),
    )
    planned = plan(deployment, new_run(deployment, request).run_id)
    if planned.shard_count != count:
        raise SystemExit(f"planned {planned.shard_count} shards, not {count}")


def _write_raw(clients: AwsClients, number: int, count: int) -> None:
    """The raw client: conditional puts, then batched sends, nothing else."""
    queue_url = clients.sqs.get_queue_url(QueueName=RAW_QUEUE)["QueueUrl"]

    def put(shard: int) -> None:
        record = ShardRecord(f"raw-{number}", shard, "part-00000-0123abcd.jsonl", 60 * shard, 60, 1, 1)
        clients.dynamodb.put_item(
            TableName=RAW_TABLE,
            Item=attributes(shard_item(record)),
            ConditionExpression="attribute_not_exists(pk)",
        )

    def send(first: int) -> None:
        bodies = [
            ShardRef(f"raw-{number}", shard, 0, "part-00000-0123abcd.jsonl", 60 * shard, 60).to_body()
            for shard in range(first, min(first + MESSAGES_A_BATCH, count))
        ]
        entries: Any = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)]
        if clients.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries).get("Failed"):
            raise SystemExit("the stand-in refused a message")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, range(count)))
        list(pool.map(send, range(0, count, MESSAGES_A_BATCH)))


# --- the stand-in ---


def _prepare(endpoint: str, objects: int) -> None:
    """Tables, queues, the script and the objects."""
    say(f"putting {objects:,} objects")
    clients = AwsClients(THREADS, endpoint_url=endpoint, region="us-east-1")
    clients.s3.create_bucket(Bucket=BUCKET)
    for table in (TABLE, RAW_TABLE):
        create_table(clients.dynamodb, table)
    for queue in (QUEUE, RAW_QUEUE):
        clients.sqs.create_queue(QueueName=queue)
    store = S3ObjectStore(clients)
    store.put(f"s3://{BUCKET}/job.py", b"print('never run')\n")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda n: store.put(f"s3://{BUCKET}/in/{n:07d}.csv", b"x"), range(objects)))


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """A ministack of this benchmark's own, in memory; its endpoint."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    with ministack(folder) as endpoint:
        yield endpoint


if __name__ == "__main__":
    main()
