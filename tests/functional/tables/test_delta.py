"""Delta tables with every feature are written by shards and a commit as by Spark itself; some writes are refused."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.tables.commit import commit, plan
from sparklet.connectors.tables.delta import RETENTION
from sparklet.job import Job
from sparklet.job.errors import TableError
from sparklet.job.session import session_options
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make, session
from tests.functional.tables.shards import Shards

pytestmark = [*SESSION_HERE, pytest.mark.stack]
REBASED = {"spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED"}


class Tables:
    """A table that shards write, and its twin that Spark writes."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder, self.run = spark, folder, Shards(folder)
        self.ours, self.twin = f"{folder}/ours", f"{folder}/twin"

    @property
    def name(self) -> str:
        return f"delta:file://{self.ours}"

    def sql(self, *statements: str) -> None:
        """Run statements on both tables; ``TABLE_`` stands for the table."""
        for statement in statements:
            for place in (self.ours, self.twin):
                self.spark.sql(statement.replace("TABLE_", f"delta.`{place}`"))

    def append(self, *queries: str, **options: Any) -> None:
        """Stage one shard for each query; append the rows of each query to the twin with Spark."""
        frames = [self.spark.sql(query) for query in queries]
        self.run.stage(lambda job, frame: job.append(frame, self.name, **options), *frames)
        merge_schema, partition_by = options.get("merge_schema", False), options.get("partition_by")
        for frame in frames:
            writer = frame.write.format("delta").mode("append").option("mergeSchema", merge_schema)
            with session_options(self.spark, REBASED):
                writer.partitionBy(*filter(None, [partition_by])).save(self.twin)

    def upsert(self, query: str, key: str, columns: str) -> None:
        frame = self.spark.sql(query)
        self.run.stage(lambda job, each: job.upsert(each, self.name, keys=key), frame)
        frame.createOrReplaceTempView("changes")
        sets = ", ".join(f"{each} = s.{each}" for each in columns.split(", "))
        values = ", ".join(f"s.{each}" for each in columns.split(", "))
        self.spark.sql(
            f"MERGE INTO delta.`{self.twin}` t USING changes s ON t.{key} = s.{key} "
            f"WHEN MATCHED THEN UPDATE SET {sets} WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"
        )

    def rows(self, place: str = "", zone: str = "UTC") -> list[str]:
        with session_options(self.spark, {"spark.sql.session.timeZone": zone}):
            frame = self.spark.read.format("delta").load(place or self.ours)
            return sorted(row[0] for row in frame.selectExpr("to_json(struct(*))").collect())

    def compare(self) -> list[str]:
        """Check that both tables have the same rows in two time zones, partitions and features; return the rows."""
        for zone in ("UTC", "America/New_York"):
            assert self.rows(self.ours, zone) == self.rows(self.twin, zone)
        ours, twin = (
            self.spark.sql(f"DESCRIBE DETAIL delta.`{place}`")
            .select("partitionColumns", "clusteringColumns", "tableFeatures")
            .first()
            for place in (self.ours, self.twin)
        )
        assert ours == twin
        return self.rows()


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> Tables:
    return Tables(spark, tmp_path)


def test_a_column_of_nulls_gets_the_type_of_another_shard(tables: Tables) -> None:
    tables.append("SELECT 1L AS id, NULL AS x", "SELECT 2L AS id, 'a' AS x", merge_schema=True)
    tables.run.commit()

    assert tables.rows() == ['{"id":1}', '{"id":2,"x":"a"}']


EXTREMES: Mapping[str, tuple[str, str]] = {  # of types with bounds for the scan of a merge, and of types without
    "TINYINT": ("-128", "127"),
    "SMALLINT": ("-32768", "32767"),
    "INT": ("-2147483648", "2147483647"),
    "BIGINT": ("-9223372036854775808", "9223372036854775807"),
    "DATE": ("1582-10-15", "+12026-12-31"),
    "STRING": ("", r"it\'s \\ {} \n😀"),
    "VARCHAR(4)": ("a", "b"),
    "DOUBLE": ("-Infinity", "NaN"),
}


def test_keys_with_extreme_values_are_updated(tables: Tables) -> None:
    keys = [f"k{number}" for number in range(len(EXTREMES))]
    columns = ", ".join(f"{key} {type_}" for key, type_ in zip(keys, EXTREMES, strict=True))
    tables.sql(f"CREATE TABLE TABLE_ ({columns}, v STRING) USING delta")
    least = ", ".join(f"CAST('{low}' AS {type_})" for type_, (low, _) in EXTREMES.items())
    greatest = ", ".join(f"CAST('{high}' AS {type_})" for type_, (_, high) in EXTREMES.items())
    rows = f"SELECT * FROM VALUES ({least}, 'old'), ({greatest}, 'old') t({', '.join(keys)}, v)"
    tables.sql(f"INSERT INTO TABLE_ {rows}")

    changes = tables.spark.sql(rows.replace("'old'", "'new'"))
    tables.run.stage(lambda job, frame: job.upsert(frame, tables.name, keys=keys), changes)
    tables.run.commit()

    assert [json.loads(row)["v"] for row in tables.rows()] == ["new", "new"]


