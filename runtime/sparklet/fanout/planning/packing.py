"""Objects, or items, into shards: by bytes, by count, and by group."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sparklet.fanout.inventory import Found
from sparklet.model import Position, RunOptions, Shard

PREFIX = "prefix"
MAX_ITEMS_BYTES = 1024 * 1024  # of the items of one shard, which a worker hands to the script at once


@dataclass(frozen=True, slots=True)
class Packed:
    """A shard, and how far planning has come once it is in a part."""

    shard: Shard
    position: Position
    skipped: Mapping[str, int]  # objects left out until there, by reason


def pack_shards(found: Iterable[Found], options: RunOptions, first_number: int = 0) -> Iterator[Packed]:
    """Pack objects into shards, in listing order, holding one shard at a time.

    Since only one shard is held, a group that comes back later in the listing begins a new shard.

    Parameters
    ----------
    options
        ``target_bytes``: weighed bytes a shard may hold, a larger object gets its own shard;
        ``max_objects``: objects or items a shard may hold; ``group_by``: objects of different groups share none.
    first_number
        Number of the first shard.
    """
    group_of = grouping(options.group_by)
    held: list[Found] = []
    held_bytes, held_group, number = 0, "", first_number
    for each in found:
        weight, group = each.item.weighed_bytes(options.compression_factor), group_of(each.item.uri)
        most_bytes = min(options.target_bytes, MAX_ITEMS_BYTES) if each.item.item else options.target_bytes
        full = len(held) == options.max_objects or held_bytes + weight > most_bytes
        if held and (full or group != held_group):
            yield _packed(number, held)
            number, held, held_bytes = number + 1, [], 0
        held.append(each)
        held_bytes, held_group = held_bytes + weight, group
    if held:
        yield _packed(number, held)


def _packed(number: int, held: list[Found]) -> Packed:
    return Packed(Shard(number, tuple(each.item for each in held)), held[-1].position, held[-1].skipped)


def shard_weight(shard: Shard, compression_factor: float) -> int:
    """The weighed bytes of a shard."""
    return sum(item.weighed_bytes(compression_factor) for item in shard.objects)


def grouping(group_by: str) -> Callable[[str], str]:
    """How ``group_by`` tells an object's group from its address.

    ``""``: all are one group. ``prefix``: the folder. Otherwise patterns, one for a path segment each, joined
    by ``/``: ``dt=*`` groups by the first folder of the path that matches, ``dt=*/hour=*`` by both. Of an
    object without such a folder that part of its group is empty.
    """
    if not group_by:
        return lambda uri: ""
    if group_by == PREFIX:
        return lambda uri: uri.rpartition("/")[0]
    patterns = [pattern for pattern in group_by.split("/") if pattern]
    return lambda uri: "/".join(_first_match(uri, pattern) for pattern in patterns)


def _first_match(uri: str, pattern: str) -> str:
    folders = uri.partition("://")[2].split("/")[1:-1] if "://" in uri else uri.split("/")[:-1]
    return next((folder for folder in folders if fnmatchcase(folder, pattern)), "")
