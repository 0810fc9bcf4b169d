"""Scripts of a worker whose Spark is a Connect server: plain Python processes, guarded like all others, and no JVM."""

from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.settings import spark_settings
from sparklet.spark.spark_submit import SubmitRunner
from tests.functional.worker.conftest import Bench, wait_until_none
from tests.stand_ins.spark_connect import guarded, spark_connect

REMOTE = "sc://127.0.0.1:15002"
TOKEN = "dapi;=/ 0123"
COUNTS = """
from pyspark.sql import SparkSession
print(SparkSession.builder.getOrCreate().range(7).count())
"""
SAYS = """
import json, os, sys
from pathlib import Path
parent = Path(f"/proc/{os.getppid()}/cmdline").read_text()
print(json.dumps([sys.argv[1:], os.environ["SPARK_REMOTE"], "PYSPARK_GATEWAY_PORT" in os.environ, "java" in parent]))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    settings = replace(spark_settings({}), conf={"spark.remote": REMOTE})
    return Bench(SubmitRunner(settings, tmp_path), tmp_path)


def test_a_remote_script_is_told_of_the_server(bench: Bench) -> None:
    arguments = ["--conf", "spark.x=y", "-cp"]

    assert bench.run(SAYS, arguments).printed() == [arguments, REMOTE, False, False]
    wait_until_none(bench.mark)


@pytest.mark.spark
def test_a_server_with_tls_gets_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    with spark_connect(tmp_path, {}) as behind, guarded(tmp_path, behind, TOKEN) as (remote, certificate):
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(certificate))
        for given, state in ((TOKEN, 0), ("another", 1)):
            settings = replace(spark_settings({"SPARKLET_REMOTE_TOKEN": given}), conf={"spark.remote": remote})
            ran = Bench(SubmitRunner(settings, tmp_path), tmp_path).run(COUNTS)

            assert ran.code == state, ran.text("stderr")
            assert given not in ran.text("stderr") and given not in repr(settings)
            assert ran.text("stdout").split() == ([] if state else ["7"])


@pytest.mark.parametrize(
    ("remote", "told"),
    [
        ("sc://host:443", "sc://host:443/;token=a%3Bb"),
        ("sc://host:443/", "sc://host:443/;token=a%3Bb"),
        ("sc://host:443/;x-databricks-cluster-id=7", "sc://host:443/;x-databricks-cluster-id=7;token=a%3Bb"),
    ],
)
def test_a_token_joins_the_address(bench: Bench, remote: str, told: str) -> None:
    bench.runner = SubmitRunner(
        replace(spark_settings({"SPARKLET_REMOTE_TOKEN": "a;b"}), conf={"spark.remote": remote}), bench.scratch
    )

    assert bench.run(SAYS).printed()[1] == told
