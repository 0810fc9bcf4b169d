"""An S3 that refuses every request, and notes the access keys of the requests."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.stand_ins.http_server import QuietHandler, serving

REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@contextmanager
def refusing_s3() -> Iterator[tuple[str, list[str]]]:
    """Run the server; yield its endpoint, and the list of access keys by which requests were signed so far."""
    signers: list[str] = []

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            signers.extend(re.findall(r"Credential=([^/]+)/", self.headers.get("Authorization", "")))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(403)
            self.send_header("Content-Length", str(len(REFUSAL)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(REFUSAL)

        do_DELETE = do_POST = do_PUT = do_GET = do_HEAD = handle_any  # noqa: N815 - the base class's names

    with serving(Handler) as address:
        yield address, signers
