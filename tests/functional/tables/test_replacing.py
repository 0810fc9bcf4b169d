"""Upserts and overwrites of partitions replace the right rows, once, and keep all others."""

from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError

from sparklet.job import Job
from sparklet.job.errors import TableError
from tests.functional.tables.lakes import Lake, rows_of, table_of
from tests.functional.tables.making import make, session_for

KEYED: dict[str, Any] = {"mode": "upsert", "keys": ("id",)}
OVERWRITE: dict[str, Any] = {"mode": "overwrite_partitions"}
people = partial(table_of, pa.schema([("id", pa.int64()), ("name", pa.string()), ("version", pa.int64())]))
days = partial(table_of, pa.schema([("id", pa.int64()), ("day", pa.string())]))


NAN = float("nan")
UPSERTS: dict[str, tuple[pa.Table, list[pa.Table], dict[str, Any], list[Any]]] = {
    "replaces and adds": (
        people((1, "Ada", 1), (2, "Grace", 1), (3, None, 1), (4, "Alan", 1)),
        [people((2, "GRACE", 2), (9, "Edsger", 2)), people((4, None, 2))],
        {},
        [(1, "Ada", 1), (2, "GRACE", 2), (3, None, 1), (4, None, 2), (9, "Edsger", 2)],
    ),
    "keys of several columns": (
        people((1, "a", 1), (1, "b", 1), (2, "a", 1)),
        [people((1, "b", 2), (2, "b", 2))],
        {"keys": ("id", "name")},
        [(1, "a", 1), (1, "b", 2), (2, "a", 1), (2, "b", 2)],
    ),
    "a new column": (
        rows_of(id=[1, 2], name=["Ada", "Grace"]),
        [rows_of(id=[2], name=["GRACE"], late=[1.5])],
        {"merge_schema": True},
        [(1, "Ada", None), (2, "GRACE", 1.5)],
    ),
    # As in ``jdbc_write``, null is the least value, and of equal values the last wins.
    "the greatest of all shards and the table": (
        people((5, "later", 9), (6, "no less", 5), (7, "old", 3), (8, "known", 1), (9, "null", None)),
        [
            people((7, "greatest", 5), (10, "a", None), (5, "late", 8)),
            people((7, "less", 4), (7, "null", None), (10, "b", -1)),
            people((6, "same", 5), (8, "null", None), (9, "NULL", None)),
        ],
        {"order_by": "version"},
        [(5, "later", 9), (6, "same", 5), (7, "greatest", 5), (8, "known", 1), (9, "NULL", None), (10, "b", -1)],
    ),
    "NaN is the greatest": (
        rows_of(id=[1, 2], o=[NAN, 5.0], v=["nan", "five"]),
        [rows_of(id=[1, 2, 3, 3], o=[9.0, NAN, 1.0, NAN], v=["less", "more", "less", "more"])],
        {"order_by": "o"},
        [(1, NAN, "nan"), (2, NAN, "more"), (3, NAN, "more")],
    ),
    "an order that is new to the table": (
        rows_of(id=[7], name=["old"]),
        [people((7, "new", 5))],
        {"order_by": "version", "merge_schema": True},
        [(7, "new", 5)],
    ),
    "all are older": (people((1, "new", 9)), [people((1, "old", 1))], {"order_by": "version"}, [(1, "new", 9)]),
}


@pytest.mark.parametrize("case", UPSERTS)
def test_an_upsert_replaces_rows_in_one_version(lake: Lake, case: str) -> None:
    before_rows, shards, options, expected = UPSERTS[case]
    lake.create(before_rows)
    planned = lake.planned(*shards, **{**KEYED, **options})
    before = lake.versions()

    assert [make(planned).already, make(planned).already] == [False, True]

    assert repr(lake.rows()) == repr(expected)
    assert lake.versions() == before + 1


@pytest.mark.parametrize(("options", "by"), [(KEYED, ()), (KEYED, ("name",)), (OVERWRITE, ("name",))])
def test_upserts_and_overwrites_create_a_missing_table(
    lake: Lake, options: dict[str, Any], by: tuple[str, ...]
) -> None:
    planned = lake.planned(people((1, "Ada", 1), (2, None, 1)), partition_by=by, **options)

    assert [make(planned).already, make(planned).already] == [False, True]
    assert lake.rows("id", "name") == [(1, "Ada"), (2, None)]


def test_a_key_in_two_shards_is_refused_without_an_order(lake: Lake) -> None:
    lake.create(people((1, "Ada", 1)))
    writes = [lake.stage(shard, people((shard, "x", 1), (7, "y", shard)), mode="upsert") for shard in (2, 3, 5)]

    with pytest.raises(TableError, match="the key id=7 is twice in shard 2 and shard 3 and shard 5: pass order_by="):
        make(lake.commit("run/commit-0", *writes, **KEYED))

    assert lake.rows() == [(1, "Ada", 1)]


