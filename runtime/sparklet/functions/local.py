"""Backends on this machine: processes, and threads for debugging. Both perform the same calls as Lambda."""

import contextlib
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sparklet.errors import RemoteTaskError
from sparklet.functions.backend import FolderContents
from sparklet.functions.calls import Answer, Call, Contents, End
from sparklet.functions.performer import Performer
from sparklet.ports.forks import renew_after_fork
from sparklet.spark.owned import delete_own

INLINE_BYTES = 1024 * 1024
MAX_TIMEOUT_S = 7 * 86_400.0
START_S = 60.0  # for many processes at once, on a busy machine
# A fork would inherit the locks of this process's threads as they are at the moment.
SPAWN = multiprocessing.get_context("spawn")


class Threads:
    """Calls in threads of this process, for debugging: breakpoints work; nothing ends a call that hangs.

    Parameters
    ----------
    slots
        How many calls at a time; None: one for each processor.
    """

    inline_bytes = INLINE_BYTES
    max_timeout_s = MAX_TIMEOUT_S
    waiting_s = START_S
    sizes: Sequence[int] = (0,)  # no limit of memory

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots or os.cpu_count() or 1
        self.key = secrets.token_bytes(32)
        self.closed = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin with threads and a folder of this process, which deletes the folder at its end."""
        self._threads = ThreadPoolExecutor(self.slots, "sparklet-functions")
        self.folder = Path(tempfile.gettempdir(), f"sparklet-functions-{secrets.token_hex(8)}")
        self.contents: Contents = FolderContents(self.folder)
        self._performer = Performer(self.key, "cloudpickle", self.contents)

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Have a thread perform the call."""
        if self.closed:
            raise RemoteTaskError("the workers were ended", "refused")
        self._threads.submit(lambda: done(self._end(call)))

    def give_up(self, call: Call) -> None:
        """Do nothing: a thread cannot be ended."""

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True
        self._threads.shutdown(wait=False)
        delete_own(self.folder)

    def _end(self, call: Call) -> End:
        try:
            return Answer.opened(self._perform(call), self.key)
        except RemoteTaskError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a process that cannot be started: the call must end
            return RemoteTaskError(f"{type(error).__name__}: {error}", "refused")

    def _perform(self, call: Call) -> Any:
        """The answer's envelope."""
        return self._performer.perform(call.sealed(self.key))


class Processes(Threads):
    """Calls in processes of this machine: each is a pool of one, so that its end loses one call alone."""

    def after_fork(self) -> None:
        """Begin without processes; the parent keeps its own."""
        self._parents = vars(self).copy()  # pools that are collected here would wake the parent's threads
        super().after_fork()
        self._processes: set[_Process] = set()
        self._idle: list[_Process] = []

    def close(self) -> None:
        """Kill all processes."""
        self.closed = True
        processes = list(self._processes)
        for process in processes:
            process.end()
        super().close()
        # Else the interpreter's end may wake a pool's thread while that closes its pipe, which is an OSError on the
        # terminal.
        for process in processes:
            # An executor may be collected in that very thread.
            with contextlib.suppress(RuntimeError):
                process.join()

    def _perform(self, call: Call) -> Any:
        process = self._process()
        try:
            return process.perform(call, self.key)
        finally:
            if process.ended:
                self._processes.discard(process)
            else:
                self._idle.append(process)

    def _process(self) -> "_Process":
        # ``pop`` is atomic, so the threads that share the list need no lock.
        with contextlib.suppress(IndexError):
            while not (process := self._idle.pop()).is_alive():
                self._processes.discard(process)
            return process
        process = _Process(self._performer)
        self._processes.add(process)
        if self.closed:  # meanwhile
            process.end()
        return process


class _Process:
    """A worker process, which ends with the first call that it does not answer."""

    def __init__(self, performer: Performer) -> None:
        self._pool = ProcessPoolExecutor(1, SPAWN, _begin, (performer,))
        self._process: BaseProcess | None = None
        self._joining = threading.RLock()  # a pool cannot be shut down by two threads at a time
        self.ended = False

    def perform(self, call: Call, key: bytes) -> Any:
        """The answer's envelope; RemoteTaskError if there is none."""
        try:
            if self._process is None:  # only once it is up does the call's time begin
                self._start()
            return self._pool.submit(_perform, call.sealed(key)).result(call.timeout_s)
        except TimeoutError:
            reason, cause = "timeout", f"took longer than {call.timeout_s:g} s"
        except RuntimeError as error:  # BrokenProcessPool, or it was ended before it began
            reason, cause = "killed", str(error)
        self.end()
        facts = {}
        self.join()
        if self._process:
            facts, code = {"pid": self._process.pid}, self._process.exitcode
            if reason == "killed" and code:
                cause = (
                    f"its process ended {f'by {signal.Signals(-code).name}' if code < 0 else f'with exit code {code}'}"
                )
        raise RemoteTaskError(f"{call.name}: {cause}", reason, facts=facts)

    def _start(self) -> None:
        pid = self._pool.submit(os.getpid).result(START_S)
        # A pool has no public way to its process, which must be killed and asked for its exit code.
        self._process = next((process for process in multiprocessing.active_children() if process.pid == pid), None)
        if self.ended:  # meanwhile
            self.end()

    def is_alive(self) -> bool:
        """Whether it can take a call."""
        return bool(self._process and self._process.is_alive())

    def end(self) -> None:
        """Kill it, at once."""
        self.ended = True
        if self._process:
            self._process.kill()  # which its pool notices
        else:
            self._pool.shutdown(wait=False)

    def join(self) -> None:
        """Wait for its pool's thread, which waits for the killed process: then the exit code is known."""
        with self._joining:
            if self._process:
                self._pool.shutdown()


_performer: Performer  # of a worker process


def _begin(performer: Performer) -> None:
    global _performer
    _performer = performer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    # ``sys.exit`` would end this thread alone, and nobody waits for the call under way.
    os._exit(1)


def _perform(envelope: dict[str, str]) -> dict[str, str]:
    try:
        return _performer.perform(envelope)
    finally:
        sys.stdout.flush()  # the process is killed at its end
