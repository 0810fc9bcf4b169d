"""Sessions that are started without any preparation, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

import sparklet
from sparklet.job.bundle import write_bundle
from tests.waiting import deadline_s

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PROBE = """
import json, sys
import sparklet
from sparklet.job import Job

job = Job.from_args()
spark = job.spark(conf={"spark.sql.shuffle.partitions": "3"})
double = spark.udf.register("double", lambda number: 2 * number, "long")
print(json.dumps({
    "rows": [list(row) for row in spark.range(3).selectExpr("double(id)").collect()],
    "conf": dict(spark.sparkContext.getConf().getAll()),
    "runtime": {key: spark.conf.get(key) for key in ("spark.sql.session.timeZone", "spark.sql.shuffle.partitions")},
    "sparklet": sparklet.__file__,
    "args": job.args,
}))
"""


def test_a_bundle_and_spark_submit_are_enough(tmp_path: Path) -> None:
    bundle, probe = tmp_path / "sparklet-job.zip", tmp_path / "probe.py"
    write_bundle(bundle)
    probe.write_text(PROBE)
    python = tmp_path / "python"  # has no installed package: pyspark comes from Spark, Sparklet from the bundle
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    conf = ["--conf", "spark.sql.session.timeZone=Europe/Berlin", "--conf", "spark.sql.shuffle.partitions=7"]
    program = str(Path(sys.executable).with_name("spark-submit"))
    submit = [program, "--master", "local[1]", "--py-files", str(bundle), *conf]
    variables = {"PYSPARK_PYTHON": str(python), "SPARK_HOME": str(Path(pyspark.__file__).parent)}
    env = {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ} | variables

    done = subprocess.run(
        [*submit, str(probe), "--JOB_NAME", "nightly"], env=env, capture_output=True, text=True, timeout=deadline_s(60)
    )

    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["rows"] == [[0], [2], [4]]
    assert not printed["sparklet"].startswith(str(Path(sparklet.__file__).parent))
    assert "sparklet-job.zip" in printed["sparklet"]
    assert printed["conf"]["spark.master"] == "local[1]"
    assert printed["runtime"] == {"spark.sql.session.timeZone": "Europe/Berlin", "spark.sql.shuffle.partitions": "3"}
    assert printed["args"] == ["--JOB_NAME", "nightly"]


def test_a_sessions_java_does_not_set_java_home(tmp_path: Path) -> None:
    (probe := tmp_path / "probe.py").write_text(
        "import os\nfrom sparklet.job import Job\nprint(Job().spark().range(3).count(), 'JAVA_HOME' in os.environ)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}

    done = subprocess.run([sys.executable, str(probe)], env=env, capture_output=True, text=True, timeout=deadline_s(60))

    assert done.stdout.splitlines()[-1:] == ["3 False"], done.stderr
