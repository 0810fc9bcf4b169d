"""Iceberg columns change before and after rows of a run are committed: each value stays in its own column."""

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
    """Change the columns as another writer does; each step is a version of the table."""
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
    ("steps", "values", "later"),
    [
        ([drop("a"), add("a")], {"a": None, "b": "other"}, ("new a", "new b")),
        ([drop("a"), add("a", type_=DoubleType())], {"a": None, "b": "other"}, (2.5, "new b")),
        ([rename("a", to="c"), rename("b", to="a")], {"a": "other", "c": "old"}, ("new a", "new c")),
        ([rename("a", to="c"), add("a")], {"a": None, "b": "other", "c": "old"}, ("new a", "new b", "new c")),
    ],
)
def test_values_stay_in_their_own_columns(
    ice: Lake, moment: str, steps: list[Evolution], values: dict[str, Any], later: tuple[Any, ...]
) -> None:
    """If names are used again, dropped values do not come back, and new rows go to the new columns."""
    rows = rows_of(id=[1], a=["old"], b=["other"])
    if moment != "the run made the table":
        ice.create(rows.slice(0, 0))
    planned = ice.planned(rows)
    if moment != "before the commit":
        make(planned)

    evolve(ice, *steps)
    if moment == "before the commit":
        make(planned)

    assert ice.rows("id", *values) == [(1, *values.values())]
    new = {name: [value] for name, value in zip(values, later, strict=True)}
    make(ice.planned(rows_of(id=[2], **new), number=1))
    assert ice.rows("id", *values) == [(1, *values.values()), (2, *later)]


PAIR = pa.struct([("a", pa.string()), ("b", pa.string())])
NESTED = pa.schema([("id", pa.int64()), ("s", PAIR), ("l", pa.list_(PAIR)), ("m", pa.map_(pa.string(), PAIR))])


@pytest.mark.parametrize("is_late", [False, True])
def test_values_stay_in_their_own_nested_columns(ice: Lake, is_late: bool) -> None:
    """The columns change after the commit or, if ``is_late``, between staging and commit."""
    one = {"a": "old", "b": "x"}
    rows = pa.Table.from_pylist([{"id": 1, "s": one, "l": [one], "m": [("k", one)]}], NESTED)
    ice.create(rows.slice(0, 0))
    commit = ice.planned(rows)
    if not is_late:
        make(commit)
    for path in (("s",), ("l", "element"), ("m", "value")):
        evolve(ice, drop(*path, "a"), rename(*path, "b", to="c"), add(*path, "a"))
    if is_late:
        make(commit)

    now = {"a": None, "c": "x"}
    values = ice.iceberg().scan().to_arrow().to_pylist()
    assert values == [{"id": 1, "s": {**now}, "l": [now], "m": [("k", now)]}]


@pytest.mark.parametrize("mode", ["upsert", "overwrite_partitions"])
def test_rows_for_a_changed_column_cannot_replace_rows(ice: Lake, mode: str) -> None:
    ice.create(rows_of(id=[1], a=["old"], b=["x"]), ["id"])
    planned = ice.planned(rows_of(id=[1], a=["new"], b=["y"]), mode=mode, keys=("id",))

    evolve(ice, rename("a", to="c"), add("a"))
    with pytest.raises(TableError, match=r"'a' was changed after shard 0 .* start a new run"):
        make(planned)

    assert ice.rows("id", "a", "c") == [(1, None, "old")]


def test_staged_rows_fit_a_table_that_another_writer_made(ice: Lake) -> None:
    """The column ids in the staged files belong to other columns in the new table."""
    planned = ice.planned(rows_of(a=["a"], b=["b"], id=[2]))
    ice.create(rows_of(id=[1], b=["first b"], a=["first a"]))

    make(planned)

    assert ice.rows("id", "a", "b") == [(1, "first a", "first b"), (2, "a", "b")]


def test_new_columns_of_two_runs_are_both_kept(ice: Lake) -> None:
    """Both runs have staged files in which the next column id is that of their own column."""
    ice.create(rows_of(id=[0]))
    one, other = ice.stage(0, rows_of(id=[1], a=["a"])), ice.stage(0, rows_of(id=[2], b=["b"]))

    make(ice.commit("one/commit-0", one, merge_schema=True))
    make(ice.commit("other/commit-0", other, merge_schema=True))

    assert ice.rows("id", "a", "b") == [(0, None, None), (1, "a", None), (2, None, "b")]
    evolve(ice, rename("a", to="b2"), rename("b", to="a"), rename("b2", to="b"))
    assert ice.rows("id", "a", "b") == [(0, None, None), (1, None, "a"), (2, "b", None)]
