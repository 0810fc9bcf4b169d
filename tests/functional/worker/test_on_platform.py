"""A worker runs in the driver of a real spark-submit, as an EMR step would, in local mode and on a cluster."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from spark_scripts.demo.standalone_cluster import HOME, standalone_cluster
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.engines.emr import EmrSteps
from sparklet.local.jars import ensure_jars
from sparklet.local.java import find_java
from sparklet.local.spark_installation import jar_cache
from sparklet.model import InputObject, Run, ScriptRef, ShardRecord, ShardState
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import s3a_conf
from tests.functional.worker.conftest import STACK
from tests.functional.worker.ledgered import BUCKET, TABLE, enter
from tests.functional.worker.worker_process import stand_in
from tests.stand_ins.ledger_table import create_table
from tests.waiting import deadline_s, eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SCRIPT_SETTINGS = {  # the settings that the function gives to scripts
    "SPARKLET_SCRIPT_ENV": '{"TONE": "loud {{day}}"}',
    "SPARKLET_SPARK_CONF": '{"spark.sql.session.timeZone": "Asia/Tokyo"}',
}
MODULE = b"def shout(text):\n    return text.upper()\n"
SCRIPT = b"""
import os, sys, time
from awsglue.utils import getResolvedOptions
from pyspark.sql import functions as F
from sparklet.job import Job

import shouting  # a py-file of the run

OF_ANOTHER_PLACE = {"spark.jars.packages": "org.apache.hadoop:hadoop-aws:3.2.0"}  # which the platform has
job = Job.from_args()
spark = job.spark()
if job.params.get("wait") and job.previous_attempt is None:
    print("waiting", flush=True)
    spark.range(2).foreach(lambda row: time.sleep(600))
