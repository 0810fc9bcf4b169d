"""What do the leases of 1,000 workers ask of a ledger that throttles, and is any worker taken for lost?

    python -m benchmarks.scale.leases [--workers 1000] [--hold-s 60] [--throttled 0.3]
    python -m benchmarks.scale.leases --workers 10000 --partition 1000 [--lease-s 16]

Each worker claims a shard of one run and holds it, as the real worker does; a share of the ledger's updates is refused
for their rate. A checker looks every five seconds. Then each worker says that its shard succeeded.
With ``--partition`` the shards lie in one partition in memory that admits so many writes a second, and 100 workers
begin each second, as Lambda lets them.
The last line is ``workers=… renewals_a_minute=… throttled=… lost=…``; the exit code is 1 if a worker was lost.
"""

import argparse
import io
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.planning_rate import stand_in
from benchmarks.scale.faults import throttled
from benchmarks.scale.partition import Partition
from benchmarks.scale.world import BUCKET, SCRIPT, World, set_environment
from sparklet.aws.clients import AwsClients
from sparklet.errors import LeaseLostError
from sparklet.events import Source, Task
from sparklet.ledger.clock import SystemClock
from sparklet.ledger.items import shard_item
from sparklet.ledger.rules import LEASE_S, lease_s
from sparklet.log import Log
from sparklet.model import ShardRecord, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.checker import check
from sparklet.spark.runner import Deadline
from sparklet.worker.attempt import Attempt, Lease, persist

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

CHECK_EVERY_S = 5.0
STARTS_PER_S = 100.0  # of a function's environments


class Throttle:
    """Refuses a share of the ledger's updates for their rate."""

    def __init__(self, share: float) -> None:
        self._share, self._dice = share, random.Random(0)
        self.counts: Counter[str] = Counter()

    def __call__(self, request: "AWSPreparedRequest", event_name: str, **_: Any) -> Any:
        """DynamoDB's refusal, or None: the request goes its way."""
        if not event_name.endswith("UpdateItem") or not self._share:
            return None
        refused = self._dice.random() < self._share
        self.counts["throttled" if refused else "taken"] += 1
        return throttled(str(request.url)) if refused else None


