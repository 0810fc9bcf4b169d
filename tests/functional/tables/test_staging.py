"""Scripts stage rows for a table: with real Spark and real tables, in a folder and in the S3 stand-in."""

import functools
import importlib.util
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JJavaError
from pyarrow import fs
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.connectors.tables import commit as committer
from sparklet.connectors.tables import layout, staging
from sparklet.connectors.tables.columns import fit_columns
from sparklet.connectors.tables.declaration import PARQUET, Commit, Committed, Declaration
from sparklet.job import Job
from sparklet.job.errors import EventError, TableError
from sparklet.job.outcome import CLAIMED, OUTCOME_FILE
from sparklet.job.session import session_options
from tests.functional.job.conftest import SESSION_HERE, session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables.conftest import REGION, configure_catalog, sqlite
from tests.unit.events import samples

pytestmark = SESSION_HERE

ROWS = [
    "id",
    "timestamp'2013-01-01 05:00:00' + make_dt_interval(cast(id AS INT)) AS ts",
    "elt(cast(1 + id % 3 AS INT), NULL, '', 'abc') AS name",
]


def path_of(uri: str) -> str:
    """Return the path of a URI in the file system; Spark writes file:/a for file:///a."""
    return "/" + uri[5:].lstrip("/") if uri.startswith("file:") else uri.partition("://")[2]


@dataclass
class Place:
    """A folder or bucket for tables, and the job of a shard that stages there."""

    root: str
    system: fs.FileSystem
    outcome: Path
    job: Job = field(init=False)

    def __post_init__(self) -> None:
        names = {"run": "r", "identity": "r_1", "shard": 3, "attempt": "a1", "generation": 0}
        event = {"sparklet": names, "inputs": [], "params": {}, "output_path": f"{self.root}/staged/r/000003-a1"}
        self.job = Job.from_args(["--event", json.dumps(event)], {OUTCOME_FILE: str(self.outcome), CLAIMED: "1"})

    def declared(self) -> list[Declaration]:
        if not self.outcome.exists():
            return []
        return [Declaration.from_document(each) for each in json.loads(self.outcome.read_text()).get("writes", [])]

    def open(self, declared: Declaration) -> list[pq.ParquetFile]:
        return [pq.ParquetFile(self.system.open_input_file(path)) for path, _ in self.stored(declared.folder)]

    def stored(self, folder: str) -> list[tuple[str, int]]:
        """Return the paths and sizes of the files that are in a folder."""
        selector = fs.FileSelector(path_of(folder), allow_not_found=True, recursive=True)
        infos = self.system.get_file_info(selector)
        return [(info.path, info.size) for info in infos if info.is_file and not info.base_name.endswith(".crc")]

    def rows(self, declared: Declaration) -> DataFrame:
        return SparkSession.active().read.option("basePath", declared.folder).parquet(declared.folder)

    def make_table(self, format_: str, columns: str, partitioned_by: str = "") -> str:
        """Create a table without rows; return its name for ``job.append``."""
        name, spark = f"t{uuid.uuid4().hex}", SparkSession.active()
        by = f"PARTITIONED BY ({partitioned_by})" if partitioned_by else ""
        if format_ == "delta":
            spark.sql(f"CREATE TABLE delta.`{self.root}/{name}` ({columns}) USING delta {by}")
            return f"delta:{self.root}/{name}"
        spark.sql(f"CREATE TABLE iceberg.db.{name} ({columns}) {by} LOCATION '{self.root}/{name}'")
        return f"iceberg:db.{name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a lake")


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, aws: str, folder: Path) -> Iterator[SparkSession]:
    """A session in this process with a catalog and S3."""
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("staging", {"spark.master": "local[2]"}, {}, jvm_here) as session:
            yield session


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> Place:
    return Place(f"file://{folder}/{uuid.uuid4().hex}", fs.LocalFileSystem(), tmp_path / "outcome.json")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, local: Place, aws: str, tmp_path: Path) -> Place:
    if request.param == "folder":
        return local
    boto3.client("s3", region_name=REGION).create_bucket(Bucket=(bucket := f"b{uuid.uuid4().hex}"))
    system = fs.S3FileSystem(endpoint_override=aws, region=REGION)
    return Place(f"s3://{bucket}", system, tmp_path / "outcome.json")


