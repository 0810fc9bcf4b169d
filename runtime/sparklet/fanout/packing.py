"""Objects into shards."""

from collections.abc import Iterable, Iterator

from sparklet.model import InputObject, Shard


def pack_shards(
    objects: Iterable[InputObject], target_bytes: int, max_objects: int, first_number: int = 0
) -> Iterator[Shard]:
    """Pack objects into shards, in listing order, holding one shard at a time.

    Parameters
    ----------
    target_bytes
        Stored (compressed) bytes a shard may hold; a larger object gets its own shard.
    max_objects
        Objects a shard may hold.
    first_number
        Number of the first shard.

    Raises
    ------
    ValueError
        If ``target_bytes`` or ``max_objects`` is below 1.
    """
    if target_bytes < 1 or max_objects < 1:
        raise ValueError(f"a shard must be allowed at least 1 byte and 1 object, not {target_bytes} and {max_objects}")
    return _pack(objects, target_bytes, max_objects, first_number)


def _pack(objects: Iterable[InputObject], target_bytes: int, max_objects: int, number: int) -> Iterator[Shard]:
    held: list[InputObject] = []
    held_bytes = 0
    for item in objects:
        if held and (len(held) == max_objects or held_bytes + item.size_bytes > target_bytes):
            yield Shard(number, tuple(held))
            number, held, held_bytes = number + 1, [], 0
        held.append(item)
        held_bytes += item.size_bytes
    if held:
        yield Shard(number, tuple(held))
