"""Spark's settings that depend on how much a task reads: how it is cut into Spark's tasks, reading and shuffling.

Only settings of a session (``spark.sql.…``), so that one SparkContext serves shards of every size. The formulas and
where they come from: docs/guide/shards.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Self

from sparklet.model import InputObject, RunOptions

MIB = 1024 * 1024
RESERVED_BYTES = 300 * MIB  # of a heap, that Spark keeps out of its account (UnifiedMemoryManager)
MEMORY_FRACTION = 0.6  # spark.memory.fraction: what sorting, joining, aggregating and caching share of the others
EXPANSION = 3  # stored bytes as rows in memory: two or three times as much, says Spark's tuning guide
MAX_PARTITION_BYTES = 128 * MIB  # Spark's own spark.sql.files.maxPartitionBytes
MAX_OPEN_COST_BYTES = 4 * MIB  # Spark's own spark.sql.files.openCostInBytes
MIN_OPEN_COST_BYTES = 4096  # with 0, empty files would be cut into pieces of 0 bytes, which fails
MIN_SHUFFLE_PARTITIONS = 2
MAX_SHUFFLE_PARTITIONS = 200  # Spark's own; above it a map task sorts what it could write at once


@dataclass(frozen=True, slots=True)
class InputSize:
    """How much a task reads, as far as it is known; all zero if it is not."""

    objects: int = 0
    stored_bytes: int = 0
    weighed_bytes: int = 0  # those of objects compressed as a whole count as unpacked

    @classmethod
    def of(cls, objects: Iterable[InputObject], compression_factor: float = RunOptions().compression_factor) -> Self:
        """The size of these inputs together."""
        items = tuple(objects)
        stored_bytes = sum(item.size_bytes for item in items)
        return cls(len(items), stored_bytes, sum(item.weighed_bytes(compression_factor) for item in items))


def shard_conf(size: InputSize, heap_mb: int, cores: int) -> dict[str, str]:
    """Read in equal pieces that a core's share of the heap can hold, and shuffle into as many as that takes.

    Parameters
    ----------
    size
        What the task reads.
    heap_mb
        The JVM's heap.
    cores
        Spark's task slots, which share it.
    """
    share_bytes = task_memory_bytes(heap_mb, cores)
    partition_bytes, open_cost_bytes = _reading(size, min(MAX_PARTITION_BYTES, share_bytes // EXPANSION), cores)
    return {
        "spark.sql.files.maxPartitionBytes": f"{partition_bytes}b",
        "spark.sql.files.openCostInBytes": f"{open_cost_bytes}b",
        "spark.sql.shuffle.partitions": str(_shuffle_partitions(size, share_bytes, cores)),
        # more than 32 paths are looked up by a job, with a task for each path where nobody says otherwise
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(cores),
    }


def task_memory_bytes(heap_mb: int, cores: int) -> int:
    """What one of Spark's tasks has of the heap to sort, join and aggregate in before it spills to disk."""
    return max(MIB, int((heap_mb * MIB - RESERVED_BYTES) * MEMORY_FRACTION) // cores)


def _reading(size: InputSize, most_bytes: int, cores: int) -> tuple[int, int]:
    """Bytes of a piece, and what opening a file counts as.

    Pieces are taken in waves, one for each core; of equal length, so that no core waits for another, and never much
    shorter than they may be, since they hold for whatever else the script reads. What is compressed as a whole is
    not cut: of such objects fewer go into one piece.
    """
    packed = size.weighed_bytes / size.stored_bytes if size.stored_bytes else 1
    most_bytes = max(MIN_OPEN_COST_BYTES, int(most_bytes / packed))
    waves = max(1, ceil(size.stored_bytes / (most_bytes * cores)))
    room_bytes = waves * cores * most_bytes - size.stored_bytes
    open_cost_bytes = min(MAX_OPEN_COST_BYTES, room_bytes // max(1, size.objects))
    open_cost_bytes = max(MIN_OPEN_COST_BYTES, min(open_cost_bytes, most_bytes))
    if waves == 1:
        return most_bytes, open_cost_bytes  # Spark itself cuts less than one wave evenly
    even_bytes = ceil((size.stored_bytes + size.objects * open_cost_bytes) / (waves * cores))
    return max(open_cost_bytes, min(most_bytes, even_bytes)), open_cost_bytes


def _shuffle_partitions(size: InputSize, share_bytes: int, cores: int) -> int:
    """As many as hold all that is read, in whole waves; adaptive execution joins those that turn out small."""
    needed = ceil(EXPANSION * size.weighed_bytes / share_bytes)
    least = max(MIN_SHUFFLE_PARTITIONS, cores)
    return max(least, min(MAX_SHUFFLE_PARTITIONS, cores * ceil(needed / cores)))
