"""Prepare a function's process in the emulator: its log file, its channel to the emulator, and its orderly end.

The emulator and a worker exchange JSON lines on standard input and output. This channel is moved to other descriptors,
so that no print of a script, a library or the JVM breaks a line.

This module imports little, since it is part of a worker's cold start.
"""

import importlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sparklet.errors import SparkletError
from sparklet.spark.processes import kill_tree

LOG_DIR_VARIABLE = "SPARKLET_LOG_DIR"
STOP_GRACE_S = 1.6  # the emulator sends SIGKILL two seconds after SIGTERM
MAX_LOG_BYTES = 64 * 1024 * 1024
_WATCH_S = 0.5

Handler = Callable[[Any, Any], Any]


class WorkerStoppedError(SparkletError):
    """The worker must end: its time is over, or the local stack stops."""

    retryable = True


def prepare(target: str, name: str) -> Handler:
    """Prepare this worker process; return its handler, the function with the dotted name ``target``.

    The name of its log file begins with ``name``. The function's inline code calls this once.
    """
    _move_channel()
    log = _open_log(name)
    reaper = _Reaper(log)
    signal.signal(signal.SIGTERM, reaper.on_sigterm)
    # A child that is forked without exec is not a worker: SIGTERM ends it as usual.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    threading.Thread(target=reaper.watch, name="worker-watch", daemon=True).start()
    try:
        module, _, function = target.rpartition(".")
        handler: Handler = getattr(importlib.import_module(module), function)
    except BaseException:
        traceback.print_exc()  # the emulator reports only the message
        raise
    return reaper.wrap(handler)


class _Reaper:
    """Ends this process and its descendants, on SIGTERM or when the emulator has ended."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._parent = os.getppid()
        self._in_flight = False
        self._stopping = False

    def wrap(self, handler: Handler) -> Handler:
        """The handler, whose calls SIGTERM interrupts by WorkerStoppedError, so that they can release their shards."""

        def handle(event: Any, context: Any) -> Any:
            self._in_flight = True
            try:
                return handler(event, context)
            finally:
                self._in_flight = False
                sys.stderr.flush()
                if self._stopping:
                    self._end_in(0.2)  # enough time to send the answer

        return handle

    def on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:
        """End at once, or after the current call has released its shard."""
        if not self._in_flight:
            self._end()
        # Ministack and ``emulator`` may both send SIGTERM: the second must not interrupt the shard's release.
        if not self._stopping:
            self._stopping = True
            self._end_in(STOP_GRACE_S)
            # Python runs signal handlers in the main thread, so this is raised within the handler's call.
            raise WorkerStoppedError("the worker had to end before the script had ended")

    def watch(self) -> None:
        """Limit the log's size until the emulator has ended, which gives this process another parent; then end."""
        while os.getppid() == self._parent:
            time.sleep(_WATCH_S)
            if self._log is not None:
                limit_log(self._log)
        self._end()

    def _end_in(self, delay_s: float) -> None:
        timer = threading.Timer(delay_s, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        kill_tree(os.getpid(), itself=False)
        # Not sys.exit, which would end only the calling thread.
        os._exit(128 + signal.SIGTERM)


def _move_channel() -> None:
    """Move the channel off descriptors 0 and 1. Children then inherit empty input, and output that goes to the log."""
    for stream, mode in ((sys.__stdin__, "rb"), (sys.__stdout__, "wb")):
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if raw is not None:
            # Changed in place, since the emulator's loop in this process already uses these stream objects.
            raw.__init__(os.dup(raw.fileno()), mode, closefd=False)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)


def _open_log(name: str) -> Path | None:
    """Redirect descriptors 1 and 2 to a new log file for this process; return its path. None without a log folder."""
    folder = os.environ.get(LOG_DIR_VARIABLE)
    if not folder:
        return None
    log = Path(folder) / f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ["AWS_LAMBDA_LOG_STREAM_NAME"] = log.name
    return log


def limit_log(log: Path) -> None:
    """Copy a log that is too long to its earlier part (.log.1), and truncate it: all writers append."""
    try:
        if log.stat().st_size > MAX_LOG_BYTES:
            # A renamed file would still get the writers' lines. Lines between copy and truncation are lost.
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
    except OSError:
        return  # the log was deleted