@pytest.fixture
def rows(spark: SparkSession) -> DataFrame:
    return spark.range(10).selectExpr(*ROWS)


def test_rows_get_the_tables_columns_below_its_root(place: Place, rows: DataFrame) -> None:
    """GIVEN a table, WHEN rows in another order and of smaller types are appended, THEN the files fit the table."""
    table = place.make_table("iceberg", "ID BIGINT, name STRING, ts TIMESTAMP, more DOUBLE")
    appended = rows.selectExpr("name", "ts", "cast(id AS SMALLINT) AS id")

    assert place.job.append(appended, table) == 10

    (declared,) = place.declared()
    assert sum(json.loads(text)["record-count"] for text in declared.described) == 10
    assert path_of(declared.folder).startswith(f"{path_of(place.root)}/t")
    assert re.search(r"/sparklet/r/000003-a1/1-[0-9a-f]{8}$", declared.folder)
    assert sorted(place.stored(declared.folder)) == sorted(
        (f"{path_of(declared.folder)}/{path}", size_bytes) for path, size_bytes in declared.files
    )
    stored = place.rows(declared)
    assert stored.dtypes == [("ID", "bigint"), ("name", "string"), ("ts", "timestamp"), ("more", "double")]
    assert sorted(stored.selectExpr("id", "ts", "name").collect(), key=str) == sorted(rows.collect(), key=str)


def test_timestamps_are_microseconds_and_nothing_else_changes(spark: SparkSession, local: Place) -> None:
    options = {key: spark.conf.get(key, None) for key in PARQUET}
    early = spark.sql("SELECT timestamp'0001-01-01 00:00:00' AS ts, cast(1.5 AS DECIMAL(5,2)) AS price")

    local.job.append(early, f"delta:{local.root}/t")

    (declared,) = local.declared()
    (file,) = local.open(declared)
    types = [file.schema.column(n) for n in range(2)]
    logical = [str(each.logical_type).split(",")[0] for each in types]
    assert logical == ["Timestamp(isAdjustedToUTC=true", "Decimal(precision=5"]
    assert [each.physical_type for each in types] == ["INT64", "INT32"]
    assert file.read()["ts"][0].as_py() == datetime(1, 1, 1, tzinfo=UTC)
    assert {key: spark.conf.get(key, None) for key in PARQUET} == options


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_no_rows_are_declared_without_files(place: Place, rows: DataFrame, format_: str) -> None:
    table = place.make_table(format_, "id BIGINT, ts TIMESTAMP, name STRING")

    assert place.job.append(rows.where("id < 0"), table) == 0
    assert place.job.append(rows, table) == 10

    empty, full = place.declared()
    assert (empty.label, empty.files, empty.described) == ("1", (), ())
    assert format_ == "delta" or place.stored(empty.folder) == []
    assert full.label == "2" and full.files


NULL = "Null value appeared in non-nullable|NOT_NULL_ASSERT_VIOLATION"
FITTED: list[tuple[str, str, bool, Any]] = [
    ("'x' AS name, 1S AS id", "ID BIGINT, more DOUBLE, name STRING", False, [(1, None, "x")]),
    ("1L AS id, 2.5D AS new", "id INT", True, [(1, 2.5)]),
    ("array(named_struct('b', 2, 'a', 1), NULL) AS s", "s ARRAY<STRUCT<a: INT, b: INT>>", False, [([(1, 2), None],)]),
    ("NULL AS s", "s STRUCT<a: INT NOT NULL>", False, [(None,)]),
    ("named_struct('a', IF(rand() < 2, NULL, 1)) AS s", "s STRUCT<a: INT NOT NULL>", False, NULL),
    ("IF(rand() < 2, NULL, 'x') AS name", "name STRING NOT NULL", False, NULL),
    ("1 AS id, 2 AS ID", "id INT", False, "too many data columns"),
    ("1 AS id, 2 AS new", "id INT", False, "t: .*too many data columns.*merge_schema=True adds"),
    ("'1' AS id", "id INT", False, "Cannot safely cast `id`.*cast them in the script"),
    ("1 AS id", "id INT, name STRING NOT NULL", False, "Cannot find data for the output column `name`"),
    ("9999999999L AS id", "id INT", False, "overflow"),
]


