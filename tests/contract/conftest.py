"""One suite per port, run over every adapter: in memory, and on the stand-ins for AWS.

Each stand-in starts once per session, when the first test needs it. Each test has runs, buckets and queues of its own.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import LocalStackError
from sparklet.functions.backend import Backend
from sparklet.functions.deployed import LambdaFunctions
from sparklet.functions.local import Processes, Threads
from sparklet.ports import Clock, Ledger, ObjectStore
from tests.contract.samples import planned
from tests.functional.functions.conftest import STACK, Functions, deployed_functions
from tests.stand_ins.dynamodb_local import dynamodb_local
from tests.stand_ins.elasticmq import elasticmq
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue, SystemClock
from tests.stand_ins.ministack import ministack
from tests.stand_ins.read_queues import ReadQueue, ReadSqsQueue

ON_LAMBDA = pytest.param("lambda", marks=pytest.mark.stack)

THREADS = 8
TABLE = "contract-ledger"
ON_STACK = pytest.mark.stack


@pytest.fixture(scope="session", autouse=True)
def _aws_environment() -> Iterator[None]:
    """Set invalid credentials, and remove every setting of the caller's own AWS account."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def ministack_clients(_aws_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    """Clients of a ministack that is started for this session."""
    with ministack(tmp_path_factory.mktemp("ministack")) as endpoint:
        clients = AwsClients(THREADS, endpoint_url=endpoint)
        create_table(clients.dynamodb, TABLE)
        yield clients


@pytest.fixture(scope="session")
def dynamodb_local_clients(_aws_environment: None) -> Iterator[AwsClients]:
    """Clients of a DynamoDB Local that is started for this session."""
    with _referee(dynamodb_local) as endpoint:
        clients = AwsClients(THREADS, endpoint_url=endpoint)
        create_table(clients.dynamodb, TABLE)
        yield clients


@pytest.fixture(scope="session")
def elasticmq_clients(_aws_environment: None) -> Iterator[AwsClients]:
    """Clients of an ElasticMQ that is started for this session."""
    with _referee(elasticmq) as endpoint:
        yield AwsClients(THREADS, endpoint_url=endpoint)


@contextmanager
def _referee(server: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """Start a server whose jars are fetched on first use. If they cannot be fetched, skip its tests; in CI, fail."""
    with ExitStack() as stack:
        try:
            endpoint = stack.enter_context(server())
        except LocalStackError as error:
            if os.environ.keys() & {"CI", "REQUIRE_IMAGE"}:  # set by GitHub, and by .ci/run
                raise
            pytest.skip(str(error))
        yield endpoint


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid.uuid4().hex[:12]}"


@pytest.fixture(
    params=[
        "memory",
        pytest.param("ministack", marks=ON_STACK),
        pytest.param("dynamodb-local", marks=ON_STACK),
    ]
)
def ledger(request: pytest.FixtureRequest, clock: FakeClock) -> Ledger:
    if request.param == "memory":
        return MemoryLedger(clock)
    clients = request.getfixturevalue(f"{request.param.replace('-', '_')}_clients")
    return DynamoLedger(clients, TABLE, clock)


@pytest.fixture
def one(ledger: Ledger, run_id: str) -> Ledger:
    """A ledger with a run of one shard, which is PENDING."""
    planned(ledger, run_id, 1)
    return ledger


@pytest.fixture
def bucket(run_id: str) -> str:
    """The name of a bucket for this test alone; the object store has the bucket."""
    return f"contract-{run_id}"


@pytest.fixture(params=["memory", pytest.param("ministack", marks=ON_STACK)])
def store(request: pytest.FixtureRequest, bucket: str) -> ObjectStore:
    if request.param == "memory":
        return MemoryObjectStore(buckets=[bucket])
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    clients.s3.create_bucket(Bucket=bucket)
    return S3ObjectStore(clients)


@pytest.fixture(params=["memory", pytest.param("ministack", marks=ON_STACK)])
def versioned(request: pytest.FixtureRequest, bucket: str) -> ObjectStore:
    """A store whose bucket keeps every version."""
    if request.param == "memory":
        return MemoryObjectStore(buckets=[bucket], versioned=[bucket])
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    clients.s3.create_bucket(Bucket=bucket)
    clients.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return S3ObjectStore(clients)


@dataclass(frozen=True)
class Queues:
    """A queue whose received messages are invisible for a while; after two receives a message goes to ``dead``."""

    main: ReadQueue
    dead: ReadQueue
    clock: Clock


ON_QUEUES = ["memory", pytest.param("ministack", marks=ON_STACK), pytest.param("elasticmq", marks=ON_STACK)]


@pytest.fixture(params=ON_QUEUES)
def queues(request: pytest.FixtureRequest, run_id: str) -> Queues:
    """Queues whose received messages stay invisible for ten minutes, so until a test has ended."""
    return _queues(request, run_id, 600)


@pytest.fixture(params=ON_QUEUES)
def short(request: pytest.FixtureRequest, run_id: str) -> Queues:
    """Queues whose received messages are visible again after a second; a test waits for that."""
    return _queues(request, run_id, 1)


def _queues(request: pytest.FixtureRequest, run_id: str, visibility_s: int) -> Queues:
    if request.param == "memory":
        clock = FakeClock()
        dead = MemoryTaskQueue(clock)
        return Queues(MemoryTaskQueue(clock, visibility_s, dead, 2), dead, clock)
    clients: AwsClients = request.getfixturevalue(f"{request.param}_clients")
    dead_url = clients.sqs.create_queue(QueueName=f"{run_id}-dead")["QueueUrl"]
    found = clients.sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"]
    redrive = json.dumps({"deadLetterTargetArn": found["QueueArn"], "maxReceiveCount": 2})
    url = clients.sqs.create_queue(
        QueueName=run_id, Attributes={"VisibilityTimeout": str(visibility_s), "RedrivePolicy": redrive}
    )["QueueUrl"]
    return Queues(ReadSqsQueue(clients, url), ReadSqsQueue(clients, dead_url), SystemClock())


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    """Functions with deployed workers."""
    with deployed_functions(tmp_path_factory.mktemp("functions")) as functions:
        yield functions


def open_backend(name: str, request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend: Backend
    if name == "lambda":
        request.getfixturevalue("functions")
        backend = LambdaFunctions(STACK, 2)
    else:
        backend = {"threads": Threads, "processes": Processes}[name](2)
    yield backend
    backend.close()


@pytest.fixture(params=["threads", "processes", ON_LAMBDA])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A backend that performs two calls at a time."""
    yield from open_backend(request.param, request)


@pytest.fixture(params=["processes", ON_LAMBDA])
def isolated(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A backend whose workers are processes of their own."""
    yield from open_backend(request.param, request)
