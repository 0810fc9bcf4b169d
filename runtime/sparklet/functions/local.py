"""Backends on this machine: processes, and threads for debugging. Both perform the same calls as Lambda."""

import contextlib
import json
import multiprocessing
import os
import resource
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from sparklet.errors import RemoteTaskError
from sparklet.forks import renew_after_fork
from sparklet.functions.backend import FolderContents
from sparklet.functions.calls import Answer, Call, Contents, End
from sparklet.functions.performer import Performer
from sparklet.functions.threads import DaemonThreads
from sparklet.owned import delete_own

INLINE_BYTES = 1024 * 1024
MAX_TIMEOUT_S = 7 * 86_400.0
START_S = 60.0  # for many processes at once, on a busy machine
END_S = 1.0  # for killed processes to end
LOG_TAIL_BYTES = 4096
UNBOUNDED_MB = 0  # a worker without a memory limit


class Threads:
    """Calls in threads of this process, for debugging: breakpoints work; nothing ends a call that hangs."""

    inline_bytes = INLINE_BYTES
    max_timeout_s = MAX_TIMEOUT_S
    sizes: Sequence[int] = (UNBOUNDED_MB,)

    def __init__(self, slots: int | None = None) -> None:
        self.slots = slots or os.cpu_count() or 1
        self.key = secrets.token_bytes(32)
        self.closed = False
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin with threads and a folder of this process, which deletes the folder at its end."""
        self._threads = DaemonThreads(self.slots)
        self.folder = Path(tempfile.gettempdir(), f"sparklet-functions-{secrets.token_hex(8)}")
        self.contents: Contents | None = FolderContents(self.folder)
        self._performer = Performer(self.key, "cloudpickle", contents=self.contents)

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Have a thread perform the call."""
        if self.closed:
            raise RemoteTaskError("the workers were ended", "refused")
        self._threads.submit(lambda: done(self._end(call, size)))

    def patience_s(self, call: Call) -> float:
        """The call's own time, and the start of a process."""
        return call.timeout_s + START_S

    def give_up(self, call: Call) -> None:
        """Do nothing: a thread cannot be ended."""

    def close(self) -> None:
        """Refuse further calls."""
        self.closed = True
        self._threads.close()
        delete_own(self.folder)

    def _end(self, call: Call, size: int) -> End:
        try:
            return Answer.opened(self._perform(call, size), self.key)
        except RemoteTaskError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a process that cannot be started: the call must end
            return RemoteTaskError(f"{type(error).__name__}: {error}", "refused")

    def _perform(self, call: Call, size: int) -> Any:
        """The answer's envelope."""
        return self._performer.perform(call.sealed(self.key))


class Processes(Threads):
    """Calls in processes of this machine, each of which performs one at a time.

    Parameters
    ----------
    slots
        How many processes; None: one for each processor.
    sizes
        The memory limits of processes in MB (RLIMIT_DATA), from small to large; 0: no limit.
    context
        How processes start (``multiprocessing.get_context``); by default they are spawned.
    """

    def __init__(
        self,
        slots: int | None = None,
        sizes: Sequence[int] = (UNBOUNDED_MB,),
        context: BaseContext | None = None,
    ) -> None:
        super().__init__(slots)
        self.sizes = sizes
        self._context: Any = context or multiprocessing.get_context("spawn")

    def after_fork(self) -> None:
        """Begin without processes; the parent keeps its own."""
        super().after_fork()
        self._at_work: dict[str, _Process] = {}  # by the try that each performs
        self._idle: list[_Process] = []
        self._lock = threading.RLock()  # a collected executor closes its backend, in any thread

    def give_up(self, call: Call) -> None:
        """Kill its process."""
        with self._lock:
            if worker := self._at_work.get(call.record_id):
                worker.process.kill()

    def close(self) -> None:
        """Kill all processes."""
        with self._lock:
            self.closed = True
            for worker in self._at_work.values():
                worker.process.kill()
            self._end_idle()
        self._threads.close(END_S)
        super().close()

    def _perform(self, call: Call, size: int) -> Any:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None or worker.size != size or not worker.process.is_alive():
            if worker:
                worker.end()
            worker = _Process(self, size)
        with self._lock:
            self._at_work[call.record_id] = worker
            if self.closed:
                worker.process.kill()
        try:
            return worker.perform(call)
        finally:
            with self._lock:
                del self._at_work[call.record_id]
                self._idle.append(worker)
                if self.closed:
                    self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().end()


_starting = threading.RLock()  # a fork meanwhile would keep the other's end of the pipe open
os.register_at_fork(
    before=_starting.acquire,
    after_in_child=_starting._at_fork_reinit,  # type: ignore[attr-defined]  # as concurrent.futures does
    after_in_parent=_starting.release,
)


class _Process:
    def __init__(self, backend: Processes, size: int) -> None:
        self.size, self._backend = size, backend
        backend.folder.mkdir(mode=0o700, exist_ok=True)
        handle, path = tempfile.mkstemp(".log", dir=backend.folder)
        os.close(handle)
        self.log = Path(path)
        performer = replace(backend._performer, facts={"log_stream": path})
        with _starting:
            self._pipe, theirs = backend._context.Pipe()
            self.process = backend._context.Process(
                target=_work, args=(theirs, self._pipe, performer, path, backend.sizes[size]), name="sparklet-function"
            )
            self.process.start()
            theirs.close()
        self._ready = False

    def perform(self, call: Call) -> Any:
        """The answer's envelope; RemoteTaskError if there is none, and then the process has ended."""
        try:
            if not self._ready:
                self._ready = not self._pipe.recv_bytes()
            self._pipe.send_bytes(json.dumps(call.sealed(self._backend.key)).encode())
            if self._pipe.poll(call.timeout_s):
                return json.loads(self._pipe.recv_bytes())
            reason, cause = "timeout", f"took longer than {call.timeout_s:g} s"
        except (EOFError, OSError):
            reason, cause = "killed", "its process ended"
        self.end()
        code = self.process.exitcode
        if reason == "killed" and code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            cause = f"its process ended {how}"
        facts = {"pid": self.process.pid, "log_stream": str(self.log)}
        raise RemoteTaskError(f"{call.name}: {cause}", reason, log_tail=self._log_tail(), facts=facts)

    def end(self) -> None:
        """Kill it, at once."""
        self._pipe.close()
        self.process.kill()
        self.process.join()

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
        return ""


def _work(pipe: Connection, parents: Connection, performer: Performer, log: str, memory_mb: int) -> None:
    """A worker process: calls come through the pipe until it is closed."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    with Path(log).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 1024 * 1024,) * 2)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"")  # ready: only now does the call's time begin
        while True:
            answer = performer.perform(json.loads(pipe.recv_bytes()))
            sys.stdout.flush()
            pipe.send_bytes(json.dumps(answer).encode())
