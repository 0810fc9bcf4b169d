"""What only Iceberg has: partition transforms, format versions, sort orders, and values that some parts mishandle."""

from itertools import count
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.tables import staging
from sparklet.connectors.tables.commit import open_table
from sparklet.connectors.tables.declaration import Declaration
from sparklet.connectors.tables.iceberg import IcebergTable
from sparklet.connectors.tables.iceberg_draft import Draft
from sparklet.connectors.tables.layout import layout_of
from sparklet.job.errors import TableError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make
from tests.functional.tables.sessions import spark_here

pytestmark = SESSION_HERE
KEYED: dict[str, Any] = {"mode": "upsert", "keys": ("id",)}
OVERWRITE: dict[str, Any] = {"mode": "overwrite_partitions"}
ATTEMPTS = count(1)  # a folder of its own for each


@pytest.fixture
def session(ice: Lake) -> SparkSession:
    """A session with the catalog of the table."""
    session = spark_here()
    session.sql("CREATE NAMESPACE IF NOT EXISTS iceberg.db")
    return session


def create(session: SparkSession, columns: str, more: str = "", **properties: str) -> None:
    named = ", ".join(f"'{name}' = '{value}'" for name, value in {"format-version": "2", **properties}.items())
    session.sql(f"CREATE TABLE iceberg.db.t ({columns}) USING iceberg {more} TBLPROPERTIES ({named})")


def stage(lake: Lake, frame: DataFrame, shard: int = 0, mode: str = "append") -> Declaration:
    """Stage rows as ``Lake.stage`` does, but from a Spark frame."""
    draft = Declaration(lake.table, mode, "", "", (), merge_schema=True)
    layout = layout_of(frame, draft)
    frame = staging._fit_to_table(frame, layout, draft)
    folder = f"{layout.root}/sparklet/run/{shard:06d}-{next(ATTEMPTS)}/1"
    described: tuple[str, ...] = ()
    if mode == "append" and layout.draft:
        rows, files, described = layout.draft.stage(frame, folder)
    else:
        rows, files = staging._store(frame, [], folder, "error")
    options: dict[str, Any] = {"rows": rows, "described": described, "seen": layout.seen, "shard": shard}
    return Declaration(lake.table, mode, folder, folder, files, **options)


