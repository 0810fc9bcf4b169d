"""Scripts of a worker that uses a Spark Connect server run as plain Python processes, with all guards and no JVM."""

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
PRINT_SETUP = """
import json, os, sys
from pathlib import Path
parent = Path(f"/proc/{os.getppid()}/cmdline").read_text()
print(json.dumps([sys.argv[1:], os.environ["SPARK_REMOTE"], "PYSPARK_GATEWAY_PORT" in os.environ, "java" in parent]))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    settings = replace(spark_settings({}), conf={"spark.remote": REMOTE})
    return Bench(SubmitRunner(settings, tmp_path), tmp_path)


def test_a_remote_script_gets_the_address_of_the_server(bench: Bench) -> None:
    arguments = ["--conf", "spark.x=y", "-cp"]

    assert bench.run(PRINT_SETUP, arguments).printed() == [arguments, REMOTE, False, False]
    wait_until_none(bench.mark)


@pytest.mark.spark
def test_a_server_with_tls_gets_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    with spark_connect(tmp_path, {}) as behind, guarded(tmp_path, behind, TOKEN) as (remote, certificate):
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(certificate))
        for token, exit_code in ((TOKEN, 0), ("another", 1)):
            settings = replace(spark_settings({"SPARKLET_REMOTE_TOKEN": token}), conf={"spark.remote": remote})
            ran = Bench(SubmitRunner(settings, tmp_path), tmp_path).run(COUNTS)

            assert ran.code == exit_code, ran.text("stderr")
            assert token not in ran.text("stderr") and token not in repr(settings)
            assert ran.text("stdout").split() == ([] if exit_code else ["7"])


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("sc://host:443", "sc://host:443/;token=a%3Bb"),
        ("sc://host:443/", "sc://host:443/;token=a%3Bb"),
        ("sc://host:443/;x-databricks-cluster-id=7", "sc://host:443/;x-databricks-cluster-id=7;token=a%3Bb"),
    ],
)
def test_the_token_is_added_to_the_address(bench: Bench, remote: str, address: str) -> None:
    bench.runner = SubmitRunner(
        replace(spark_settings({"SPARKLET_REMOTE_TOKEN": "a;b"}), conf={"spark.remote": remote}), bench.scratch
    )

    assert bench.run(PRINT_SETUP).printed()[1] == address
