"""Daemon threads: they do jobs at once (``DaemonThreads``), or at their times (``Timer``)."""

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


class DaemonThreads:
    """Does jobs in up to ``most`` threads, which, unlike the standard library's, let the interpreter end."""

    def __init__(self, most: int) -> None:
        self._most, self.unfinished = most, 0  # jobs
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # the garbage collector may close it, in any thread

    def submit(self, job: Callable[[], None]) -> None:
        """Do a job, which must not raise, as soon as a thread is free."""
        with self._lock:
            self.unfinished += 1
            if len(self._threads) < min(self.unfinished, self._most):
                self._threads.append(threading.Thread(target=self._serve, name="sparklet-functions", daemon=True))
                self._threads[-1].start()
        self._jobs.put(job)

    def close(self, wait_s: float = 0.0) -> None:
        """End each thread after its jobs, and wait so long for each. May be called twice."""
        self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(wait_s)

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()
            del job  # or its objects would live while the thread waits
            with self._lock:
                self.unfinished -= 1
        self._jobs.put(None)  # for the other threads


@dataclass
class Timer:
    """Calls functions at their times, in one thread, which starts with the first function."""

    _due: list[list[Any]] = field(default_factory=list)  # time, order, action or None; a heap
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _stopped: bool = False
    _cancelled: int = 0
    _order: Iterator[int] = field(default_factory=itertools.count)

    def at(self, when_s: float, action: Callable[[], None]) -> list[Any]:
        """Call ``action`` at a time of the monotonic clock; returns an entry for ``cancel``."""
        entry = [when_s, next(self._order), action]
        with self._changed:
            first = not self._due or when_s < self._due[0][0]
            heapq.heappush(self._due, entry)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
            elif first:
                self._changed.notify()
        return entry

    def cancel(self, entry: list[Any]) -> None:
        """Do not call an entry's action; the heap is rebuilt when most of it was cancelled."""
        with self._changed:
            entry[2] = None
            self._cancelled += 1
            if self._cancelled > 100 + len(self._due) // 2:
                self._due = [each for each in self._due if each[2]]
                heapq.heapify(self._due)
                self._cancelled = 0

    def stop(self) -> None:
        """Call nothing any more."""
        with self._changed:
            self._stopped = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._stopped:
                    return
                action = heapq.heappop(self._due)[2]
            if action:
                action()
            del action
