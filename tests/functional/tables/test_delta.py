"""What is Delta's own: a log with values of partitions and bounds of columns, and tables with demands."""

import json
import sys
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from sparklet.job.errors import CommitStateUnknownError, TableError
from sparklet.tables.commit import refusal
from sparklet.tables.declaration import WRITABLE
from sparklet.tables.delta import RETENTION, DeltaLakeTable
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make


def statistics(lake: Lake) -> dict[str, Any]:
    """What the log says of the one file of the first version."""
    log = Path(lake.delta, "_delta_log", f"{0:020d}.json").read_text()
    (added,) = [action["add"] for action in map(json.loads, log.splitlines()) if "add" in action]
    return dict(json.loads(added["stats"]))


def test_a_new_table_is_partitioned(delta: Lake) -> None:
    rows = rows_of(id=[1, 2, 3], day=[date(2013, 1, 1), None, date(2013, 1, 1)])
    planned = delta.commit(
        "run/commit-0", delta.stage(0, rows, ["day"]), partition_by=("day",), partition_types=("date",)
    )

    make(planned)

    assert make(planned).already
    assert delta.read().schema.field("day").type == pa.date32()
    assert delta.rows("id", "day") == [(1, date(2013, 1, 1)), (2, None), (3, date(2013, 1, 1))]


def test_a_reader_needs_the_last_ten_versions_at_most(delta: Lake) -> None:
    commits = [delta.planned(rows_of(id=[n]), number=n) for n in range(12)]

    versions = [make(each).version for each in commits]

    log = Path(delta.delta, "_delta_log")
    for older in range(10):  # as Spark's clean-up deletes what a checkpoint holds
        (log / f"{older:020d}.json").unlink()
    assert versions == [str(n) for n in range(12)]
    assert all(make(each).already for each in commits)
    assert delta.rows("id") == [(n,) for n in range(12)]


