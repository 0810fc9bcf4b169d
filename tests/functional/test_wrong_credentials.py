"""Credentials that are wrong or have expired, where they are checked: what a user is told, and the exit code."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.task_queue import SqsTaskQueue
from sparklet.cli import main
from sparklet.errors import LedgerError, ObjectForbiddenError, QueueError
from tests.stand_ins.ledger_table import table_definition
from tests.stand_ins.ministack import ministack

pytestmark = pytest.mark.stack

WRONG = "the credentials are wrong: check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
TABLE = "sparklet-ledger"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stand-in that checks who calls, with a bucket and a table; nobody's own account is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTH", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "the root's")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        with ministack(tmp_path_factory.mktemp("auth")) as url:
            clients = AwsClients(endpoint_url=url)
            clients.s3.create_bucket(Bucket="inputs")
            S3ObjectStore(clients).put("s3://inputs/a.csv", b"a\n")
            clients.dynamodb.create_table(**table_definition(TABLE))
            yield url


@pytest.fixture(params=["an unknown key", "a token of a session that is over"])
def wrong(request: pytest.FixtureRequest, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint, and credentials in the environment that are of no use there."""
    if request.param == "an unknown key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "of-yesterday")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-EXAMPLE-SECRET")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


def test_every_port_names_wrong_credentials_and_the_remedy(wrong: str) -> None:
    clients = AwsClients()
    with pytest.raises(ObjectForbiddenError, match=rf"s3://inputs/a\.csv may not be accessed: .*{WRONG}"):
        S3ObjectStore(clients).get("s3://inputs/a.csv")
    with pytest.raises(ObjectForbiddenError, match=rf"s3://inputs/ may not be accessed: .*{WRONG}"):
        list(S3ObjectStore(clients).list("s3://inputs/"))
    with pytest.raises(LedgerError, match=rf"GetItem in table {TABLE} failed: .*{WRONG}"):
        DynamoLedger(clients, TABLE).runs.get("run-1")
    with pytest.raises(QueueError, match=rf"queue {wrong}/1/q: .*{WRONG}"):
        SqsTaskQueue(clients, f"{wrong}/1/q").send(["x"])


def test_the_command_line_exits_with_1_and_shows_no_secret(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--stack", "sparklet"]) == 1

    err = " ".join(capsys.readouterr().err.split())
    assert err.startswith("error: the stack sparklet cannot be described: ")
    assert WRONG in err
    assert "SECRET" not in err.replace("AWS_SECRET_ACCESS_KEY", "")
    assert "of-yesterday" not in err


def test_a_stack_that_is_not_there_is_no_matter_of_credentials(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    assert main(["runs", "--stack", "nobodys"]) == 1

    err = " ".join(capsys.readouterr().err.split())
    assert "Stack with id nobodys does not exist" in err
    assert "check --stack" in err
