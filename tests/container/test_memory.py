"""Shards of the size that the documentation promises for a function's memory.

The memory and the seconds that each shard took are printed at the end of the test run, not asserted.
"""

import gzip
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from sparklet.model import ShardState
from tests.container.account import Account
from tests.container.built_image import BuiltImage
from tests.container.cell import Cell
from tests.container.container import Conditions, running

MB = 1_000_000
MIB = 1024 * 1024
LEAST = Conditions(memory_mb=1024, cpus=0.58, timeout_s=900)
SMALL = Conditions(memory_mb=1769, cpus=1, timeout_s=900)
LARGE = Conditions(memory_mb=3008, cpus=2, timeout_s=900)
CONDITIONS = SMALL  # for the fixture ``account``
pytestmark = pytest.mark.timeout(1000)

JOB = """
from pyspark.sql import Window
from pyspark.sql import functions as F
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
table = spark.read.{read}
{what}
result.write.mode("overwrite").parquet(job.output)
job.report(rows=spark.read.parquet(job.output).count())
"""
TYPES = "id LONG, grp INT, key STRING, value DOUBLE, moment TIMESTAMP, text STRING"
NAMES = TYPES.replace(",", "").split()[::2]
GROUPS, COLUMNS = 1000, 200
ROW_GROUP = 1_000_000  # rows; Spark gives a task only whole row groups of a Parquet file


@dataclass(frozen=True)
class Work:
    """A script that reads one file; ``rows`` is the number of rows that it writes."""

    name: str
    what: str
    read: str = f'csv(job.input_list(), header=True, schema="{TYPES}")'
    rows: int = 0  # if it is 0, the script writes as many rows as it reads
    wide: bool = False
    suffix: str = "csv"

    def __str__(self) -> str:
        return self.name

    @property
    def script(self) -> str:
        """The script's source."""
        return JOB.format(read=self.read, what=self.what)

    def input(self, size_bytes: int) -> tuple[int, bytes]:
        """The number of rows, and a file of at least so many bytes; a gzip file has that size before compression."""
        if self.suffix == "parquet":
            return parquet(size_bytes)
        rows, content = csv(size_bytes, wide=self.wide)
        return rows, gzip.compress(content, 1) if self.suffix == "csv.gz" else content


AGGREGATE = Work(
    "filter and aggregate",
    "result = table.where('id >= 0').groupBy('grp').agg(F.count('*').alias('n'), F.sum('value'), F.max('moment'))",
    rows=GROUPS,
)
SORT = Work("sort", "result = table.orderBy('key')")
DISTINCT = Work("distinct", "result = table.distinct()")
UDF = Work("Python UDF", "result = table.withColumn('back', F.udf(lambda key: key[::-1])('key'))")
WIDE = Work("wide, types inferred", "result = table", "csv(job.input_list(), header=True, inferSchema=True)", wide=True)
WINDOW = Work("window", "result = table.withColumn('n', F.row_number().over(Window.partitionBy('grp').orderBy('key')))")
PACKED = replace(SORT, name="sort of gzip", suffix="csv.gz")
COLUMNAR = replace(SORT, name="sort of Parquet", read="parquet(*job.input_list())", suffix="parquet")
EACH = (SORT, AGGREGATE, DISTINCT, UDF, WIDE, WINDOW, PACKED, COLUMNAR)
full = pytest.mark.campaign


@pytest.mark.parametrize(
    ("work", "size_mb", "limits"),
    [
        pytest.param(SORT, 32, LEAST),
        pytest.param(SORT, 128, SMALL),
        *(pytest.param(work, 128, SMALL, marks=full) for work in EACH[1:]),
        *(pytest.param(work, 400, LARGE, marks=full) for work in EACH),
    ],
    ids=lambda value: f"{value.memory_mb} MB" if isinstance(value, Conditions) else str(value),
)
def test_a_shard_of_the_promised_size_is_done(
    image: BuiltImage,
    cell: Cell,
    account: Account,
    tmp_path: Path,
    observed: list[str],
    work: Work,
    size_mb: int,
    limits: Conditions,
) -> None:
    """Each case runs in a function of its own."""
    rows, content = work.input(size_mb * MB)
    script, scratch = tmp_path / "job.py", tmp_path / "tmp"
    script.write_text(work.script)
    scratch.mkdir()
    scratch.chmod(0o1777)
    run = account.start(script, [account.put(f"input/one.{work.suffix}", content)], {}, max_attempts=1)

    with running(image, cell, replace(limits, env=account.env, scratch=scratch)) as container:
        began_s = time.monotonic()
        account.deliver(container)
        took_s = time.monotonic() - began_s
        peak_mib, cpu_s = container.peak_memory_bytes() // MIB, container.cpu_s()

    record = account.shard(run)
    case = f"{work}, {size_mb} MB (stored {len(content) / MB:.0f} MB), {limits.memory_mb} MB"
    memory = f"at most {peak_mib} MiB with page cache"
    observed.append(f"{case}: {record.state}, {took_s:.0f} s, CPU {cpu_s:.0f} s, {memory}")
    assert (record.state, record.rows) == (ShardState.SUCCEEDED, work.rows or rows), record.error_message


def csv(size_bytes: int, *, wide: bool) -> tuple[int, bytes]:
    """The number of rows, and a CSV file of at least so many bytes, with a header."""
    names = [f"c{n}" for n in range(COLUMNS)] if wide else NAMES
    lines, length = [",".join(names)], 0
    for line in _wide() if wide else _narrow():
        lines.append(line)
        length += len(line) + 1
        if length >= size_bytes:
            break
    return len(lines) - 1, "\n".join([*lines, ""]).encode()


def parquet(size_bytes: int) -> tuple[int, bytes]:
    """The number of rows, and a Parquet file of at least so many bytes, with narrow rows."""
    lines, sink, rows = _narrow(), io.BytesIO(), 0
    writer: pyarrow.parquet.ParquetWriter | None = None
    while sink.tell() < size_bytes:
        text = "\n".join([",".join(NAMES), *islice(lines, ROW_GROUP), ""])
        table = pyarrow.csv.read_csv(io.BytesIO(text.encode()))
        writer = writer or pyarrow.parquet.ParquetWriter(sink, table.schema)
        writer.write_table(table)
        rows += table.num_rows
    assert writer is not None
    writer.close()
    return rows, sink.getvalue()


def _narrow() -> Iterator[str]:
    """Lines of different rows; their keys are in no order and do not compress well."""
    for n in count():
        key = f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}{n * 0xC2B2AE3D27D4EB4F % 2**64:016x}"
        moment = f"2026-01-{1 + n % 28:02} {n % 24:02}:{n % 60:02}:00"
        yield f"{n},{n % GROUPS},{key},{n % 9973 / 8},{moment},some text {n % 5000}"


def _wide() -> Iterator[str]:
    # Integers, fractions and texts in turn.
    values = (lambda n, c: n * c % 100_003, lambda n, c: n % 977 / (c + 1), lambda n, c: f"t{n * c % 977}")
    for n in count():
        yield ",".join(str(values[c % 3](n, c)) for c in range(COLUMNS))
