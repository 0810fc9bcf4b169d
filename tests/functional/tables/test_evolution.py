"""Iceberg's columns change, before and after rows of a run are committed: each value stays in its own column."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.types import DoubleType, StringType

from sparklet.job.errors import TableError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make

pytestmark = SESSION_HERE

Evolution = Callable[[UpdateSchema], object]


def evolve(lake: Lake, *steps: Evolution) -> None:
    """What another writer does to the columns, one change a version."""
    for step in steps:
        with lake.iceberg().update_schema(allow_incompatible_changes=True) as update:
            step(update)


def drop(*path: str) -> Evolution:
    return lambda update: update.delete_column(path)


def add(*path: str, type_: Any = StringType()) -> Evolution:  # noqa: B008 - it is frozen
    return lambda update: update.add_column(path, type_)


def rename(*path: str, to: str) -> Evolution:
    return lambda update: update.rename_column(path, to)


@pytest.mark.parametrize("moment", ["the run made the table", "the table was there", "before the commit"])
@pytest.mark.parametrize(
    ("steps", "found", "later"),
    [
        ([drop("a"), add("a")], {"a": None, "b": "other"}, ("new a", "new b")),
        ([drop("a"), add("a", type_=DoubleType())], {"a": None, "b": "other"}, (2.5, "new b")),
        ([rename("a", to="c"), rename("b", to="a")], {"a": "other", "c": "old"}, ("new a", "new c")),
        ([rename("a", to="c"), add("a")], {"a": None, "b": "other", "c": "old"}, ("new a", "new b", "new c")),
    ],
)
def test_values_stay_in_their_own_columns(
    ice: Lake, moment: str, steps: list[Evolution], found: dict[str, Any], later: tuple[Any, ...]
) -> None:
    """Whatever names are used again: dropped values do not come back, and new rows have their columns."""
    rows = rows_of(id=[1], a=["old"], b=["other"])
    if moment != "the run made the table":
        ice.create(rows.slice(0, 0))
    planned = ice.planned(rows)
    if moment != "before the commit":
        make(planned)

    evolve(ice, *steps)
    if moment == "before the commit":
        make(planned)

    assert ice.rows("id", *found) == [(1, *found.values())]
    new = {name: [value] for name, value in zip(found, later, strict=True)}
    make(ice.planned(rows_of(id=[2], **new), number=1))
    assert ice.rows("id", *found) == [(1, *found.values()), (2, *later)]


PAIR = pa.struct([("a", pa.string()), ("b", pa.string())])
NESTED = pa.schema([("id", pa.int64()), ("s", PAIR), ("l", pa.list_(PAIR)), ("m", pa.map_(pa.string(), PAIR))])


@pytest.mark.parametrize("is_late", [False, True])
def test_nested_columns_have_ids(ice: Lake, is_late: bool) -> None:
    """Changed after the commit, or between staging and commit."""
    one = {"a": "old", "b": "x"}
    rows = pa.Table.from_pylist([{"id": 1, "s": one, "l": [one], "m": [("k", one)]}], NESTED)
    ice.create(rows.slice(0, 0))
    commit = ice.planned(rows)
    if not is_late:
        make(commit)
    for at in (("s",), ("l", "element"), ("m", "value")):
        evolve(ice, drop(*at, "a"), rename(*at, "b", to="c"), add(*at, "a"))
    if is_late:
        make(commit)

    now = {"a": None, "c": "x"}
    found = ice.iceberg().scan().to_arrow().to_pylist()
    assert found == [{"id": 1, "s": {**now}, "l": [now], "m": [("k", now)]}]


@pytest.mark.parametrize("mode", ["upsert", "overwrite_partitions"])
def test_rows_to_be_written_anew_are_refused_then(ice: Lake, mode: str) -> None:
    ice.create(rows_of(id=[1], a=["old"], b=["x"]), ["id"])
    planned = ice.planned(rows_of(id=[1], a=["new"], b=["y"]), mode=mode, keys=("id",))

    evolve(ice, rename("a", to="c"), add("a"))
    with pytest.raises(TableError, match=r"'a' was changed after shard 0 .* start a new run"):
        make(planned)

    assert ice.rows("id", "a", "c") == [(1, None, "old")]


def test_a_table_that_others_made_meanwhile(ice: Lake) -> None:
    """The ids with which the files were staged are those of other columns there."""
    planned = ice.planned(rows_of(a=["a"], b=["b"], id=[2]))
    ice.create(rows_of(id=[1], b=["first b"], a=["first a"]))

    make(planned)

    assert ice.rows("id", "a", "b") == [(1, "first a", "first b"), (2, "a", "b")]


def test_new_columns_of_two_runs(ice: Lake) -> None:
    """Both have given the next id to a column of their own."""
    ice.create(rows_of(id=[0]))
    one, other = ice.stage(0, rows_of(id=[1], a=["a"])), ice.stage(0, rows_of(id=[2], b=["b"]))

    make(ice.commit("one/commit-0", one, merge_schema=True))
    make(ice.commit("other/commit-0", other, merge_schema=True))

    assert ice.rows("id", "a", "b") == [(0, None, None), (1, "a", None), (2, None, "b")]
    evolve(ice, rename("a", to="b2"), rename("b", to="a"), rename("b2", to="b"))
    assert ice.rows("id", "a", "b") == [(0, None, None), (1, None, "a"), (2, "b", None)]
