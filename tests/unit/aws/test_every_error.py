"""Every error of botocore and every response of a proxy becomes an error of Sparklet, in a line or two."""

import importlib
import inspect
import pkgutil
import string
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from urllib3 import HTTPResponse
from urllib3.exceptions import SSLError

from sparklet.aws.clients import AwsClients, read_secret
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import (
    AwsNotifier,
    CloudWatchWorkerLogs,
    LambdaCompute,
    SqsTaskQueue,
    StepFunctionsOrchestrator,
)
from sparklet.aws.stacks import described_stack, unreserved_concurrency
from sparklet.engines.emr_serverless import EmrServerlessJobs
from sparklet.engines.fargate import FargateTasks
from sparklet.engines.glue import GlueJobRuns
from sparklet.errors import SparkletError
from sparklet.model import Notice
from sparklet.ports import ObjectInfo

URI = "s3://bucket/a.csv"
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/q"
NOT_OF_CALLS = ("crt", "vendored", "docs")  # parts of botocore: optional, copied, or not used by clients
HTML = b"<!DOCTYPE html><html><body>Sign in to <b>Guest WiFi</b><br>" + b"and wait " * 400 + b"</body></html>"
XHTML = b"<html><body>" + b"<p>Sign in to Guest WiFi</p>" * 100 + b"</body></html>"
ANSWERS = [
    (404, b""),
    (404, HTML),
    (403, XHTML),
    (407, b"\xff\xfe"),
    (418, b"{}"),
    (200, HTML),
    (200, XHTML),
    (200, b"["),
]


def calls(clients: AwsClients, folder: Path) -> dict[str, Callable[[], Any]]:
    """By name, one call of every service that Sparklet uses, and of S3 every kind of call."""
    store, ledger, queue = S3ObjectStore(clients), DynamoLedger(clients, "table"), SqsTaskQueue(clients, QUEUE)
    (folder / "a.csv").write_bytes(b"a\n")
    fargate = FargateTasks(clients=clients, cluster="c", task_definition="t", network={})
    glue, emr = (
        GlueJobRuns(clients=clients, env={}, job="j"),
        EmrServerlessJobs(clients=clients, env={}, application="a", role="r"),
    )
    return {
        "get": lambda: store.get(URI),
        "head": lambda: store.head(URI),
        "list": lambda: list(store.list("s3://bucket/")),
        "put": lambda: store.put(URI, b"a"),
        "create": lambda: store.put(URI, b"a", create_only=True),
        "download": lambda: store.download(URI, folder / "b.csv"),
        "upload": lambda: store.upload(folder / "a.csv", URI),
        "copy": lambda: store.copy_all([(ObjectInfo(URI, 1, "", 0.0), "s3://bucket/b.csv")]),
        "delete": lambda: store.delete_all([URI], URI),
        "region": lambda: store.foreign_region(URI),
        "ledger": lambda: ledger.runs.get("run"),
        "queue": lambda: queue.send(["{}"]),
        "topic": lambda: AwsNotifier(clients, "arn:aws:sns:us-east-1:123456789012:t", "").notify(NOTICE),
        "bus": lambda: AwsNotifier(clients, "", "bus").notify(NOTICE),
        "function": lambda: LambdaCompute(clients).invoke("function", {}),
        "machine": lambda: StepFunctionsOrchestrator(clients).start("arn:aws:states:::m", "name", {}),
        "stack": lambda: described_stack(clients, "stack"),
        "account": lambda: unreserved_concurrency(clients),
        "logs": lambda: CloudWatchWorkerLogs(clients, "group").streams("run", None, 0.0),
        "secret": lambda: read_secret(clients, "name"),
        "fargate": lambda: fargate.start("token", ["shard"]),
        "glue": lambda: glue.stopped(["task"]),
        "emr-serverless": lambda: emr.stopped(["task"]),
    }


NOTICE = Notice("run", "FAILED", {"id": "run"})


def errors_of_botocore() -> Iterator[Exception]:
    """One error of every class that botocore defines, and one of the network library that it passes on."""
    yield SSLError("the record is bad")
    for module in pkgutil.walk_packages(botocore.__path__, "botocore."):
        if any(f".{part}" in module.name for part in NOT_OF_CALLS):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            of_calls = inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, Warning)
            if of_calls and kind.__module__ == module.name and not name.startswith("_Retries"):
                yield error_of_class(kind)


