"""A function's process in the emulator: a log file, a private channel, and the end of its process tree.

The emulator and a worker exchange JSON lines on standard input and output. They are moved to other descriptors, so that
no print of a script, a library or the JVM breaks them.

Only the standard library: this is on a worker's cold path.
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
    """The worker must end: its time is over, or the local stack ends."""

    retryable = True


def prepare(target: str, name: str) -> Handler:
    """Prepare this worker process and give it its real handler (``target``, dotted); its log file begins with ``name``.

    Called once, by the function's inline code.
    """
    _private_conversation()
    log = _open_log(name)
    reaper = _Reaper(log)
    signal.signal(signal.SIGTERM, reaper.on_sigterm)
    # A child that is forked without exec is no worker: SIGTERM ends it as any process.
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    threading.Thread(target=reaper.watch, name="worker-watch", daemon=True).start()
    try:
        module, _, function = target.rpartition(".")
        handler: Handler = getattr(importlib.import_module(module), function)
    except BaseException:
        traceback.print_exc()  # the emulator has the message only
        raise
    return reaper.guarded(handler)


class _Reaper:
    """Ends the process tree, on SIGTERM or when the emulator is gone."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self._parent = os.getppid()
        self._in_flight = False
        self._stopping = False

    def guarded(self, handler: Handler) -> Handler:
        """The handler; SIGTERM interrupts it with ``WorkerStoppedError``, so that it can release its shard."""

        def handle(event: Any, context: Any) -> Any:
            self._in_flight = True
            try:
                return handler(event, context)
            finally:
                self._in_flight = False
                sys.stderr.flush()
                if self._stopping:
                    self._end_in(0.2)  # time to send the answer

        return handle

    def on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:
        """End at once, or after the current call has released its shard."""
        if not self._in_flight:
            self._end()
        # Ministack and ``emulator`` may both send SIGTERM: the second must not interrupt the shard's release.
        if not self._stopping:
            self._stopping = True
            self._end_in(STOP_GRACE_S)
            # Python runs handlers of signals in the main thread, so this is raised within the call.
            raise WorkerStoppedError("the worker had to end before the script had ended")

    def watch(self) -> None:
        """End when the emulator has ended, which gives this process another parent; bound the log."""
        while os.getppid() == self._parent:
            time.sleep(_WATCH_S)
            if self._log is not None:
                bound(self._log)
        self._end()

    def _end_in(self, delay_s: float) -> None:
        timer = threading.Timer(delay_s, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        kill_tree(os.getpid(), itself=False)
        # Threads call this, too, where sys.exit would end the thread alone.
        os._exit(128 + signal.SIGTERM)


def _private_conversation() -> None:
    """Move the worker's JSON lines off descriptors 0 and 1; a child's input is empty, its output goes to the log."""
    for stream, mode in ((sys.__stdin__, "rb"), (sys.__stdout__, "wb")):
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if raw is not None:
            # In place: the emulator's loop in this process holds these streams already.
            raw.__init__(os.dup(raw.fileno()), mode, closefd=False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)


def _open_log(name: str) -> Path | None:
    """Redirect descriptors 1 and 2 to this process' own file, its log stream from now on."""
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


def bound(log: Path) -> None:
    """Move a log that is too long to an earlier part; all writers append, so it can be truncated meanwhile."""
    try:
        if log.stat().st_size > MAX_LOG_BYTES:
            # Not by a rename, which the writers' descriptors would follow. What is written between copy and truncation
            # is lost.
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
    except OSError:
        return  # it was deleted
