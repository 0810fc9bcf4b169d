"""Objects into shards."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sparklet.fanout.inventory import Found
from sparklet.model import Position, RunOptions, Shard


@dataclass(frozen=True, slots=True)
class Packed:
    """A shard, and how far planning has come once it is in a part."""

    shard: Shard
    position: Position
    skipped: Mapping[str, int]  # objects left out until there, by reason


def pack_shards(found: Iterable[Found], options: RunOptions, first_number: int = 0) -> Iterator[Packed]:
    """Pack objects into shards, in listing order, holding one shard at a time.

    Parameters
    ----------
    options
        ``target_bytes``: stored bytes a shard may hold, a larger object gets its own shard;
        ``max_objects``: objects a shard may hold.
    first_number
        Number of the first shard.
    """
    held: list[Found] = []
    held_bytes, number = 0, first_number
    for each in found:
        if held and (len(held) == options.max_objects or held_bytes + each.item.size_bytes > options.target_bytes):
            yield _packed(number, held)
            number, held, held_bytes = number + 1, [], 0
        held.append(each)
        held_bytes += each.item.size_bytes
    if held:
        yield _packed(number, held)


def _packed(number: int, held: list[Found]) -> Packed:
    return Packed(Shard(number, tuple(each.item for each in held)), held[-1].position, held[-1].skipped)
