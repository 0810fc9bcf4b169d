"""How much memory does planning take, and does it grow with the number of objects?

Each turn is a process of its own whose peak resident memory is read at the end. The adapters are those in memory with
one difference, or they themselves would grow: the store makes its listing up as it is asked for it and forgets plan
parts, ledger and queue count shards and messages instead of keeping them. What is left is the planner's own: inventory,
packing, parts, checkpoints. The floor beside it, ``raw``, lists the same objects and makes a ledger's item and a
message of each, and nothing else: no file, no checkpoint, nothing that a crash could be made good from.

    python -m benchmarks.planning_memory [--objects 10000 100000 1000000] [--rounds 5]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish
from benchmarks.facts import ROOT
from sparklet.aws.dynamodb import attributes
from sparklet.ledger.items import shard_item
from sparklet.model import RunOptions, ShardRecord
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment
from sparklet.worker.handler import memory_peak_mb
from tests.stand_ins.memory import MemoryLedger, MemoryObjectStore, MemoryTaskQueue, SystemClock

RAW = "raw"
QUESTION = "How much memory does planning take, and does it grow with the number of objects?"
SOURCE = "s3://data/in/"
KEYS_A_PAGE = 1000


class ListingStore(MemoryObjectStore):
    """Lists ``count`` objects that are nowhere, and forgets plan parts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects, made up a page at a time as a real listing brings them."""
        if prefix_uri != SOURCE:
            yield from super().list(prefix_uri, start_after)
            return
        for first in range(0, self._count, KEYS_A_PAGE):
            numbers = range(first, min(first + KEYS_A_PAGE, self._count))
            yield from [ObjectInfo(f"{SOURCE}day={n:09d}.csv", 1000 + n % 7, f"{n:032x}", 0.0) for n in numbers]

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Keep everything but plan parts."""
        return "" if "/plan/" in uri else super().put(uri, body, create_only)


class CountingShards:
    """Counts shards instead of keeping them."""

    shard_count = 0

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Count."""
        added = sum(1 for _ in shards)
        self.shard_count += added
        return added


class CountingQueue(MemoryTaskQueue):
    """Counts messages instead of keeping them."""

    message_count = 0

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Count."""
        sent = sum(1 for _ in bodies)
        self.message_count += sent
        return sent


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="each is a case")
    parser.add_argument("--turn", nargs=2, metavar=("SIDE", "OBJECTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        side, objects = given.turn
        print(json.dumps(_turn(side, int(objects))))
        return
    cases = [Case(f"{objects:,} objects", [RAW]) for objects in given.objects]
    for number in range(given.rounds):
        for case, objects in zip(cases, given.objects, strict=True):
            for side in (SPARKLET, RAW) if number % 2 else (RAW, SPARKLET):
                case.add(side, _in_a_process(side, objects))
    parameters = {"adapters": "counting, see the script", "rounds": given.rounds, "shards": "one an object"}
    publish(document("planning_memory", QUESTION, parameters, cases))


def _in_a_process(side: str, objects: int) -> Run:
    command = [sys.executable, "-m", "benchmarks.planning_memory", "--turn", side, str(objects)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(done.stdout))


def _turn(side: str, objects: int) -> dict[str, float]:
    """One side's work; its memory with what was there before."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    (_plan if side == SPARKLET else _make_raw)(objects)
    return {
        "wall_s": time.perf_counter() - start_s,
        "cpu_s": time.process_time() - start_cpu_s,
        "peak_memory_mb": memory_peak_mb(),
    }


def _plan(objects: int) -> None:
    """From the prefix to the sealed plan."""
    ledger, queue, counted = MemoryLedger(), CountingQueue(), CountingShards()
    ledger.shards.add = counted.add  # type: ignore[method-assign]
    deployment = Deployment("sparklet", ListingStore(objects), ledger, queue, SystemClock())
    deployment.store.put("s3://data/job.py", b"")
    request = RunRequest("s3://data/job.py", (SOURCE,), "s3://data/out/", options=RunOptions(max_objects=1))
    run = plan(deployment, new_run(deployment, request).run_id)
    if not run.object_count == objects or not run.shard_count == counted.shard_count == queue.message_count:
        raise SystemExit(f"the plan is wrong: {run}, {counted.shard_count} shards, {queue.message_count} messages")


def _make_raw(objects: int) -> None:
    """An item and a message of each object, one at a time."""
    made = 0
    for number, info in enumerate(ListingStore(objects).list(SOURCE)):
        record = ShardRecord("raw", number, "part-00000-0123abcd.jsonl", 60 * number, 60, 1, info.size_bytes)
        made += bool(attributes(shard_item(record))) and bool(record.ref.to_body())
    if made != objects:
        raise SystemExit(f"{made} items were made, not {objects}")


if __name__ == "__main__":
    main()
