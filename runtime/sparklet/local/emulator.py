"""The emulator's process: ministack behind a token, with its state saved while it runs.

Event source mappings and schedules wait until a client requests them. Requests need a token: loopback is open to other
users and to web pages, and a caller that can create a function can run code as this user.

The host starts it as ``python -m sparklet.local.emulator``.
"""

import asyncio
import functools
import hmac
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import psutil
from ministack import app as ministack

from sparklet.local.disk import Saver, refusal
from sparklet.local.environment import PROCESSING_PATH, SAVE_PATH, TOKEN_HEADER
from sparklet.local.ministack_patches import Processing, refuse_writes
from sparklet.spark.processes import die_with_parent, kill_tree, signal_process

WORKERS_END_WITHIN_S = 2.5
STARTS_WITHIN_S = 120.0
END_WITHIN_S = 300.0  # then it ends unsaved: the host may be gone

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Any], Awaitable[None]]


def guarded(inner: Application, token: str, saver: Saver, processing: Processing) -> Application:
    """The application for callers with the token, and the host's own two requests."""

    async def application(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await inner(scope, receive, _saving_once_loaded(saver, send))
        elif not _has_token(token, scope):
            await _answer(scope, send, 403, b"This emulator belongs to another user's `sparklet run`.")
        elif scope["path"] == SAVE_PATH:
            await _save(saver, scope, send)
        elif scope["path"] == PROCESSING_PATH:
            processing.start()
            await _answer(scope, send, 200, b"")
        else:
            await inner(scope, receive, send)

    return application


def _saving_once_loaded(saver: Saver, send: Any) -> Any:
    """Begin to save once the state is loaded: earlier, empty tables would replace the full ones."""

    async def sent(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            saver.start()
        await send(message)

    return sent


async def _save(saver: Saver, scope: Message, send: Any) -> None:
    try:
        await asyncio.to_thread(saver.save_all)
    except OSError as error:
        await _answer(scope, send, 500, str(error).encode())
    else:
        await _answer(scope, send, 200, b"")


def _has_token(token: str, scope: Message) -> bool:
    name = TOKEN_HEADER.lower().encode()
    given = [value for key, value in scope.get("headers", ()) if key.lower() == name]
    return any(hmac.compare_digest(value, token.encode()) for value in given)


async def _answer(scope: Message, send: Any, status: int, body: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve(listening: int, token: str) -> None:
    """Serve until SIGTERM, save, and end this process; with code 1 if that could not be saved."""
    saver, processing, end_requested = Saver(Path(os.environ["STATE_DIR"])), Processing(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end_requested.set)

    async def end() -> None:
        await end_requested.wait()
        _limit_end()
        processing.stop()
        await asyncio.to_thread(saver.stop)
        await asyncio.to_thread(_end_workers)

    refuse_writes(functools.partial(refusal, Path(os.environ["S3_DATA_DIR"])))
    application: Any = guarded(ministack.app, token, saver, processing)
    await hypercorn.asyncio.serve(application, _config(listening), shutdown_trigger=end)
    code = 0
    try:
        saver.save_all()
    except OSError:
        traceback.print_exc()
        code = 1
    kill_tree(os.getpid(), itself=False)
    sys.stderr.flush()
    os._exit(code)  # threads that wait for killed workers would hold up an ordinary exit


def _config(listening: int) -> hypercorn.config.Config:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening}"]
    config.keep_alive_timeout = 75
    config.startup_timeout = STARTS_WITHIN_S  # a large state on a slow disk
    config.loglevel = "WARNING"
    return config


def _limit_end() -> None:
    """End this process even if the orderly end hangs: the host may be gone."""
    timer = threading.Timer(END_WITHIN_S, os._exit, [1])
    timer.daemon = True
    timer.start()


def _end_workers() -> None:
    """Send SIGTERM to the functions' processes, while they can write to the ledger; then kill the rest."""
    workers = psutil.Process().children()
    for worker in workers:
        signal_process(worker.pid, signal.SIGTERM)
    psutil.wait_procs(workers, WORKERS_END_WITHIN_S)
    kill_tree(os.getpid(), itself=False)


def main() -> None:
    """Serve on the socket that the host passes, until SIGTERM or the host's death."""
    host, listening = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(host, signal.SIGTERM)
    asyncio.run(_serve(listening, os.environ["AWS_SESSION_TOKEN"]))


if __name__ == "__main__":
    main()
