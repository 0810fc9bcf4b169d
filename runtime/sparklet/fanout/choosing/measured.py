"""What a shard takes: measured in an earlier run of the same name, else assumed, and always with its origin."""

from dataclasses import dataclass
from itertools import islice

from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import assumed_shard_s, scaled_shard_s
from sparklet.fanout.planning.fitting import MIB
from sparklet.model import Run, ShardState
from sparklet.ports import Ledger

MOST_RUNS = 300  # looked through for one of the name, newest first
MOST_SHARDS = 200  # of it that are averaged


@dataclass(frozen=True, slots=True)
class ShardTime:
    """What one shard takes."""

    seconds: float
    origin: str  # in words
    run_id: str = ""  # the run in which it was measured; empty: assumed


def assumed(bytes_a_shard: float, prices: Prices) -> ShardTime:
    """A shard's time where no run was measured."""
    fixed_s, bytes_a_s = prices["assumptions.task_fixed_s"], prices["assumptions.task_bytes_a_s"]
    origin = f"assumed: {fixed_s:g} s, and {bytes_a_shard / MIB:,.1f} MiB at {bytes_a_s / 1e6:g} MB/s"
    return ShardTime(assumed_shard_s(bytes_a_shard, prices), origin)


def shard_time(ledger: Ledger, name: str, bytes_a_shard: float, prices: Prices) -> ShardTime:
    """A shard's time by the newest run of the name that has succeeded shards, scaled to so many bytes a shard."""
    for run in islice(ledger.runs.list(), MOST_RUNS):
        if run.name == name and run.sealed and (found := _measured(ledger, run, bytes_a_shard, prices)):
            return found
    return assumed(bytes_a_shard, prices)


def _measured(ledger: Ledger, run: Run, bytes_a_shard: float, prices: Prices) -> ShardTime | None:
    times_s, sizes = [], []
    for record in islice(ledger.shards.list(run.run_id, ShardState.SUCCEEDED), MOST_SHARDS):
        times_s.append(record.took_s)
        sizes.append(record.size_bytes)
    if not times_s:
        return None
    mean_s, mean_bytes = sum(times_s) / len(times_s), sum(sizes) / len(sizes)
    seconds = scaled_shard_s(mean_s, mean_bytes, bytes_a_shard, prices)
    scaled = f", from {mean_bytes / MIB:,.1f} to {bytes_a_shard / MIB:,.1f} MiB a shard" if seconds != mean_s else ""
    origin = f"measured: {mean_s:,.1f} s a shard, mean of {len(times_s)} of {run.run_id}{scaled}"
    return ShardTime(seconds, origin, run.run_id)
