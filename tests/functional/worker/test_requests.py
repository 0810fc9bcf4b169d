"""What a shard asks of S3, counted by a proxy, and that what it leaves there is right all the same."""

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
ASKS = not pyspark.__version__.startswith("3.")  # Hadoop's S3A since 3.4 must not be told another ETag
MAX_REQUESTS = 5  # beside one for each input; docs/decisions/0035-requests-to-s3.md says for what
PARQUET_TO_PARQUET = b"""
from sparklet.job import Job

job = Job.from_args()
job.spark().read.parquet(*job.input_list()).coalesce(1).write.parquet(job.output)
"""
SMALL_ROWS, LARGE_ROWS = 10, 800_000  # up to 8 MiB, and above
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
        """One shard; what was asked meanwhile."""
        ref = self.function.plan(script, inputs)
        part = f"s3://{BUCKET}/runs/{ref.run_id}/plan/{ref.part}"
        ref = replace(ref, line=self.function.store.get(part, ref.offset, ref.length).decode())
        self.function.said()
        del self.proxy.asked[:]
        assert self.function.deliver(ref) == [], self.function.said().decode()[-3000:]
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
        """What a script that begins with HEAD leaves in the output, by its path without its name."""
        ref = self.function.plan(HEAD + script)
        self.function.said()
        assert self.function.deliver(ref) == [], self.function.said().decode()[-3000:]
        record = self.function.shard(ref)
        assert record.state is ShardState.SUCCEEDED, record.error_message
        folder = self.function.ledger.runs.get(ref.run_id).shard_output(0)
        eventually(lambda: not self.staged(ref))  # beside the answer
        found = self.function.store.list(f"{folder}/")
        return {info.uri.removeprefix(f"{folder}/"): self.function.store.get(info.uri) for info in found}


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
    asked = counted.run(script, *[counted.put(name, 1000) for name in names])
    once = ("/script/", "/schemas/")  # which a worker fetches, or stores, once a run
    asked = [each for each in asked if not any(part in each for part in once)]
    of_inputs = [each for each in asked if "/in/" in each]

    assert len(asked) - len(of_inputs) <= MAX_REQUESTS, json.dumps(asked, indent=1)
    assert sum(each.startswith("PUT") for each in asked) == 2  # the file, its copy
    assert sum(each.startswith("GET") for each in of_inputs) == len(names)
    assert len(of_inputs) == len(names) * (1 + ASKS)  # the plan knows size and time


@pytest.mark.parametrize("rows", [SMALL_ROWS, LARGE_ROWS])
def test_a_slice_of_text_is_read_once(counted: Counted, rows: int) -> None:
    """And the header once for all slices but the first, whose own it is."""
    whole, header = counted.function.listed(counted.put("cut.csv", rows)), len(b"id,name\n")
    cuts = (header, header + len(b"0,n0\n1,n1\n"), whole.size_bytes)
    slices = [Slice(SliceKind.LINES, start, end, header) for start, end in pairwise(cuts)]

    inputs = [replace(whole, size_bytes=part.end - part.start, slice=part) for part in slices]
    asked = counted.run(HEAD + b"print('ROWS', spark.read.csv(job.input_list(), header=True).count())\n", *inputs)

    assert b"ROWS %d\n" % rows in counted.function.said()
    of_input = [each for each in asked if "/in/cut.csv" in each]
    assert sorted(each.split()[0] for each in of_input) == ["GET"] * 3 + ["HEAD"] * 2 * ASKS, of_input


def test_nobody_asks_for_a_file_that_a_table_gets(counted: Counted) -> None:
    append = b"""
from sparklet.job import Job

job = Job.from_args()
rows = job.spark().read.csv(job.input_list(), header=True)
job.append(rows, "delta:s3://%s/tables/asked")
"""
    counted.run(append % BUCKET.encode(), counted.put("a.csv", 10))  # which makes it

    asked = counted.run(append % BUCKET.encode(), counted.put("b.csv", 10))

    assert [each.split("/")[0] for each in asked if "/tables/asked/part-" in each] == ["PUT "], json.dumps(
        asked, indent=1
    )


