"""Generated writes to Iceberg tables, by shards and a commit and by one plain Spark job, have the same result.

Both tables have the same rows for Spark and for pyiceberg, in two time zones and with filters, the same columns, the
same partitioning and the same properties. ``SPARKLET_FOLDERS=500 SPARKLET_SEED=1`` tries 500 other tables.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.tables.commit import commit, plan
from sparklet.connectors.tables.declaration import Declaration
from sparklet.job import Job
from sparklet.job.outcome import CLAIMED, OUTCOME_FILE
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.generated import NAMES, SEED, TYPES, ZONES, Case, Column, cases, merge_clauses, quoted
from tests.functional.tables.lakes import Lake

pytestmark = SESSION_HERE
OWN = "sparklet."  # the prefix of the properties that a commit adds
TRANSFORMS = {
    "DATE": ["years", "months", "days"],
    "TIMESTAMP": ["years", "months", "days", "hours"],
    "TIMESTAMP_NTZ": ["years", "months", "days", "hours"],
    **{name: ["bucket", "truncate"] for name in ("BIGINT", "INT", "STRING", "BINARY", "DECIMAL(9,2)", "DECIMAL(24,4)")},
}
FOLDERS = int(os.environ.get("SPARKLET_FOLDERS") or "6")  # each is two tables; this number takes about a minute
QUIET: Any = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def partitions(column: Column) -> Sequence[str]:
    """Return the transforms for a column: the column itself and what Iceberg can compute from it."""
    if "<" in column.type:
        return ()
    name = quoted(column.name)
    width = {"bucket": "4, ", "truncate": "3, "}
    return [name, *(f"{each}({width.get(each, '')}{name})" for each in TRANSFORMS.get(column.type, ()))]


@dataclass(frozen=True)
class Properties:
    """The properties with which a table is created."""

    version: int
    merges_on_read: bool
    is_sorted: bool

    def sql(self) -> str:
        mode = "merge-on-read" if self.merges_on_read and self.version > 1 else "copy-on-write"
        modes = ", ".join(f"'write.{each}.mode' = '{mode}'" for each in ("merge", "update", "delete"))
        return f"'format-version' = '{self.version}', {modes}"


class PlainJob:
    """One plain Spark job, which writes all rows of a case to its table."""

    def __init__(self, spark: SparkSession, name: str, case: Case) -> None:
        self._spark, self._name, self._case = spark, name, case

    def make(self, properties: Properties) -> None:
        case = self._case
        first = case.first.columns if case.first else self._columns()
        columns = ", ".join(column.ddl for column in first)
        by = f"PARTITIONED BY ({', '.join(case.by)})" if case.by else ""
        self._spark.sql(f"CREATE TABLE {self._name} ({columns}) USING iceberg {by} TBLPROPERTIES ({properties.sql()})")
        if properties.is_sorted:
            self._spark.sql(f"ALTER TABLE {self._name} WRITE ORDERED BY id")
        if case.first and case.first.rows:
            self._spark.sql(case.first.sql).writeTo(self._name).append()

    def _columns(self) -> Sequence[Column]:
        """Return the columns of a new table: those of the first shard that has the most columns."""
        return max((shard.columns for shard in self._case.shards), key=len)

    def write(self) -> None:
        case, spark = self._case, self._spark
        existing = set(spark.table(self._name).columns)
        for column in (column for shard in case.shards if shard.rows for column in shard.columns):
            if column.name not in existing:
                existing.add(column.name)
                spark.sql(f"ALTER TABLE {self._name} ADD COLUMN {column.ddl}")
        columns = spark.table(self._name).columns
        frames = [spark.sql(shard.sql) for shard in case.shards if shard.rows]
        if not frames:
            return
        rows = reduce(lambda one, two: one.unionByName(two, allowMissingColumns=True), frames)
        for column in (Column(field.name, field.dataType.simpleString()) for field in spark.table(self._name).schema):
            if column.name not in rows.columns:
                rows = rows.selectExpr("*", f"CAST(NULL AS {column.type}) AS {quoted(column.name)}")
        rows = rows.select(*map(quoted, columns))
        if case.mode == "append":
            rows.writeTo(self._name).append()
        elif case.mode == "overwrite_partitions":
            rows.writeTo(self._name).overwritePartitions()
        else:
            self._merge(rows)

    def _merge(self, rows: DataFrame) -> None:
        key, order = quoted(self._case.key), quoted(self._case.order_by or self._case.key)
        rows.createOrReplaceTempView("plain_rows")
        last = f"row_number() OVER (PARTITION BY {key} ORDER BY {order} DESC NULLS LAST)"
        columns = ", ".join(map(quoted, rows.columns))
        self._spark.sql(
            f"MERGE INTO {self._name} t USING (SELECT {columns} FROM (SELECT *, {last} AS place_ FROM plain_rows) "
            f"WHERE place_ = 1) s ON {merge_clauses(self._case)}"
        )


def write_by_run(folder: Path, spark: SparkSession, name: str, case: Case) -> None:
    """Write the case by shards, which stage their rows, and by a commit, which is tried twice."""
    declared = []
    by = [] if case.first else [text[1:-1].replace("``", "`") for text in case.by if text.startswith("`")]
    for number, shard in enumerate(case.shards):
        outcome = folder / f"{uuid.uuid4().hex}.json"
        names = {"run": "r", "identity": "r_1", "shard": number, "attempt": "a", "generation": 0}
        event = {"sparklet": names, "inputs": [], "params": {}, "output_path": f"file://{folder}/staged/{number:06d}-a"}
        job = Job.from_args(["--event", json.dumps(event)], {OUTCOME_FILE: str(outcome), CLAIMED: "1"})
        options: dict[str, Any] = {
            "merge_schema": case.merge_schema,
            "partition_by": by if not _exists(spark, name) else (),
        }
        if case.mode == "upsert":
            options |= {"keys": case.key, "order_by": case.order_by, "delete": case.delete}
        assert getattr(job, case.mode)(spark.sql(shard.sql), f"iceberg:{name}", **options) == len(shard.rows)
        writes = json.loads(outcome.read_text())["writes"]
        declared += [Declaration.from_document(each, number) for each in writes]
    for planned in plan({"identity": f"r_{uuid.uuid4().hex}", "commit": 0}, [declared]):
        assert not commit(planned, spark).already
        assert commit(planned, spark).already or not any(shard.rows for shard in case.shards)


def _exists(spark: SparkSession, name: str) -> bool:
    return bool(spark.catalog.tableExists(f"iceberg.{name}"))


@contextmanager
def zone(spark: SparkSession, name: str) -> Iterator[None]:
    spark.conf.set("spark.sql.session.timeZone", name)
    try:
        yield
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


def rows_by_spark(spark: SparkSession, name: str, filters: Sequence[str]) -> list[tuple[int, str]]:
    """Return the number of each filter with the rows that fulfil it, in one query."""
    text = f"SELECT {{}} AS n, to_json(struct(*)) AS row FROM iceberg.{name} WHERE {{}}".format
    union = " UNION ALL ".join(text(number, condition) for number, condition in enumerate(filters))
    return sorted(map(tuple, spark.sql(union).collect()))


def rows_by_pyiceberg(lake: Lake, name: str) -> list[str]:
    table = lake.catalog().load_table(name).scan().to_arrow()
    columns = [_exact(table[each]) for each in sorted(table.column_names)]
    return sorted(repr(row) for row in zip(*columns, strict=True))


def _exact(column: pa.ChunkedArray) -> list[Any]:
    """Return the values, with dates and times as integers, since Python cannot represent every year."""
    if pa.types.is_date32(column.type):
        return list(column.cast(pa.int32()).to_pylist())
    if pa.types.is_timestamp(column.type):
        return list(column.cast(pa.int64()).to_pylist())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [value or None for value in column.to_pylist()]  # pyiceberg reads a null as an empty list
    return list(column.to_pylist())


def table_details(spark: SparkSession, lake: Lake, name: str) -> dict[str, Any]:
    """Return all that is compared of a table except its rows."""
    table = lake.catalog().load_table(name)
    properties = {key: value for key, value in table.properties.items() if not key.startswith(OWN)}
    spec = [(str(each.transform), each.name) for each in table.spec().fields]
    columns = [(field.name, str(field.field_type), field.required) for field in table.schema().fields]
    of_file = ["sort_order_id", "spec_id", *(["to_json(partition)"] if spec else [])]
    files = spark.table(f"iceberg.{name}.files").where("content = 0").selectExpr(*of_file).collect()
    parts = sorted({str(row) for row in files})
    return {"properties": properties, "spec": spec, "columns": columns, "partitions": parts}


PROPERTIES = st.builds(
    Properties, version=st.sampled_from([1, 2, 2, 3]), merges_on_read=st.booleans(), is_sorted=st.booleans()
)


def test_shards_write_the_same_table_as_one_spark_job(ice: Lake, tmp_path: Path) -> None:
    from tests.functional.tables.sessions import spark_here

    spark = spark_here()
    spark.sql("CREATE NAMESPACE IF NOT EXISTS iceberg.db")

    compared: list[Case] = []

    @seed(SEED)
    @settings(max_examples=FOLDERS, phases=[Phase.generate], **QUIET)
    @given(case=cases(TYPES, NAMES, partitions), properties=PROPERTIES)
    def compare(case: Case, properties: Properties) -> None:
        compared.append(case)
        ours, plain = (f"db.{prefix}{uuid.uuid4().hex}" for prefix in ("ours", "plain"))
        run_creates_table = (
            case.first is None and all(each.startswith("`") for each in case.by) and not case.merge_schema
        )
        for name in (plain, ours):
            if not run_creates_table:
                PlainJob(spark, f"iceberg.{name}", case).make(properties)
        if run_creates_table:
            simple = Properties(2, merges_on_read=False, is_sorted=False)
            PlainJob(spark, f"iceberg.{plain}", case).make(simple)
            spark.sql(f"ALTER TABLE iceberg.{plain} UNSET TBLPROPERTIES ('write.merge.mode')")
        PlainJob(spark, f"iceberg.{plain}", case).write()
        write_by_run(tmp_path, spark, ours, case)
        if not _exists(spark, ours):
            assert not any(shard.rows for shard in case.shards)
            return
        filters = ["true", *conditions(case)]
        for each in ZONES:
            with zone(spark, each):
                assert rows_by_spark(spark, ours, filters) == rows_by_spark(spark, plain, filters), (each, filters)
        assert rows_or_error(rows_by_pyiceberg, ice, ours) == rows_or_error(rows_by_pyiceberg, ice, plain)
        our_details, plain_details = (table_details(spark, ice, name) for name in (ours, plain))
        if run_creates_table:
            for details in (our_details, plain_details):
                del details["properties"]
                details["columns"] = sorted(details["columns"])
        assert our_details == plain_details

    compare()
    print(f"{len(compared)} tables")


def conditions(case: Case) -> Iterator[str]:
    """Yield filters by which readers skip files: for each shard, one for each column of its first row."""
    for shard in case.shards:
        for row in shard.rows[:1]:
            for column, value in zip(shard.columns, row, strict=True):
                if "<" not in column.type:
                    yield f"{quoted(column.name)} <=> CAST({value} AS {column.type})"


def rows_or_error(read: Any, lake: Lake, name: str) -> Any:
    """Return the rows, or the type of the error if reading fails."""
    try:
        return read(lake, name)
    except Exception as error:  # noqa: BLE001 - pyiceberg cannot read all that Spark writes
        return type(error).__name__
