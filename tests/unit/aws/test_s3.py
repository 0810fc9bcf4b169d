"""What the S3 adapter promises where no stand-in misbehaves enough: refusals, conflicts, broken bodies."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.s3 import CREATE_TRIES, S3Store
from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectStoreError

URI = "s3://bucket/some key"


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(attempts=1)


@pytest.mark.parametrize("code", ["AccessDenied", "403"])
def test_what_is_forbidden_is_named(clients: AwsClients, code: str) -> None:
    store = S3Store(clients)
    with Stubber(clients.s3) as s3:
        for method in ("get_object", "head_object", "put_object", "delete_object", "list_objects_v2"):
            s3.add_client_error(method, code, http_status_code=403)

        for call in (
            lambda: store.get(URI),
            lambda: store.head(URI),
            lambda: store.put(URI, b""),
            lambda: store.delete(URI),
            lambda: list(store.list(URI)),
        ):
            with pytest.raises(ObjectForbiddenError, match="some key"):
                call()


def test_a_forbidden_upload_is_named(clients: AwsClients, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with Stubber(clients.s3) as s3:
        s3.add_client_error("put_object", "AccessDenied", http_status_code=403)

        with pytest.raises(ObjectForbiddenError, match="some key"):
            S3Store(clients).upload(tmp_path / "file", URI)


def test_any_other_fault_may_pass(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_client_error("get_object", "SlowDown", "reduce your request rate", http_status_code=503)

        with pytest.raises(ObjectStoreError, match=r"some key: S3 answered SlowDown.*reduce your") as caught:
            S3Store(clients).get(URI)

    assert caught.value.retryable


def test_a_conflict_between_writers_is_tried_again_to_see_who_was_first(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        s3.add_client_error("put_object", "PreconditionFailed", http_status_code=412)

        with pytest.raises(ObjectChangedError):
            S3Store(clients).put(URI, b"x", create_only=True)

        s3.assert_no_pending_responses()


def test_a_conflict_that_does_not_end_is_an_error(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        for _ in range(CREATE_TRIES):
            s3.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)

        with pytest.raises(ObjectChangedError, match="being written by others"):
            S3Store(clients).put(URI, b"x", create_only=True)


@pytest.fixture
def breaking_server() -> Iterator[str]:
    """Promises 1,000 bytes of every object, and hangs up after ten."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.send_header("ETag", '"abc"')
            self.end_headers()
            self.wfile.write(b"0123456789")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_half_an_object_is_none(breaking_server: str, tmp_path: Path) -> None:
    """GIVEN a connection that ends in the middle, THEN no part of the object is taken for the whole."""
    store = S3Store(AwsClients(endpoint_url=breaking_server, attempts=1))
    (tmp_path / "target").write_bytes(b"what was there before")

    with pytest.raises(ObjectStoreError, match="some key"):
        store.get(URI)
    with pytest.raises(ObjectStoreError, match="some key"):
        store.download(URI, tmp_path / "target")

    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_bytes() == b"what was there before"
