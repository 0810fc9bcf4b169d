"""What is Iceberg's own: partitions by transforms, the table's properties, files that Iceberg cannot add."""

import json
import sqlite3
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from pyarrow import parquet
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, DayTransform, Transform

from sparklet.job.errors import TableError
from sparklet.tables.commit import refusal
from tests.functional.tables.lakes import Lake, rows_of, table_of
from tests.functional.tables.making import make

SCHEMA = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
readings = partial(table_of, SCHEMA)


def at(day: int, hour: int) -> datetime:
    return datetime(2013, 1, day, hour, tzinfo=UTC)


@pytest.fixture(params=["ice", "rest"])
def iceberg(request: pytest.FixtureRequest) -> Lake:
    found: Lake = request.getfixturevalue(request.param)
    return found


def partitioned(lake: Lake, column: str, transform: Transform, **properties: str) -> Table:
    catalog = lake.catalog()
    catalog.create_namespace("db")
    creation = catalog.create_table_transaction("db.t", SCHEMA, properties=properties)
    with creation, creation.update_spec() as spec:
        spec.add_field(column, transform)
    return catalog.load_table("db.t")


def test_partitions_by_day(iceberg: Lake) -> None:
    table = partitioned(iceberg, "at", DayTransform())
    shards = readings((1, at(1, 0)), (2, at(1, 23))), readings((3, at(2, 0))), readings((4, None))

    make(iceberg.planned(*shards))

    files = table.refresh().inspect.files().to_pylist()
    days = {str(one["partition"]["at_day"]): one["record_count"] for one in files}
    assert days == {"2013-01-01": 2, "2013-01-02": 1, "None": 1}
    found = table.scan(row_filter="at >= '2013-01-02T00:00:00+00:00'").to_arrow()
    assert found["id"].to_pylist() == [3]


@pytest.mark.parametrize(
    ("column", "transform", "second", "why"),
    [
        ("at", DayTransform(), at(2, 0), r"shard 4 staged .*, which Iceberg cannot add: .*at_day"),
        ("at", DayTransform(), None, r"shard 4 staged .*, which Iceberg cannot add: .*at_day"),
        ("id", BucketTransform(4), at(1, 0), r"db.t is partitioned by bucket\[4\]"),
    ],
)
def test_a_file_of_no_single_partition_is_refused(
    iceberg: Lake, column: str, transform: Transform, second: datetime | None, why: str
) -> None:
    partitioned(iceberg, column, transform)
    write = iceberg.stage(4, readings((1, at(1, 0)), (2, second)))

    with pytest.raises(TableError, match=why):
        make(iceberg.commit("run/commit-0", write))

    assert iceberg.rows() == []


def test_overwritten_days(iceberg: Lake) -> None:
    pytest.importorskip("pyiceberg_core", reason="pyiceberg needs it to write into partitions by transforms")
    partitioned(iceberg, "at", DayTransform()).append(readings((1, at(1, 0)), (2, at(2, 0)), (3, None)))
    overwrite = partial(iceberg.planned, mode="overwrite_partitions")
    first = overwrite(readings((11, at(1, 5)), (12, at(1, 7)), (13, None)))

    make(first)

    assert iceberg.rows("id") == [(2,), (11,), (12,), (13,)]
    make(overwrite(readings((21, at(1, 9))), number=1, earlier=first.writes))
    assert iceberg.rows("id") == [(2,), (11,), (12,), (13,), (21,)]


def test_overwritten_days_need_another_library(iceberg: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    partitioned(iceberg, "at", DayTransform())
    monkeypatch.setitem(sys.modules, "pyiceberg_core", None)

    with pytest.raises(TableError, match="pyiceberg_core needs to be installed"):
        make(iceberg.planned(readings((1, at(1, 0))), mode="overwrite_partitions"))


def test_format_version_3_is_refused_before_the_commit(ice: Lake) -> None:
    ice.create(rows_of(id=[1]))
    file = Path(ice.iceberg().metadata_location.removeprefix("file://"))
    metadata = json.loads(file.read_text()) | {"format-version": 3, "next-row-id": 1}
    file.write_text(json.dumps(metadata))

    assert "db.t has format version 3" in refusal(str(ice.table), "")
    with pytest.raises(TableError, match=r"has format version 3, which .*'format-version'='2'"):
        make(ice.planned(rows_of(id=[2])))


@pytest.mark.parametrize("given", [{}, {"commit.retry.num-retries": "7"}])
def test_the_tables_retries_stay_as_they_are(iceberg: Lake, given: dict[str, str]) -> None:
    table = partitioned(iceberg, "at", DayTransform(), **given)

    make(iceberg.planned(readings((1, at(1, 0)))))

    kept = {name: value for name, value in table.refresh().properties.items() if name.startswith("commit.")}
    assert kept == given


def test_timestamps_as_int96_are_refused(iceberg: Lake) -> None:
    write = iceberg.stage(3, readings((1, at(1, 0))))
    file = Path(write.folder.removeprefix("file://"), "part-0.parquet")
    parquet.write_table(readings((1, at(1, 0))), file, use_deprecated_int96_timestamps=True)
    staged = replace(write, files=((file.name, file.stat().st_size),))

    with pytest.raises(TableError, match="shard 3 has the column 'at' with nanoseconds, as Spark's INT96: set"):
        make(iceberg.commit("run/commit-0", staged))


@pytest.mark.parametrize("error", [CommitStateUnknownException("502"), requests.ConnectionError("reset")])
@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_of_unknown_state_is_looked_up(
    iceberg: Lake, monkeypatch: pytest.MonkeyPatch, landed: bool, error: Exception
) -> None:
    iceberg.create(readings((1, at(1, 0))))
    catalog = type(iceberg.catalog())
    commit_table, answers = catalog.commit_table, [error]

    def lossy(*arguments: Any) -> Any:
        answer = commit_table(*arguments) if landed or not answers else None
        if answers:
            raise answers.pop()
        return answer

    monkeypatch.setattr(catalog, "commit_table", lossy)
    done = make(iceberg.planned(readings((2, at(1, 0)))))

    assert (done.rows, done.already) == (1, False)
    assert iceberg.rows("id") == [(1,), (2,)]


def test_a_namespace_that_another_writer_makes_meanwhile(iceberg: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = type(iceberg.catalog())
    create = catalog.create_namespace

    def overtaken(self: Any, name: str) -> None:
        create(self, name)
        raise sqlite3.IntegrityError("UNIQUE constraint failed")

    monkeypatch.setattr(catalog, "create_namespace_if_not_exists", overtaken)
    make(iceberg.planned(readings((2, at(1, 0)))))

    assert iceberg.rows("id") == [(2,)]
