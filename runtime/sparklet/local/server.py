"""The stand-in's own process: ministack behind a guard, with its state saved while it runs.

ministack writes its state when it ends in an orderly way only, starts its event source mappings as
soon as its state is loaded, and lets everyone in who reaches the port. Here a thread saves what changes every few
seconds, mappings and schedules rest until a client wants them, and requests need a token: whoever
may create a function may run code as this user, and loopback is open to other users and to web pages.

Started by the host as ``python -m sparklet.local.server``.
"""

import asyncio
import hmac
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import hypercorn.asyncio
import hypercorn.config
from ministack import app as ministack
from ministack.core import concurrency, persistence
from ministack.services import eventbridge, lambda_svc

from sparklet.local import processes
from sparklet.local.control import PROCESSING_PATH, SAVE_PATH, TOKEN_HEADER

# In this order: a message whose shard is lost comes back, a shard whose message is lost is requeued.
SAVED_OFTEN = ("sqs", "dynamodb", "s3")
SAVE_EVERY_S = 3.0
SAVE_SHARE = 20  # saving takes at most one part in twenty of the time
WORKERS_END_WITHIN_S = 2.5
END_WITHIN_S = 300.0  # then it ends unsaved: nobody may be left to end it

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Any], Awaitable[None]]

logger = logging.getLogger("sparklet.local.server")


class Saver:
    """Saves what changes while the stand-in runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # two writers would share a draft
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Save now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Save no more."""
        self._ended.set()
        self._thread.join()

    def save_all(self) -> None:
        """Save everything, the deployment included."""
        with self._lock:
            persistence.save_all(ministack._build_persistence_save_dict())

    def _run(self) -> None:
        pause_s = SAVE_EVERY_S
        while not self._ended.wait(pause_s):
            started_s = time.monotonic()
            with self._lock:
                services = ministack._build_persistence_save_dict()
                persistence.save_all({name: services[name] for name in SAVED_OFTEN if name in services})
            pause_s = max(SAVE_EVERY_S, SAVE_SHARE * (time.monotonic() - started_s))


class Gate:
    """While it is closed, no mapping and no schedule invokes a function."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._put_before(lambda_svc, "_poll_sqs")
        self._put_before(lambda_svc, "_poll_kinesis")
        self._put_before(eventbridge, "_tick_scheduled_rules")

    def open(self) -> None:
        """Let them work."""
        self._open.set()
        concurrency.esm_wake.set()

    def close(self) -> None:
        """Let them rest."""
        self._open.clear()

    def _put_before(self, module: Any, name: str) -> None:
        step = getattr(module, name)
        setattr(module, name, lambda: step() if self._open.is_set() else False)


def guarded(inner: Application, token: str, saver: Saver, gate: Gate) -> Application:
    """The application, for those who know the token; and the host's own two requests."""

    async def application(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await inner(scope, receive, send)
        elif not _knows(token, scope):
            await _answer(scope, send, 403, b"This stand-in belongs to somebody's `sparklet run`.")
        elif scope["path"] == SAVE_PATH:
            await asyncio.to_thread(saver.save_all)
            await _answer(scope, send, 200, b"")
        elif scope["path"] == PROCESSING_PATH:
            gate.open()
            await _answer(scope, send, 200, b"")
        else:
            await inner(scope, receive, send)

    return application


def _knows(token: str, scope: Message) -> bool:
    name = TOKEN_HEADER.lower().encode()
    said = [value for key, value in scope.get("headers", ()) if key.lower() == name]
    return any(hmac.compare_digest(value, token.encode()) for value in said)


async def _answer(scope: Message, send: Any, status: int, body: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve(listening: int, token: str) -> None:
    saver, gate = Saver(), Gate()
    # It would keep the log lines of every invocation in memory for ever; workers write files.
    lambda_svc._emit_lambda_logs = lambda *arguments, **keywords: None
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)

    async def end() -> None:
        await told_to_end.wait()
        last_resort = threading.Timer(END_WITHIN_S, os._exit, [1])
        last_resort.daemon = True
        last_resort.start()
        gate.close()
        await asyncio.to_thread(_end_workers)
        await asyncio.to_thread(saver.stop)

    saver.start()
    application: Any = guarded(ministack.app, token, saver, gate)
    await hypercorn.asyncio.serve(application, config, shutdown_trigger=end)


def _end_workers() -> None:
    """Ask the functions' processes to end, while they can still tell the ledger; then see to it."""
    workers = processes.children(os.getpid())
    for worker in workers:
        processes.signal_process(worker, signal.SIGTERM)
    processes.wait_gone(workers, WORKERS_END_WITHIN_S)
    processes.kill_tree(os.getpid(), itself=False)


def main() -> None:
    """Serve on the listening socket that the host handed down, until SIGTERM or the host's death."""
    host, listening = int(sys.argv[1]), int(sys.argv[2])
    processes.tell_when_parent_dies(signal.SIGTERM)
    if os.getppid() != host:  # it died before the kernel was told
        return
    asyncio.run(_run(listening))


async def _run(listening: int) -> None:
    await _serve(listening, os.environ["AWS_SESSION_TOKEN"])
    processes.kill_tree(os.getpid(), itself=False)
    sys.stderr.flush()
    os._exit(0)  # threads that wait for killed workers would hold up an ordinary exit


if __name__ == "__main__":
    main()