def error_of_class(kind: type[Exception]) -> Exception:
    """An error of this class, with a value for each of its fields."""
    if issubclass(kind, ClientError):
        response: Any = {
            "Error": {"Code": "Odd", "Message": "odd"},
            "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {}},
        }
        return kind(response, "Call")
    fields = {name: name for _, name, _, _ in string.Formatter().parse(getattr(kind, "fmt", "")) if name}
    for arguments in ({**fields, "error": "odd"}, fields):
        try:
            return kind(**arguments)
        except TypeError:
            continue
    named = inspect.signature(kind.__init__).parameters.values() if kind.__init__ is not Exception.__init__ else ()
    needed = [each for each in named if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD][1:]
    return kind(*[7 for _ in needed or ("message",)])


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(attempts=1)


def check(call: Callable[[], Any], of: str) -> SparkletError | None:
    """Make a call. Return its error, which must be an error of Sparklet; None if the call succeeds."""
    failed = None
    try:
        call()
    except SparkletError as error:
        failed = error
    except Exception as error:  # noqa: BLE001
        pytest.fail(f"{of}: {error!r}")
    assert failed is None or (0 < len(str(failed).splitlines()) <= 2 and len(str(failed)) < 1200), of
    return failed


def before(clients: AwsClients, what: str, answer: Callable[..., Any]) -> None:
    """Let ``answer`` replace a call or the network for every client."""
    for name in ("s3", "dynamodb", "sqs", "sns", "events", "cloudformation", "logs", "ecs", "glue", "states"):
        getattr(clients, name).meta.events.register_first(what, answer)
    for name in ("functions", "secrets", "emr_serverless"):
        getattr(clients, name).meta.events.register_first(what, answer)


def proxied(request: Any, status: int, raw: Any) -> AWSResponse:
    """An answer whose headers are not those of AWS."""
    headers: Any = {"content-type": "text/html" if status != 200 or isinstance(raw, HTTPResponse) else ""}
    return AWSResponse(request.url, status, headers, raw)


def test_every_error_of_botocore_becomes_ours_in_a_line(clients: AwsClients, tmp_path: Path) -> None:
    raised: list[Exception] = []

    def fail(**_: Any) -> None:
        raise raised[-1]

    before(clients, "before-call", fail)
    for error in errors_of_botocore():
        raised.append(error)
        for name, call in calls(clients, tmp_path).items():
            failed = check(call, f"{name}, {type(error).__name__}")
            assert failed or name == "region", (name, error)  # which S3 names in a refusal, too
    assert len(raised) > 100


@pytest.mark.parametrize(("status", "body"), ANSWERS)
def test_every_answer_of_a_proxy_becomes_our_error(
    clients: AwsClients, tmp_path: Path, status: int, body: bytes
) -> None:
    def answer(request: Any, **_: Any) -> AWSResponse:
        raw = HTTPResponse(BytesIO(body), headers={"content-type": "text/html"}, status=status, preload_content=False)
        return proxied(request, status, raw)

    before(clients, "before-send", answer)
    for name, call in calls(clients, tmp_path).items():
        check(call, name)
    with pytest.raises(SparkletError, match="the stack stack cannot be described: "):
        described_stack(clients, "stack")


def test_a_connection_that_breaks_within_a_body_is_our_error(clients: AwsClients, tmp_path: Path) -> None:
    class Broken(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise SSLError("the record is bad")

    def answer(request: Any, **_: Any) -> AWSResponse:
        raw: Any = Broken()
        raw.stream = lambda *_: iter([b"{}"])
        return proxied(request, 200, raw)

    before(clients, "before-send", answer)
    for name in ("get", "download", "function"):
        assert check(calls(clients, tmp_path)[name], name)


def test_a_memory_error_passes_unchanged(clients: AwsClients) -> None:
    def fail(**_: Any) -> None:
        raise MemoryError

    before(clients, "before-call", fail)
    with pytest.raises(MemoryError):
        S3ObjectStore(clients).get(URI)
