"""MicroVMs as an engine: requests and answers as the service's model describes them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.engines import engines_of
from sparklet.errors import RemoteTaskError, SettingsError
from sparklet.ports import Engine
from sparklet.worker.one_shard import parse

IMAGE = "arn:aws:lambda:us-east-1:123456789012:microvm-image:sparklet"
ROLE = "arn:aws:iam::123456789012:role/machines"
MANAGED = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector"
OWN = "arn:aws:lambda:us-east-1:123456789012:network-connector:own"
ENV = {"SPARKLET_BUCKET": "runs", "SPARKLET_LEDGER_TABLE": "ledger"}
COMMAND = ("shard", "--run", "flights-1", "--shard", "7", "--generation", "0")
NAMED = {"image": IMAGE, "role": ROLE, "connector": "", "workers": 4}
STARTED = datetime(2026, 11, 22, 10, tzinfo=UTC)
FOUND: dict[str, Any] = {"microvmId": "mvm-1", "endpoint": "https://mvm-1", "imageArn": IMAGE, "imageVersion": "1.0"}
FOUND |= {"maximumDurationInSeconds": 28_800, "startedAt": STARTED}


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> AwsClients:
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return AwsClients(attempts=1)


@pytest.fixture
def service(clients: AwsClients) -> Iterator[Stubber]:
    with Stubber(clients.microvms) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def engine(clients: AwsClients, **changed: Any) -> Engine:
    return engines_of(clients, {"microvm": {**NAMED, **changed}}, ENV)["microvm"]


def test_a_machine_gets_settings_and_command(clients: AwsClients, service: Stubber) -> None:
    asked: dict[str, Any] = {
        "imageIdentifier": IMAGE,
        "executionRoleArn": ROLE,
        "ingressNetworkConnectors": [f"{MANAGED}:NO_INGRESS"],
        "egressNetworkConnectors": [f"{MANAGED}:INTERNET_EGRESS"],
        "logging": {"cloudWatch": {"logGroup": "/aws/lambda/microvms/sparklet", "logStream": "token-1"}},
        "maximumDurationInSeconds": 28_800,
        "clientToken": ANY,
        "runHookPayload": ANY,
    }
    sent: list[str] = []
    clients.microvms.meta.events.register(
        "provide-client-params.lambda-microvms.RunMicrovm",
        lambda params, **_: sent.append(params["runHookPayload"]),
    )
    service.add_response("run_microvm", {**FOUND, "state": "PENDING"}, asked)

    assert engine(clients).start("token-1", COMMAND) == "mvm-1"

    payload = json.loads(sent[0])
    assert payload["env"] == ENV
    assert payload["log_stream"] == "token-1"
    command = parse(payload["command"][1:])
    assert (command.run_id, command.shard, command.generation) == ("flights-1", 7, 0)
    assert 8 * 3600 - 300 < command.timeout_s < 8 * 3600
    assert len(sent[0]) <= 4_096  # the least that the service's documents name


def test_a_network_of_ones_own(clients: AwsClients, service: Stubber) -> None:
    names = ("imageIdentifier", "executionRoleArn", "ingressNetworkConnectors", "logging", "maximumDurationInSeconds")
    asked = dict.fromkeys((*names, "clientToken", "runHookPayload"), ANY)
    service.add_response("run_microvm", {**FOUND, "state": "PENDING"}, {**asked, "egressNetworkConnectors": [OWN]})

    engine(clients, connector=OWN).start("token-1", COMMAND)


@pytest.mark.parametrize(
    "code", ["ServiceQuotaExceededException", "InsufficientCapacityException", "ThrottlingException"]
)
def test_want_of_room_is_no_failure(clients: AwsClients, service: Stubber, code: str) -> None:
    service.add_client_error("run_microvm", code, "later")

    with pytest.raises(RemoteTaskError) as raised:
        engine(clients).start("token-1", COMMAND)

    assert raised.value.reason == "throttled"


def test_what_the_service_says_of_an_end(clients: AwsClients, service: Stubber) -> None:
    why = "Run lifecycle hook returned HTTP status 500."
    service.add_response(
        "get_microvm", {**FOUND, "state": "TERMINATED", "stateReason": why}, {"microvmIdentifier": "1"}
    )
    service.add_response("get_microvm", {**FOUND, "state": "RUNNING"}, {"microvmIdentifier": "2"})
    service.add_client_error("get_microvm", "ResourceNotFoundException", "no such machine")

    stopped = engine(clients).stopped(["1", "2", "3"])

    assert list(stopped) == ["1", "3"]  # one that the service has forgotten does not run
    assert why in stopped["1"].message


def test_what_cannot_be_asked_is_not_an_end(clients: AwsClients, service: Stubber) -> None:
    service.add_client_error("get_microvm", "AccessDeniedException", "no")

    with pytest.raises(RemoteTaskError):
        engine(clients).stopped(["1"])


def test_a_machine_is_terminated(clients: AwsClients, service: Stubber) -> None:
    service.add_response("terminate_microvm", {}, {"microvmIdentifier": "mvm-1"})

    engine(clients).stop("mvm-1")


def test_it_does_every_table_and_has_a_fleet(clients: AwsClients) -> None:
    assert [engine(clients).unfit(table) for table in ("", "delta", "iceberg", "hudi")] == [""] * 4
    assert engine(clients).most_workers() == 4


def test_one_that_is_not_whole_is_refused(clients: AwsClients) -> None:
    with pytest.raises(SettingsError):
        engines_of(clients, {"microvm": {"image": IMAGE}}, ENV)
