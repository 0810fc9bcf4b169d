"""Partition columns in folder names: which objects have them, and which values decide on their types."""

from itertools import chain

import pytest

from sparklet.errors import PlanError, UnplannableError
from sparklet.planning.inputs.partitions import NULL, Partitions, partition_root, seen_partitions
from sparklet.planning.inputs.selection import matches

IN = "s3://b/year=2026/in/"


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        (f"{IN}dt=1/a.csv", IN),
        (f"{IN}x/dt=1/shop=a/a.csv", IN),
        (f"{IN}dt=1/x/a.csv", IN),
        (f"{IN}x/a.csv", ""),
        (f"{IN}=1/a=/b.csv", ""),
        (f"{IN}a=1.csv", ""),
        ("s3://b/other/dt=1/a.csv", ""),
        (f"{IN}shard=run-1_19f_000001/dt=1/a.csv", f"{IN}shard=run-1_19f_000001/"),
        (f"{IN}shard=run-1_19f_000001/a.csv", ""),
    ],
)
def test_partitions_begin_below_the_input(uri: str, root: str) -> None:
    assert partition_root(uri[: uri.rfind("/") + 1], ("s3://b/file.csv", "s3://b/no/", IN)) == root


def test_an_example_of_each_kind_of_value_is_kept() -> None:
    kinds = [
        *(["1", "2", "-07"], ["9999999999"], ["1" * 30, "9" * 30], ["1" * 20], ["1e3", "9E3"], [NULL]),
        *(["1.5", "2.5", "NaN", "1e400", "1" * 39], ["a", "x%20y", "2026-13-01", "2026-02-31", "1%20", "%2B5"]),
        *(["2026-01-01", "0000-01-01"], ["2026-01-02 13:45:00", "2026-01-02%2003%3A45%3A00.5"]),
    ]
    partitions = Partitions([IN])
    for value in chain(*kinds):
        partitions.add(f"{IN}k={value}/a.csv")
        partitions.add(f"{IN}k={value}/b.csv")

    assert list(partitions.examples) == [f"{IN}k={first}/" for first, *_ in kinds]


def test_a_shard_sees_the_kinds_that_it_lacks() -> None:
    examples = [f"{IN}k=1/", f"{IN}k=a/", f"{IN}k={NULL}/", "s3://b/else/k=1.5/"]
    inputs = (
        IN,
        "s3://b/else/",
    )

    seen = seen_partitions([f"{IN}k=7/a.csv", f"{IN}b.csv"], inputs, examples)

    assert seen == dict.fromkeys([f"{IN}k=7/a.csv", f"{IN}k=a/", f"{IN}k={NULL}/"], IN)
    assert seen_partitions([f"{IN}b.csv"], inputs, examples) == {}


@pytest.mark.parametrize(("plain", "pattern"), [("a.csv", "/*"), ("x/y/a.csv", "/x/y/*"), ("c[1]/a.csv", "/c[[]1]/*")])
@pytest.mark.parametrize("is_first", [True, False])
def test_files_beside_partitions_are_refused_by_name(plain: str, pattern: str, is_first: bool) -> None:
    """Spark would drop files in the partitions' own folder, and refuse files elsewhere."""
    uris = [f"{IN}{plain}", f"{IN}dt=1/b.csv"]
    partitions = Partitions(["s3://b/file.csv", IN])
    first, second = uris if is_first else reversed(uris)
    partitions.add(first)
    with pytest.raises(UnplannableError) as refused:
        partitions.add(second)

    assert str(refused.value).startswith(f"{uris[0]} is not in a folder of columns, as {uris[1]} is:")
    assert f"--exclude '{pattern}'" in str(refused.value)
    assert [matches(each.removeprefix(IN), pattern) for each in uris] == [True, False]


@pytest.mark.parametrize("folder", ["day=1", "x/dt=1", "dt=1/h=2"])
def test_different_partition_columns_are_refused_by_name(folder: str) -> None:
    partitions = Partitions([IN, "s3://b/c/"])
    partitions.add(f"{IN}dt=1/a.csv")
    partitions.add("s3://b/c/day=1/a.csv")
    with pytest.raises(PlanError, match=rf"dt=1/a\.csv has the columns dt as folders below .*{folder}/b\.csv has"):
        partitions.add(f"{IN}{folder}/b.csv")
