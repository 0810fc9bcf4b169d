"""The port behind ``LambdaExecutor``: where calls are performed."""

import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sparklet.errors import PayloadError
from sparklet.functions.calls import Call, Contents, End
from sparklet.ports import ObjectStore

STORED_S = 3600.0  # a content that is stored again so soon is there


class Backend(Protocol):
    """Performs calls, several at a time. Its methods may be called from any thread."""

    key: bytes  # signs calls and answers
    contents: Contents | None  # where large ones lie
    inline_bytes: int  # of a content in a call or in an answer
    slots: int  # calls that it takes at a time
    max_timeout_s: float  # of a call

    @property
    def sizes(self) -> Sequence[int]:
        """Memory of its workers in MB, from small to large; at least one."""

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Begin a call on a worker of ``sizes[size]``; ``done`` gets its end once, from any thread.

        An end that is a RemoteTaskError has one of the reasons ``killed``, ``memory``, ``timeout``, ``throttled``.
        Raises RemoteTaskError after ``close``.
        """

    def patience_s(self, call: Call) -> float:
        """Seconds after ``start`` for which an answer may be waited for; then its caller gives it up."""

    def give_up(self, call: Call) -> None:
        """Nobody waits for this call any more: end it if that is possible. What ``done`` gets then is ignored."""

    def close(self) -> None:
        """End all workers, at once; nothing runs any more for the caller. Twice does no harm."""


class DaemonThreads:
    """Does jobs in up to ``most`` threads. Other than the standard library's, they let the interpreter end."""

    def __init__(self, most: int) -> None:
        self._most, self.unfinished = most, 0  # jobs
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # the collector may close it, in whatever thread

    def submit(self, job: Callable[[], None]) -> None:
        """Do it soon; it must not raise."""
        with self._lock:
            self.unfinished += 1
            if len(self._threads) < min(self.unfinished, self._most):
                self._threads.append(threading.Thread(target=self._serve, name="sparklet-functions", daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)

    def close(self, wait_s: float = 0.0) -> None:
        """End each thread once it has no job any more; wait so long for each. Twice does no harm."""
        self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(wait_s)

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()
            del job  # nothing is held while the thread waits
            with self._lock:
                self.unfinished -= 1
        self._jobs.put(None)  # for the others


@dataclass(frozen=True)
class FolderContents:
    """``Contents`` in a local folder, which is made when it is needed."""

    folder: Path

    def put(self, name: str, content: bytes) -> str:
        """Write it, unless it is there."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            draft = path.with_suffix(f".{secrets.token_hex(8)}")
            draft.write_bytes(content)
            draft.rename(path)
        return path.as_uri()

    def get(self, uri: str) -> bytes:
        """Read it."""
        path = self.folder / uri.rpartition("/")[2]
        if uri != path.as_uri() or not path.exists():
            raise PayloadError(f"{uri} is not there")
        return path.read_bytes()


@dataclass(frozen=True)
class StoredContents:
    """``Contents`` in a folder of an object store, which an operator lets expire."""

    store: ObjectStore
    folder_uri: str  # ends in "/"
    _put_s: dict[str, float] = field(default_factory=dict)  # when this process stored what

    def put(self, name: str, content: bytes) -> str:
        """Write it, unless this process did so a short while ago."""
        uri = f"{self.folder_uri}{name}"
        if time.monotonic() - self._put_s.get(name, -STORED_S) >= STORED_S:
            self.store.put(uri, content)
            self._put_s[name] = time.monotonic()
        return uri

    def get(self, uri: str) -> bytes:
        """Read it."""
        if uri.rpartition("/")[0] != self.folder_uri.rstrip("/"):
            raise PayloadError(f"{uri} lies outside {self.folder_uri}")
        return self.store.get(uri)