@pytest.mark.parametrize(("select", "columns", "merge_schema", "expected"), FITTED)
def test_columns_fit_as_in_an_insert_statement(
    spark: SparkSession, select: str, columns: str, merge_schema: bool, expected: Any
) -> None:
    """``expected`` has the rows, or the message of an error."""
    schema = StructType.fromJson(json.loads(spark._jvm.org.apache.spark.sql.types.StructType.fromDDL(columns).json()))

    def fit() -> list[Any]:
        return fit_columns(spark.sql(f"SELECT {select}"), schema, "t", merge_schema=merge_schema).collect()

    if isinstance(expected, list):
        assert fit() == expected
    else:
        with pytest.raises((TableError, Py4JJavaError, PySparkException), match=f"(?s){expected}"):
            fit()


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_rows_that_do_not_fit_are_not_declared(local: Place, rows: DataFrame, format_: str) -> None:
    table = local.make_table(format_, "id INT, name STRING NOT NULL")
    for write in (local.job.append, functools.partial(local.job.upsert, keys="id")):
        with pytest.raises((Py4JJavaError, PySparkException), match=NULL):
            write(rows.select("id", "name"), table)
    assert local.declared() == []

    local.job.append(rows.selectExpr("id", "'x' AS name"), table)

    (declared,) = local.declared()
    assert declared.label == "1"
    assert format_ == "delta" or not local.open(declared)[0].schema_arrow.field("name").nullable


@pytest.mark.parametrize("option", layout.WAP)
def test_a_branch_of_the_session_is_refused(spark: SparkSession, local: Place, rows: DataFrame, option: str) -> None:
    """The shard refuses it before it stages rows; it does not wait for the commit of all shards."""
    table = local.make_table("iceberg", "id BIGINT")
    local.job.append(rows.select("id"), table)
    spark.sql(f"ALTER TABLE {table.replace(':', '.')} SET TBLPROPERTIES ('write.wap.enabled' = 'true')")
    local.job.append(rows.select("id"), table)

    with session_options(spark, {option: "audit"}):
        for write in (local.job.append, functools.partial(local.job.upsert, keys="id")):
            with pytest.raises(TableError, match=f"has write.wap.enabled, and the session {option}"):
                write(rows.select("id"), table)
    assert len(local.declared()) == 2


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_names_can_differ_from_the_columns_in_case(local: Place, rows: DataFrame, format_: str) -> None:
    table = local.make_table(format_, "id BIGINT, Name STRING", "Name")

    renamed = rows.selectExpr("id AS ID", "name")
    local.job.upsert(renamed, table, keys="ID", order_by="NAME", partition_by="name")
    local.job.append(renamed, f"{table}_new", partition_by="NAME")

    existing, new = local.declared()
    assert (existing.keys, existing.order_by, existing.partition_by) == (("id",), "Name", ("Name",))
    assert new.partition_by == ("name",)


def test_a_branch_name_does_not_create_a_table(spark: SparkSession, local: Place, rows: DataFrame) -> None:
    table = local.make_table("iceberg", "id BIGINT")
    spark.sql(f"ALTER TABLE {table.replace(':', '.')} CREATE BRANCH audit")

    with pytest.raises(TableError, match=r"branch_audit is a part of the table db\..*: name the table"):
        local.job.append(rows.select("id"), f"{table}.branch_audit")


def test_merge_schema_stages_a_new_column(local: Place, rows: DataFrame) -> None:
    table = local.make_table("iceberg", "id BIGINT")

    local.job.append(rows, table, merge_schema=True)

    (declared,) = local.declared()
    assert declared.merge_schema
    assert local.open(declared)[0].schema_arrow.names == ["id", "ts", "name"]


