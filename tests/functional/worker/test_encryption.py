"""A run whose buckets' policies deny each write that does not ask for its encryption, from its plan to its manifest."""

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

SMALL_PARTS = {f"spark.hadoop.fs.s3a.multipart.{name}": "5M" for name in ("size", "threshold")}  # S3's least
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
    """A function at a bucket that denies writes without the headers, and who plans and checks there."""

    function: Function
    front: DemandingS3
    deployment: Deployment  # by way of the front, like the function
    direct: Deployment

    def planned(self, deployment: Deployment) -> Run:
        script, source = f"s3://{BUCKET}/jobs/job.py", f"s3://{BUCKET}/in/a.csv"
        for uri, body in ((script, SCRIPT), (source, b"id\n1\n")):
            self.function.store.put(uri, body)
        run = new_run(deployment, RunRequest(script, (source,), f"s3://{BUCKET}/out/", run_id="run-1"))
        return plan(deployment, run.run_id)

    def done(self, run: Run, deployment: Deployment) -> Run:
        """The run once its shard was delivered, and it was checked."""
        ref = self.function.ledger.shards.get(run.run_id, 0).ref
        assert self.function.deliver(ref) == [], self.function.said().decode()[-3000:]
        check(deployment, run.run_id)
        return self.function.ledger.runs.get(run.run_id)


@contextmanager
def demanding(factory: pytest.TempPathFactory, demanded: str, given: str) -> Iterator[Demanding]:
    folder = factory.mktemp("function")
    key, certificate = self_signed(folder)  # AWS's SDK for Java names no key without TLS
    store = folder / "trust.jks"
    store.write_bytes(jks([ssl.PEM_cert_to_DER_cert(certificate.read_text())]))
    java = " ".join([SMALL["SPARKLET_JAVA_OPTIONS"], *trust_options(store)])
    both = {"SPARKLET_WRITE_ENCRYPTION": given, "AWS_CA_BUNDLE": str(certificate)}
    both["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # behind TLS boto3 would send chunks
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


@pytest.mark.parametrize("given", DEMANDS)
def test_a_whole_run_asks_for_its_encryption(tmp_path_factory: pytest.TempPathFactory, given: str) -> None:
    with demanding(tmp_path_factory, given, given) as there:
        run = there.done(there.planned(there.deployment), there.deployment)

        assert run.state is RunState.SUCCEEDED
        manifest = json.loads(there.deployment.store.get(there.deployment.run_uri(run.run_id, "manifest.json")))
        assert manifest["ResultFiles"]["SUCCEEDED"]
        assert there.front.refused == []
        assert {what for what, client in there.front.writes if client == "Hadoop"} == {*WRITES}
        assert {what for what, client in there.front.writes if client == "Boto3"} >= {"PutObject", "CopyObject"}


def test_a_run_without_encryption_names_the_parameter(tmp_path_factory: pytest.TempPathFactory) -> None:
    with demanding(tmp_path_factory, "AES256", "") as there:
        with pytest.raises(ObjectForbiddenError, match="WriteEncryption"):
            there.planned(there.deployment)

        run = there.done(there.planned(there.direct), there.direct)  # as if only the output's bucket demanded it

        record = there.function.ledger.shards.get(run.run_id, 0)
        assert (run.state, record.state) == (RunState.FAILED, ShardState.FAILED)
        assert "WriteEncryption" in advice(record.error_class, record.error_message).remedy
