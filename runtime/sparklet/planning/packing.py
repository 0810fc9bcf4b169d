"""Objects, or items, into shards by bytes, count and group; and the checks that refuse an input before its plan."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import TypeVar

from sparklet.errors import NothingNewError, PlanError
from sparklet.inputs.lists import ListReader
from sparklet.inputs.selection import Found, Reason
from sparklet.inputs.slicing import slice_objects
from sparklet.model import Position, RunOptions, Shard
from sparklet.model.options import MIB, REFUSE
from sparklet.planning.inventory import Inventory, refuse_other_regions
from sparklet.ports import ObjectStore

T = TypeVar("T")
PREFIX = "prefix"
MAX_ITEMS_BYTES = 1024 * 1024  # of the items of one shard, which a worker hands to the script at once
MAX_NAMED = 3  # objects that a refusal names
ADVICE = (
    "cut it with --split (CSV, JSON Lines and Parquet that are not compressed as a whole), have an engine run the same "
    "script over it (--too-large engine), or a function try it (--too-large fail)"
)


@dataclass(frozen=True, slots=True)
class Packed:
    """A shard, and where planning continues after it."""

    shard: Shard
    estimated_bytes: int
    position: Position
    skipped: Mapping[str, int]  # objects left out until there, by reason


def pack_shards(found: Iterable[Found], options: RunOptions, first_number: int = 0) -> Iterator[Packed]:
    """Pack objects into shards in the order of the listing; a group that appears again later begins a new shard.

    ``options.target_bytes`` limits the estimated size of a shard, unless one object has more; ``max_objects`` limits
    its objects or items; ``group_by`` separates objects of different groups.
    """
    group_of = grouping(options.group_by) if options.group_by else None
    held: list[Found] = []
    held_bytes, held_group, number = 0, "", first_number
    for each in found:
        size_bytes, group = each.item.estimated_bytes, group_of(each.item.uri) if group_of else ""
        max_bytes = min(options.target_bytes, MAX_ITEMS_BYTES) if each.item.item else options.target_bytes
        full = len(held) == options.max_objects or held_bytes + size_bytes > max_bytes
        if held and (full or group != held_group):
            shard = Shard(number, tuple(one.item for one in held))
            yield Packed(shard, held_bytes, held[-1].position, held[-1].skipped)
            number, held, held_bytes = number + 1, [], 0
        held.append(each)
        held_bytes, held_group = held_bytes + size_bytes, group
    if held:
        shard = Shard(number, tuple(one.item for one in held))
        yield Packed(shard, held_bytes, held[-1].position, held[-1].skipped)


def grouping(group_by: str) -> Callable[[str], str]:
    """The function from an object's address to its group.

    ``prefix``: the folder. Otherwise patterns of folders, separated by ``/``: ``dt=*`` groups by the first folder that
    matches, ``dt=*/hour=*`` by both. If an object has no such folder, that part of its group is empty.
    """
    if group_by == PREFIX:
        return lambda uri: uri.rpartition("/")[0]

    def group_of(uri: str) -> str:
        folders = uri.partition("://")[2].split("/")[1:-1] if "://" in uri else uri.split("/")[:-1]
        patterns = filter(None, group_by.split("/"))
        return "/".join(next((each for each in folders if fnmatchcase(each, pattern)), "") for pattern in patterns)

    return group_of


# --- checks before a plan ---


def refuse_unplannable(
    store: ObjectStore, inventory: Inventory, lists: Sequence[ListReader], options: RunOptions, name: str
) -> None:
    """Read lists to their end and, unless the options allow everything, every object; in constant memory.

    PlanError if nothing is left to plan, if a row of a list is wrong, if the options refuse archived objects, large
    shards or so many objects, or if a listed bucket is in another region.
    """
    objects = within_limit(inventory.objects(), options.limit, name)
    first = next(objects, None)
    if first is not None:
        whole = chain((first,), objects)
        refuse_oversize(pack_shards(slice_objects(store, whole, options) if options.split else whole, options), options)
    reads_all = options.archived == "refuse" or options.limit > 0
    if reads_all:
        deque(objects, maxlen=0)
    if options.archived == "refuse" and inventory.archived_names:
        raise archived(inventory)
    if first is None:
        raise nothing_to_plan(name, inventory.skipped)
    for reader in () if reads_all else lists:
        reader.read_all()
    if lists and not options.other_region:
        refuse_other_regions(store, {bucket for reader in lists for bucket in reader.buckets})


def within_limit(objects: Iterable[T], limit: int, name: str) -> Iterator[T]:
    """The objects; PlanError if there are more than ``limit`` (0: no limit)."""
    for count, each in enumerate(objects, 1):
        if 0 < limit < count:
            raise PlanError(
                f"the input {name} has more than {limit:,} objects; if that is no mistake, allow more with --limit "
                "(0: any number), else choose fewer with --include, --exclude or --since"
            )
        yield each


def refuse_oversize(packed: Iterable[Packed], options: RunOptions) -> None:
    """PlanError if a shard is above the limit; nothing is read if the options do not refuse it."""
    if options.max_shard_bytes <= 0 or options.engine or options.too_large != REFUSE:
        return
    large = (each for each in packed if options.is_above_limit(each.estimated_bytes))
    named = [_shown(each.shard, each.estimated_bytes) for each in islice(large, MAX_NAMED)]
    if named:
        count = len(named) + sum(1 for _ in large)
        more = f" and {count - len(named)} more" if count > len(named) else ""
        raise PlanError(
            f"{count} {'shards are' if count > 1 else 'shard is'} above the {options.max_shard_bytes / MIB:,.0f} MiB "
            f"that one function takes on: {', '.join(named)}{more}; {ADVICE}, or leave it out (--exclude)"
        )


def archived(inventory: Inventory) -> PlanError:
    """The error of an inventory that left out archived objects."""
    count, names = inventory.skipped[Reason.ARCHIVED], inventory.archived_names
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return PlanError(
        f"{count} objects of the input are archived and cannot be read: {', '.join(names)}{more}; "
        "restore them first, or leave them out with --archived skip"
    )


def nothing_to_plan(name: str, skipped: Mapping[str, int]) -> PlanError:
    """The error of an input without an object to plan; NothingNewError if earlier runs have done everything."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "nothing"
    if is_nothing_new(skipped):
        return NothingNewError(f"the input {name} holds nothing new; left out: {reasons}")
    return PlanError(f"the input {name} has nothing to plan; left out: {reasons}")


def is_nothing_new(skipped: Mapping[str, int]) -> bool:
    """Whether an input without an object to plan holds what was done earlier, or is older than requested."""
    return (Reason.DONE in skipped or Reason.OLDER in skipped) and Reason.MISSING not in skipped


def _shown(shard: Shard, estimated_bytes: int) -> str:
    estimated = f", decompressed about {estimated_bytes / MIB:,.0f} MiB" if estimated_bytes != shard.size_bytes else ""
    others = f" and {len(shard.objects) - 1} more" if len(shard.objects) > 1 else ""
    return f"{shard.objects[0].name}{others} ({shard.size_bytes / MIB:,.0f} MiB{estimated})"
