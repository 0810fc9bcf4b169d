"""Without a network an error comes in bounded time, names the address and says what to check."""

import socket
from collections.abc import Callable, Iterator

import pytest

from sparklet.aws import clients as client_module
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import SqsTaskQueue
from sparklet.aws.stacks import described_stack
from sparklet.cli import main
from sparklet.errors import LedgerError, ObjectStoreError, QueueError, SettingsError, SparkletError
from tests.waiting import deadline_s

pytestmark = pytest.mark.timeout(deadline_s())  # no hang
LOOK_AT = "check the network, the region, HTTPS_PROXY and AWS_ENDPOINT_URL"

CALLS: dict[str, tuple[Callable[[AwsClients, str], object], type[SparkletError]]] = {
    "S3": (lambda clients, url: S3ObjectStore(clients).get("s3://bucket/key"), ObjectStoreError),
    "S3 listing": (lambda clients, url: list(S3ObjectStore(clients).list("s3://bucket/")), ObjectStoreError),
    "ledger": (lambda clients, url: DynamoLedger(clients, "ledger").runs.get("run-1"), LedgerError),
    "queue": (lambda clients, url: SqsTaskQueue(clients, f"{url}/1/q").send(["body"]), QueueError),
    "stack": (lambda clients, url: described_stack(clients, "sparklet"), SettingsError),
}


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that accepts connections and never responds; timeouts are shorter than for AWS."""
    quick = {service: {**options, "read_timeout": 0.2} for service, options in client_module.OPTIONS.items()}
    monkeypatch.setattr(client_module, "OPTIONS", quick)
    monkeypatch.setattr(client_module, "READ_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing(refusing: str) -> str:
    return f"http://{refusing}"


@pytest.mark.parametrize("endpoint", ["refusing", "silent"])
@pytest.mark.parametrize("what", CALLS)
def test_an_address_that_does_not_answer_is_named(what: str, endpoint: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(endpoint)
    call, error_class = CALLS[what]

    with pytest.raises(error_class) as caught:
        call(AwsClients(endpoint_url=url, attempts=2), url)

    assert url in str(caught.value)
    assert LOOK_AT in str(caught.value)


def test_the_command_line_ends_with_1_and_one_error(
    refusing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)

    assert main(["runs", "--stack", "sparklet"]) == 1

    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("error: the stack sparklet cannot be described: ")
    assert refusing in told
    assert LOOK_AT in told


def test_missing_credentials_are_named_with_their_variables(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SettingsError, match="there are no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        described_stack(AwsClients(endpoint_url=refusing), "sparklet")