# --- features of tables ---

KINDS: Mapping[str, str] = {
    "with times of commits": "TBLPROPERTIES ('delta.enableInCommitTimestamps' = 'true')",
    "mapped columns": "TBLPROPERTIES ('delta.columnMapping.mode' = 'name', 'delta.enableDeletionVectors' = 'true')",
    "all that can be together": (
        "CLUSTER BY (id) TBLPROPERTIES ('delta.columnMapping.mode' = 'id', 'delta.enableRowTracking' = 'true', "
        "'delta.enableDeletionVectors' = 'true', 'delta.enableChangeDataFeed' = 'true', 'delta.feature.v2Checkpoint' = "
        "'supported', 'delta.enableTypeWidening' = 'true')"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tables_with_each_feature_are_written_as_by_spark(tables: Tables, kind: str) -> None:
    tables.sql(f"CREATE TABLE TABLE_ (id BIGINT, v STRING) USING delta {KINDS[kind]}")

    tables.append("SELECT 1L AS id, 'a' AS v", "SELECT 2L AS id, 'b' AS v")
    tables.run.commit()
    tables.upsert("SELECT * FROM VALUES (2L, 'B'), (3L, 'c') t(id, v)", "id", "id, v")
    tables.run.commit()
    tables.append(
        "SELECT 4L AS id, 'd' AS v, 1.5D AS more", "SELECT 5L AS id, 'e' AS v, 2.5D AS more", merge_schema=True
    )
    tables.run.commit()

    assert len(tables.compare()) == 5


def create_with_computed_columns(tables: Tables) -> None:
    """Create both tables with columns that Delta itself fills; SQL cannot create such a table by its path."""
    builder: Any = tables.spark._jvm.io.delta.tables.DeltaTable
    session = tables.spark._jsparkSession
    for place in (tables.ours, tables.twin):
        column = lambda name, type_: builder.columnBuilder(session, name).dataType(type_)  # noqa: E731
        table = builder.create(session).location(place).addColumn(column("id", "BIGINT").build())
        table = table.addColumn(column("twice", "BIGINT").generatedAlwaysAs("id * 2").build())
        table.addColumn(column("n", "BIGINT").generatedAlwaysAsIdentity().build()).execute()


def test_generated_and_identity_columns_are_filled(tables: Tables) -> None:
    """The commit draws the numbers of an identity column, for the rows of all shards."""
    create_with_computed_columns(tables)

    tables.append("SELECT 1L AS id", "SELECT 2L AS id")
    tables.run.commit()
    tables.upsert("SELECT * FROM VALUES (2L), (3L) t(id)", "id", "id")
    tables.run.commit()

    rows = sorted((json.loads(row) for row in tables.rows()), key=lambda row: int(row["id"]))
    assert [(row["id"], row["twice"]) for row in rows] == [(1, 2), (2, 4), (3, 6)]
    assert len({row["n"] for row in rows}) == 3


def test_a_default_is_written_for_a_column_that_no_shard_has(tables: Tables) -> None:
    tables.sql(
        "CREATE TABLE TABLE_ (id BIGINT) USING delta TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'supported')",
        "ALTER TABLE TABLE_ ADD COLUMN v STRING",
        "ALTER TABLE TABLE_ ALTER COLUMN v SET DEFAULT 'none'",
    )

    tables.append("SELECT 1L AS id", "SELECT 2L AS id, 'given' AS v")
    tables.run.commit()

    assert len(tables.compare()) == 2


# --- constraints and changed columns ---


def test_a_row_that_the_table_refuses_fails_its_shard(tables: Tables) -> None:
    tables.sql(
        "CREATE TABLE TABLE_ (id BIGINT NOT NULL) USING delta", "ALTER TABLE TABLE_ ADD CONSTRAINT up CHECK (id > 0)"
    )
    append: Callable[[Job, DataFrame], int] = lambda job, frame: job.append(frame, tables.name)  # noqa: E731
    tables.run.stage(append, tables.spark.range(1, 3))

    with pytest.raises((PySparkException, Py4JJavaError), match=r"CHECK constraint up"):
        tables.run.stage(append, tables.spark.range(-1, 0))
    tables.run.commit()

    assert len(tables.rows()) == 2


def test_a_constraint_added_after_staging_holds_for_the_rows(tables: Tables) -> None:
    tables.sql("CREATE TABLE TABLE_ (id BIGINT) USING delta")
    append: Callable[[Job, DataFrame], int] = lambda job, frame: job.append(frame, tables.name)  # noqa: E731
    tables.run.stage(append, tables.spark.range(1, 3), tables.spark.range(-1, 0))
    staged = list(tables.run.declared)
    tables.sql("ALTER TABLE TABLE_ ADD CONSTRAINT up CHECK (id > 0)")

    with pytest.raises(TableError, match=r"rows of shard 0 and shard 1 that were staged for another state .*CHECK"):
        tables.run.commit()
    tables.run.declared = staged[:1]
    tables.run.commit()

    assert len(tables.rows()) == 2


def test_staged_values_follow_renamed_columns(tables: Tables) -> None:
    tables.sql(
        "CREATE TABLE TABLE_ (id BIGINT, a STRING, b STRING) USING delta "
        "TBLPROPERTIES ('delta.columnMapping.mode' = 'name')"
    )
    append: Callable[[Job, DataFrame], int] = lambda job, frame: job.append(frame, tables.name)  # noqa: E731
    tables.run.stage(append, tables.spark.sql("SELECT 1L AS id, 'a' AS a, 'b' AS b"))
    tables.sql(
        "ALTER TABLE TABLE_ RENAME COLUMN a TO c",
        "ALTER TABLE TABLE_ DROP COLUMN b",
        "ALTER TABLE TABLE_ ADD COLUMN a STRING",
    )

    tables.run.commit()

    assert tables.rows() == ['{"id":1,"c":"a"}']


def test_staged_rows_fit_a_column_with_a_wider_type(tables: Tables) -> None:
    tables.sql("CREATE TABLE TABLE_ (id SMALLINT) USING delta TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    tables.run.stage(lambda job, frame: job.append(frame, tables.name), tables.spark.sql("SELECT 1S AS id"))
    tables.sql("ALTER TABLE TABLE_ ALTER COLUMN id TYPE INT")

    tables.run.commit()

    assert tables.rows() == ['{"id":1}']


# --- what is refused ---


def test_an_append_only_table_keeps_its_rows(delta: Lake) -> None:
    write_deltalake(delta.delta, rows_of(id=[1]), configuration={"delta.appendOnly": "true"})

    with pytest.raises(TableError, match=r"delta\.appendOnly"):
        make(delta.planned(rows_of(id=[1]), mode="upsert", keys=("id",)))


@pytest.mark.parametrize("feature", ["catalogManaged", "newer"])
def test_a_feature_that_delta_does_not_write_is_refused(delta: Lake, feature: str) -> None:
    delta.create(rows_of(id=[0]))
    planned = delta.planned(rows_of(id=[1]))
    readers = {"readerFeatures": [feature]} if feature == "catalogManaged" else {}
    protocol = {"minReaderVersion": 3 if readers else 1, "minWriterVersion": 7, "writerFeatures": [feature], **readers}
    actions = {"commitInfo": {"timestamp": 1763840000000, "operation": "ALTER"}}, {"protocol": protocol}
    Path(delta.delta, "_delta_log", f"{1:020d}.json").write_text("\n".join(map(json.dumps, actions)))

    with pytest.raises(TableError, match=f"has {feature}, which Sparklet cannot write|feature"):
        Job().append(session().range(1), str(delta.table))
    with pytest.raises(TableError, match="feature"):
        make(planned)


def test_a_table_that_forgets_commits_is_refused(delta: Lake) -> None:
    """Shards refuse to stage for the table, and the commit refuses rows that were staged before."""
    delta.create(rows_of(id=[0]))
    planned = delta.planned(rows_of(id=[1]))
    DeltaTable(delta.delta).alter.set_table_properties({RETENTION: "interval 1 days"})

    for write in (lambda: Job().append(session().range(1), str(delta.table)), lambda: make(planned)):
        with pytest.raises(TableError, match=f"has {RETENTION}, which Sparklet cannot write: ALTER TABLE … UNSET"):
            write()

    assert delta.rows() == [(0,)]


def test_a_delta_commit_needs_no_iceberg_library(delta: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = delta.planned(rows_of(id=[1]))
    monkeypatch.delitem(sys.modules, "sparklet.connectors.tables.iceberg", raising=False)
    monkeypatch.setitem(sys.modules, "pyiceberg", None)

    make(planned)

    monkeypatch.undo()
    assert delta.rows("id") == [(1,)]


def test_a_column_that_an_earlier_commit_has_gets_its_default(tables: Tables) -> None:
    """The second commit of a run reads only the keys of the first commit's rows."""
    tables.sql(
        "CREATE TABLE TABLE_ (id BIGINT) USING delta TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'supported')",
        "ALTER TABLE TABLE_ ADD COLUMN v STRING",
        "ALTER TABLE TABLE_ ALTER COLUMN v SET DEFAULT 'none'",
    )
    for query in ("SELECT 1L AS id, 'given' AS v", "SELECT 2L AS id"):
        tables.run.stage(lambda job, frame: job.upsert(frame, tables.name, keys="id"), tables.spark.sql(query))
    one, two = (replace(write, shard=number) for number, write in enumerate(tables.run.declared))

    for number, commits in enumerate(([[one]], [[one], [two]])):
        (planned,) = plan({"identity": "r", "commit": number}, commits)
        commit(planned, tables.spark)

    assert tables.rows() == ['{"id":1,"v":"given"}', '{"id":2,"v":"none"}']
