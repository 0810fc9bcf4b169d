"""A shard makes few requests to S3, which a proxy counts, and publishes the right output with them."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest

from sparklet.model import InputObject, ShardRef, ShardState, Slice, SliceKind
from tests.contract.lossy_proxy import LossyProxy, lossy_proxy
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import BUCKET, Function, deployed
from tests.waiting import eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

CSV_TO_PARQUET = (Path(__file__).parents[3] / "spark_scripts" / "csv_to_parquet.py").read_bytes()
OWN_JVM = b"# sparklet: runner=submit\n"
ASKS = not pyspark.__version__.startswith("3.")  # S3A since Hadoop 3.4 needs the real ETag, and so a HEAD request
MAX_REQUESTS = 5  # without the requests for inputs; docs/decisions/0035-requests-to-s3.md lists them
PARQUET_TO_PARQUET = b"""
from sparklet.job import Job

job = Job.from_args()
job.spark().read.parquet(*job.input_list()).coalesce(1).write.parquet(job.output)
"""
SMALL_ROWS, LARGE_ROWS = 10, 800_000  # files below and above 8 MiB
HEAD = b"""
import threading, time
from pyspark.sql import functions as F
from sparklet.job import Job, stored_bytes

job = Job.from_args()
spark = job.spark()
rows = spark.range(100).withColumn("day", F.col("id") % 3)
FAILS = F.udf(lambda id: 1 // (70 - id), "long")  # in the second of two tasks


def fails(write):
    try:
        write()
    except Exception as error:
        return type(error).__name__
    raise AssertionError("it did not fail")


def is_there(uri):
    path = spark._jvm.org.apache.hadoop.fs.Path(uri)
    return path.getFileSystem(spark._jsc.hadoopConfiguration()).exists(path)

"""


@dataclass(frozen=True)
class Counted:
    """A worker whose requests to S3 pass through a proxy."""

    function: Function
    proxy: LossyProxy

    def run(self, script: bytes, *inputs: str | InputObject) -> list[str]:
        """Run one shard; return the requests that it made."""
        ref = self.function.with_line(self.function.plan(script, inputs))
        self.function.skip_log()
        del self.proxy.asked[:]
        assert self.function.deliver(ref) == [], self.function.new_log().decode()[-3000:]
        eventually(lambda: not self.staged(ref))
        return [each for each in self.proxy.asked if f"prefix=staged%2F{ref.run_id}%2F&" not in each]

    def put(self, name: str, rows: int) -> str:
        uri, body = f"s3://{BUCKET}/in/{name}", b"id,name\n" + b"".join(b"%d,n%d\n" % (n, n) for n in range(rows))
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"id": range(rows)}), sink := io.BytesIO())
            body = sink.getvalue()
        self.function.store.put(uri, body)
        return uri

    def staged(self, ref: ShardRef) -> list[str]:
        staged = self.function.store.list(f"s3://{BUCKET}/staged/{ref.run_id}/")
        return [info.uri for info in staged if not info.uri.endswith("/")]

    def published(self, script: bytes) -> dict[str, bytes]:
        """Run HEAD and a script as one shard; return the published files by their path in the shard's output."""
        ref = self.function.plan(HEAD + script)
        self.function.skip_log()
        assert self.function.deliver(ref) == [], self.function.new_log().decode()[-3000:]
        record = self.function.shard(ref)
        assert record.state is ShardState.SUCCEEDED, record.error_message
        folder = self.function.ledger.runs.get(ref.run_id).shard_output(0)
        eventually(lambda: not self.staged(ref))  # deleted while the response is sent
        infos = self.function.store.list(f"{folder}/")
        return {info.uri.removeprefix(f"{folder}/"): self.function.store.get(info.uri) for info in infos}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    folder, scratch = tmp_path_factory.mktemp("function"), tmp_path_factory.mktemp("scratch")
    with (
        lossy_proxy("") as (proxy, endpoint),
        deployed(folder, scratch, AWS_ENDPOINT_URL_S3=endpoint, **local_jars()) as function,
    ):
        proxy.backend = function.clients.s3.meta.endpoint_url
        yield Counted(function, proxy)


def rows(files: dict[str, bytes], folder: str) -> int:
    return sum(pq.read_table(io.BytesIO(body)).num_rows for name, body in files.items() if name.startswith(folder))


@pytest.mark.parametrize(
    ("script", "names"),
    [
        (CSV_TO_PARQUET, ["a.csv"]),
        (OWN_JVM + CSV_TO_PARQUET, ["a.csv"]),
        (PARQUET_TO_PARQUET, ["a.parquet"]),
        (PARQUET_TO_PARQUET, [f"{number}.parquet" for number in range(20)]),
    ],
    ids=["csv", "csv, a JVM of its own", "parquet", "several"],
)
def test_a_shard_makes_few_requests(counted: Counted, script: bytes, names: list[str]) -> None:
    requests = counted.run(script, *[counted.put(name, 1000) for name in names])
    once = ("/script/", "/schemas/")  # objects that a worker reads or writes only once in a run
    requests = [each for each in requests if not any(part in each for part in once)]
    for_inputs = [each for each in requests if "/in/" in each]

    assert len(requests) - len(for_inputs) <= MAX_REQUESTS, json.dumps(requests, indent=1)
    assert sum(each.startswith("PUT") for each in requests) == 2  # the file and its copy
    assert sum(each.startswith("GET") for each in for_inputs) == len(names)
    assert len(for_inputs) == len(names) * (1 + ASKS)  # the plan has size and time


@pytest.mark.parametrize("rows", [SMALL_ROWS, LARGE_ROWS])
def test_a_slice_of_text_is_read_once(counted: Counted, rows: int) -> None:
    """The header, which is in the first slice, is read once more for all other slices."""
    whole, header = counted.function.input_object(counted.put("cut.csv", rows)), len(b"id,name\n")
    cuts = (header, header + len(b"0,n0\n1,n1\n"), whole.size_bytes)
    slices = [Slice(SliceKind.LINES, start, end, header) for start, end in pairwise(cuts)]

    inputs = [replace(whole, size_bytes=part.end - part.start, slice=part) for part in slices]
    requests = counted.run(HEAD + b"print('ROWS', spark.read.csv(job.input_list(), header=True).count())\n", *inputs)

    assert b"ROWS %d\n" % rows in counted.function.new_log()
    for_input = [each for each in requests if "/in/cut.csv" in each]
    assert sorted(each.split()[0] for each in for_input) == ["GET"] * 3 + ["HEAD"] * 2 * ASKS, for_input


def test_a_file_for_a_table_is_put_without_other_requests(counted: Counted) -> None:
    append = b"""
from sparklet.job import Job

job = Job.from_args()
rows = job.spark().read.csv(job.input_list(), header=True)
job.append(rows, "delta:s3://%s/tables/asked")
"""
    counted.run(append % BUCKET.encode(), counted.put("a.csv", 10))  # creates the table

    requests = counted.run(append % BUCKET.encode(), counted.put("b.csv", 10))

    for_file = [each.split("/")[0] for each in requests if "/tables/asked/part-" in each]
    assert for_file == ["PUT "], json.dumps(requests, indent=1)


def test_spark_writes_in_all_modes_are_published_rightly(counted: Counted) -> None:
    """Only data files of each format are published, as each save mode says, and no file of a failed or empty write."""
    formats = ("parquet", "orc", "json", "csv", "text")
    script = b"""
rows.write.partitionBy("day").parquet(job.output)
spark.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
rows.where("day = 1").limit(5).write.partitionBy("day").mode("overwrite").parquet(job.output)
spark.conf.set("spark.sql.sources.partitionOverwriteMode", "static")
for writer in formats:
    frame = rows.selectExpr("string(id)") if writer == "text" else rows
    frame.repartition(3).write.format(writer).save(f"{job.output}/{writer}")
rows.write.mode("overwrite").parquet(job.output + "/over")
rows.limit(7).write.mode("overwrite").parquet(job.output + "/over")
rows.write.mode("append").parquet(job.output + "/more")
rows.write.mode("append").parquet(job.output + "/more")
rows.write.parquet(job.output + "/one")
assert fails(lambda: rows.write.parquet(job.output + "/one")) == "AnalysisException"
rows.write.mode("ignore").parquet(job.output + "/one")
rows.where("id < 0").write.partitionBy("day").parquet(job.output + "/none")
assert stored_bytes(spark, job.output + "/none") == 0
bad = rows.repartitionByRange(2, "id").select(FAILS("id").alias("x"), "day")
fails(lambda: bad.write.parquet(job.output + "/bad"))
rows.write.mode("append").parquet(job.output + "/bad")  # the other task may end late, and then leave its file
"""

    files = counted.published(b"formats = %r\n" % (formats,) + script)

    for writer in formats:
        names = [name.partition("/")[2] for name in files if name.startswith(f"{writer}/")]
        assert len(names) == 3 and all(name.startswith("part-0000") for name in names), names
    counts = {"day=0": 34, "day=1": 5, "day=2": 33, "parquet": 100, "over": 7, "more": 200, "one": 100, "bad": 100}
    assert {name: rows(files, f"{name}/") for name in counts} == counts
    assert {name.partition("/")[0] for name in files} == {*formats, *counts}


UNAWAITED = b"""
SLOW = F.udf(lambda id: time.sleep(600 if id > 70 else 0) or id, "long")
slow = rows.repartitionByRange(2, "id").select(SLOW("id").alias("x"))
threading.Thread(target=lambda: slow.write.parquet(job.output + "/slow"), daemon=True).start()
rows.write.parquet(job.output + "/done")
while not stored_bytes(spark, job.output) > stored_bytes(spark, job.output + "/done"):
    time.sleep(0.2)  # until the first of the two tasks has written its file
"""


@pytest.mark.parametrize("options", [b"", OWN_JVM])
def test_an_unfinished_write_of_a_thread_is_not_published(counted: Counted, options: bytes) -> None:
    files = counted.published(UNAWAITED + options)

    assert {name.partition("/")[0] for name in files} == {"done"}


def test_writes_to_other_places_use_sparks_commit_protocol(counted: Counted) -> None:
    counted.published(b"""
rows.write.parquet("s3://sparklet-runs/elsewhere/" + job.event["sparklet"]["run"])
rows.write.saveAsTable("here")
assert spark.table("here").count() == 100
""")
    names = [info.uri.rpartition("/")[2] for info in counted.function.store.list(f"s3://{BUCKET}/elsewhere/")]
    assert "_SUCCESS" in names


def test_the_task_of_an_event_uses_sparks_commit_protocol(counted: Counted) -> None:
    output, script = f"s3://{BUCKET}/of_event", f"s3://{BUCKET}/scripts/of_event.py"
    counted.function.store.put(script, HEAD + UNAWAITED.replace(b"job.output", b'job.event["to"]'))

    answer = counted.function.invoke({"sparklet": {"script": script}, "to": output})

    assert "SUCCEEDED" in str(answer)
    names = [info.uri.removeprefix(output) for info in counted.function.store.list(f"{output}/")]
    assert "/done/_SUCCESS" in names
    assert not [name for name in names if name.startswith("/slow/part-")]  # this write was never committed


@pytest.mark.parametrize(
    ("rows", "then", "line"),
    [
        (LARGE_ROWS, b"fails(frame.collect)", b"THEN Py4JJavaError"),
        # The first read has read the whole object.
        (SMALL_ROWS, b"{row.name[0] for row in frame.collect()}", b"THEN {'n'}"),
    ],
)
def test_rows_of_a_replaced_input_are_not_mixed(counted: Counted, rows: int, then: bytes, line: bytes) -> None:
    """The object is replaced after the script has read it once."""
    uri = counted.put("changing.csv", rows)
    ref = counted.function.plan(
        HEAD
        + b"""
import boto3
frame = spark.read.csv(job.input_list(), header=True)
assert frame.count() == %d
boto3.client("s3").put_object(Bucket="sparklet-runs", Key="in/changing.csv", Body=b"id,name\\n1,other\\n2,more\\n")
print("THEN", %b)
"""
        % (rows, then),
        [uri],
    )
    counted.function.skip_log()
    counted.function.deliver(ref)
    assert line in counted.function.new_log()


@pytest.mark.parametrize(("incremental", "listed"), [(False, True), (False, False), (True, False)])
def test_only_a_redrive_reads_an_input_that_was_replaced(counted: Counted, incremental: bool, listed: bool) -> None:
    """The plan has the time of an object from S3's listing, but not if the user gives a list of inputs."""
    function, uri = counted.function, counted.put("replaced.csv", 10)
    item = function.input_object(uri) if listed else replace(function.input_object(uri), modified_s=0.0)
    options: dict[str, Any] = {"incremental": True, "existing": "append"} if incremental else {}
    ref = function.plan(CSV_TO_PARQUET, [item], **options)
    counted.put("replaced.csv", 11)

    assert function.deliver(ref) == []
    first = function.shard(ref)
    run = function.ledger.runs.get(ref.run_id)
    run = function.ledger.runs.start_generation(ref.run_id, 1, run.scripts[0])
    function.ledger.attempts.redrive(ref.run_id, ref.shard, run.generation)
    assert function.deliver(replace(ref, generation=1)) == []
    second = function.shard(ref)

    assert first.state is ShardState.FAILED
    assert uri.removeprefix("s3://") in first.error_message
    # Of an incremental run also the redrive fails, as the next run reads the new object.
    assert second.state is (ShardState.FAILED if incremental else ShardState.SUCCEEDED)


@pytest.mark.parametrize("part", [None, Slice(SliceKind.LINES, 8, 18, 8), Slice(SliceKind.LINES, 13, 18, 8)])
def test_a_deleted_input_fails_the_shard_without_a_retry(counted: Counted, part: Slice | None) -> None:
    uri = counted.put("gone.csv", 10)
    ref = counted.function.plan(CSV_TO_PARQUET, [replace(counted.function.input_object(uri), slice=part)])
    counted.function.store.delete_all([uri], uri)

    assert counted.function.deliver(ref) == []

    assert counted.function.shard(ref).state is ShardState.FAILED
    assert uri.removeprefix("s3://") in counted.function.shard(ref).error_message
