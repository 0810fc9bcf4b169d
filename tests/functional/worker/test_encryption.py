"""A run works on buckets whose policies deny writes without encryption headers, from its plan to its manifest."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from sparklet.app.explain import advice
from sparklet.aws.clients import WRITES, AwsClients
from sparklet.aws.services import compose
from sparklet.errors import ObjectForbiddenError
from sparklet.local.java import jks, trust_options
from sparklet.model import Run, RunState, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from tests.contract.demanding_s3 import DEMANDS, DemandingS3
from tests.contract.lossy_proxy import proxied
from tests.functional.worker.conftest import SMALL, local_jars
from tests.functional.worker.ledgered import BUCKET, TABLE, Function, deployed
from tests.stand_ins.http_server import self_signed

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SMALL_PARTS = {f"spark.hadoop.fs.s3a.multipart.{name}": "5M" for name in ("size", "threshold")}  # the minimum in S3
SCRIPT = b"""
from pyspark.sql import functions as F
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
rows = spark.range(100).withColumn("day", F.col("id") % 3)
large = spark.range(800_000).select(F.rand().alias("x")).coalesce(1)  # 6 MB, which nothing compresses
rows.write.partitionBy("day").parquet(job.output + "/rows")
large.write.parquet(job.output + "/large")
for name, frame in (("rows", rows), ("large", large)):  # by Spark's own protocol, which copies
    frame.write.parquet(f"s3://sparklet-runs/elsewhere/{name}")
"""


@dataclass(frozen=True)
class Demanding:
    """A function with a bucket that denies writes without encryption headers, and deployments that plan and check."""

    function: Function
    front: DemandingS3
    deployment: Deployment  # with requests through the front, like the function's
    direct: Deployment  # with requests that no policy denies

    def plan(self, deployment: Deployment) -> Run:
        script, source = f"s3://{BUCKET}/jobs/job.py", f"s3://{BUCKET}/in/a.csv"
        for uri, body in ((script, SCRIPT), (source, b"id\n1\n")):
            self.function.store.put(uri, body)
        run = new_run(deployment, RunRequest(script, (source,), f"s3://{BUCKET}/out/", run_id="run-1"))
        return plan(deployment, run.run_id)

    def finish(self, run: Run, deployment: Deployment) -> Run:
        """Deliver the run's shard, check the run, and return it."""
        ref = self.function.ledger.shards.get(run.run_id, 0).ref
        assert self.function.deliver(ref) == [], self.function.new_log().decode()[-3000:]
        check(deployment, run.run_id)
        return self.function.ledger.runs.get(run.run_id)


@contextmanager
def demanding(factory: pytest.TempPathFactory, demanded: str, setting: str) -> Iterator[Demanding]:
    folder = factory.mktemp("function")
    key, certificate = self_signed(folder)  # the AWS SDK for Java sends no key without TLS
    store = folder / "trust.jks"
    store.write_bytes(jks([ssl.PEM_cert_to_DER_cert(certificate.read_text())]))
    java = " ".join([SMALL["SPARKLET_JAVA_OPTIONS"], *trust_options(store)])
    both = {"SPARKLET_WRITE_ENCRYPTION": setting, "AWS_CA_BUNDLE": str(certificate)}
    both["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # with TLS boto3 would send chunks
    env = {**both, "SPARKLET_JAVA_OPTIONS": java, "SPARKLET_SPARK_CONF": json.dumps(SMALL_PARTS), **local_jars()}
    with (
        proxied(DemandingS3("", DEMANDS[demanded]), (key, certificate)) as (front, endpoint),
        deployed(folder, factory.mktemp("scratch"), AWS_ENDPOINT_URL_S3=endpoint, **env) as function,
        pytest.MonkeyPatch.context() as patch,
    ):
        front.backend = function.clients.s3.meta.endpoint_url
        for name, value in both.items():
            patch.setenv(name, value)
        url = function.clients.sqs.create_queue(QueueName="tasks")["QueueUrl"]
        clients = AwsClients(endpoint_url=endpoint, region="us-east-1"), function.clients
        yield Demanding(function, front, *(compose(each, BUCKET, TABLE, url) for each in clients))


@pytest.mark.parametrize("encryption", DEMANDS)
def test_all_writes_of_a_run_have_the_encryption_headers(
    tmp_path_factory: pytest.TempPathFactory, encryption: str
) -> None:
    with demanding(tmp_path_factory, encryption, encryption) as stack:
        run = stack.finish(stack.plan(stack.deployment), stack.deployment)

        assert run.state is RunState.SUCCEEDED
        manifest = json.loads(stack.deployment.store.get(stack.deployment.run_uri(run.run_id, "manifest.json")))
        assert manifest["ResultFiles"]["SUCCEEDED"]
        assert stack.front.refused == []
        assert {operation for operation, client in stack.front.writes if client == "Hadoop"} == {*WRITES}
        boto3_writes = {operation for operation, client in stack.front.writes if client == "Boto3"}
        assert boto3_writes >= {"PutObject", "CopyObject"}


def test_a_run_without_encryption_names_the_parameter(tmp_path_factory: pytest.TempPathFactory) -> None:
    with demanding(tmp_path_factory, "AES256", "") as stack:
        with pytest.raises(ObjectForbiddenError, match="WriteEncryption"):
            stack.plan(stack.deployment)

        run = stack.finish(stack.plan(stack.direct), stack.direct)  # as if only the output's bucket had the policy

        record = stack.function.ledger.shards.get(run.run_id, 0)
        assert (run.state, record.state) == (RunState.FAILED, ShardState.FAILED)
        assert "WriteEncryption" in advice(record.error_class, record.error_message).remedy
