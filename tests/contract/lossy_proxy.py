"""A proxy that forwards a request and then drops the response, as a dying connection does."""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from tests.stand_ins.http_server import QuietHandler, serving
from tests.waiting import deadline_s

PASSED_ON = {"content-type", "etag", "last-modified", "x-amz-crc32", "x-amzn-query-error", "x-amz-request-id"}


class LossyProxy:
    """Drops the responses that ``lose`` names; all others pass.

    A request's ``operation`` is the last word of X-Amz-Target, or the HTTP method if there is none.
    """

    def __init__(self, backend: str) -> None:
        self.lost = 0
        self.asked: list[str] = []  # all requests, as "GET /bucket/key?query"
        self.backend = backend
        self._to_lose: dict[str, int] = {}
        self._before: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def lose(self, operation: str, answers: int = 1, meanwhile: Callable[[], None] | None = None) -> None:
        """Drop the next ``answers`` responses to ``operation``; call ``meanwhile`` after the first took effect."""
        with self._lock:
            self._to_lose = {operation: answers}
            self._before = meanwhile
            self.lost = 0

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Forward a request; return the backend's status, headers and content."""
        backend = urlsplit(self.backend)
        connection = http.client.HTTPConnection(str(backend.hostname), backend.port, timeout=deadline_s())
        with closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def loses(self, operation: str) -> bool:
        """Whether the answer to this request is lost."""
        with self._lock:
            if self._to_lose.get(operation, 0) <= 0:
                return False
            self._to_lose[operation] -= 1
            self.lost += 1
            meanwhile, self._before = self._before, None
        if meanwhile:
            meanwhile()
        return True


Proxy = TypeVar("Proxy", bound=LossyProxy)


def lossy_proxy(backend: str) -> AbstractContextManager[tuple[LossyProxy, str]]:
    """Run a proxy before ``backend``; yield the proxy and its endpoint."""
    return proxied(LossyProxy(backend))


@contextmanager
def proxied(proxy: Proxy, own: tuple[Path, Path] | None = None) -> Iterator[tuple[Proxy, str]]:
    """Let a proxy serve; yield the proxy and its endpoint. With ``own``, a key and its certificate, it uses TLS."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.asked.append(f"{self.command} {self.path}")
            status, headers, content = proxy.ask(self.command, self.path, dict(self.headers.items()), body)
            operation = (self.headers.get("X-Amz-Target") or self.command).rpartition(".")[2]
            if proxy.loses(operation):
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers:
                if name.lower() in PASSED_ON or name.lower().startswith("x-amz"):
                    self.send_header(name, value)
            length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET = do_HEAD = do_DELETE = handle_any  # noqa: N815 - the names that the base class looks for

    with serving(Handler, own) as address:
        yield proxy, address
