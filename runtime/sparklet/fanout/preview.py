"""What a plan would look like; nothing is written. Local inputs are previewed without being put into a bucket."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparklet.errors import PlanError
from sparklet.fanout.inventory import Found, Inventory, refuse_overlap, resolve_inputs
from sparklet.fanout.local_files import local_files
from sparklet.fanout.packing import pack_shards
from sparklet.model import InputObject, Position, RunOptions
from sparklet.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """The shards that a plan would have."""

    shards: int
    objects: int
    size_bytes: int
    smallest_shard_bytes: int
    largest_shard_bytes: int
    most_objects_in_a_shard: int
    skipped: Mapping[str, int]  # objects left out, by reason


def preview(options: RunOptions, inputs: Sequence[str], store: ObjectStore) -> PlanPreview:
    """Pack the input as ``plan`` would; memory does not grow with the number of objects.

    Parameters
    ----------
    inputs
        S3 addresses and local paths, in order.

    Raises
    ------
    PlanError
        If an input is not usable, or nothing is left to plan.
    """
    remote = [given for given in inputs if "://" in given]
    resolved = iter(resolve_inputs(store, remote) if remote or not inputs else ())
    refuse_overlap([_local_address(given) for given in inputs if "://" not in given])
    skipped: Counter[str] = Counter()
    sources = [next(resolved) if "://" in given else given for given in inputs]
    shards = objects = size_bytes = largest = most = 0
    smallest: int | None = None
    for shard in (packed.shard for packed in pack_shards(_objects(options, sources, store, skipped), options)):
        shards, objects, size_bytes = shards + 1, objects + len(shard.objects), size_bytes + shard.size_bytes
        smallest = shard.size_bytes if smallest is None else min(smallest, shard.size_bytes)
        largest, most = max(largest, shard.size_bytes), max(most, len(shard.objects))
    if smallest is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "nothing"
        raise PlanError(f"the input {', '.join(sources)} has nothing to plan; left out: {reasons}")
    return PlanPreview(shards, objects, size_bytes, smallest, largest, most, dict(skipped))


def _objects(options: RunOptions, sources: Sequence[str], store: ObjectStore, skipped: Counter[str]) -> Iterator[Found]:
    for source in sources:
        if "://" in source:
            inventory = Inventory(store, (source,), options.include, options.exclude)
            yield from inventory.objects()
            skipped.update(inventory.skipped)
        else:
            for path, _ in local_files(Path(source), options.include, options.exclude, skipped):
                yield Found(InputObject(str(path), path.stat().st_size), Position())


def _local_address(given: str) -> str:
    path = Path(given).resolve()
    return f"{path}/" if path.is_dir() else str(path)
