"""What do ten small shards cost in one invocation, as turns of one process, against the ways without that?

The same shards, CSV to Parquet on the stand-in for S3, by the same warm worker with its ledger: as one batch of a
script that says batch=together (sparklet), as one batch of the same script without it (one_by_one), and as ten
invocations (ten_invocations). What is done after an answer counts as CPU time, not as wall time.

    python -m benchmarks.batches [--shards 10] [--rows 500] [--budget-s 150]
"""

import argparse
import hashlib
import json
import tempfile
import time
import urllib.request
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.comparison import SPARKLET, Case, Run, document, publish, rounds
from benchmarks.facts import ROOT
from benchmarks.function import LIMIT_S, MEMORY_MB, Environment, function
from benchmarks.process_tree import MemoryPeak, end_on_sigterm
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger, table_definition
from sparklet.aws.s3 import S3Store
from sparklet.model import (
    InputObject,
    PartRecord,
    Position,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardState,
)
from sparklet.model import (
    Run as ShardRun,
)

TABLE, BUCKET = "ledger", "batches"
ONE_BY_ONE, TEN = "one_by_one", "ten_invocations"
SIDES = {
    SPARKLET: "a batch, the script says batch=together",
    ONE_BY_ONE: "the same batch, a process for each shard",
    TEN: "an invocation for each shard",
}
AFTERWARDS_S = 1.0
LEAST_ROUNDS = 2
QUESTION = "What do ten small shards cost in one invocation, as turns of one process, against the ways without that?"


@dataclass(frozen=True)
class Shards:
    """The inputs, and runs over them."""

    clients: AwsClients
    inputs: list[str]

    def plan(self, script: bytes) -> list[ShardRecord]:
        """Enter a run of a shard for each input, as a planner does."""
        store, ledger = S3Store(self.clients), DynamoLedger(self.clients, TABLE)
        run_id, digest = f"run-{uuid.uuid4().hex[:8]}", hashlib.sha256(script).hexdigest()
        uri = f"s3://{BUCKET}/runs/{run_id}/script/{digest}/job.py"
        store.put(uri, script)
        ref = ScriptRef(uri, digest, "s3://mine/job.py")
        ledger.create_run(ShardRun(run_id, (f"s3://{BUCKET}/in/",), f"s3://{BUCKET}/out/{run_id}/", (ref,)))
        lines = [Shard(n, (InputObject(each, 1000),)).to_line() for n, each in enumerate(self.inputs)]
        part, count = "part-00000-bench.jsonl", len(lines)
        store.put(f"s3://{BUCKET}/runs/{run_id}/plan/{part}", b"".join(lines))
        ledger.add_part(run_id, PartRecord(0, part, 0, count, count, 1000 * count, Position()))
        offsets = [sum(map(len, lines[:n])) for n in range(count)]
        records = [ShardRecord(run_id, n, part, offsets[n], len(lines[n]), 1, 1000) for n in range(count)]
        ledger.add_shards(records)
        ledger.seal_plan(run_id, count, count, 1000 * count)
        return records

    def verify(self, records: list[ShardRecord]) -> None:
        """Stop unless each shard has SUCCEEDED at its first attempt."""
        ledger = DynamoLedger(self.clients, TABLE)
        for record in records:
            found = ledger.get_shard(record.run_id, record.number)
            if (found.state, found.attempts) != (ShardState.SUCCEEDED, 1):
                raise SystemExit(f"shard {record.number} is {found.state} after {found.attempts} attempts")


def measure(environment: Environment, shards: Shards, script: bytes, batch: int) -> Run:
    """Do a run's shards, so many in an invocation."""
    records = shards.plan(script)
    before_s = environment.cpu_s()
    with MemoryPeak().sampled(environment.pid, LIMIT_S) as peak:
        began_s = time.monotonic()
        for first in range(0, len(records), batch):
            invoke(environment, records[first : first + batch])
        wall_s = time.monotonic() - began_s
    time.sleep(AFTERWARDS_S)
    shards.verify(records)
    return Run(wall_s, environment.cpu_s() - before_s, peak.mb)


def invoke(environment: Environment, records: list[ShardRecord]) -> None:
    """One invocation with a message for each."""
    messages = [
        {"eventSource": "aws:sqs", "messageId": str(record.number), "body": record.ref.to_body()} for record in records
    ]
    body = json.dumps({"Records": messages}).encode()
    address = f"{environment.address}/2015-03-31/functions/function/invocations"
    with urllib.request.urlopen(address, body, timeout=LIMIT_S) as answer:
        told = json.loads(answer.read())
    if told != {"batchItemFailures": []}:
        raise SystemExit(f"the worker answered {told}\n{environment.log.read_text(errors='replace')[-3000:]}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--rows", type=int, default=500, help="of each shard")
    parser.add_argument("--budget-s", type=float, default=150)
    options = parser.parse_args()
    end_on_sigterm()
    together = (ROOT / "spark_scripts" / "csv_to_parquet.py").read_bytes()
    apart = together.replace(b"batch=together", b"batch=apart")
    case = Case(f"{options.shards} shards of {options.rows} rows", [ONE_BY_ONE, TEN])
    ways = {SPARKLET: (together, options.shards), ONE_BY_ONE: (apart, options.shards), TEN: (apart, 1)}
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name, function(Path(name), []) as without_ledger:
        shards = staged(options.shards, options.rows)
        env = {**without_ledger.env, "SPARKLET_LEDGER_TABLE": TABLE, "SPARKLET_BUCKET": BUCKET}
        with replace(without_ledger, env=env).environment() as environment:
            for script, batch in ways.values():
                measure(environment, shards, script, batch)  # cold, and warm
            for turn in rounds(options.budget_s, LEAST_ROUNDS):
                for side in sorted(ways, reverse=bool(turn % 2)):
                    case.add(side, measure(environment, shards, *ways[side]))
    known = {"shards": options.shards, "rows": options.rows, "function_memory_mb": MEMORY_MB, "sides": SIDES}
    publish(document("batches", QUESTION, known, [case]))


def staged(count: int, rows: int) -> Shards:
    """A file for each shard, and a ledger, in the stand-in."""
    clients = AwsClients()
    clients.s3.create_bucket(Bucket=BUCKET)
    clients.dynamodb.create_table(**table_definition(TABLE))
    lines = "id,name,amount\n" + "".join(f"{number},name {number % 9},{number / 7:.2f}\n" for number in range(rows))
    inputs = [f"s3://{BUCKET}/in/{number}.csv" for number in range(count)]
    for uri in inputs:
        S3Store(clients).put(uri, lines.encode())
    return Shards(clients, inputs)


if __name__ == "__main__":
    main()
