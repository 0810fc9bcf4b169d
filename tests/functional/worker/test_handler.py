"""The handler with real events, real S3 calls and real Spark, under both runners."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.object_store import S3ObjectStore
from tests.functional.worker.worker_process import WorkerProcess, stand_in, worker_process

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SCRIPT = b"""
import base64, json, os, sys
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
records = job.event.get("Records", [])
kinesis = [base64.b64decode(r["kinesis"]["data"]).decode() for r in records if "kinesis" in r]
bodies = [r["body"] for r in records if "body" in r]
values = kinesis + bodies + job.event.get("values", [])
frame = spark.createDataFrame([(v,) for v in values], "value string")
print("saw", sorted(row.value for row in frame.collect()), "env", os.environ.get("values"))
if "poison" in values:
    raise ValueError("poison")
job.report(rows=frame.count())
"""


@dataclass(frozen=True)
class Function:
    """A deployed worker function."""

    worker: WorkerProcess
    store: S3ObjectStore

    @property
    def log(self) -> Path:
        return self.worker.log

    def invoke(self, event: Any, timeout_s: float = 120) -> Any:
        return self.worker.invoke(event, timeout_s)


@pytest.fixture(scope="module", params=["warm", "submit"])
def function(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("function")
    own = {
        "SPARKLET_RUNNER": request.param,
        "SPARKLET_SCRIPT_PREFIXES": "s3://scripts/jobs/",
        "SCRIPT_LOCATION": "s3://scripts/jobs/echo.py",
    }
    with stand_in(folder) as (endpoint, clients):
        clients.s3.create_bucket(Bucket="scripts")
        store = S3ObjectStore(clients)
        store.put("s3://scripts/jobs/echo.py", SCRIPT)
        scratch = folder / "scratch"
        scratch.mkdir()
        with worker_process(folder, endpoint, scratch, **own) as worker:
            yield Function(worker, store)


def kinesis(*values: str) -> dict[str, Any]:
    def record(number: int, value: str) -> dict[str, Any]:
        data = base64.b64encode(value.encode()).decode()
        return {"eventSource": "aws:kinesis", "kinesis": {"sequenceNumber": f"{4900 + number}", "data": data}}

    return {"Records": [record(number, value) for number, value in enumerate(values)]}


def sqs(**bodies: str) -> dict[str, Any]:
    return {"Records": [{"eventSource": "aws:sqs", "messageId": i, "body": b} for i, b in bodies.items()]}


def test_a_direct_event_is_answered_with_what_the_script_reports(function: Function) -> None:
    told = function.invoke({"values": ["a", "b"]})["answer"]

    assert (told["state"], told["rows"]) == ("SUCCEEDED", 2)
    assert b"saw ['a', 'b'] env None" in function.log.read_bytes()


def test_a_failed_kinesis_batch_returns_from_its_first_record(function: Function) -> None:
    assert function.invoke(kinesis("x", "y"))["answer"] == {"batchItemFailures": []}
    assert b"saw ['x', 'y']" in function.log.read_bytes()

    failed = function.invoke(kinesis("x", "poison"))["answer"]

    assert failed == {"batchItemFailures": [{"itemIdentifier": "4900"}]}


def test_only_the_failed_message_of_a_batch_returns(function: Function) -> None:
    told = function.invoke(sqs(one="a", two="poison", three="c"))["answer"]

    assert told == {"batchItemFailures": [{"itemIdentifier": "two"}]}
