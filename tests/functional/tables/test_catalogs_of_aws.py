"""Tables in the Glue Data Catalog and in S3 Tables, where only the warehouse is configured."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from pyiceberg.utils.config import Config
from pyspark.sql import SparkSession

from sparklet.connectors.tables.declaration import Commit
from sparklet.connectors.tables.pyiceberg_catalog import load
from sparklet.connectors.tables.stream_batch import batch_of
from sparklet.job import Job
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache
from tests.functional.job.conftest import SESSION_HERE, STACK, session_here
from tests.functional.job.warm_jvm import warm_jvm
from tests.functional.tables.conftest import CREDENTIALS, REGION
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make, once_loaded
from tests.functional.tables.test_commit_run import CommitRun, commit_run
from tests.unit.events import samples

__all__ = ["commit_run"]
pytestmark = [pytest.mark.stack, *SESSION_HERE]
ONE, TWO = rows_of(id=[1, 2], day=["a", None]), rows_of(id=[3], day=["b"])


@pytest.fixture(scope="module")
def spark(jars: list[Path], aws: str) -> Iterator[SparkSession]:
    """Spark with Iceberg's AWS clients, which find the AWS stand-in only by the environment of the JVM."""
    bundle = ensure_jars(STACK, jar_cache(), ["iceberg-aws-bundle"], progress=print)
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    class_path = os.pathsep.join(map(str, [*jars, *bundle]))
    env = {**CREDENTIALS, "AWS_ENDPOINT_URL": aws}
    with warm_jvm(env, spark_driver_extraClassPath=class_path) as jvm, session_here("aws", conf, {}, jvm) as session:
        yield session


