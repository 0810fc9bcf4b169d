"""Packing loses and doubles no object, keeps their order, and observes limits and groups."""

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.model import InputObject, Position, RunOptions, Shard
from sparklet.planning.inputs.selection import Found
from sparklet.planning.packing import grouping, pack_shards

SIZES = st.lists(st.integers(0, 300), max_size=60)


def found(sizes: Iterable[int], names: str = "s3://b/{}") -> list[Found]:
    items = (InputObject(names.format(n), size) for n, size in enumerate(sizes))
    return [Found(item, Position(0, str(n)), {"left out": n}) for n, item in enumerate(items)]


def limits(target: int, most: int) -> RunOptions:
    return RunOptions(target_bytes=target, max_objects=most)


def shards_of(objects: Iterable[Found], options: RunOptions, first: int = 0) -> list[Shard]:
    return [shard for shard, _ in pack_shards(objects, options, first)]


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12), first=st.integers(0, 5))
def test_every_object_is_in_one_full_shard_in_order(sizes: list[int], target: int, most: int, first: int) -> None:
    shards = shards_of(found(sizes), limits(target, most), first)

    assert [item for shard in shards for item in shard.objects] == [each.item for each in found(sizes)]
    assert [shard.number for shard in shards] == list(range(first, first + len(shards)))
    for shard in shards:
        assert 1 <= len(shard.objects) <= most
        assert shard.size_bytes <= target or len(shard.objects) == 1
    for shard, following in pairwise(shards):
        full = len(shard.objects) == most
        assert full or shard.size_bytes + following.objects[0].size_bytes > target


@given(sizes=SIZES, target=st.integers(1, 250), most=st.integers(1, 12), data=st.data())
def test_packing_resumed_behind_any_shard_gives_the_same_shards(
    sizes: list[int], target: int, most: int, data: st.DataObject
) -> None:
    shards = shards_of(found(sizes), limits(target, most))
    kept = data.draw(st.integers(0, len(shards)))
    rest = found(sizes)[sum(len(s.objects) for s in shards[:kept]) :]

    assert shards[:kept] + shards_of(rest, limits(target, most), kept) == shards


def test_each_shards_line_has_the_position_of_the_listing() -> None:
    lines = [line for _, line in pack_shards(found([5] * 5), limits(100, 2))]

    assert [line.position.after for line in lines] == ["1", "3", "4"]
    assert [line.skipped["left out"] for line in lines] == [1, 3, 4]


def test_packing_lists_no_more_objects_than_a_shard_needs() -> None:
    seen = []

    def listing() -> Iterator[Found]:
        for item in found([5] * 100):
            seen.append(item)
            yield item

    next(pack_shards(listing(), limits(20, 10)))

    assert len(seen) == 5  # four objects fit, the fifth did not


# --- estimated size ---


@pytest.mark.parametrize(
    ("names", "estimated_bytes"),
    [
        ([f"a.csv.{suffix}" for suffix in ("gz", "bz2", "zst", "snappy", "lz4", "xz", "deflate", "GZ")], 44),
        (["a.csv", "a.gz.parquet", "a.snappy.orc", "a.avro", "gz", "x.gz/a"], 11),
    ],
)
def test_a_compressed_object_counts_with_its_estimated_size(names: list[str], estimated_bytes: int) -> None:
    objects = [InputObject(f"s3://b/{name}", 11) for name in names]

    assert [each.estimated_bytes for each in objects] == [estimated_bytes] * len(names)
    assert {each.is_compressed for each in objects} == {estimated_bytes > 11}


def test_packing_uses_estimates_but_shards_report_stored_bytes() -> None:
    shards = shards_of(found([10, 10, 10, 60], "s3://b/{}.csv.gz"), limits(100, 10))

    assert [len(shard.objects) for shard in shards] == [2, 1, 1]
    assert [shard.size_bytes for shard in shards] == [20, 10, 60]


# --- groups ---

GROUPS = {
    "": ("", ""),
    "prefix": ("s3://b/t/dt=1/hour=2", "s3://b/t/dt=1/hour=3"),
    "dt=*": ("dt=1", "dt=1"),
    "hour=*": ("hour=2", "hour=3"),
    "dt=*/hour=*": ("dt=1/hour=2", "dt=1/hour=3"),
    "/dt=?/": ("dt=1", "dt=1"),
    "region=*": ("", ""),
    "*.csv": ("", ""),  # a file's name is no folder
    "b": ("", ""),  # nor is the bucket
}


@pytest.mark.parametrize("group_by", GROUPS)
def test_the_group_of_an_object_follows_from_its_path(group_by: str) -> None:
    uris = ("s3://b/t/dt=1/hour=2/a.csv", "s3://b/t/dt=1/hour=3/a.csv")

    assert tuple(map(grouping(group_by), uris)) == GROUPS[group_by]


@given(
    days=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 50)), max_size=40),
    target=st.integers(1, 150),
    most=st.integers(1, 6),
    group_by=st.sampled_from(["prefix", "dt=*", "h=*", "dt=*/h=*"]),
)
def test_objects_of_different_groups_share_no_shard(
    days: list[tuple[str, str, int]], target: int, most: int, group_by: str
) -> None:
    objects = [
        Found(InputObject(f"s3://b/dt={day}/h={hour}/{n}", size), Position())
        for n, (day, hour, size) in enumerate(days)
    ]
    shards = shards_of(objects, RunOptions(target_bytes=target, max_objects=most, group_by=group_by))

    group_of = grouping(group_by)
    assert [item for shard in shards for item in shard.objects] == [each.item for each in objects]
    assert all(len({group_of(item.uri) for item in shard.objects}) == 1 for shard in shards)
    runs = [[e.item for e in run] for _, run in groupby(objects, key=lambda each: group_of(each.item.uri))]
    separately = [s for run in runs for s in shards_of([Found(i, Position()) for i in run], limits(target, most))]
    assert [shard.objects for shard in shards] == [shard.objects for shard in separately]
