"""A proxy between one worker and the stand-in for AWS, which asks before each request what shall go wrong with it.

Each worker has a port of its own, so a request says whose it is. A fault strikes *before* the effect (the stand-in
never sees the request) or *after* it (the stand-in has done what was asked, and the worker is not told).
"""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 256 * 1024
NO_BODY = (204, 304)
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass(frozen=True)
class Request:
    """A request as the worker sent it."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    head: bytes
    body: bytes

    @property
    def operation(self) -> str:
        """DynamoDB's or SQS's operation; empty for S3."""
        return self.headers.get("x-amz-target", "").rpartition(".")[2]


class Refusal(Exception):  # noqa: N818 - no error of ours: the worker's connection ends
    """The worker gets no answer: its connection is reset."""


@dataclass(frozen=True)
class Fault:
    """What happens to one request, before its effect or after it; by itself nothing."""

    after_effect: bool

    async def strike(self, request: Request) -> bytes | None:
        """Let it happen; bytes are an answer in the stand-in's place. Refusal: the worker gets no answer."""
        return None


FINE = Fault(after_effect=False)


@dataclass(frozen=True)
class Mishap(Fault):
    """Drops, delays, resets and refusals of the network and of AWS.

    ``kind``: ``reset`` (RST), ``drop`` (silence for ``time_s``, then RST), ``delay`` (``time_s``), ``error`` (503).
    """

    kind: str
    time_s: float = 0.0

    async def strike(self, request: Request) -> bytes | None:
        """The network's fault."""
        if self.kind == "error":
            return answer(503, b"" if request.method == "HEAD" else SLOW_DOWN)
        await asyncio.sleep(self.time_s)
        if self.kind != "delay":
            raise Refusal
        return None


@dataclass(frozen=True)
class Strike(Fault):
    """Does something to the worker while its request is held: kills it, or stops it until it is waked.

    ``act`` runs in a thread. Once it has returned, the request of a stopped worker is passed on (before its effect)
    or answered (after it); that of a killed one is not.
    """

    act: Callable[[], None]
    kills: bool

    async def strike(self, request: Request) -> bytes | None:
        """Kill, or stop."""
        await asyncio.to_thread(self.act)
        if self.kills:
            raise Refusal
        return None


Decide = Callable[[Request], Fault]


@dataclass
class Proxy:
    """Listens on as many ports as there are workers, all in one thread of its own."""

    upstream: str  # the stand-in's address
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _conversations: set[Any] = field(default_factory=set)  # or those whose worker has gone end before a held request

    def __post_init__(self) -> None:
        self._loop.set_default_executor(ThreadPoolExecutor(64))  # a stopped worker's requests each hold a thread
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def listen(self, decide: Decide, upstream: str = "") -> str:
        """A new port's address; ``decide`` is asked before each request that arrives there."""
        at = urlsplit(upstream or self.upstream)

        async def start() -> asyncio.Server:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self._conversations.add(asyncio.current_task())
                with suppress(asyncio.CancelledError):  # the end
                    await _Conversation(reader, writer, str(at.hostname), int(at.port or 80), decide).hold()
                self._conversations.discard(asyncio.current_task())

            return await asyncio.start_server(serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)

        server = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        self._servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """End the thread; connections that are open end with it."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            open_ = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class _Conversation:
    """One connection of a worker, and one to the stand-in for it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, decide: Decide
    ) -> None:
        self._reader, self._writer, self._at, self._decide = reader, writer, (host, port), decide
        self._up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def hold(self) -> None:
        """Pass on requests and answers until either side ends."""
        try:
            while request := await self._request():
                if not await self._pass_on(request):
                    break
        except (Refusal, OSError, EOFError, asyncio.LimitOverrunError):
            _reset(self._writer)
        finally:
            self._writer.close()
            if self._up:
                self._up[1].close()

    async def _request(self) -> Request | None:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, headers = parsed(head)
        method, path, _ = first.split(" ", 2)
        if headers.pop("expect", ""):  # it is answered here
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:")]
            head = b"\r\n".join(kept)
        return Request(method, path, headers, head, await body_of(self._reader, headers))

    async def _pass_on(self, request: Request) -> bool:
        """One request and its answer; False if the connection ends with it."""
        fault = self._decide(request)
        if not fault.after_effect and (instead := await fault.strike(request)) is not None:
            self._writer.write(instead)
            await self._writer.drain()
            return True
        reader, writer = await self._connected()
        writer.write(request.head + request.body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        first, headers = parsed(head)
        body = b""
        if request.method != "HEAD" and int(first.split(" ", 2)[1]) not in NO_BODY:
            body = await body_of(reader, headers, to_end=True)
        if fault.after_effect:
            await fault.strike(request)
        self._writer.write(head + body)
        await self._writer.drain()
        lasts = "close" not in (headers.get("connection", "").lower(), request.headers.get("connection", "").lower())
        return lasts and ("content-length" in headers or "transfer-encoding" in headers or not body)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._up is None or self._up[0].at_eof() or self._up[1].is_closing():
            self._up = await asyncio.open_connection(*self._at, limit=MAX_HEAD_BYTES)
        return self._up


def parsed(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line of a message, and its headers."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return first, {name.strip().lower(): value.strip() for name, value in pairs}


async def body_of(reader: asyncio.StreamReader, headers: dict[str, str], *, to_end: bool = False) -> bytes:
    """The body that follows a head, as it is on the wire; without any length ``to_end`` of the connection."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return b"".join([chunk async for chunk in _chunks(reader)])
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read() if to_end else b""


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        line = await reader.readline()
        size = int(line.split(b";")[0], 16)
        yield line + await reader.readexactly(size + 2)  # the last one has size 0 and no trailers
        if not size:
            return


def answer(status: int, body: bytes) -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status} Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of an orderly end: the worker must take nothing for a whole answer."""
    with suppress(OSError):  # the worker was faster
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