def test_sparks_own_writes_are_published_as_spark_means_them(counted: Counted) -> None:
    """Alone, whatever the format; by each save mode; and nothing of a write that failed or had no rows."""
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

    found = counted.published(b"formats = %r\n" % (formats,) + script)

    for writer in formats:
        names = [name.partition("/")[2] for name in found if name.startswith(f"{writer}/")]
        assert len(names) == 3 and all(name.startswith("part-0000") for name in names), names
    counts = {"day=0": 34, "day=1": 5, "day=2": 33, "parquet": 100, "over": 7, "more": 200, "one": 100, "bad": 100}
    assert {name: rows(found, f"{name}/") for name in counts} == counts
    assert {name.partition("/")[0] for name in found} == {*formats, *counts}


UNAWAITED = b"""
SLOW = F.udf(lambda id: time.sleep(600 if id > 70 else 0) or id, "long")
slow = rows.repartitionByRange(2, "id").select(SLOW("id").alias("x"))
threading.Thread(target=lambda: slow.write.parquet(job.output + "/slow"), daemon=True).start()
rows.write.parquet(job.output + "/done")
while not stored_bytes(spark, job.output) > stored_bytes(spark, job.output + "/done"):
    time.sleep(0.2)  # until the first of the two tasks has written its file
"""


@pytest.mark.parametrize("options", [b"", OWN_JVM])
def test_a_write_that_the_script_does_not_await_is_none(counted: Counted, options: bytes) -> None:
    found = counted.published(UNAWAITED + options)

    assert {name.partition("/")[0] for name in found} == {"done"}


def test_other_places_keep_sparks_own_protocol(counted: Counted) -> None:
    counted.published(b"""
rows.write.parquet("s3://sparklet-runs/elsewhere/" + job.event["sparklet"]["run"])
rows.write.saveAsTable("here")
assert spark.table("here").count() == 100
""")
    names = [info.uri.rpartition("/")[2] for info in counted.function.store.list(f"s3://{BUCKET}/elsewhere/")]
    assert "_SUCCESS" in names


def test_an_events_task_keeps_sparks_own_protocol(counted: Counted) -> None:
    output, script = f"s3://{BUCKET}/of_event", f"s3://{BUCKET}/scripts/of_event.py"
    counted.function.store.put(script, HEAD + UNAWAITED.replace(b"job.output", b'job.event["to"]'))

    answer = counted.function.invoke({"sparklet": {"script": script}, "to": output})

    assert "SUCCEEDED" in str(answer)
    found = [info.uri.removeprefix(output) for info in counted.function.store.list(f"{output}/")]
    assert "/done/_SUCCESS" in found
    assert not [name for name in found if name.startswith("/slow/part-")]  # nobody committed that write


@pytest.mark.parametrize(
    ("rows", "then", "said"),
    [
        (LARGE_ROWS, b"fails(frame.collect)", b"THEN Py4JJavaError"),
        (SMALL_ROWS, b"{row.name[0] for row in frame.collect()}", b"THEN {'n'}"),  # it was read whole
    ],
)
def test_of_an_input_replaced_while_it_is_read_nothing_is_mixed(
    counted: Counted, rows: int, then: bytes, said: bytes
) -> None:
    uri = counted.put("changing.csv", rows)
    found = counted.function.plan(
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
    counted.function.said()
    counted.function.deliver(found)
    assert said in counted.function.said()


@pytest.mark.parametrize(("incremental", "listed"), [(False, True), (False, False), (True, False)])
def test_only_a_redrive_takes_an_input_that_was_repaired(counted: Counted, incremental: bool, listed: bool) -> None:
    """Whether the plan knows its time, by S3's listing, or not, by a list."""
    function, uri = counted.function, counted.put("replaced.csv", 10)
    item = function.listed(uri) if listed else replace(function.listed(uri), modified_s=0.0)
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
    assert second.state is (ShardState.FAILED if incremental else ShardState.SUCCEEDED)  # the next run takes it as new


@pytest.mark.parametrize("part", [None, Slice(SliceKind.LINES, 8, 18, 8), Slice(SliceKind.LINES, 13, 18, 8)])
def test_an_input_that_is_gone_ends_its_shard_at_once(counted: Counted, part: Slice | None) -> None:
    uri = counted.put("gone.csv", 10)
    ref = counted.function.plan(CSV_TO_PARQUET, [replace(counted.function.listed(uri), slice=part)])
    counted.function.store.delete_all([uri], uri)

    assert counted.function.deliver(ref) == []

    assert counted.function.shard(ref).state is ShardState.FAILED
    assert uri.removeprefix("s3://") in counted.function.shard(ref).error_message