def test_rows_for_a_new_table_are_staged_at_its_place(local: Place, rows: DataFrame) -> None:
    short = rows.selectExpr("cast(id AS SMALLINT) AS id", "name")
    local.job.append(short, f"delta:{local.root}/new", partition_by="name")
    local.job.append(short, f"iceberg:db.new{local.root[-8:]}", partition_by=["name"])

    delta, iceberg = local.declared()
    assert delta.folder == f"{local.root}/new" and len(delta.described) == len(delta.files)
    assert f"/warehouse/db/new{local.root[-8:]}/data/sparklet/r/000003-a1/2-" in iceberg.folder
    assert {len(path.split("/")) for declared in (delta, iceberg) for path, _ in declared.files} == {2}
    types = [str(local.open(declared)[0].schema_arrow.field("id").type) for declared in (delta, iceberg)]
    assert types == ["int16", "int32"]  # Iceberg has no integers smaller than 32 bits


def test_other_partitions_than_the_tables_are_refused(local: Place, rows: DataFrame) -> None:
    by_day = local.make_table("iceberg", "id BIGINT, ts TIMESTAMP, name STRING", "days(ts)")

    with pytest.raises(TableError, match=r"partitioned by day\(ts\), not by name: leave out partition_by"):
        local.job.append(rows, by_day, partition_by="name")
    with pytest.raises(TableError, match="no column day, which partition_by"):
        local.job.append(rows, f"delta:{local.root}/new", partition_by="day")


@pytest.mark.parametrize("format_", ["iceberg", "delta", "hudi"])
def test_changes_go_into_the_attempts_own_output(local: Place, rows: DataFrame, format_: str) -> None:
    """GIVEN rows that the commit must read, THEN they are in the output, however the table is partitioned."""
    table = f"hudi:{local.root}/t"
    if format_ != "hudi":
        table = local.make_table(format_, "id BIGINT, ts TIMESTAMP, name STRING", "name")

    local.job.upsert(rows, table, keys="id", order_by="ts")
    local.job.overwrite_partitions(rows, table, label="days")

    changes, days = local.declared()
    assert (changes.mode, changes.keys, changes.order_by) == ("upsert", ("id",), "ts")
    assert changes.folder.startswith(f"{local.job.output}/_changes/1-")
    assert days.mode == "overwrite_partitions"
    assert days.folder.startswith(f"{local.job.output}/_changes/days-")
    assert all("/" not in path for declared in (changes, days) for path, _ in declared.files)
    with pytest.raises(TableError, match="no column nr"):
        local.job.upsert(rows, table, keys=["id", "nr"])


# --- direct commits ---


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[Commit]:
    """Replace the committer by one that only records commits; a repeated id counts as already made."""
    recorded: list[Commit] = []

    def commit(planned: Commit, spark: SparkSession) -> Committed:
        already = planned.commit_id in [each.commit_id for each in recorded]
        recorded.append(planned)
        return Committed("1", 0, len(planned.writes[0].files), already)

    monkeypatch.setattr(committer, "commit", commit)
    monkeypatch.setattr(staging, "made_here", set())
    return recorded


def test_a_second_delivery_deletes_the_files_it_staged(place: Place, rows: DataFrame, commits: list[Commit]) -> None:
    event = samples.sns("{}")
    for _ in range(2):
        staging.made_here.clear()  # as if each delivery had a new process
        assert Job(event=event).append(rows, f"delta:{place.root}/t") == 10

    first, second = commits
    assert first.commit_id == second.commit_id
    assert first.commit_id.startswith("sns/") and first.commit_id.endswith("/1")
    stored = {path for path, _ in place.stored(first.writes[0].folder)}
    first_files, second_files = (
        {f"{path_of(each.folder)}/{path}" for path, _ in each.files} for each in (first.writes[0], second.writes[0])
    )
    assert first_files <= stored and second_files.isdisjoint(stored)


def test_the_id_of_a_direct_commit_in_a_run_has_the_shard(local: Place, rows: DataFrame, commits: list[Commit]) -> None:
    local.job.append(rows, f"delta:{local.root}/t", commit="direct", label="raw")

    (commit,) = commits
    assert (commit.commit_id, commit.writes[0].shard) == ("r_1/3/raw", 3)
    assert local.declared() == []