def test_both_zeros_are_one_key_and_so_are_all_nans(lake: Lake) -> None:
    nan = float("nan")
    lake.create(rows_of(id=[0.0, nan, 1.0], v=["zero", "nan", "one"]))

    make(lake.planned(rows_of(id=[-0.0, nan], v=["minus zero", "NaN"]), **KEYED))
    with pytest.raises(TableError, match="the key id=nan is twice in shard 0 and shard 1"):
        make(lake.planned(rows_of(id=[nan], v=["a"]), rows_of(id=[nan], v=["b"]), number=1, **KEYED))

    assert [v for (v,) in lake.rows("v")] == ["NaN", "minus zero", "one"]


def test_a_row_deletes_the_row_with_the_same_key(lake: Lake) -> None:
    """This works in a table with a required column, and in a table that the upsert creates."""
    required = pa.schema([("id", pa.int64()), pa.field("name", pa.string(), nullable=False), ("v", pa.int64())])
    lake.create(table_of(required, (1, "a", 5), (2, "b", 5), (3, "c", 5)))
    spark, values = session_for(lake.table), "SELECT * FROM VALUES {} AS t(id, name, v, op)".format
    options: dict[str, Any] = {"keys": "id", "order_by": "v", "delete": "op = 'd'"}

    changes = "(1L, NULL, 6L, 'd'), (2L, NULL, 4L, 'd'), (3L, NULL, 6L, 'd'), (3L, 'C', 7L, 'u'), (4L, NULL, 1L, 'd')"
    Job().upsert(spark.sql(values(changes)), str(lake.table), label="changes", **options)
    Job().upsert(spark.sql(values("(5L, 'e', 1L, 'u'), (6L, 'f', 1L, NULL)")), f"{lake.table}_new", **options)

    assert lake.rows() == [(2, "b", 5), (3, "C", 7)]
    with pytest.raises(Py4JJavaError, match="the column 'name' is null in a row"):
        Job().upsert(spark.sql(values("(7L, string(NULL), 1L, 'u')")), str(lake.table), label="null", **options)
    with pytest.raises(TableError, match=r"delete=\"kind = 'd'\" is no condition on the frame's columns"):
        Job().upsert(spark.sql(values("(7L, 'g', 1L, 'u')")), str(lake.table), **{**options, "delete": "kind = 'd'"})


def test_a_null_in_a_key_is_refused(lake: Lake) -> None:
    with pytest.raises(TableError, match="the key 'id' is null in 1 rows"):
        make(lake.planned(people((None, "x", 1), (1, "y", 1)), **KEYED))


def test_only_touched_partitions_are_overwritten(lake: Lake) -> None:
    lake.create(days((1, "mon"), (2, "tue"), (3, None), (4, "it's")), by=["day"])
    planned = lake.planned(days((11, "mon"), (13, None)), days((14, "it's")), **OVERWRITE)
    before = lake.versions()

    assert [make(planned).already, make(planned).already] == [False, True]

    assert lake.rows("id", "day") == [(2, "tue"), (11, "mon"), (13, None), (14, "it's")]
    assert lake.versions() == before + 1


def test_a_redrive_changes_only_the_partitions_it_writes_to(lake: Lake) -> None:
    """In these it keeps the earlier rows of the run; in other partitions another run has corrected the rows."""
    lake.create(days((0, "sun"), (-1, "wed")), by=["day"])
    first = lake.planned(days((1, "mon"), (3, None), (5, "wed")), **OVERWRITE)
    make(first)
    make(replace(lake.planned(days((100, "mon")), **OVERWRITE), commit_id="other/commit-0"))

    make(lake.planned(days((2, "tue"), (4, None), (6, "wed")), number=1, earlier=first.writes, **OVERWRITE))

    of_run = [(2, "tue"), (3, None), (4, None), (5, "wed"), (6, "wed")]
    assert lake.rows("id", "day") == [(0, "sun"), *of_run, (100, "mon")]


def test_a_key_in_two_commits_of_a_run_is_refused(lake: Lake) -> None:
    first, second = (lake.stage(n, people((7, "x", n), (n, "y", n)), mode="upsert") for n in (1, 2))
    make(lake.commit("run/commit-0", first, **KEYED))

    with pytest.raises(TableError, match="the key id=7 is twice in shard 1 and shard 2: pass order_by="):
        make(lake.commit("run/commit-1", second, earlier=(first,), **KEYED))

    assert lake.rows() == [(1, "y", 1), (7, "x", 1)]


def test_a_table_without_partitions_is_not_overwritten(lake: Lake) -> None:
    lake.create(days((1, "mon")))

    with pytest.raises(TableError, match="has no partitions that could be overwritten"):
        make(lake.planned(days((2, "mon")), **OVERWRITE))

    assert lake.rows() == [(1, "mon")]
