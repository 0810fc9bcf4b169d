"""Packing: nothing lost, nothing doubled, order kept, limits kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.fanout.packing import pack_shards
from sparklet.model import InputObject

SIZES = st.lists(st.integers(0, 300), max_size=60)


def objects_of(sizes: list[int]) -> list[InputObject]:
    return [InputObject(f"s3://b/{n}", size) for n, size in enumerate(sizes)]


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12), first=st.integers(0, 5))
def test_every_object_is_in_one_shard_in_order(sizes: list[int], target: int, most: int, first: int) -> None:
    shards = list(pack_shards(objects_of(sizes), target, most, first))

    assert [item for shard in shards for item in shard.objects] == objects_of(sizes)
    assert [shard.number for shard in shards] == list(range(first, first + len(shards)))


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12))
def test_a_shard_is_over_its_bytes_only_if_it_is_one_object(sizes: list[int], target: int, most: int) -> None:
    for shard in pack_shards(objects_of(sizes), target, most):
        assert 1 <= len(shard.objects) <= most
        assert shard.size_bytes <= target or len(shard.objects) == 1


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12))
def test_no_shard_ends_before_it_is_full(sizes: list[int], target: int, most: int) -> None:
    shards = list(pack_shards(objects_of(sizes), target, most))
    for shard, following in pairwise(shards):
        full = len(shard.objects) == most
        assert full or shard.size_bytes + following.objects[0].size_bytes > target


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12), data=st.data())
def test_packing_again_from_a_shards_end_gives_the_same_shards(
    sizes: list[int], target: int, most: int, data: st.DataObject
) -> None:
    shards = list(pack_shards(objects_of(sizes), target, most))
    kept = data.draw(st.integers(0, len(shards)))
    rest = objects_of(sizes)[sum(len(s.objects) for s in shards[:kept]) :]

    assert shards[:kept] + list(pack_shards(rest, target, most, kept)) == shards


def test_it_looks_at_no_more_objects_than_it_needs() -> None:
    seen = []

    def listing() -> object:
        for item in objects_of([5] * 100):
            seen.append(item)
            yield item

    next(pack_shards(listing(), target_bytes=20, max_objects=10))  # type: ignore[arg-type]

    assert len(seen) == 5  # four fit, the fifth did not


@pytest.mark.parametrize(("target", "most"), [(0, 1), (1, 0), (-1, 5)])
def test_limits_below_one_are_refused_at_once(target: int, most: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack_shards([], target, most)
