"""Spark's settings that depend on the size of a task's input: how Spark partitions reading and shuffling.

Only settings of a session (``spark.sql.…``), so that one SparkContext serves shards of every size. docs/guide/shards.md
explains the formulas.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Self

from sparklet.model import InputObject, RunOptions

MIB = 1024 * 1024
RESERVED_BYTES = 300 * MIB  # of a heap, reserved by Spark (UnifiedMemoryManager)
MEMORY_FRACTION = 0.6  # spark.memory.fraction: the share of sorts, joins, aggregates and caches in the rest
EXPANSION = 3  # from stored bytes to rows in memory: two or three, by Spark's tuning guide
MAX_PARTITION_BYTES = 128 * MIB  # Spark's own spark.sql.files.maxPartitionBytes
MAX_OPEN_COST_BYTES = 4 * MIB  # Spark's own spark.sql.files.openCostInBytes
MIN_OPEN_COST_BYTES = 4096  # with 0, empty files would be split into pieces of 0 bytes, which fails
MIN_SHUFFLE_PARTITIONS = 2
MAX_SHUFFLE_PARTITIONS = 200  # Spark's own; above it a map task sorts its output instead of writing it directly


@dataclass(frozen=True, slots=True)
class InputSize:
    """The size of a task's input; all zero if it is not known."""

    objects: int = 0
    stored_bytes: int = 0
    weighed_bytes: int = 0  # objects compressed as a whole count unpacked

    @classmethod
    def of(cls, objects: Iterable[InputObject], compression_factor: float = RunOptions().compression_factor) -> Self:
        """The size of these inputs together."""
        items = tuple(objects)
        stored_bytes = sum(item.size_bytes for item in items)
        return cls(len(items), stored_bytes, sum(item.weighed_bytes(compression_factor) for item in items))


def shard_conf(size: InputSize, heap_mb: int, cores: int) -> dict[str, str]:
    """The settings with which a task slot's share of the heap can hold every partition; ``cores`` are the slots."""
    share_bytes = task_memory_bytes(heap_mb, cores)
    partition_bytes, open_cost_bytes = _reading(size, min(MAX_PARTITION_BYTES, share_bytes // EXPANSION), cores)
    return {
        "spark.sql.files.maxPartitionBytes": f"{partition_bytes}b",
        "spark.sql.files.openCostInBytes": f"{open_cost_bytes}b",
        "spark.sql.shuffle.partitions": str(_shuffle_partitions(size, share_bytes, cores)),
        # more than 32 paths are listed by a job, by default with a task for each path
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(cores),
    }


def task_memory_bytes(heap_mb: int, cores: int) -> int:
    """The heap in which one of Spark's tasks can sort, join and aggregate before it spills to disk."""
    return max(MIB, int((heap_mb * MIB - RESERVED_BYTES) * MEMORY_FRACTION) // cores)


def _reading(size: InputSize, max_bytes: int, cores: int) -> tuple[int, int]:
    """The maximum size of a partition, and the size that opening a file counts as.

    The cores read partitions in rounds. All have the same size, so that no core waits for another, and are as large as
    possible, since the settings also apply to other data that the script reads. Objects compressed as a whole are not
    split: fewer of them go into one partition.
    """
    packed = size.weighed_bytes / size.stored_bytes if size.stored_bytes else 1
    max_bytes = max(MIN_OPEN_COST_BYTES, int(max_bytes / packed))
    rounds = max(1, ceil(size.stored_bytes / (max_bytes * cores)))
    room_bytes = rounds * cores * max_bytes - size.stored_bytes
    open_cost_bytes = min(MAX_OPEN_COST_BYTES, room_bytes // max(1, size.objects))
    open_cost_bytes = max(MIN_OPEN_COST_BYTES, min(open_cost_bytes, max_bytes))
    if rounds == 1:
        return max_bytes, open_cost_bytes  # Spark itself divides less than one round evenly
    even_bytes = ceil((size.stored_bytes + size.objects * open_cost_bytes) / (rounds * cores))
    return max(open_cost_bytes, min(max_bytes, even_bytes)), open_cost_bytes


def _shuffle_partitions(size: InputSize, share_bytes: int, cores: int) -> int:
    """Enough for the whole input, in whole rounds of the cores; adaptive execution merges small ones."""
    needed = ceil(EXPANSION * size.weighed_bytes / share_bytes)
    least = max(MIN_SHUFFLE_PARTITIONS, cores)
    return max(least, min(MAX_SHUFFLE_PARTITIONS, cores * ceil(needed / cores)))
