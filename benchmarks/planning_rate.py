"""How fast are shards planned, compared with a raw client that does the same writes?

Both work on one ministack, in turns: Sparklet lists a prefix and plans one object a shard (plan parts,
checkpoints, conditional puts, messages); the raw client does nothing but as many conditional puts of items of
the same size and as many messages in batches of ten, with as many threads. Prints JSON; the ratio is raw time
over Sparklet's time, so 1.0 means that listing, packing and checkpoints cost nothing.

    python -m benchmarks.planning_rate [--objects 100000]
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.facts import facts
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger, table_definition
from sparklet.aws.dynamodb.items import new_shard_item
from sparklet.aws.messaging import SqsQueue
from sparklet.aws.s3 import S3Store
from sparklet.clock import SystemClock
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.new_run import RunRequest, new_run
from sparklet.fanout.planner import plan
from sparklet.model import RunOptions, ShardRecord, ShardRef

BUCKET, TABLE, RAW_TABLE = "bench", "bench-ledger", "bench-raw"
THREADS = 16
MESSAGES_A_BATCH = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--objects", type=int, default=100_000, help="in all rounds together, all in one bucket")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side")
    options = parser.parse_args()
    per_round = max(1, options.objects // options.rounds)
    with tempfile.TemporaryDirectory() as folder, stand_in(Path(folder)) as endpoint:
        clients = AwsClients(THREADS, endpoint_url=endpoint, region="us-east-1")
        at, raw_queue = _deployment(clients), clients.sqs.create_queue(QueueName="bench-raw")["QueueUrl"]
        for number in range(options.rounds):
            _fill(at, number, per_round)
        ours: list[float] = []
        raw: list[float] = []
        for number in range(options.rounds):
            if number % 2:
                ours.append(_timed(_plan, at, number, per_round))
            raw.append(_timed(_write_raw, clients, raw_queue, number, per_round))
            if not number % 2:
                ours.append(_timed(_plan, at, number, per_round))
            print(f"round {number + 1} of {options.rounds}: {ours[-1]:.1f} s, raw {raw[-1]:.1f} s", file=sys.stderr)
    print(json.dumps(_answer(options.rounds * per_round, options.rounds, ours, raw), indent=2))


def _answer(objects: int, rounds: int, ours: list[float], raw: list[float]) -> dict[str, Any]:
    ratios = [round(theirs / own, 3) for own, theirs in zip(ours, raw, strict=True)]
    return {
        "benchmark": "planning_rate",
        "objects": objects,
        "rounds": rounds,
        "threads": THREADS,
        "sparklet_s": round(sum(ours), 2),
        "raw_s": round(sum(raw), 2),
        "sparklet_shards_per_s": round(objects / sum(ours)),
        "raw_shards_per_s": round(objects / sum(raw)),
        "ratio": round(sum(raw) / sum(ours), 3),
        "median_ratio": statistics.median(ratios),
        "ratio_by_round": ratios,
        **facts(),
    }


# --- the two sides ---


def _plan(at: Deployment, number: int, count: int) -> None:
    """Sparklet: from the prefix to the sealed plan."""
    request = RunRequest(
        script=f"s3://{BUCKET}/job.py",
        inputs=(f"s3://{BUCKET}/in/{number}/",),
        output_uri=f"s3://{BUCKET}/out/",
        run_id=f"bench-{number}",
        options=RunOptions(max_objects=1),
    )
    planned = plan(at, new_run(at, request).run_id)
    if planned.shard_count != count:
        raise SystemExit(f"planned {planned.shard_count} shards, not {count}")


def _write_raw(clients: AwsClients, queue_url: str, number: int, count: int) -> None:
    """The raw client: conditional puts, then batched sends, nothing else."""

    def put(shard: int) -> None:
        record = ShardRecord(f"raw-{number}", shard, "part-00000-0123abcd.jsonl", 60 * shard, 60, 1, 1)
        clients.dynamodb.put_item(
            TableName=RAW_TABLE,
            Item=new_shard_item(record, 0.0, "0123456789ab"),
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


def _timed(work: Callable[..., None], *args: object) -> float:
    start_s = time.perf_counter()
    work(*args)
    return time.perf_counter() - start_s


# --- the stand-in ---


def _deployment(clients: AwsClients) -> Deployment:
    clients.s3.create_bucket(Bucket=BUCKET)
    for table in (TABLE, RAW_TABLE):
        clients.dynamodb.create_table(**table_definition(table))
    queue_url = clients.sqs.create_queue(QueueName="bench")["QueueUrl"]
    store = S3Store(clients)
    store.put(f"s3://{BUCKET}/job.py", b"print('never run')\n")
    return Deployment(BUCKET, store, DynamoLedger(clients, TABLE), SqsQueue(clients, queue_url), SystemClock())


def _fill(at: Deployment, number: int, count: int) -> None:
    print(f"putting {count} objects", file=sys.stderr)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda n: at.store.put(f"s3://{BUCKET}/in/{number}/{n:07d}.csv", b"x"), range(count)))


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """A ministack of this benchmark's own, in memory; its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"], env=environment, cwd=folder, stdout=log, stderr=log
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(endpoint: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("ministack did not start")


if __name__ == "__main__":
    main()
