"""A primed worker has a clean JVM for its first event, and no state that other workers of the snapshot have, too."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache
from sparklet.spark.warm_runner import WarmRunner
from sparklet.worker.priming import LIMIT_S, prime
from tests.functional.worker.conftest import MARK, SMALL, SPARK, STACK, Bench, make, processes_with, wait_until_none
from tests.functional.worker.test_runners_freeze import Worker, freeze
from tests.stand_ins.lambda_environment import LambdaEnvironment, lambda_environment
from tests.stand_ins.shifted_clock import ShiftedClock
from tests.waiting import deadline_s

pytestmark = pytest.mark.spark

FREEZE_S = float(os.environ.get("FREEZE_S", "3"))
QUARTER_S = 90 * 24 * 3600
ROOT = Path(__file__).resolve().parents[3]
RUNTIME = ROOT / "tests" / "stand_ins" / "lambda_runtime"

RECORD = """
from pyspark import SparkContext
SparkContext._ensure_initialized()
SparkContext._gateway.entry_point.reseed(42)
"""
DRAW = """
import json, random, uuid
import numpy
from pyspark import SparkContext

SparkContext._ensure_initialized()
java = SparkContext._jvm

def state(name, *fields):
    found, kind = None, java.java.lang.Class.forName(name)
    for name in fields:
        field = kind.getDeclaredField(name)
        field.setAccessible(True)
        found = field.get(found)
        kind = None if isinstance(found, int) else found.getClass()
    return found if isinstance(found, int) else found.nextLong()

print(json.dumps({
    "python": random.random(),
    "numpy": numpy.random.random(),
    "uuid": str(uuid.uuid4()),
    "new Random": state("java.util.Random", "seedUniquifier"),
    "new SplittableRandom": state("java.util.SplittableRandom", "defaultGen"),
    "new thread": state("java.util.concurrent.ThreadLocalRandom", "seeder"),
    "Math.random": java.java.lang.Math.random(),
    "scala.util.Random": state("scala.util.Random$", "MODULE$"),
    "Utils.random": state("org.apache.spark.util.Utils$", "MODULE$", "random"),
    "job tracker": state("org.apache.spark.internal.io.SparkHadoopWriterUtils$", "MODULE$", "RAND"),
}))
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A primed runner."""
    scratch = tmp_path_factory.mktemp("primed")
    runner = make("warm", scratch)
    assert isinstance(runner, WarmRunner)
    runner.start()
    assert prime(runner, scratch, ("files",), deadline_s(LIMIT_S))
    yield Bench(runner, scratch)
    runner.close()


def test_priming_leaves_no_trace(warm: Bench) -> None:
    look = "import json, os\nprint(json.dumps([os.listdir('.'), [t.name for t in spark.catalog.listTables()]]))"

    assert warm.run(SPARK + look).printed() == [[], []]
    assert [path.name for path in warm.scratch.iterdir() if path.name.startswith("task-")] == []


def test_restored_workers_draw_different_numbers(warm: Bench) -> None:
    """Two environments begin with the same recorded states; without a restore they draw the same numbers."""

    def draw(*, restored: bool) -> dict[str, Any]:
        assert warm.run(RECORD).code == 0
        if restored:
            assert isinstance(warm.runner, WarmRunner)
            warm.runner.renew(dict)
        numbers: dict[str, Any] = warm.run(DRAW).printed()
        return numbers

    first, second = draw(restored=False), draw(restored=False)
    same = {name for name in first if first[name] == second[name]}
    assert set(first) - same == {"python", "numpy", "uuid"}  # a fork draws new ones

    third, fourth = draw(restored=True), draw(restored=True)

    draws_of_generators = list(zip(first.values(), third.values(), fourth.values(), strict=True))
    assert all(len(set(draws)) == 3 for draws in draws_of_generators)


JOB = b"""
import json, os, time
import boto3
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
started_ms = spark._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean().getStartTime()
rows = spark.read.csv("s3://bucket/rows.csv", header=True).count()
keys = [os.environ["AWS_ACCESS_KEY_ID"], boto3.Session().get_credentials().access_key]
now_s = [time.time(), spark._jvm.java.lang.System.currentTimeMillis() / 1000]
job.answer({"rows": rows, "keys": keys, "jvm_started_s": started_ms / 1000, "now_s": now_s})
"""


@contextmanager
def function(around: LambdaEnvironment, folder: Path, jars: list[Path]) -> Iterator[Worker]:
    mark, scratch = uuid.uuid4().hex, folder / "scratch"
    scratch.mkdir()
    foreign = ("AWS_", "SPARKLET_")
    own = {
        "SPARKLET_SCRATCH": str(scratch),
        "SPARKLET_JARS": os.pathsep.join(map(str, jars)),
        "SPARKLET_SCRIPT_PREFIXES": "s3://bucket/",
        "SCRIPT_LOCATION": "s3://bucket/job.py",
        "PYTHONPATH": os.pathsep.join([str(RUNTIME), *sys.path]),
        MARK: mark,
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(RUNTIME / "runtime_client.py"), "sparklet.worker.handler.lambda_handler"],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environ, **SMALL, **around.variables(), **own},
        )
    try:
        yield Worker(process, folder, mark)
    finally:
        process.kill()
        process.communicate()
    wait_until_none(mark)


def test_a_restored_worker_uses_the_present_time_and_key(tmp_path: Path) -> None:
    """The worker is frozen. Then the time of day is 90 days later, but the monotonic clock is not; the JVM is kept."""
    jars = ensure_jars(STACK, jar_cache(), ["s3a"], progress=print)
    objects = {"/bucket/job.py": JOB, "/bucket/rows.csv": b"id\n1\n2\n"}
    clock = ShiftedClock(tmp_path)
    with lambda_environment(objects, clock) as around, function(around, tmp_path, jars) as worker:
        assert around.snapshot.wait(deadline_s(60)), (tmp_path / "log").read_text()
        assert around.asked == set()
        primed_s = time.time()
        freeze([worker], FREEZE_S)
        clock.shift(QUARTER_S)
        around.key = "TODAY"
        around.restored.set()

        first, second = (around.invoke({})["answer"] for _ in range(2))

        assert [first["rows"], first["keys"]] == [2, ["TODAY", "TODAY"]]
        assert second["jvm_started_s"] == first["jvm_started_s"] < primed_s
        assert all(now_s >= primed_s + clock.shift_s for now_s in first["now_s"])
        assert around.asked == {("boto3", "TODAY"), ("S3A", "TODAY")}
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
        assert [line["jvm_kept"] for line in lines if line["message"] == "primed"] == [True]
        assert processes_with(worker.mark)
