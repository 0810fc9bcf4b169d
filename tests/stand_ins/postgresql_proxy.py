"""A proxy before PostgreSQL that strikes at a step of a client: before or after the effect of a statement, or within.

It reads PostgreSQL's messages, so nothing in the product knows of it. A client is named by its ``ApplicationName``.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

NEGOTIATION = (80877103, 80877104)  # SSLRequest, GSSENCRequest: answered with one byte
SIDES = ("before", "within", "after")  # within: the first rows of a COPY have passed


@dataclass
class Strike:
    """What happens to a client at its next statement that begins with ``step``.

    ``go_on``: whether its bytes still pass.
    """

    step: str
    side: str
    action: Callable[[], None]
    go_on: bool = False


class CutError(Exception):
    """The connection ends here."""


class Proxy:
    """A port of this machine before a server."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._strikes: dict[str, Strike] = {}
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def strike(self, application: str, strike: Strike) -> None:
        """Strike that client, once."""
        with self._lock:
            self._strikes[application] = strike

    def close(self) -> None:
        """No more connections."""
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=_Session(self, client, self._upstream).run, daemon=True).start()

    def struck(self, application: str, side: str, statement: str) -> Strike | None:
        """The strike that is due, which is then used up."""
        with self._lock:
            found = self._strikes.get(application)
            if found is None or found.side != side or not statement.startswith(found.step):
                return None
            return self._strikes.pop(application)


class _Session:
    def __init__(self, proxy: Proxy, client: socket.socket, upstream: tuple[str, int]) -> None:
        self._proxy, self._client = proxy, client
        self._server = socket.create_connection(upstream)
        self._name, self._statement = "", ""

    def run(self) -> None:
        """Pass on what the client sends, until either side ends."""
        answers = threading.Thread(target=self._answer, daemon=True)
        try:
            self._start()
            answers.start()
            while True:
                kind, message = _message(self._client)
                if kind in b"QP":  # a statement, or one with a name before it
                    self._statement = message[5:].split(b"\0")[kind == b"P"].decode(errors="replace")
                    self._hit("before")
                self._server.sendall(message)
                if kind == b"d":
                    self._hit("within")
        except (CutError, OSError):
            self._end()

    def _start(self) -> None:
        """The messages before the first that has a type; the last of them names the client."""
        while True:
            head = _read(self._client, 8)
            length, code = struct.unpack("!II", head)
            rest = _read(self._client, length - 8)
            self._server.sendall(head + rest)
            if code not in NEGOTIATION:
                words = rest.decode(errors="replace").split("\0")
                self._name = dict(zip(words[::2], words[1::2], strict=False)).get("application_name", "")
                return
            self._client.sendall(_read(self._server, 1))

    def _answer(self) -> None:
        with suppress(CutError, OSError):
            while True:
                kind, message = _message(self._server)
                if kind == b"Z":
                    self._hit("after")
                elif kind == b"S" and b"application_name\0" in message:  # the driver names itself once it is in
                    self._name = message[5:].split(b"\0")[1].decode()
                self._client.sendall(message)
        self._end()

    def _hit(self, side: str) -> None:
        strike = self._proxy.struck(self._name, side, self._statement)
        if strike:
            strike.action()
            if not strike.go_on:
                raise CutError

    def _end(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    head = _read(source, 5)
    return head[:1], head + _read(source, struct.unpack("!I", head[1:])[0] - 4)


def _read(source: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        if not (more := source.recv(size - len(content))):
            raise CutError
        content += more
    return content
