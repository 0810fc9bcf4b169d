"""Reading with another role: it is assumed with the function's credentials, and again before they expire."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.errors import ObjectForbiddenError
from sparklet.model import Access

ROLE = "arn:aws:iam::111122223333:role/reader"


class Aws(ThreadingHTTPServer):
    """A fake of STS and S3 with one object; it records who signed each request."""

    valid_s = 3600.0
    refuses = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.assumed: list[tuple[str, dict[str, list[str]]]] = []
        self.reads: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Aws

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.assumed.append((self._signer(), parse_qs(body)))
        if self.server.refuses:
            self._answer(
                403, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"
            )
            return
        expiry = (datetime.now(UTC) + timedelta(seconds=self.server.valid_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._answer(
            200,
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            f"<AccessKeyId>ROLE{len(self.server.assumed)}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            f"<SessionToken>t</SessionToken><Expiration>{expiry}</Expiration>"
            "</Credentials></AssumeRoleResult></AssumeRoleResponse>",
        )

    def do_GET(self) -> None:
        self.server.reads.append((self._signer(), self.headers.get("x-amz-request-payer", "")))
        self._answer(200, "data")

    def _signer(self) -> str:
        found = re.search(r"Credential=(\w+)/", self.headers.get("Authorization", ""))
        return found[1] if found else ""

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "MYOWN")
    server = Aws()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def store(aws: Aws) -> S3ObjectStore:
    return input_stores(AwsClients(endpoint_url=aws.url, region="us-east-1", attempts=1))(Access(True, ROLE))


def test_a_role_is_assumed_once_and_reads_with_its_credentials(aws: Aws) -> None:
    theirs = store(aws)
    assert aws.assumed == []

    assert [theirs.get("s3://bucket/a") for _ in range(3)] == [b"data"] * 3

    ((signer, asked),) = aws.assumed
    assert signer == "MYOWN" and asked["RoleArn"] == [ROLE]
    assert aws.reads == [("ROLE1", "requester")] * 3


@pytest.mark.parametrize("given", ["", "ours-7"])
def test_a_role_is_assumed_with_the_external_id(aws: Aws, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SPARKLET_EXTERNAL_ID", given)

    store(aws).get("s3://bucket/a")

    assert aws.assumed[0][1].get("ExternalId", [""]) == [given]


def test_credentials_that_are_about_to_expire_are_fetched_again(aws: Aws) -> None:
    aws.valid_s = 300  # less than what botocore keeps in hand
    theirs = store(aws)
    theirs.get("s3://bucket/a")
    aws.valid_s = 3600
    theirs.get("s3://bucket/a")
    theirs.get("s3://bucket/a")
    assert [signer for signer, _ in aws.reads] == ["ROLE1", "ROLE2", "ROLE2"]


def test_a_role_that_may_not_be_assumed_is_named(aws: Aws) -> None:
    aws.refuses = True
    with pytest.raises(ObjectForbiddenError, match=r"s3://bucket/a: the role .* could not be assumed.*trust policy"):
        store(aws).get("s3://bucket/a")
    assert aws.reads == []


def test_without_a_role_nothing_is_assumed(aws: Aws) -> None:
    plain = input_stores(AwsClients(endpoint_url=aws.url, region="us-east-1", attempts=1))(Access())
    plain.get("s3://bucket/a")
    assert (aws.assumed, aws.reads) == ([], [("MYOWN", "")])
