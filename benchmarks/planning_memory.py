"""How much memory does planning take, and does it grow with the number of objects?

Each size is planned in a process of its own whose peak resident memory is read at the end. The adapters are
those in memory with one difference, or they themselves would grow: the store makes its listing up as it is
asked for it and forgets plan parts, ledger and queue count shards and messages instead of keeping them. What
is left is the planner's own: inventory, packing, parts, checkpoints. Prints JSON.

    python -m benchmarks.planning_memory [--objects 10000 1000000]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.facts import ROOT, facts
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.new_run import RunRequest, new_run
from sparklet.fanout.planner import plan
from sparklet.local.memory import MemoryLedger, MemoryObjectStore, MemoryTaskQueue, SystemClock
from sparklet.model import RunOptions, ShardRecord
from sparklet.ports import ObjectInfo

SOURCE = "s3://data/in/"
KEYS_A_PAGE = 1000


class ListingStore(MemoryObjectStore):
    """Lists ``count`` objects that are nowhere, and forgets plan parts."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects, made up a page at a time as a real listing brings them."""
        for first in range(0, self._count, KEYS_A_PAGE):
            numbers = range(first, min(first + KEYS_A_PAGE, self._count))
            yield from [ObjectInfo(f"{SOURCE}day={n:09d}.csv", 1000 + n % 7, f"{n:032x}", 0.0) for n in numbers]

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Keep everything but plan parts."""
        return "" if "/plan/" in uri else super().put(uri, body, create_only)


class CountingLedger(MemoryLedger):
    """Counts shards instead of keeping them; runs and parts are kept."""

    shard_count = 0

    def add_shards(self, shards: Iterable[ShardRecord]) -> int:
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
    """Measure each size in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--objects", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--measure", nargs=2, type=int, metavar=("OBJECTS", "PER_SHARD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(*options.measure)))
        return
    measured = [_in_a_process(count, per_shard) for per_shard in (1, 1000) for count in options.objects]
    print(
        json.dumps(
            {"benchmark": "planning_memory", "adapters": "counting, see docstring", "plans": measured, **facts()},
            indent=2,
        )
    )


def _in_a_process(objects: int, per_shard: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.planning_memory", "--measure", str(objects), str(per_shard)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _measure(objects: int, per_shard: int) -> dict[str, Any]:
    """Plan, then read how much memory this process had at most."""
    ledger, queue = CountingLedger(), CountingQueue()
    at = Deployment("sparklet", ListingStore(objects), ledger, queue, SystemClock())
    at.store.put("s3://data/job.py", b"")
    before_mb = _peak_mb()
    start_s = time.perf_counter()
    request = RunRequest("s3://data/job.py", (SOURCE,), "s3://data/out/", options=RunOptions(max_objects=per_shard))
    run = plan(at, new_run(at, request).run_id)
    duration_s = time.perf_counter() - start_s
    if not run.object_count == objects or not run.shard_count == ledger.shard_count == queue.message_count:
        raise SystemExit(f"the plan is wrong: {run}, {ledger.shard_count} shards, {queue.message_count} messages")
    return {
        "objects": objects,
        "shards": run.shard_count,
        "peak_rss_mb": _peak_mb(),
        "before_planning_mb": before_mb,
        "planning_s": round(duration_s, 2),
        "objects_per_s": round(objects / duration_s),
    }


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    main()