def test_changes_are_deleted_once_they_are_committed(local: Place, rows: DataFrame, commits: list[Commit]) -> None:
    Job(output_path=f"{local.root}/out").upsert(rows, f"delta:{local.root}/t", keys="id")

    (commit,) = commits
    assert commit.writes[0].folder.startswith(f"{local.root}/out/_changes/direct/")
    assert commit.writes[0].files
    assert local.stored(commit.writes[0].folder) == []


def test_two_jobs_of_one_process_cannot_make_one_commit(local: Place, rows: DataFrame, commits: list[Commit]) -> None:
    event = samples.sns("{}")
    Job(event=event).append(rows, f"delta:{local.root}/t")

    with pytest.raises(TableError, match="give the second write a label"):
        Job(event=event).append(rows, f"delta:{local.root}/t")


def test_a_write_without_rows_makes_no_commit(local: Place, rows: DataFrame, commits: list[Commit]) -> None:
    assert Job().append(rows.where("id < 0"), f"delta:{local.root}/t") == 0
    assert commits == []


def test_a_missing_library_is_named_before_any_work(
    local: Place, rows: DataFrame, commits: list[Commit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(TableError, match="needs boto3 in the script's Python: pip install boto3"):
        Job().append(rows, f"hudi:{local.root}/t")
    local.job.append(rows, f"hudi:{local.root}/t")  # staging does not need boto3

    assert commits == []
    assert len(local.declared()) == 1


def test_without_a_worker_a_write_that_stages_is_refused(local: Place, rows: DataFrame) -> None:
    job = Job(event=local.job.event, run_id="r", shard=3, attempt="a1", output_path=local.job.output)

    with pytest.raises(EventError, match="pass commit='direct'"):
        job.append(rows, f"delta:{local.root}/t")


# --- plain folders ---


def test_parquet_is_the_runs_output(local: Place, rows: DataFrame) -> None:
    job = replace(local.job, table=f"parquet:{local.root}/out")

    assert job.append(rows.limit(0)) == 0
    assert not Path(path_of(job.output)).exists()

    assert job.append(rows) + job.append(rows) + job.append(rows.limit(0)) == 20

    assert pq.read_table(path_of(job.output)).num_rows == 20  # an append without rows has deleted nothing
    assert not local.outcome.exists()
    with pytest.raises(TableError, match=f"start it with --table parquet:{local.root}/other"):
        job.append(rows, f"parquet:{local.root}/other")


def test_a_second_delivery_replaces_its_parquet(spark: SparkSession, local: Place, rows: DataFrame) -> None:
    for number in (1, 1, 2):
        staging.made_here.clear()  # as if each delivery had a new process
        Job(event={"Records": [samples.sqs(f"m{number}", "{}")]}).append(rows, f"parquet:{local.root}/out")

    assert spark.read.parquet(f"{local.root}/out").count() == 20
    with pytest.raises(TableError, match="can only be appended to"):
        Job().upsert(rows, f"parquet:{local.root}/out", keys="id")


# --- catalogs, processes ---


def test_a_table_that_another_script_creates_is_used(
    spark: SparkSession, local: Place, rows: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"late{uuid.uuid4().hex}"
    table_to_be = layout.table_to_be

    def create_before(*args: Any) -> Any:
        spark.sql(f"CREATE TABLE iceberg.db.{name} (id BIGINT) LOCATION '{local.root}/{name}'")
        return table_to_be(*args)

    monkeypatch.setattr(layout, "table_to_be", create_before)
    local.job.append(rows.select("id"), f"iceberg:db.{name}")

    (declared,) = local.declared()
    assert path_of(declared.folder).startswith(path_of(f"{local.root}/{name}/data/"))


@pytest.mark.parametrize(("option", "value"), [("type", "glue"), ("rest.sigv4-enabled", "true")])
def test_aws_catalogs_need_the_iceberg_aws_bundle(
    spark: SparkSession, local: Place, rows: DataFrame, option: str, value: str
) -> None:
    spark.conf.set(f"spark.sql.catalog.iceberg.{option}", value)
    try:
        with pytest.raises(TableError, match=r"of db.t needs the jar iceberg-aws-bundle"):
            local.job.append(rows, "iceberg:db.t")
    finally:
        spark.conf.unset(f"spark.sql.catalog.iceberg.{option}")
