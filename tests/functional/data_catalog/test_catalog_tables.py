"""A run over a table in the local stack's Glue, from the request to the rows."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet

from sparklet.client import Stack
from sparklet.connectors.data_catalog.frames import LINE
from sparklet.errors import RunFailedError
from tests.stand_ins.glue import partition_input, table_input

pytestmark = [pytest.mark.stack, pytest.mark.spark, pytest.mark.slow]
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
SCRIPT = """\
from sparklet.job import Job

job = Job.from_args()
rates = job.table("sales.rates", "region = 'eu'")
job.table("sales.orders").join(rates, "id").write.mode("overwrite").parquet(job.output)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(state_dir=tmp_path_factory.mktemp("stack"), quiet=True, workers=1) as stack:
        lake = f"s3://{stack.opened.deployment.bucket}/lake"
        boto3.Session().client("glue").create_database(DatabaseInput={"Name": "sales"})
        orders = table_input("orders", f"{lake}/orders/", "id int", "day date")
        create(orders, [partition_input(orders, [day], f"{lake}/orders/{day}") for day in DAYS])
        rates = table_input("rates", f"{lake}/rates/", "id int;rate double", "region string")
        create(rates, [partition_input(rates, [region], f"{lake}/rates/{region}") for region in ("eu", "us")])
        for n, day in enumerate(DAYS):
            put(stack, f"{lake}/orders/{day}/a [b].parquet", id=pa.array([n, 10 + n], pa.int32()))
        put(stack, f"{lake}/rates/eu/a.parquet", id=pa.array([0, 1, 2], pa.int32()), rate=[1.0, 1.5, 2.0])
        put(stack, f"{lake}/rates/us/a.parquet", id=pa.array([0, 1, 2], pa.int32()), rate=[9.0, 9.0, 9.0])
        yield stack


def create(table: dict[str, Any], partitions: list[dict[str, Any]]) -> None:
    glue = boto3.Session().client("glue")
    glue.create_table(DatabaseName="sales", TableInput=table)
    name = {"DatabaseName": "sales", "TableName": table["Name"]}
    assert not glue.batch_create_partition(**name, PartitionInputList=partitions).get("Errors")


def put(stack: Stack, uri: str, **columns: Any) -> None:
    body = BytesIO()
    parquet.write_table(pa.table(columns), body)
    stack.opened.deployment.store.put(uri, body.getvalue())


def test_each_shard_reads_its_objects_of_the_table(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "join.py"
    script.write_text(SCRIPT)

    where = "day >= '2026-01-02'"
    result = stack.run(script, "glue:sales.orders", tmp_path / "out", where=where, max_objects=1).result()

    assert (result["state"], result["shards"]["total"]) == ("SUCCEEDED", 2)
    found = duckdb.sql(f"SELECT id, CAST(day AS VARCHAR), rate FROM '{tmp_path}/out/*/*.parquet' ORDER BY id")
    assert found.fetchall() == [(1, "2026-01-02", 1.5), (2, "2026-01-03", 2.0)]


COPY = """\
from pyspark.sql import SparkSession
from sparklet.job import Job

job = Job.from_args()
{rows}.write.mode("overwrite").parquet(job.output)
"""
OF_JOB, OF_SPARK = 'job.table("Sales.Visits")', 'SparkSession.builder.getOrCreate().table("sales.visits")'


@pytest.mark.parametrize(
    ("form", "rows"),
    [("parquet", OF_JOB), pytest.param("json", OF_SPARK, marks=pytest.mark.nightly), ("csv", OF_SPARK)],
)
def test_every_row_is_read_once_with_its_values(stack: Stack, tmp_path: Path, form: str, rows: str) -> None:
    """The files are cut by rows; their folders are named after the values, in other ways, or outside the table's."""
    lake, glue = f"s3://{stack.opened.deployment.bucket}/{form}", boto3.Session().client("glue")
    header = {"skip.header.line.count": "1"} if form == "csv" else {}
    table = table_input("visits", f"{lake}/visits/", OF_VISITS, "day date;hour int;who string", form, Parameters=header)
    null = "__HIVE_DEFAULT_PARTITION__"
    partitions = {
        ("2026-01-01", "7", "a/b: é"): f"{lake}/visits/day=2026-01-01/hour=7/who=a%2Fb%3A é",
        ("2026-01-01", "08", "a b"): f"{lake}/visits/day=2026-01-01/hour=08/who=a b",
        ("2026-01-02", "9", "é"): f"{lake}/elsewhere [1]/who=%C3%A9",
        ("2026-01-03", null, null): f"{lake}/visits/day=2026-01-03/hour={null}/who={null}",
    }
    create(table, [partition_input(table, values, folder) for values, folder in partitions.items()])
    expected = []
    for n, (values, folder) in enumerate(partitions.items()):
        numbers = range(1000 * n, 1000 * n + 150)
        stack.opened.deployment.store.put(f"{folder}/1 + {n}.{form}", content(form, numbers))
        day, hour, who = (None if value == null else value for value in values)
        expected += [(i, f"t{i}", None, day, int(hour or -1), who) for i in numbers]
    script = tmp_path / "copy.py"
    script.write_text(COPY.format(rows=rows))
    cut, size = ("lines", "3000") if form == "json" else (form, "1500")  # rows of JSON are twice as long

    run = stack.run(script, "glue:sales.visits", tmp_path / "out", split=cut, shard_size=size)
    result, logs = run.result(), stack.opened.logs
    glue.delete_table(DatabaseName="sales", Name="visits")

    assert result["state"] == "SUCCEEDED" and result["shards"]["total"] > 4
    found = duckdb.sql(
        "SELECT id, text, late, CAST(day AS VARCHAR), coalesce(hour, -1), who "
        f"FROM read_parquet('{tmp_path}/out/*/*.parquet', hive_partitioning = false) ORDER BY id"
    )
    assert found.fetchall() == expected
    log_lines = [line for stream in logs.streams(run.run_id, None, 0.0) for line in logs.read(stream, "", 0.0)[0]]
    assert log_lines and not any(LINE in line for line in log_lines)  # Spark would warn of each header


OF_VISITS = "id int;text string;late double"


def content(form: str, numbers: range) -> bytes:
    """A file's content: rows without the last column."""
    if form == "parquet":
        body = BytesIO()
        ids, texts = pa.array(numbers, pa.int32()), [f"t{n}" for n in numbers]
        parquet.write_table(pa.table({"id": ids, "text": texts}), body, row_group_size=80)
        return body.getvalue()
    line = '{{"ID": {0}, "Text": "t{0}"}}\n' if form == "json" else '"{0}",t{0}\n'
    head = "id,text\n" if form == "csv" else ""
    return (head + "".join(line.format(n) for n in numbers)).encode()


def test_a_missing_table_fails_a_shard_at_once(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "none.py"
    script.write_text(SCRIPT.replace("sales.rates", "sales.none"))

    run = stack.run(script, "glue:sales.orders", tmp_path / "out", where="day = '2026-01-01'")

    with pytest.raises(RunFailedError):
        run.result()

    (failed,) = run.failures()
    assert (failed["error_class"], failed["count"]) == ("TableError", 1)
    assert "sales.none" in failed["message"] and "there is none of that name" in failed["message"]
    assert [record.attempts for record in stack.opened.deployment.ledger.shards.list(run.run_id)] == [1]
