"""Memory, threads and files of a worker do not grow with the number of invocations."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.functional.worker.conftest import SPARK, Bench

pytestmark = pytest.mark.spark

MIXED = (
    "print('plain')",
    SPARK + "import sys\nspark.read.csv(sys.argv[1], header=True, inferSchema=True).groupBy('a').agg(F.sum('b'))"
    ".write.parquet('out')",
    SPARK + "spark.range(30).select(F.udf(lambda x: x + 1, 'long')('id')).collect()",
    SPARK + "spark.range(3000).cache().createOrReplaceTempView('mine')\nspark.table('mine').count()",
    SPARK + "kept = spark.sparkContext.broadcast(list(range(50_000)))\n"
    "spark.sparkContext.parallelize(range(4), 2).map(lambda x: kept.value[x]).collect()",
    SPARK + "spark.range(30).repartition(3).count()\nspark.stop()",
    SPARK + "spark.range(30).count()\nraise ValueError('mine')",
    SPARK + "spark.range(30).count()\nimport os\nos._exit(3)",
    SPARK.replace("builder.", "builder.config('spark.python.worker.reuse', 'false').") + "spark.range(30).count()",
)
LOOK = (
    SPARK
    + """
import json, os
runtime, jvm = spark._jvm.java.lang, spark._jvm.java.lang.ProcessHandle.current().pid()
runtime.System.gc()
memory = runtime.management.ManagementFactory.getMemoryMXBean().getHeapMemoryUsage().getUsed()
print(json.dumps([jvm, memory / 2**20, len(os.listdir(f"/proc/{jvm}/task")), len(os.listdir(f"/proc/{jvm}/fd"))]))
"""
)


@dataclass(frozen=True)
class Usage:
    """The resources that a worker uses."""

    jvm_pid: int
    heap_mb: float
    threads: int
    fds: int
    files: int


def look(bench: Bench) -> Usage:
    jvm_pid, heap_mb, threads, fds = bench.run(LOOK).printed()
    files = [path for path in bench.scratch.rglob("*") if path.is_file() and "script-" not in str(path)]
    return Usage(jvm_pid, heap_mb, threads, fds, len(files))


def rounds(bench: Bench, count: int, inputs: Path) -> list[float]:
    """Run rounds of mixed scripts; return the seconds that each round took."""
    taken_s = []
    for _ in range(count):
        begun_s = time.monotonic()
        for code in MIXED:
            bench.run(code, [str(inputs)])
        taken_s.append(time.monotonic() - begun_s)
    return taken_s


@pytest.mark.parametrize(
    "count", [2, pytest.param(55, marks=[pytest.mark.campaign, pytest.mark.timeout(3600)])], ids=["few", "500"]
)
def test_nothing_grows_with_the_invocations(warm: Bench, tmp_path: Path, count: int) -> None:
    inputs = tmp_path / "in.csv"
    inputs.write_text("a,b\n" + "".join(f"{n % 17},{n}\n" for n in range(1000)))
    rounds(warm, 1 if count < 5 else 5, inputs)  # Spark and Java keep some state of the first tasks
    before = look(warm)
    taken_s = rounds(warm, count, inputs)
    after = look(warm)

    print(before, after, [round(each, 1) for each in taken_s])
    assert after.jvm_pid == before.jvm_pid
    assert after.heap_mb < before.heap_mb + 25
    assert after.threads < before.threads + 40  # thread pools grow and shrink
    assert after.fds < before.fds + 2 * 40  # each Netty thread has two
    assert after.files <= before.files
    assert count < 5 or median(taken_s[-5:]) < 2 * median(taken_s[:5])