def table_rows(session: SparkSession, *columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    rows = session.table("iceberg.db.t").where(where).selectExpr(*columns or ("*",)).collect()
    return sorted(map(tuple, rows), key=repr)


@pytest.mark.parametrize(
    ("version", "by"),
    [
        ("1", "bucket(4, id)"),
        ("2", "days(at), truncate(2, name)"),
        ("3", "bucket(2, name), amount"),
        ("1", "amount"),
        ("2", "at"),
        ("3", "hours(at), name"),
    ],
)
def test_partitions_by_each_transform_are_as_from_spark(
    ice: Lake, session: SparkSession, version: str, by: str
) -> None:
    columns = "id BIGINT, name STRING, at TIMESTAMP, amount DOUBLE"
    create(session, columns, f"PARTITIONED BY ({by})", **{"format-version": version})
    session.sql("ALTER TABLE iceberg.db.t WRITE ORDERED BY name")
    rows = [
        session.sql(
            "SELECT CAST(id AS BIGINT) AS id, IF(id = 2, NULL, CONCAT('n', id)) AS name, "
            "timestamp'2026-01-15 23:30:00' + make_dt_interval(0, CAST(id AS INT)) AS at, "
            "IF(id = 1, 0.1D, DOUBLE('NaN')) AS amount "
            f"FROM range({n}, {n + 3})"
        )
        for n in (0, 3)
    ]

    make(ice.commit("run/commit-0", *(stage(ice, frame, shard) for shard, frame in enumerate(rows))))
    session.sql(
        f"CREATE TABLE iceberg.db.plain USING iceberg PARTITIONED BY ({by}) AS SELECT * FROM iceberg.db.t WHERE false"
    )
    for frame in rows:
        frame.writeTo("iceberg.db.plain").append()

    assert [id_ for (id_,) in table_rows(session, "id")] == list(range(6))
    partitions = ("SELECT partition, record_count FROM iceberg.db.{}.partitions ORDER BY 1").format
    assert str(session.sql(partitions("t")).collect()) == str(session.sql(partitions("plain")).collect())
    assert table_rows(session, "id", where="amount = 0.1D") == [(1,)]
    assert {order for (order,) in session.sql("SELECT sort_order_id FROM iceberg.db.t.files").collect()} == {1}
    if version != "3":
        assert len(ice.rows("id")) == 6


@pytest.mark.parametrize("version", ["2", "3"])
def test_rows_are_replaced_beside_merge_on_read_deletes(ice: Lake, session: SparkSession, version: str) -> None:
    """Another writer has deleted a row of the table by its position, in each format version."""
    merge = {"write.merge.mode": "merge-on-read", "write.delete.mode": "merge-on-read", "format-version": version}
    create(session, "id BIGINT, v STRING", "PARTITIONED BY (bucket(2, id))", **merge)
    session.sql("INSERT INTO iceberg.db.t SELECT id, 'old' FROM range(6)")
    session.sql("DELETE FROM iceberg.db.t WHERE id = 3")

    make(ice.planned(rows_of(id=[2, 3, 9], v=["new", "new", "new"]), **KEYED))
    make(ice.planned(rows_of(id=[10], v=["added"]), number=1))

    new = [(2, "new"), (3, "new"), (9, "new"), (10, "added")]
    assert table_rows(session) == sorted([*((n, "old") for n in (0, 1, 4, 5)), *new], key=repr)


def test_a_partition_by_a_double_is_overwritten(ice: Lake, session: SparkSession) -> None:
    create(session, "id BIGINT, amount DOUBLE", "PARTITIONED BY (amount)")
    make(ice.planned(rows_of(id=[1, 2, 3], amount=[0.1, 0.2, float("nan")])))

    first = ice.planned(rows_of(id=[10, 11], amount=[0.1, float("nan")]), number=1, **OVERWRITE)
    make(first)
    make(ice.planned(rows_of(id=[12], amount=[0.1]), number=2, earlier=first.writes, **OVERWRITE))

    assert table_rows(session, "id") == [(10,), (11,), (12,), (2,)]


@pytest.mark.parametrize("by", ["days(at)", "bucket(3, id), truncate(1, name)"])
def test_partitions_by_transforms_are_overwritten(ice: Lake, session: SparkSession, by: str) -> None:
    create(session, "id BIGINT, name STRING, at TIMESTAMP", f"PARTITIONED BY ({by})")
    rows = "SELECT {} AS id, '{}' AS name, timestamp'2026-01-{} 23:30:00' AS at".format
    make(ice.commit("run/commit-0", stage(ice, session.sql(f"{rows('1L', 'ab', 15)} UNION ALL {rows('2L', 'b', 16)}"))))
    overwrites = [stage(ice, session.sql(rows("1L", name, 15)), mode="overwrite_partitions") for name in ("ac", "ad")]

    make(ice.commit("run/commit-1", overwrites[0], **OVERWRITE))
    make(ice.commit("run/commit-2", overwrites[1], earlier=(overwrites[0],), **OVERWRITE))

    assert table_rows(session, "name") == [("ac",), ("ad",), ("b",)]


@pytest.mark.parametrize("exists", [True, False])
def test_new_columns_of_several_shards_are_all_added(ice: Lake, exists: bool) -> None:
    """Each shard has used the next id for its own column; the commit rewrites the rows of the later shards."""
    if exists:
        ice.create(rows_of(id=[0]))
    nested = rows_of(id=[3], c=[{"x": [1, None]}])

    make(ice.planned(rows_of(id=[1], a=["a"]), rows_of(id=[2], b=[2.5]), nested, merge_schema=True))

    rows = [(1, "a", None, None), (2, None, 2.5, None), (3, None, None, {"x": [1, None]})]
    assert ice.rows("id", "a", "b", "c")[-3:] == rows


def test_a_type_that_iceberg_lacks_fails_the_shard(ice: Lake, session: SparkSession) -> None:
    with pytest.raises(TableError, match=r"Iceberg cannot have a column of the frame: .*interval"):
        stage(ice, session.sql("SELECT 1L AS id, make_interval(1) AS year"))
    with pytest.raises(TableError, match=r"db\.t cannot be made of the frame: .*\n.*nothing"):
        stage(ice, session.sql("SELECT 1L AS id, NULL AS nothing"))


def test_an_encrypted_table_is_refused(ice: Lake) -> None:
    ice.create(rows_of(id=[1]))
    with ice.iceberg().transaction() as change:
        change.set_properties({"encryption.key-id": "k"})

    with pytest.raises(TableError, match=r"has encryption\.key-id"):
        ice.planned(rows_of(id=[2]))


@pytest.mark.parametrize("exception", ["CommitStateUnknownException", "RESTException"])
@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_of_unknown_state_is_looked_up(
    ice: Lake, monkeypatch: pytest.MonkeyPatch, landed: bool, exception: str
) -> None:
    ice.create(rows_of(id=[1]))
    java = spark_here()._jvm
    exception_class = getattr(java.org.apache.iceberg.exceptions, exception)
    no_objects = SparkContext._gateway.new_array(java.java.lang.Object, 0)
    arguments = (java.java.lang.RuntimeException("reset"),) if "Unknown" in exception else ("502", no_objects)
    begin, errors = Draft.of_state, [exception_class(*arguments)]

    class FailingOnce:
        """Table operations whose first commit raises the error, after the commit if ``landed``."""

        def __init__(self, operations: Any) -> None:
            self._operations = operations

        def commit(self, *states: Any) -> None:
            if landed or not errors:
                self._operations.commit(*states)
            if errors:
                raise Py4JJavaError("lost", errors.pop())

    def of_state(*args: Any) -> Draft:
        draft = begin(*args)
        draft.operations = FailingOnce(draft.operations)
        return draft

    planned = ice.planned(rows_of(id=[2]))
    monkeypatch.setattr(Draft, "of_state", of_state)
    done = make(planned)

    assert (done.rows, done.already) == (1, False)
    assert ice.rows("id") == [(1,), (2,)]


def test_a_namespace_that_another_writer_creates_is_used(ice: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overtaken:
        """A catalog in which another writer has created the namespace just before."""

        def __init__(self, catalog: Any) -> None:
            self._catalog = catalog

        def __getattr__(self, name: str) -> Any:
            return getattr(self._catalog, name)

        def createNamespace(self, namespace: Any) -> None:
            self._catalog.createNamespace(namespace)
            self._catalog.createNamespace(namespace)

    table = open_table(ice.table, spark_here())
    assert isinstance(table, IcebergTable)
    table._catalog = Overtaken(table._catalog)
    planned = ice.planned(rows_of(id=[2]))
    table.write(planned, {planned.commit_id: 1})

    assert ice.rows("id") == [(2,)]
