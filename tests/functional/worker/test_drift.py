"""Shards that write different columns to one output: one Spark job over all inputs writes one schema."""

import json

import pytest

from sparklet.clock import SystemClock
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


def ended(function: Function, run_id: str) -> tuple[RunState, str]:
    """How a check ends the run, and the drift in its manifest."""
    at = Deployment(BUCKET, function.store, function.ledger, MemoryTaskQueue(SystemClock()), SystemClock())
    report = check(at, run_id)
    return report.run.state, json.loads(function.store.get(at.run_uri(run_id, "manifest.json"))).get("Drift", "")


def test_shards_with_other_types_fail_the_run(function: Function) -> None:
    for name, line in {"a": b'{"id": 1, "v": 1}', "b": b'{"id": 2, "v": "x"}'}.items():
        function.store.put(f"{DATA}/types/{name}.json", line + b"\n")

    records = run(function, "types", GUESSES, f"{DATA}/types/", args=(), max_objects=1)
    state, drift = ended(function, "types")

    assert {record.state for record in records} == {ShardState.SUCCEEDED}
    assert state is RunState.FAILED and "v is bigint and string" in drift
    named = [word for word in drift.replace("(", " ").split() if word.endswith(".parquet")]
    assert len(named) == 2 and all(function.store.head(uri) for uri in named)


def test_what_one_job_would_write_does_not_fail_a_run(function: Function) -> None:
    """What is overwritten, other outputs below it, a shard without rows, values of partitions that are folders."""
    for name, rows in {"a": b"1,x", "b": b"2,y", "none": b""}.items():
        function.store.put(f"{DATA}/agree/{name}.csv", b"id,v\n" + rows)

    records = run(function, "agree", AGREES, f"{DATA}/agree/", args=(), max_objects=1)

    assert [len(record.schemas) for record in records] == [3, 3, 0]  # files of the last have other types, and no row
    assert ended(function, "agree") == (RunState.SUCCEEDED, "")