@pytest.fixture(autouse=True)
def no_catalog(in_s3: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the configured catalog, so that only the tests name one."""
    for name in ("TYPE", "URI", "WAREHOUSE"):
        monkeypatch.delenv(f"PYICEBERG_CATALOG__ICEBERG__{name}")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())


# --- S3 Tables ---


@pytest.fixture
def table_bucket(in_s3: Lake) -> str:
    """Create a table bucket in S3 Tables and return its ARN."""
    s3tables = boto3.client("s3tables", region_name=REGION)
    return str(s3tables.create_table_bucket(name=in_s3.place.removeprefix("s3://"))["arn"])


def read(arn: str) -> Any:
    return load(arn).load_table("db.t")


@pytest.fixture
def use_warehouse(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that sets the warehouse for all later staging and commits."""
    return lambda warehouse: monkeypatch.setenv("PYICEBERG_CATALOG__ICEBERG__WAREHOUSE", warehouse)


@pytest.mark.parametrize("by", [(), ("day",)])
def test_repeated_commits_to_s3_tables_add_rows_once(
    in_s3: Lake, table_bucket: str, by: tuple[str, ...], use_warehouse: Callable[[str], None]
) -> None:
    """The table exists before: the stand-in treats the null by which Iceberg asks for a location as a location."""
    use_warehouse(table_bucket)
    catalog = load()
    catalog.create_namespace("db")
    with catalog.create_table("db.t", ONE.schema).update_spec() as spec:
        for column in by:
            spec.add_identity(column)
    lake = replace(in_s3, format="iceberg", place=f"{in_s3.place}/out/_changes")  # nothing may be staged in the table
    first = lake.planned(ONE, TWO)
    more = lake.planned(TWO, number=1)

    assert [make(each).already for each in (first, first, more, first)] == [False, True, False, True]
    keyed = lake.planned(rows_of(id=[3], day=["c"]), number=2, mode="upsert", keys=("id",))
    assert [make(each).already for each in (keyed, keyed)] == [False, True]

    table = read(table_bucket)
    assert sorted(table.scan().to_arrow()["id"].to_pylist()) == [1, 2, 3, 3]
    assert table.scan(row_filter="id = 3").to_arrow()["day"].to_pylist() == ["c", "c"]
    assert [field.name for field in table.spec().fields] == list(by)
    assert all("/_changes/" not in path for path in table.inspect.files()["file_path"].to_pylist())


def test_repeated_commits_to_a_glue_catalog_add_rows_once(in_s3: Lake, use_warehouse: Callable[[str], None]) -> None:
    use_warehouse(f"glue:{in_s3.place}/warehouse")
    lake = replace(in_s3, format="iceberg")
    boto3.client("glue", region_name=REGION).create_database(DatabaseInput={"Name": "db"})
    planned = lake.planned(ONE, TWO)
    try:
        another = lake.planned(rows_of(id=[4], day=["d"]), number=1)
        with once_loaded(lambda: make(planned)):
            assert make(planned).already
        make(another)
        make(lake.planned(rows_of(id=[4], day=["D"]), number=2, mode="upsert", keys=("id",)))

        table = load().load_table("db.t")
        assert sorted(table.scan().to_arrow()["id"].to_pylist()) == [1, 2, 3, 4]
        assert table.scan(row_filter="id = 4").to_arrow()["day"].to_pylist() == ["D"]
    finally:
        load().drop_table("db.t")
        boto3.client("glue", region_name=REGION).delete_database(Name="db")


def test_streams_into_s3_tables_are_refused(table_bucket: str) -> None:
    """S3 Tables allow no files beside their data, and a chain on the worker's disk would be lost with the worker."""
    job = Job(event={"Records": [samples.kinesis("7")]}, params={"warehouse": table_bucket})

    with pytest.raises(TableError, match=r"iceberg:db\.t is in S3 Tables.*glue:s3://"):
        batch_of(job, Table("iceberg", "db.t"), None, cast("Any", None), is_read=False)


# --- Delta in Glue's catalog ---


@pytest.fixture
def glue(in_s3: Lake) -> Iterator[Any]:
    """Glue, without the database of the tests."""
    client = boto3.client("glue", region_name=REGION)
    yield client
    if "db" in [each["Name"] for each in client.get_databases()["DatabaseList"]]:
        client.delete_database(Name="db")


@pytest.fixture
def lake(in_s3: Lake, spark: SparkSession) -> Lake:
    """A Delta table at the place where the warehouse in Glue has the table ``db.t``."""
    return replace(in_s3, format="delta", place=f"{in_s3.place}/lake/db.db")


def in_glue(lake: Lake, rows: Any, **options: Any) -> Commit:
    bucket = lake.place.split("/")[2]
    return lake.planned(rows, warehouse=f"glue:s3://{bucket}/lake", **options)


def entry(glue: Any) -> dict[str, Any]:
    table: dict[str, Any] = glue.get_table(DatabaseName="db", Name="t")["Table"]
    return table


def columns(glue: Any) -> dict[str, str]:
    return {each["Name"]: each["Type"] for each in entry(glue)["StorageDescriptor"]["Columns"]}


def test_a_delta_table_gets_an_entry_in_glue(lake: Lake, glue: Any) -> None:
    planned = in_glue(lake, ONE, partition_by=("day",))

    make(replace(planned, writes=(lake.stage(0, ONE, ["day"]),)))

    glue_table = entry(glue)
    assert glue_table["TableType"] == "EXTERNAL_TABLE"
    assert glue_table["StorageDescriptor"]["Location"] == lake.table.place
    assert glue_table["Parameters"]["table_type"] == "DELTA"
    assert columns(glue) == {"id": "bigint"}
    assert glue_table["PartitionKeys"] == [{"Name": "day", "Type": "string"}]


def test_a_run_parameter_names_the_catalog(
    lake: Lake, glue: Any, table_bucket: str, commit_run: CommitRun, use_warehouse: Callable[[str], None]
) -> None:
    planned = in_glue(lake, ONE)
    commit_run.fix(planned)
    commit_run.run(warehouse=str(planned.warehouse))
    use_warehouse(table_bucket)
    load().create_namespace("db")
    load().create_table("db.t", TWO.schema)
    commit_run.fix(replace(lake, format="iceberg").planned(TWO))

    commit_run.run(made=[0], warehouse=table_bucket)

    assert columns(glue) == {"id": "bigint", "day": "string"}
    assert read(table_bucket).scan().to_arrow()["id"].to_pylist() == [3]


def test_a_new_column_is_added_to_the_glue_entry(lake: Lake, glue: Any) -> None:
    make(in_glue(lake, ONE))
    before = entry(glue)
    commented = [{**column, "Comment": f"of {column['Name']}"} for column in before["StorageDescriptor"]["Columns"]]
    edited_by_user = {
        "Name": "t",
        "Description": "sales",
        "PartitionKeys": [],
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {**before["Parameters"], "mine": "1"},
        "StorageDescriptor": {**before["StorageDescriptor"], "Columns": commented},
    }
    glue.update_table(DatabaseName="db", TableInput=edited_by_user)

    make(in_glue(lake, TWO.append_column("more", [[1.5]]), number=1, merge_schema=True))

    assert columns(glue) == {"id": "bigint", "day": "string", "more": "double"}
    assert (entry(glue)["Parameters"]["mine"], entry(glue)["Description"]) == ("1", "sales")
    assert entry(glue)["StorageDescriptor"]["Columns"][0]["Comment"] == "of id"
    version = entry(glue)["VersionId"]
    make(in_glue(lake, TWO, number=2))
    assert entry(glue)["VersionId"] == version  # nothing has changed


def test_a_repeated_commit_adds_a_missing_glue_entry(lake: Lake, glue: Any) -> None:
    planned = in_glue(lake, ONE)
    make(planned)
    glue.delete_table(DatabaseName="db", Name="t")  # as if the committer had been killed before this step

    assert make(planned).already

    assert columns(glue) == {"id": "bigint", "day": "string"}


def test_the_glue_entry_of_another_table_is_not_changed(lake: Lake, glue: Any) -> None:
    glue.create_database(DatabaseInput={"Name": "db"})
    other = {"Name": "t", "StorageDescriptor": {"Location": "s3://theirs/t", "Columns": []}, "PartitionKeys": []}
    glue.create_table(DatabaseName="db", TableInput=other)

    with pytest.raises(TableError, match=r"db\.t at s3://theirs/t"):
        make(in_glue(lake, ONE))

    assert entry(glue)["StorageDescriptor"]["Location"] == "s3://theirs/t"
    glue.delete_table(DatabaseName="db", Name="t")


@pytest.mark.parametrize("place", ["lake", "lake/a/db.db", "other/db.db"])
def test_a_table_outside_the_warehouse_gets_no_entry(in_s3: Lake, glue: Any, place: str) -> None:
    make(in_glue(replace(in_s3, format="delta", place=f"{in_s3.place}/{place}"), ONE))

    assert glue.get_databases()["DatabaseList"] == []
