"""One pass over a run's whole input before anything is planned: what could only fail is refused now."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import chain

from sparklet.errors import NothingNewError, PlanError
from sparklet.fanout.inventory import Inventory, ListReader, refuse_other_regions
from sparklet.fanout.inventory.found import ARCHIVED, DONE, MISSING, OLDER
from sparklet.fanout.planning.fitting import refuse_oversize
from sparklet.fanout.planning.packing import pack_shards
from sparklet.fanout.planning.slicing import slice_objects
from sparklet.model import RunOptions
from sparklet.ports import ObjectStore


def refuse_unplannable(
    store: ObjectStore, inventory: Inventory, lists: Sequence[ListReader], options: RunOptions, name: str
) -> None:
    """Read lists to their end, and where archives or large shards are refused, every object; in constant memory.

    Raises
    ------
    PlanError
        If nothing is left to plan, if a row of a list names no object, if objects are archived or shards too large
        and the options refuse these, or if a listed bucket lies in another region.
    """
    objects = inventory.objects()
    first = next(objects, None)
    if first is not None:
        cut = slice_objects(store, chain((first,), objects), options)
        refuse_oversize(pack_shards(cut, options), options)
    whole = options.archived == "refuse"
    if whole:
        deque(objects, maxlen=0)
    refuse_archived(inventory, options)
    if first is None:
        raise nothing_to_plan(name, inventory.skipped)
    for reader in () if whole else lists:
        reader.read_all()
    if not options.other_region:
        refuse_other_regions(store, {bucket for reader in lists for bucket in reader.buckets})


def refuse_archived(inventory: Inventory, options: RunOptions) -> None:
    """PlanError if an inventory left out archived objects, and the options say to refuse them."""
    count = inventory.skipped.get(ARCHIVED, 0)
    if not count or options.archived != "refuse":
        return
    named = ", ".join(inventory.archived_names)
    more = f" and {count - len(inventory.archived_names)} more" if count > len(inventory.archived_names) else ""
    raise PlanError(
        f"{count} objects of the input are archived and cannot be read: {named}{more}; "
        "restore them first, or leave them out with --archived skip"
    )


def nothing_to_plan(name: str, skipped: Mapping[str, int]) -> PlanError:
    """The error of an input of which nothing is left; NothingNewError if that is as it should be."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "nothing"
    if (DONE in skipped or OLDER in skipped) and MISSING not in skipped:
        return NothingNewError(f"the input {name} holds nothing new; left out: {reasons}")
    return PlanError(f"the input {name} has nothing to plan; left out: {reasons}")
