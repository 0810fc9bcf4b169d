"""The emulator's process: ministack behind a token. Its state is saved while it runs; writes to a full disk fail.

Event source mappings and schedules wait until a client requests their start. Requests need a token: loopback is open to
other users and to web pages, and a caller that can create a function can run code as this user.

The host starts this process, with separate packages (``emulator_packages``).
"""

import asyncio
import functools
import hmac
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import psutil
from ministack import app as ministack

from sparklet.local.environment import PROCESSING_PATH, SAVE_PATH, TOKEN_HEADER
from sparklet.local.ministack_patches import Processing, refuse_writes, uploaded_bytes, write_state
from sparklet.local.state import DISK_REMEDY
from sparklet.model import MIB
from sparklet.spark.processes import die_with_parent, kill_tree, signal_process

# Longer than ``worker_process.STOP_GRACE_S``, in which a worker releases its shard
WORKERS_END_WITHIN_S = 2.5
STARTS_WITHIN_S = 120.0
END_WITHIN_S = 300.0  # after this time the emulator ends without saving: the host may be gone
# Services whose state changes while a run works; for S3 only the buckets, since objects are written to disk at once
CHANGING = ("sqs", "dynamodb", "s3", "stepfunctions")
EVERY_S = 3.0
SHARE = 4  # a pause is at least four times as long as the save before it
RESERVE_BYTES = 64 * MIB  # kept free for the ledger and the queues

Message = MutableMapping[str, Any]
Application = Callable[[Message, Any, Any], Awaitable[None]]


class Saver:
    """Saves changes every few seconds. A forked child writes them, since its memory is a copy of one instant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # two children would write to the same draft file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to save every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop saving, after a save that is under way."""
        self._ended.set()
        self._thread.join()

    def save(self, services: Collection[str] = ()) -> None:
        """Save these services, or all, with the deployment, if none are named. OSError if that fails."""
        with self._lock:
            # In the child's copy, queue and ledger fit together, while the server continues to change its own.
            parent, child = os.getpid(), os.fork()
            if child == 0:
                _write(services, parent)
            _, status = os.waitpid(child, 0)
            if status != 0:
                raise OSError(f"the state cannot be saved in {self._folder} (status {status}): is the disk full?")

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._ended.wait(pause_s):
            started_s = time.monotonic()
            try:
                self.save(CHANGING)
            except OSError:
                logging.getLogger(__name__).exception("the state could not be saved; the next attempt may succeed")
            pause_s = max(EVERY_S, SHARE * (time.monotonic() - started_s))


def _write(services: Collection[str], parent: int) -> None:
    """In the forked child: write its copy of the state, and end. It takes no lock that another thread might hold."""
    try:
        # Another thread may have been writing a log line at the fork: logging renews its own locks in the child, but
        # not the lock of the stream that it writes to.
        logging.disable()
        # The inherited handler belongs to the server's event loop, which does not run here.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # The thread that forked waits for this child, so it does not end before the process does.
        die_with_parent(parent)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the server's sockets: its port must not stay open here
        write_state(services)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - no caller must continue in this copy of the process
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def refusal(folder: Path, wanted_bytes: int) -> str:
    """The error, as S3's XML, for a write of ``wanted_bytes`` that does not fit on the disk; "" if it fits.

    The emulator itself would only log the failure and keep the object in memory, and so lose it at the stack's end.
    """
    # The parts of an upload are in memory until the upload is completed; then they need room on the disk, too.
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes >= uploaded_bytes() + wanted_bytes + RESERVE_BYTES:
        return ""
    message = f"the disk of the state folder {folder.parent} is full ({free_bytes // MIB} MiB free); {DISK_REMEDY}"
    escaped = message.replace("&", "&amp;").replace("<", "&lt;")
    return f"<Error><Code>DiskFull</Code><Message>{escaped}</Message></Error>"


def with_token(inner: Application, token: str, saver: Saver, processing: Processing) -> Application:
    """The application ``inner``, for requests with the token only; answers also the host's own two requests."""

    async def application(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await inner(scope, receive, _start_saver_at_startup(saver, send))
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


def _start_saver_at_startup(saver: Saver, send: Any) -> Any:
    """``send``, changed to start the saver once the state is loaded: before that, it would save an empty state."""

    async def send_and_start(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            saver.start()
        await send(message)

    return send_and_start


async def _save(saver: Saver, scope: Message, send: Any) -> None:
    try:
        await asyncio.to_thread(saver.save)
    except OSError as error:
        await _answer(scope, send, 500, str(error).encode())
    else:
        await _answer(scope, send, 200, b"")


def _has_token(token: str, scope: Message) -> bool:
    name = TOKEN_HEADER.lower().encode()
    tokens = [value for key, value in scope.get("headers", ()) if key.lower() == name]
    # Every user of this machine can try tokens, and a plain comparison takes longer the more characters match.
    return any(hmac.compare_digest(value, token.encode()) for value in tokens)


async def _answer(scope: Message, send: Any, status: int, body: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve(listener_fd: int, token: str) -> None:
    """Serve until SIGTERM, save the state, and end this process, with code 1 if the state could not be saved."""
    saver, processing, end_requested = Saver(Path(os.environ["STATE_DIR"])), Processing(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end_requested.set)

    async def end() -> None:
        await end_requested.wait()
        limit = threading.Timer(END_WITHIN_S, os._exit, [1])
        limit.daemon = True
        limit.start()
        # The server runs until this function returns, since workers that end still write to the ledger. First no more
        # calls are made, then no saver forks any more, then the workers are ended.
        processing.stop()
        await asyncio.to_thread(saver.stop)
        await asyncio.to_thread(_end_workers)

    refuse_writes(functools.partial(refusal, Path(os.environ["S3_DATA_DIR"])))
    application: Any = with_token(ministack.app, token, saver, processing)
    await hypercorn.asyncio.serve(application, _config(listener_fd), shutdown_trigger=end)
    # Saved after the workers have ended, so that the state has their last writes.
    code = 0
    try:
        saver.save()
    except OSError:
        traceback.print_exc()
        code = 1
    kill_tree(os.getpid(), itself=False)
    sys.stderr.flush()
    os._exit(code)  # sys.exit would wait for threads that wait for the killed workers


def _config(listener_fd: int) -> hypercorn.config.Config:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener_fd}"]
    config.keep_alive_timeout = 75
    config.startup_timeout = STARTS_WITHIN_S  # enough for a large state on a slow disk
    config.loglevel = "WARNING"
    return config


def _end_workers() -> None:
    """Send SIGTERM to the functions' processes, which then can still write to the ledger; later kill the rest."""
    workers = psutil.Process().children()
    for worker in workers:
        signal_process(worker.pid, signal.SIGTERM)
    psutil.wait_procs(workers, WORKERS_END_WITHIN_S)
    kill_tree(os.getpid(), itself=False)


def main() -> None:
    """Serve on the socket that the host passes, until SIGTERM or the host's death."""
    host, listener_fd = int(sys.argv[1]), int(sys.argv[2])
    # SIGTERM, not SIGKILL: without its host the emulator still saves its state.
    die_with_parent(host, signal.SIGTERM)
    asyncio.run(_serve(listener_fd, os.environ["AWS_SESSION_TOKEN"]))