assert getResolvedOptions(sys.argv, ["JOB_NAME", "TONE"])["TONE"] == "loud {{day}}"
assert (os.environ["TONE"], spark.conf.get("spark.sql.session.timeZone")) == ("loud {{day}}", "Asia/Tokyo")
shout = F.udf(lambda text: shouting.shout(text) if "TONE" in os.environ else "")  # on executors
rows = spark.read.csv(job.input_list(), header=True).withColumn("name", shout("name"))
rows.write.parquet(job.output)
job.report(rows=rows.count())
"""


class Platform:
    """A stack's bucket and ledger, and an EMR cluster whose steps the test runs."""

    def __init__(self, clients: AwsClients, folder: Path, jars: list[Path]) -> None:
        self.clients, self.folder = clients, folder
        self.store, self.ledger = S3ObjectStore(clients), DynamoLedger(clients, TABLE)
        clients.s3.create_bucket(Bucket=BUCKET)
        create_table(clients.dynamodb, TABLE)
        endpoint = {"AWS_ENDPOINT_URL": clients.s3.meta.endpoint_url, "AWS_REGION": "us-east-1"}
        paths = os.pathsep.join(map(str, jars))
        conf = {
            **s3a_conf(spark_settings(endpoint), [*map(str, jars)]),
            "spark.pyspark.python": sys.executable,
            "spark.pyspark.driver.python": sys.executable,
            "spark.driver.extraClassPath": paths,
            "spark.executor.extraClassPath": paths,
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
            "spark.driver.memory": "700m",
            "spark.executor.memory": "600m",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
        }
        self.env = {**endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        worker = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": TABLE, "SPARKLET_SCRATCH": str(folder)}
        instances = {"MasterInstanceType": "m5.xlarge", "InstanceCount": 1, "KeepJobFlowAliveWhenNoSteps": True}
        cluster = clients.emr.run_job_flow(Name="platform", ReleaseLabel="emr-7.13.0", Instances=instances)
        self.engine = EmrSteps(
            clients=clients,
            env=worker,
            conf=conf,
            script_settings=lambda: SCRIPT_SETTINGS,
            cluster=cluster["JobFlowId"],
        )

    def plan(self, run_id: str, **params: str) -> None:
        """Enter a run of one shard for this engine. Only a worker can fetch the hidden one of the two inputs."""

        def store_file(name: str, content: bytes) -> tuple[str, str]:
            digest = hashlib.sha256(content).hexdigest()
            self.store.put(uri := f"s3://{BUCKET}/runs/{run_id}/script/{digest}/{name}", content)
            return uri, digest

        inputs = {"people.csv": b"name\nAda\nGrace\n", "_hidden.csv": b"name\nMary\n"}
        uris = {f"s3://{BUCKET}/input/{name}": body for name, body in inputs.items()}
        objects = tuple(InputObject(uri, len(body), etag=self.store.put(uri, body)) for uri, body in uris.items())
        script = ScriptRef(*store_file("job.py", SCRIPT), "s3://mine/job.py", (store_file("shouting.py", MODULE)[0],))
        output = f"s3://{BUCKET}/output/{run_id}/"
        enter(self.store, self.ledger, Run(run_id, ("s3://in/",), output, (script,), params=params), objects)

    def shard(self, run_id: str) -> ShardRecord:
        return self.ledger.shards.get(run_id, 0)

    @contextmanager
    def step(self, run_id: str, token: str, master: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the step that the engine adds as EMR's command-runner does, but with the given Spark master."""
        command = ("shard", "--run", run_id, "--shard", "0", "--generation", "0")
        step_id = self.engine.start(token, command)
        step = self.clients.emr.describe_step(ClusterId=self.engine.cluster, StepId=step_id)["Step"]
        _, *words = step["Config"]["Args"]
        foreign = ("AWS_", "SPARKLET_", "PYTHONPATH")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.folder),
            "JAVA_HOME": str(find_java().resolve().parents[1]),
        }
        with (self.folder / f"{run_id}-{token}.log").open("wb") as log:
            process = subprocess.Popen(
                [HOME / "bin" / "spark-submit", "--master", master, *words],
                env={**environ, **self.env, **own, "SPARK_HOME": str(HOME)},
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self, run_id: str, token: str) -> str:
        return (self.folder / f"{run_id}-{token}.log").read_text(errors="replace")

    def names(self, run_id: str) -> list[str]:
        """Return the names in the published rows; pyarrow reads the rows, without Spark."""
        place = self.clients.s3.meta.endpoint_url.partition("://")[2]
        s3 = fs.S3FileSystem(endpoint_override=place, scheme="http", access_key="test", secret_key="test")
        table = pq.read_table(f"{BUCKET}/output/{run_id}", filesystem=s3)
        return sorted(table["name"].to_pylist())


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    jars = ensure_jars(STACK, jar_cache(), ["s3a"], progress=print)
    with stand_in(folder) as (_, clients):
        yield Platform(clients, folder, jars)


def test_a_shard_of_a_killed_driver_is_done_on_a_cluster(platform: Platform, tmp_path: Path) -> None:
    """The JVM of the first driver is killed while the script runs; the worker notices it and gives back the shard."""
    platform.plan("run-1", wait="yes")
    with platform.step("run-1", "token-1", "local[2]") as process:
        eventually(lambda: "waiting" in platform.log("run-1", "token-1"), "its script has begun", 40)
        process.kill()
        eventually(lambda: platform.shard("run-1").state is ShardState.PENDING, "the shard is given back")

    with standalone_cluster(tmp_path, workers=1) as master, platform.step("run-1", "token-2", master) as process:
        code = process.wait(deadline_s(60))

    record, log = platform.shard("run-1"), platform.log("run-1", "token-2")
    assert (code, record.state, record.attempts, record.rows) == (0, ShardState.SUCCEEDED, 2, 3), log
    assert platform.names("run-1") == ["ADA", "GRACE", "MARY"]
    assert not list(platform.store.list(f"s3://{BUCKET}/staged/"))
    assert not list(platform.folder.glob("task-*"))
