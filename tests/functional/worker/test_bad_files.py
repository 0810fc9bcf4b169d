"""The cause names the file that cannot be read, although Spark often does not, or hides it in another error."""

import gzip
import io
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import orc
from pyarrow import parquet as pq

from sparklet.model import InputObject, ShardState
from tests.functional.worker.ledgered import BUCKET, Function

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

JOB = """
from sparklet.job import Job
job = Job.from_args()
reader = job.spark().read.schema("a LONG, b STRING").option("mode", "FAILFAST").option("header", "true")
frame = reader.format("{format}").load([*job.inputs])
{action}
"""
ACTIONS = {
    "written": "frame.write.parquet(job.output)",
    "written by a JVM of its own": "frame.write.parquet(job.output)\n# sparklet: runner=submit",
    "shuffled": "frame.groupBy('a').count().write.parquet(job.output)",
}
FAILED, RETRIED = ShardState.FAILED, ShardState.PENDING


def parquet(values: list[Any]) -> bytes:
    pq.write_table(pa.table({"a": values, "b": ["x"] * len(values)}), buffer := io.BytesIO())
    return buffer.getvalue()


def orc_file() -> bytes:
    orc.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), buffer := io.BytesIO())
    return buffer.getvalue()


def damaged(body: bytes, offset: int) -> bytes:
    return body[:offset] + b"\xff" * 60 + body[offset + 60 :]


CSV = b"a,b\n1,x\n2,y\n"
GZIP = gzip.compress(b"".join(b"%d,%d\n" % (n, n**5) for n in range(20_000)))
CASES = {  # the format, a good file, a bad file, and the shard's state after one of two attempts
    "csv": ("csv", CSV, b"a,b\n1,x\nfoo,bar,baz\n", FAILED),
    "json": ("json", b'{"a": 1, "b": "x"}\n', b'{"a": 1, "b": "x"}\n{"a": oops\n', FAILED),
    "csv.gz": ("csv", gzip.compress(CSV), GZIP[: len(GZIP) // 2], RETRIED),
    "no gzip, csv.gz": ("csv", gzip.compress(CSV), CSV, FAILED),
    "parquet": ("parquet", parquet([1, 2]), b"this is no such file" * 9, RETRIED),
    "damaged parquet": ("parquet", parquet([1, 2]), damaged(parquet([1, 2]), 60), RETRIED),
    "other type, parquet": ("parquet", parquet([1, 2]), parquet(["x", "y"]), FAILED),
    "orc": ("orc", orc_file(), b"this is no such file" * 9, RETRIED),
    "damaged orc": ("orc", orc_file(), damaged(orc_file(), 10), RETRIED),
    "avro": ("avro", b"", b"this is no such file" * 9, RETRIED),
}


def attempt(function: Function, script: str, bodies: dict[str, bytes], *, has_etag: bool = True) -> Any:
    """Return the record of a shard over these objects after one of two attempts."""
    inputs = []
    for name, body in bodies.items():
        uri = f"s3://{BUCKET}/in/{name}"
        etag = function.store.put(uri, body)
        inputs.append(InputObject(uri, len(body), etag if has_etag else ""))
    ref = function.plan(script.encode(), inputs, max_attempts=2)
    function.deliver(ref)
    return function.shard(ref)


@pytest.mark.parametrize(
    ("case", "action", "bad"),
    [
        *((case, "written", "a bad é%41 2") for case in CASES),
        *((case, "written", "_bad[1]") for case in ("csv", "damaged parquet")),  # Spark misreads these names
        *(("csv", action, "2") for action in ("shuffled", "written by a JVM of its own")),
    ],
)
def test_the_cause_names_the_file_that_cannot_be_read(function: Function, case: str, action: str, bad: str) -> None:
    format_, good, body, state = CASES[case]
    suffix = case.rpartition(" ")[2]
    bodies = {f"1.{suffix}": good, f"{bad}.{suffix}": body, f"3.{suffix}": good}

    script = JOB.format(format=format_, action=ACTIONS[action])
    record = attempt(function, script, {name: body for name, body in bodies.items() if body})

    separator = ": " if case == "csv" else ""  # for other formats Spark's text after the name differs
    assert f"s3://{BUCKET}/in/{bad}.{suffix}{separator}" in record.error_message
    assert (record.state, record.attempts) == (state, 1)


def test_a_bad_object_without_an_etag_is_tried_again(function: Function) -> None:
    script = JOB.format(format="csv", action=ACTIONS["written"])

    record = attempt(function, script, {"1.csv": CASES["csv"][2]}, has_etag=False)

    assert (record.state, record.attempts) == (RETRIED, 1)
