"""A small HTTP server for stand-ins, each of which has a request handler."""

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class QuietHandler(BaseHTTPRequestHandler):
    """A request handler that writes no log."""

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], own: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Serve until the end of the block; yield the address. With ``own``, a key and its certificate, use TLS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        if own:
            key, certificate = own
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"https://localhost:{server.server_port}" if own else f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a key, and a certificate for localhost that it signs itself; return the files of both."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *request, *names], check=True, capture_output=True)
    return key, certificate
