"""Spark's settings that depend on the size of a task's input: how Spark partitions reading and shuffling.

Only settings of a session (``spark.sql.…``), so that one SparkContext serves shards of every size. docs/guide/shards.md
explains the formulas.
"""

from collections.abc import Sequence
from math import ceil

from sparklet.model import MIB, InputObject

RESERVED_BYTES = 300 * MIB  # of a heap, reserved by Spark (UnifiedMemoryManager)
MEMORY_FRACTION = 0.6  # spark.memory.fraction: the share of sorts, joins, aggregates and caches in the rest
EXPANSION = 3  # from stored bytes to rows in memory: two or three, by Spark's tuning guide
MAX_PARTITION_BYTES = 128 * MIB  # Spark's own spark.sql.files.maxPartitionBytes
MAX_OPEN_COST_BYTES = 4 * MIB  # Spark's own spark.sql.files.openCostInBytes
MIN_OPEN_COST_BYTES = 4096  # with 0, empty files would be split into pieces of 0 bytes, which fails
MIN_SHUFFLE_PARTITIONS = 2
MAX_SHUFFLE_PARTITIONS = 200  # Spark's own; above it a map task sorts its output instead of writing it directly


def partitioning_conf(
    inputs: Sequence[InputObject], heap_mb: int, cores: int, *, apart: bool = False
) -> dict[str, str]:
    """The settings with which a task slot's share of the heap can hold every partition; ``cores`` are the slots.

    Objects compressed as a whole are not split and count unpacked: fewer of them go into one partition. ``apart``: no
    two files do, since one alone counts as much as a partition holds.
    """
    stored_bytes = sum(item.size_bytes for item in inputs)
    estimated_bytes = sum(item.estimated_bytes for item in inputs)
    packed = estimated_bytes / stored_bytes if stored_bytes else 1
    share_bytes = task_memory_bytes(heap_mb, cores)
    # The share bounds what is unpacked, Spark's option what is stored.
    max_bytes = max(MIN_OPEN_COST_BYTES, int(min(MAX_PARTITION_BYTES, share_bytes // EXPANSION) / packed))
    partition_bytes, open_cost_bytes = _reading(len(inputs), stored_bytes, max_bytes, cores)
    if apart:
        partition_bytes = open_cost_bytes = max_bytes
    return {
        "spark.sql.files.maxPartitionBytes": f"{partition_bytes}b",
        "spark.sql.files.openCostInBytes": f"{open_cost_bytes}b",
        "spark.sql.shuffle.partitions": str(_shuffle_partitions(estimated_bytes, share_bytes, cores)),
    }


def task_memory_bytes(heap_mb: int, cores: int) -> int:
    """The heap in which one of Spark's tasks can sort, join and aggregate before it spills to disk."""
    return max(MIB, int((heap_mb * MIB - RESERVED_BYTES) * MEMORY_FRACTION) // cores)


def _reading(objects: int, stored_bytes: int, max_bytes: int, cores: int) -> tuple[int, int]:
    """The maximum size of a partition, and the size that opening a file counts as.

    The cores read partitions in rounds. All partitions have the same size, so that no core waits for another, and are
    as large as possible, since the settings also apply to other data that the script reads.
    """
    rounds = max(1, ceil(stored_bytes / (max_bytes * cores)))
    free_bytes = rounds * cores * max_bytes - stored_bytes
    # All files together count at most as much as the last round has free, or they would cost a round more.
    open_cost_bytes = min(MAX_OPEN_COST_BYTES, free_bytes // max(1, objects))
    open_cost_bytes = max(MIN_OPEN_COST_BYTES, min(open_cost_bytes, max_bytes))
    if rounds == 1:
        return max_bytes, open_cost_bytes  # Spark itself divides less than one round evenly
    even_bytes = ceil((stored_bytes + objects * open_cost_bytes) / (rounds * cores))
    return max(open_cost_bytes, min(max_bytes, even_bytes)), open_cost_bytes


def _shuffle_partitions(estimated_bytes: int, share_bytes: int, cores: int) -> int:
    """Enough for the whole input, in whole rounds of the cores; adaptive execution merges small ones."""
    needed = ceil(EXPANSION * estimated_bytes / share_bytes)
    least = max(MIN_SHUFFLE_PARTITIONS, cores)
    return max(least, min(MAX_SHUFFLE_PARTITIONS, cores * ceil(needed / cores)))