def main() -> int:
    """Plan, hold, check, end; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000, metavar="N")
    parser.add_argument("--hold-s", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--throttled", type=float, default=0.3, metavar="SHARE")
    parser.add_argument("--partition", type=int, default=0, metavar="WRITES_PER_S")
    parser.add_argument("--lease-s", type=float, default=0.0, metavar="SECONDS", help="the workers' number decides")
    given = parser.parse_args()
    if given.partition:
        return _in_one_partition(given.workers, given.hold_s, given.partition, given.lease_s or lease_s(given.workers))
    set_environment()
    with tempfile.TemporaryDirectory(prefix="leases-") as folder, stand_in(Path(folder)) as endpoint:
        world = World(endpoint, folder, "leases", given.workers, 1, 60.0, 600)
        clients = world.clients()
        for bucket in (BUCKET, world.input.split("/")[2]):
            clients.s3.create_bucket(Bucket=bucket)
        world.create(clients)
        deployment = world.deployment(clients)
        deployment.store.put(SCRIPT, b"print()\n")
        for number in range(given.workers):
            deployment.store.put(world.object_name(number), b"x")
        plan(deployment, new_run(deployment, world.request()).run_id)
        return _held(world, list(deployment.ledger.shards.list(world.run_id)), given.hold_s, Throttle(given.throttled))


def _held(world: World, shards: list[ShardRecord], hold_s: float, throttle: Throttle) -> int:
    clients = AwsClients(64, endpoint_url=world.endpoint, region="us-east-1")
    clients.dynamodb.meta.events.register("before-send.dynamodb", throttle)
    ledger, clock, lost = world.deployment(clients).ledger, SystemClock(), Counter[str]()

    def work(shard: ShardRecord) -> None:
        name = f"worker-{shard.number}"
        record = ledger.attempts.claim(shard.ref, name, LEASE_S, 3).record
        renew = partial(ledger.attempts.renew, world.run_id, shard.number, name, LEASE_S)
        attempt = Attempt(name, Task(Source.SQS, {}), Deadline.within(2 * hold_s + LEASE_S), Log(io.BytesIO()))
        succeed = partial(ledger.attempts.succeed, world.run_id, shard.number, name, ShardResult(rows=1))
        with (
            suppress(LeaseLostError),  # its shard has not succeeded, which fails the benchmark
            Lease(renew, clock, attempt.deadline, attempt.log, LEASE_S, record.lease_end_s),
        ):
            time.sleep(hold_s)
            persist(succeed, clock, attempt)

    began_s, watching = time.monotonic(), world.deployment(world.clients())
    with ThreadPoolExecutor(len(shards)) as pool:
        working = [pool.submit(work, shard) for shard in shards]
        while not all(each.done() for each in working):
            lost["lapsed"] += check(watching, world.run_id).expired
            time.sleep(CHECK_EVERY_S)
        for each in working:
            each.result()
    took_s = time.monotonic() - began_s
    succeeded = watching.ledger.shards.count(world.run_id).succeeded
    renewals = (throttle.counts["taken"] - 2 * len(shards)) / took_s * 60  # a claim and an end each
    refused = throttle.counts["throttled"]
    told = f"workers={len(shards)} renewals_a_minute={renewals:.0f} throttled={refused} succeeded={succeeded}"
    print(f"{told} lost={lost['lapsed']}", flush=True)
    return int(succeeded != len(shards) or lost["lapsed"] > 0)


def _in_one_partition(workers: int, hold_s: float, writes_per_s: int, length_s: float) -> int:
    threading.stack_size(256 * 1024)  # there are as many threads as workers
    partition, clock, began_s = Partition(writes_per_s), SystemClock(), time.monotonic()
    records = [ShardRecord("run", number, "part", 0, 0, 1, 1) for number in range(workers)]
    partition.add(map(shard_item, records))
    attempts, leases, lost = partition.attempts(clock), dict[int, Lease](), Counter[str]()

    def wait(number: int, more_s: float = 0.0) -> None:
        time.sleep(max(0.0, began_s + number / STARTS_PER_S + more_s - time.monotonic()))

    def begin(number: int) -> None:
        wait(number)
        name = f"worker-{number}"
        record = attempts.claim(records[number].ref, name, length_s, 3).record
        renew = partial(attempts.renew, "run", number, name, length_s)
        deadline, log = Deadline.within(10 * hold_s), Log(io.BytesIO())
        leases[number] = Lease(renew, clock, deadline, log, length_s, record.lease_end_s).__enter__()

    def end(number: int) -> None:
        wait(number, hold_s)
        begun[number].result()
        leases[number].__exit__(None, None, None)
        with suppress(LeaseLostError):
            attempts.succeed("run", number, f"worker-{number}", ShardResult(rows=1))

    with ThreadPoolExecutor(64) as beginning, ThreadPoolExecutor(64) as ending:
        begun = [beginning.submit(begin, number) for number in range(workers)]
        ended = [ending.submit(end, number) for number in range(workers)]
        while not all(each.done() for each in ended):
            lost["lapsed"] += partition.expired(clock.now_s())
            time.sleep(CHECK_EVERY_S)
        for each in ended:
            each.result()
    took_s = time.monotonic() - began_s
    states = Counter(str(item["state"]) for item in partition.shards())
    counts, succeeded = partition.counts, states["SUCCEEDED"]
    told = f"workers={workers} lease_s={length_s:g} writes_per_s={counts['taken'] / took_s:.0f} of {writes_per_s}"
    print(f"{told} throttled={counts['throttled']} succeeded={succeeded} lost={lost['lapsed']}", flush=True)
    return int(succeeded != workers or lost["lapsed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
