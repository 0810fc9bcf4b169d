"""What one function can take on: shards above it are refused before a plan, or marked for another engine."""

from collections.abc import Iterable

from sparklet.errors import PlanError
from sparklet.fanout.planning.packing import Packed, shard_weight
from sparklet.model import Failure, RunOptions, Shard

TOO_LARGE = "ShardTooLargeError"
MIB = 1024 * 1024
MEMORY_SHARE = 3
SCRATCH_SHARE = 2
NAMED = 3  # objects that a refusal names
ADVICE = (
    "cut it with --split (CSV, JSON Lines and Parquet that are not compressed as a whole), raise --max-shard-size for "
    "a function of more memory, or process it with another engine (EMR Serverless, Glue: the same script runs there)"
)


def default_max_shard_bytes(memory_mb: int, scratch_bytes: int) -> int:
    """The weighed bytes of one shard that a function of this size takes on without being told more.

    A third of its memory, and no more than its scratch. Spark streams what it reads, so a scan alone needs little,
    however large the input. What grows with it is a cache or a collected frame, in a heap that is two thirds of the
    memory, and a sort or shuffle, which spills about its input to scratch. So 1,769 MB take 589 MiB and 3,008 MB
    1,002 MiB, where 128 and 400 MB of CSV must do, and the usual 512 MiB of ``/tmp`` cap both. A script that only
    streams can do more: raise it. The other bound is the deadline, which nobody can know at planning: 15 minutes
    at 5 MB/s are 4.5 GB, beyond this limit at every memory size. Measured in containers: docs/decisions/0026.
    """
    return min(memory_mb * MIB // MEMORY_SHARE, scratch_bytes)


def most_slice_bytes(scratch_bytes: int) -> int:
    """The longest slice that a function should fetch: half its scratch, the rest is Spark's to spill into."""
    return scratch_bytes // SCRATCH_SHARE


def refuse_wide_slices(options: RunOptions, scratch_bytes: int) -> None:
    """PlanError if slices would be longer than a function with that much ``/tmp`` can fetch."""
    if options.split and options.target_bytes > most_slice_bytes(scratch_bytes):
        raise PlanError(
            f"slices of {options.target_bytes / MIB:,.0f} MiB are fetched into /tmp, which has "
            f"{scratch_bytes / MIB:,.0f} MiB and must keep half for Spark: choose a shard size of "
            f"{most_slice_bytes(scratch_bytes) // MIB:,} MiB or less, or give the function more ephemeral storage"
        )


def refuse_oversize(packed: Iterable[Packed], options: RunOptions) -> None:
    """PlanError if a shard is above ``max_shard_bytes`` and the run's options do not say to mark it.

    Packs the whole input to know it, so that nothing is planned of a run that cannot end well. With ``mark`` or
    without a limit nothing is read.
    """
    if not options.max_shard_bytes or options.oversize == "mark":
        return
    count, named = 0, list[str]()
    for each in packed:
        if is_oversize(each.shard, options):
            count += 1
            if len(named) < NAMED:
                named.append(_shown(each.shard, options))
    if count:
        more = f" and {count - len(named)} more" if count > len(named) else ""
        raise PlanError(
            f"{count} {'shards are' if count > 1 else 'shard is'} above the {options.max_shard_bytes / MIB:,.0f} MiB "
            f"that one function takes on: {', '.join(named)}{more}; {ADVICE}, or plan the others and mark these "
            "with --oversize mark"
        )


def is_oversize(shard: Shard, options: RunOptions) -> bool:
    """Whether a shard is more than one function takes on."""
    return 0 < options.max_shard_bytes < shard_weight(shard, options.compression_factor)


def too_large(shard: Shard, options: RunOptions) -> Failure | None:
    """The end of a shard that no function should attempt, None if it fits."""
    if not is_oversize(shard, options):
        return None
    limit = f"the {options.max_shard_bytes / MIB:,.0f} MiB that one function takes on"
    return Failure(TOO_LARGE, f"{_shown(shard, options)} is above {limit}; {ADVICE}", retryable=False)


def _shown(shard: Shard, options: RunOptions) -> str:
    weight = shard_weight(shard, options.compression_factor)
    weighed = f", weighed {weight / MIB:,.0f} MiB" if weight != shard.size_bytes else ""
    others = f" and {len(shard.objects) - 1} more" if len(shard.objects) > 1 else ""
    return f"{shard.objects[0].name}{others} ({shard.size_bytes / MIB:,.0f} MiB{weighed})"