def test_a_commit_needs_no_library_of_iceberg(delta: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sparklet.tables.iceberg", raising=False)
    monkeypatch.setitem(sys.modules, "pyiceberg", None)

    make(delta.planned(rows_of(id=[1])))

    assert delta.rows("id") == [(1,)]


def test_nobody_guesses_the_type_of_a_partition(delta: Lake) -> None:
    write = delta.stage(0, rows_of(id=[1], day=["007"]), ["day"])

    with pytest.raises(TableError, match="cannot be partitioned by 'day', whose type is unknown"):
        make(delta.commit("run/commit-0", write, partition_by=("day",)))


def test_the_log_has_bounds_of_columns(delta: Lake) -> None:
    time = datetime(2013, 1, 1, 5, 0, 0, 123456, UTC)
    rows = pa.table(
        {
            "id": [3, 1, None],
            "name": ["b", "a" * 65, "z" * 65],
            "at": pa.array([time, None, time], pa.timestamp("us", "UTC")),
            "price": [Decimal("-1.20"), Decimal("2.50"), None],
            "late": [True, None, False],
            "nothing": pa.array([None, None, None], pa.string()),
            "raw": [b"x", None, b"y"],
            "inner": [{"x": 1}, None, None],
        }
    )

    make(delta.planned(rows))

    known = statistics(delta)
    stamp = "2013-01-01T05:00:00.123456Z"
    assert known["minValues"] == {"id": 1, "name": "a" * 64, "at": stamp, "price": -1.2, "late": False}
    assert known["maxValues"] == {"id": 3, "name": "z" * 64 + "\U0010ffff", "at": stamp, "price": 2.5, "late": True}
    assert known["nullCount"] == {"id": 1, "name": 0, "at": 1, "price": 1, "late": 1, "nothing": 3}


@pytest.mark.parametrize("name", ["share", "price"])
def test_a_column_without_bounds_skips_no_file(delta: Lake, name: str) -> None:
    prices = pa.array([Decimal("12345678901234567.89"), Decimal("1.00"), None], pa.decimal128(20, 2))
    rows = {"share": pa.array([0.5, float("inf"), None]), "price": prices}

    make(delta.planned(pa.table({"id": [1, 2, 3], name: rows[name]})))

    found = DeltaTable(delta.delta).to_pyarrow_table(filters=[(name, ">=", rows[name][1].as_py())])
    assert found.num_rows >= 1
    assert statistics(delta) == {"numRecords": 3}


OF_READERS = {"catalogManaged", "columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint"}
FEATURES = [
    *("catalogManaged", "clustering", "domainMetadata", "identityColumns"),
    *("inCommitTimestamp", "rowTracking", "typeWidening", "new"),
]


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("feature", [*FEATURES, *WRITABLE])
def test_a_feature_that_cannot_be_written_is_named(delta: Lake, feature: str, mode: str) -> None:
    """At once, not as a conflict that is tried again for two minutes; what is not refused can be written."""
    delta.create(rows_of(id=[0]))
    readers = {"readerFeatures": [feature]} if feature in OF_READERS else {}
    protocol = {"minReaderVersion": 3 if readers else 1, "minWriterVersion": 7, "writerFeatures": [feature], **readers}
    actions = {"commitInfo": {"timestamp": 1763840000000, "operation": "ALTER"}}, {"protocol": protocol}
    log = Path(delta.delta, "_delta_log", f"{1:020d}.json")
    log.write_text("\n".join(map(json.dumps, actions)))
    planned = delta.planned(rows_of(id=[1]), mode=mode, keys=("id",) if mode == "upsert" else ())

    told = refusal(str(delta.table), "")

    if feature in FEATURES:
        assert f"has {feature}, which Sparklet cannot write" in told and f"DROP FEATURE {feature}" in told
        with pytest.raises(TableError, match=f"has {feature}"):
            make(planned)
    else:
        assert not told
        make(planned)


@pytest.mark.parametrize("the_log_has_it", [True, False])
def test_what_the_table_may_have_forgotten_is_refused(
    delta: Lake, the_log_has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of a chain may be older than the retention, and its name in the log alone."""
    write_deltalake(delta.delta, rows_of(id=[0]), configuration={RETENTION: "interval 1 days"})
    made = delta.planned(rows_of(id=[2]), fixed_at_s=time.time() - 3600)
    make(made)
    assert make(made).already
    stale = delta.planned(rows_of(id=[1]), number=1, fixed_at_s=time.time() - 2 * 86_400)
    if the_log_has_it:
        monkeypatch.setattr(DeltaLakeTable, "made", lambda *_: None)

    with pytest.raises(CommitStateUnknownError, match=f"{RETENTION} = interval 1 days"):
        make(made if the_log_has_it else stale)

    assert delta.rows() == [(0,), (2,)]


@pytest.mark.parametrize(
    ("setting", "mode", "why"),
    [
        ({"delta.appendOnly": "true"}, "upsert", r"unset delta\.appendOnly"),
        ({}, "append", r"has delta\.constraints\.positive, which Sparklet's append"),
        ({"delta.columnMapping.mode": "name"}, "append", r"has delta\.columnMapping\.mode, which Sparklet's append"),
    ],
)
def test_a_write_that_a_table_forbids_is_refused(delta: Lake, setting: dict[str, str], mode: str, why: str) -> None:
    write_deltalake(delta.delta, rows_of(id=[1]), configuration=setting)
    if not setting:
        DeltaTable(delta.delta).alter.add_constraint({"positive": "id > 0"})

    with pytest.raises(TableError, match=why):
        make(delta.planned(rows_of(id=[1]), mode=mode, keys=("id",) if mode == "upsert" else ()))


def test_files_lie_below_the_table(delta: Lake) -> None:
    outside = delta.stage(2, rows_of(id=[1]), mode="upsert")

    with pytest.raises(TableError, match=r"shard 2 staged .*, which is not below delta:"):
        make(delta.commit("run/commit-0", outside))
