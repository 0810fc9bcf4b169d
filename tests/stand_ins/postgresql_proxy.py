"""A proxy before PostgreSQL that injects a fault into a client's statement: before, within or after its effect.

It reads PostgreSQL's messages, so the product needs no code for it. A client is named by its ``ApplicationName``.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

NEGOTIATION = (80877103, 80877104)  # SSLRequest, GSSENCRequest: the server answers with one byte
SIDES = ("before", "within", "after")  # "within" is when the first rows of a COPY have passed


@dataclass
class Strike:
    """A fault for a client at its next statement that begins with ``step``.

    The connection is cut after ``action``, unless ``go_on`` is set.
    """

    step: str
    side: str
    action: Callable[[], None]
    go_on: bool = False


class CutError(Exception):
    """Ends a thread of the proxy, and with it the connection."""


class Proxy:
    """A port of this machine, whose connections go to a server's port."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._strikes: dict[str, Strike] = {}
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def strike(self, application: str, strike: Strike) -> None:
        """Set a client's strike; it happens once."""
        with self._lock:
            self._strikes[application] = strike

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=_Session(self, client, self._upstream).run, daemon=True).start()

    def struck(self, application: str, side: str, statement: str) -> Strike | None:
        """Take the client's strike if it is due on this side of the statement, and return it; else None."""
        with self._lock:
            strike = self._strikes.get(application)
            if strike is None or strike.side != side or not statement.startswith(strike.step):
                return None
            return self._strikes.pop(application)


class _Session:
    def __init__(self, proxy: Proxy, client: socket.socket, upstream: tuple[str, int]) -> None:
        self._proxy, self._client = proxy, client
        self._server = socket.create_connection(upstream)
        self._name, self._statement = "", ""

    def run(self) -> None:
        """Pass on what the client sends, until the client or the server closes."""
        answers = threading.Thread(target=self._answer, daemon=True)
        try:
            self._start()
            answers.start()
            while True:
                type_, message = _message(self._client)
                if type_ in b"QP":
                    words = message[5:].split(b"\0")
                    statement = words[1] if type_ == b"P" else words[0]  # in a Parse message a name comes before it
                    self._statement = statement.decode(errors="replace")
                    self._hit("before")
                self._server.sendall(message)
                if type_ == b"d":
                    self._hit("within")
        except (CutError, OSError):
            self._end()

    def _start(self) -> None:
        """Pass on the first messages, which have no type; the last of them names the client."""
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
                type_, message = _message(self._server)
                if type_ == b"Z":
                    self._hit("after")
                elif type_ == b"S" and b"application_name\0" in message:  # the driver sets its name after the login
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
        for connection in (self._client, self._server):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    """Read a message; return its type, and the whole message."""
    head = _read(source, 5)
    return head[:1], head + _read(source, struct.unpack("!I", head[1:])[0] - 4)


def _read(source: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        if not (more := source.recv(size - len(content))):
            raise CutError
        content += more
    return content
