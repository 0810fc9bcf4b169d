"""Shards that write different columns to one output: one Spark job over all inputs writes one schema."""

import io
import json
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparklet.ledger.clock import SystemClock
from sparklet.model import RunState, ShardState
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from tests.functional.worker.ledgered import BUCKET, DATA, Function
from tests.functional.worker.test_view import run
from tests.stand_ins.memory import MemoryTaskQueue

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

GUESSES = b"""
from sparklet.job import Job
job = Job.from_args()
rows = job.spark().read.json(job.input_list())
rows.write.mode("overwrite").parquet(job.output)
"""

AGREES = b"""
from sparklet.job import Job
from pyspark.sql import functions as F
job = Job.from_args()
guessed = job.spark().read.csv(job.input_list(), header=True, inferSchema=True)
guessed.write.mode("overwrite").parquet(job.output)
if guessed.count():
    guessed.select("v").write.mode("overwrite").parquet(job.output)
    guessed.select(F.col("id").cast("int"), "v").write.mode("overwrite").partitionBy("id").parquet(job.output + "/days")
    guessed.groupBy().count().write.csv(job.output + "/counts")
"""


def end_run(function: Function, run_id: str) -> tuple[RunState, str]:
    """Check a run; return the run's state, and the drift in its manifest, or "" without drift."""
    deployment = Deployment(BUCKET, function.store, function.ledger, MemoryTaskQueue(SystemClock()), SystemClock())
    report = check(deployment, run_id)
    manifest = json.loads(function.store.get(deployment.run_uri(run_id, "manifest.json")))
    return report.run.state, manifest["run"]["drift"] or ""


READ = b"""
import sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension").getOrCreate()
inputs = sys.argv[1]
rows = spark.read.%s
%s
"""
CSV, JSON, PARQUET = b"csv(inputs, header=True, inferSchema=True)", b"json(inputs)", b"parquet(inputs)"
AS_TEXT = b"rows.select(F.col('v').cast('string')).write.mode('overwrite').parquet(sys.argv[2])"
AS_CSV = b"rows.write.mode('overwrite').option('header', True).csv(sys.argv[2])"
AS_JSON = b"rows.write.mode('overwrite').json(sys.argv[2])"
BY_RDD = b"rows.rdd.map(str).saveAsTextFile(sys.argv[2])"
INNER = b"rows.select(F.col('v.a').cast('string')).write.mode('overwrite').text(sys.argv[2])"
COLLECTED = b"assert rows.where('v > 0').count() == len(rows.toPandas())\n# sparklet: runner=submit"
OTHER = b"rows.select('w').write.mode('overwrite').csv(sys.argv[2])"


def parquet(**columns: Any) -> bytes:
    pq.write_table(pa.table(columns), sink := io.BytesIO())
    return sink.getvalue()


def put(function: Function, name: str, *bodies: bytes) -> None:
    for number, body in enumerate(bodies):
        function.store.put(f"{DATA}/{name}/{number}", body)


def run_shards(function: Function, run_id: str, script: bytes, *bodies: bytes) -> tuple[RunState, str]:
    """Run a shard for each of these inputs; return the run's state and the drift in its manifest."""
    for number, body in enumerate(bodies):
        function.store.put(f"{DATA}/{run_id}/{number}", body)
    args = ("{input}", "{output}")
    records = run(function, run_id, script, f"{DATA}/{run_id}/", args=args, max_objects=1)
    assert {record.state for record in records} == {ShardState.SUCCEEDED}
    return end_run(function, run_id)


@pytest.mark.parametrize(
    ("reader", "write", "bodies", "difference"),
    [
        (CSV, AS_TEXT, (b"v,w\n00100,1\n", b"v,w\nAB0,2\n"), "v is bigint and string"),
        (CSV, AS_CSV, (b"v,w\n1.50,1\n", b"v,w\nx,2\n"), "v is double and string"),
        (JSON, AS_JSON, (b'{"v": "1"}\n', b'{"v": 1}\n'), "v is string and bigint"),
        (JSON, AS_TEXT, (b'{"v": 1.0}\n', b'{"v": 1}\n'), "v is double and bigint"),
        (JSON, INNER, (b'{"v": {"a": 1}}\n', b'{"v": {"a": 1.5, "b": 2}}\n'), "v.a is bigint and double"),
        (JSON, BY_RDD, (b'{"v": [1]}\n', b'{"v": 1}\n'), "v is array and bigint"),
        (PARQUET, AS_JSON, (parquet(v=[{"a": 1}]), parquet(v=[{"a": "1"}])), "v.a is bigint and string"),
        (JSON, COLLECTED, (b'{"v": 1.5}\n', b'{"v": 1}\n'), "v is double and bigint"),
        (PARQUET, AS_JSON, (parquet(v=[1]), parquet(v=[1], w=["x"])), "only the second has w string"),
    ],
)
def test_other_inferred_types_fail_the_run(
    function: Function, reader: bytes, write: bytes, bodies: tuple[bytes, ...], difference: str
) -> None:
    """This holds even if the output hides the types; the message names the inputs."""
    run_id = f"inferred-{zlib.crc32(repr((reader, write, bodies)).encode()):x}"

    state, drift = run_shards(function, run_id, READ % (reader, write), *bodies)

    assert state is RunState.FAILED and f"({difference})" in drift
    assert f"{DATA}/{run_id}/0 and {DATA}/{run_id}/1" in drift


@pytest.mark.parametrize(
    ("reader", "write", "bodies"),
    [
        (CSV, OTHER, (b"v,w\n1,1\n", b"v,w\nx,2\n")),  # v is not referred to
        (CSV, AS_CSV, (b"v,w\n1,1\n", b"v,w\n,9999999999\n", b"v,w\n")),  # no value; a wider integer; no row
        (CSV, AS_TEXT, (b"v,w\n1,1\n", b"v,w\nx,2\n", b"v,w\n1.5,2\n")),  # each the text of its file
        (JSON, AS_TEXT, (b'{"v": 1}\n', b'{"v": null}\n' * 1200, b'{"v": 2, "x": 1}\n')),
        (JSON, INNER, (b'{"v": {"a": 1}}\n', b'{"v": {"a": "x", "b": 2}}\n')),  # the text, which is the same
        (b"schema('v STRING').json(inputs)", AS_JSON, (b'{"v": "1"}\n', b'{"v": 1}\n')),
        (PARQUET, INNER, (parquet(v=[{"a": 1, "b": 1}]), parquet(v=[{"a": 1, "b": "1"}]))),
    ],
)
def test_types_without_effect_on_the_output_fail_no_run(
    function: Function, reader: bytes, write: bytes, bodies: tuple[bytes, ...]
) -> None:
    run_id = f"equal-{zlib.crc32(repr((reader, write, bodies)).encode()):x}"

    assert run_shards(function, run_id, READ % (reader, write), *bodies) == (RunState.SUCCEEDED, "")


def test_schemas_that_one_job_would_write_fail_no_run(function: Function) -> None:
    """These are overwritten output, other outputs below it, a shard without rows, and partition values in folders."""
    for name, rows in {"a": b"1,x", "b": b"2,y", "none": b""}.items():
        function.store.put(f"{DATA}/agree/{name}.csv", b"id,v\n" + rows)

    records = run(function, "agree", AGREES, f"{DATA}/agree/", args=(), max_objects=1)

    assert [len(record.schemas) for record in records] == [4, 4, 1]  # the last has no row, and so no output
    assert end_run(function, "agree") == (RunState.SUCCEEDED, "")
