"""The fixture ``sparklet_job``; the plugin is found by its entry point, as in a user's project."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext

from sparklet.app.project import write_starter
from sparklet.errors import RunFailedError
from sparklet.pytest_plugin import SparkletJob
from tests.functional.job.conftest import end_jvm
from tests.waiting import deadline_s

DOUBLED = """\
from pyspark.sql.functions import udf
from sparklet.job import Job

job = Job.from_args()
spark = job.spark(conf={"spark.sql.shuffle.partitions": "3"})
frame = spark.read.csv(job.input_list(), header=True, schema=job.params["schema"])
frame = frame.withColumn("doubled", udf(lambda value: value * 2, "int")("id"))
frame.write.parquet(job.output)
job.report(rows=frame.count())
job.answer([job.items, list(job.args)])
"""
PLAIN = """\
import os, sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
spark.range(2).write.json(os.environ["output_path"])
os.environ["LEFT"] = "behind"
sys.exit(int(os.environ["CODE"]))
"""
TOLD = """\
from sparklet.job import Job

job = Job.from_args()
job.answer([job.event.get("detail"), job.items, job.args[0], job.output])
if job.items == ["bad"]:
    raise ValueError("a bad item")
"""

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def no_jvm_afterwards() -> Iterator[None]:
    yield
    if SparkContext._gateway:
        end_jvm()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


@pytest.mark.parametrize("worker", [False, pytest.param(True, marks=[pytest.mark.stack, pytest.mark.nightly])])
def test_a_worker_gives_the_same_result_as_this_process(sparklet_job: SparkletJob, script: Path, worker: bool) -> None:
    script.write_text(DOUBLED)
    inputs = {"a.csv": "id\n1\n", "a folder/b[1].csv": "id\n2\n"}

    job = sparklet_job(script, inputs, params={"schema": "id INT"}, args=["--day", "1"], worker=worker)

    assert sorted(row["doubled"] for row in job.output()) == [2, 4]
    assert (job.rows, job.answer) == (2, [[], ["--day", "1"]])

    # AND an error of the script is raised
    once: dict[str, Any] = {"max_attempts": 1} if worker else {}
    script.write_text(DOUBLED.replace("value * 2", "{}[value]"))
    with pytest.raises(Exception, match="KeyError: 1") as raised:
        sparklet_job(script, {"a.csv": "id\n1\n"}, params={"schema": "id INT"}, worker=worker, **once)
    assert isinstance(raised.value, RunFailedError) is worker


def test_a_plain_script_leaves_this_process_unchanged(sparklet_job: SparkletJob, script: Path) -> None:
    script.write_text(PLAIN)
    before = (dict(os.environ), sys.argv, sys.path[:], Path.cwd())

    job = sparklet_job(script, env={"CODE": "0"})
    rows = job.output("json")
    with pytest.raises(SystemExit, match="3"):
        sparklet_job(script, env={"CODE": "3"})

    assert sorted(row["id"] for row in rows) == [0, 1]
    assert (dict(os.environ), sys.argv, sys.path[:], Path.cwd()) == before


def test_a_script_gets_items_or_an_event(sparklet_job: SparkletJob, script: Path) -> None:
    script.write_text(TOLD)

    of_event = sparklet_job(script, event={"detail": {"n": 1}}, args=["x"])
    of_items = sparklet_job(script, items=["good", 2], args=["x"])

    assert of_event.answer == [{"n": 1}, [], "x", str(of_event.folder)]
    assert of_items.answer == [None, ["good", 2], "x", str(of_items.folder)]
    with pytest.raises(ValueError, match="a bad item"):
        sparklet_job(script, items=["bad"], args=["x"])


def test_an_error_without_a_workers_formats_names_worker_true(sparklet_job: SparkletJob, script: Path) -> None:
    script.write_text("from sparklet.job import Job\nJob().spark().read.format('delta').load('/nowhere').count()\n")

    with pytest.raises(Exception, match="delta") as failed:
        sparklet_job(script)

    assert "worker=True" in "".join(failed.value.__notes__)


def test_the_tests_own_session_is_kept(
    request: pytest.FixtureRequest, sparklet_job: SparkletJob, script: Path, tmp_path: Path
) -> None:
    script.write_text(PLAIN)
    mine = sparklet_job.session

    another = SparkletJob(request, tmp_path / "another")
    another(script, env={"CODE": "0"})
    another.stop()

    assert mine.range(3).count() == 3
    sparklet_job(script, env={"CODE": "0"})
    assert mine.sparkContext._jsc is None


def test_the_starter_test_of_a_new_project_passes(tmp_path: Path) -> None:
    assert all(is_new for _, is_new in write_starter(tmp_path))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=deadline_s(100))

    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
