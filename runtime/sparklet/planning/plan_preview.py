"""What a plan would look like; nothing is written. Local inputs are previewed where they are."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path

from sparklet.inputs.digests import Digests
from sparklet.inputs.list_requests import ListRequest, open_lists, refuse_mixed
from sparklet.inputs.local_files import local_files
from sparklet.inputs.selection import Found, Reason
from sparklet.inputs.slicing import slice_objects
from sparklet.model import InputObject, Position, RunOptions
from sparklet.planning.inventory import Inventory, refuse_overlap, resolve_inputs
from sparklet.planning.packing import archived, nothing_to_plan, pack_shards
from sparklet.ports import ObjectStore


@dataclass(slots=True)
class PlanPreview:
    """The shards that a plan would have."""

    shards: int = 0
    objects: int = 0
    size_bytes: int = 0
    smallest_shard_bytes: int = 0
    largest_shard_bytes: int = 0
    most_objects_in_a_shard: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out, by reason
    slices: int = 0  # objects that are parts of a larger one
    largest_shard: int = 0  # its number
    largest_object: str = ""  # the first one in it
    too_large: int = 0  # shards too large for one function
    of_engine: tuple[int, int] = (0, 0)  # shards that an engine does, and their bytes


def preview(
    options: RunOptions,
    inputs: Sequence[str],
    store: ObjectStore | None,
    lists: Sequence[ListRequest] = (),
    done: Callable[[], Digests] | None = None,
) -> PlanPreview:
    """Pack the input as ``plan`` would, in constant memory; PlanError if it is not usable, or nothing is left to plan.

    ``inputs`` are S3 addresses, read from ``store``, and local paths; without a store all are local. ``done`` returns
    what earlier runs have done, for an incremental run.
    """
    refuse_mixed(lists, inputs, options)
    remote = [given for given in inputs if "://" in given]
    resolved = iter(resolve_inputs(store, remote) if store and (remote or not (inputs or lists)) else ())
    local = [Path(given).resolve() for given in inputs if "://" not in given]
    refuse_overlap([f"{path}/" if path.is_dir() else str(path) for path in local])
    sources = [next(resolved) if "://" in given else given for given in inputs]
    skipped: Counter[str] = Counter()
    found = PlanPreview(skipped=skipped)
    for packed in pack_shards(_objects(options, sources, store, lists, done, skipped), options):
        shard, size_bytes = packed.shard, packed.shard.size_bytes
        found.smallest_shard_bytes = min(found.smallest_shard_bytes, size_bytes) if found.shards else size_bytes
        if not found.shards or size_bytes > found.largest_shard_bytes:
            found.largest_shard_bytes, found.largest_shard = size_bytes, shard.number
            found.largest_object = shard.objects[0].name
        found.most_objects_in_a_shard = max(found.most_objects_in_a_shard, len(shard.objects))
        found.slices += sum(item.slice is not None for item in shard.objects)
        found.too_large += options.is_above_limit(packed.estimated_bytes)
        if options.planned_engine(packed.estimated_bytes):
            found.of_engine = found.of_engine[0] + 1, found.of_engine[1] + size_bytes
        found.shards, found.objects = found.shards + 1, found.objects + len(shard.objects)
        found.size_bytes += size_bytes
    if not found.shards:
        raise nothing_to_plan(", ".join([*sources, *(given.source for given in lists)]), skipped)
    return found


def _objects(
    options: RunOptions,
    sources: Sequence[str],
    store: ObjectStore | None,
    lists: Sequence[ListRequest],
    done: Callable[[], Digests] | None,
    skipped: Counter[str],
) -> Iterator[Found]:
    """Objects in S3, sliced as the options say, and local files, which are never sliced. Lists come last."""
    groups = [(remote, list(group)) for remote, group in groupby(sources, key=lambda source: "://" in source)]
    if not groups or not groups[-1][0]:
        groups.append((True, []))
    for remote, group in groups:
        local = () if remote else group
        for path, _ in chain(*(local_files(Path(one), options.include, options.exclude, skipped) for one in local)):
            if (size_bytes := path.stat().st_size) or options.keep_empty:
                yield Found(InputObject(str(path), size_bytes), Position())
            else:
                skipped[Reason.EMPTY] += 1
        if remote and store:
            listed = open_lists(store, lists if group is groups[-1][1] else ())
            inventory = Inventory(store, group, options, listed, done=done)
            yield from slice_objects(store, inventory.objects(), options)
            if inventory.archived_names and options.archived == "refuse":
                raise archived(inventory)
            skipped.update(inventory.skipped)
