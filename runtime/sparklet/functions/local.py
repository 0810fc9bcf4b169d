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
from sparklet.functions.calls import Answer, Call, Contents, TryResult
from sparklet.functions.performer import Performer
from sparklet.ports.forks import renew_after_fork
from sparklet.spark.owned import delete_own

INLINE_BYTES = 1024 * 1024
MAX_TIMEOUT_S = 7 * 86_400.0
START_S = 60.0  # the time limit for starting a process, as many start at once on a busy machine
# Not fork: a forked process would inherit the locks that threads of this process hold at that moment.
SPAWN = multiprocessing.get_context("spawn")


class Threads:
    """Performs calls in threads of this process, for debugging: breakpoints work, but nothing stops a call that hangs.

    Parameters
    ----------
    slots
        How many calls are performed at a time; one for each processor if it is None.
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
        """Begin with threads and a folder of this process."""
        self._threads = ThreadPoolExecutor(self.slots, "sparklet-functions")
        self.folder = Path(tempfile.gettempdir(), f"sparklet-functions-{secrets.token_hex(8)}")
        self.contents: Contents = FolderContents(self.folder)
        self._performer = Performer(self.key, "cloudpickle", self.contents)

    def start(self, call: Call, size: int, done: Callable[[TryResult], None]) -> None:
        """Have a thread perform the call."""
        if self.closed:
            raise RemoteTaskError("the workers were ended", "refused")
        self._threads.submit(lambda: done(self._result_of(call)))

    def give_up(self, call: Call) -> None:
        """Do nothing: a thread cannot be stopped."""

    def close(self) -> None:
        """Refuse further calls, and delete the folder of contents."""
        self.closed = True
        self._threads.shutdown(wait=False)
        delete_own(self.folder)

    def _result_of(self, call: Call) -> TryResult:
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
    """Performs calls in processes of this machine. Each has a pool of its own: if it dies, only its call is lost."""

    def after_fork(self) -> None:
        """Begin without processes; the parent keeps its processes."""
        # Kept: if the parent's pool were garbage-collected in this process, it would wake up the parent's threads.
        self._parent_state = vars(self).copy()
        super().after_fork()
        self._processes: set[_Process] = set()
        self._idle: list[_Process] = []

    def close(self) -> None:
        """Kill all processes."""
        self.closed = True
        processes = list(self._processes)
        for process in processes:
            process.kill()
        super().close()
        # Without this the exiting interpreter may wake a pool's thread while that closes its pipe: an OSError would be
        # printed.
        for process in processes:
            # RuntimeError: the executor is collected in the pool's thread, which cannot wait for itself.
            with contextlib.suppress(RuntimeError):
                process.join()

    def _perform(self, call: Call) -> Any:
        """The answer's envelope, from an idle or new process."""
        process = self._idle_or_new_process()
        try:
            return process.perform(call, self.key)
        finally:
            if process.was_killed:
                self._processes.discard(process)
            else:
                self._idle.append(process)

    def _idle_or_new_process(self) -> "_Process":
        """An idle process, or else a new one."""
        # ``pop`` is atomic, so the threads that share the list need no lock.
        with contextlib.suppress(IndexError):
            while not (process := self._idle.pop()).is_alive():
                self._processes.discard(process)
            return process
        process = _Process(self._performer)
        self._processes.add(process)
        if self.closed:  # ``close`` may have missed the new process
            process.kill()
        return process


class _Process:
    """A worker process, which is killed if it does not answer a call."""

    def __init__(self, performer: Performer) -> None:
        self._pool = ProcessPoolExecutor(1, SPAWN, _initialize, (performer,))
        self._process: BaseProcess | None = None
        self._join_lock = threading.RLock()  # a pool cannot be shut down by two threads at a time
        self.was_killed = False

    def perform(self, call: Call, key: bytes) -> Any:
        """Perform a call and return its answer's envelope; RemoteTaskError if the process gives no answer."""
        try:
            if self._process is None:  # started first: the call's time limit does not include the start
                self._start()
            return self._pool.submit(_perform, call.sealed(key)).result(call.timeout_s)
        except TimeoutError:
            reason, cause = "timeout", f"took longer than {call.timeout_s:g} s"
        except RuntimeError as error:  # BrokenProcessPool, or the process was killed before the call began
            reason, cause = "killed", str(error)
        self.kill()
        facts = {}
        self.join()
        if self._process:
            facts, code = {"pid": self._process.pid}, self._process.exitcode
            if reason == "killed" and code:
                ended_by = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                cause = f"its process ended {ended_by}"
        raise RemoteTaskError(f"{call.name}: {cause}", reason, facts=facts)

    def _start(self) -> None:
        pid = self._pool.submit(os.getpid).result(START_S)
        # A pool does not publish its process, which must be known to kill it and to read its exit code.
        self._process = next((process for process in multiprocessing.active_children() if process.pid == pid), None)
        if self.was_killed:  # ``kill`` was called while the process was not known yet
            self.kill()

    def is_alive(self) -> bool:
        """Whether the process can take a call."""
        return bool(self._process and self._process.is_alive())

    def kill(self) -> None:
        """Kill the process at once; if it has not started, the pool starts none."""
        self.was_killed = True
        if self._process:
            self._process.kill()  # which its pool notices
        else:
            self._pool.shutdown(wait=False)

    def join(self) -> None:
        """Wait for the pool's thread, which waits for the killed process: then the exit code is known."""
        with self._join_lock:
            if self._process:
                self._pool.shutdown()


_performer: Performer  # set in worker processes only


def _initialize(performer: Performer) -> None:
    global _performer
    _performer = performer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which kills this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    # ``sys.exit`` would end only this thread, and nobody waits for the call under way.
    os._exit(1)


def _perform(envelope: dict[str, str]) -> dict[str, str]:
    try:
        return _performer.perform(envelope)
    finally:
        sys.stdout.flush()  # the process will be killed, which flushes nothing
