"""Calls functions at their times."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Timer:
    """Calls functions at their times, in one thread, which is started with the first."""

    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _stopped: bool = False
    _order: Iterator[int] = field(default_factory=itertools.count)

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` at a time of the monotonic clock."""
        with self._changed:
            first = not self._due or when_s < self._due[0][0]
            heapq.heappush(self._due, (when_s, next(self._order), action))
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
            elif first:
                self._changed.notify()

    def stop(self) -> None:
        """Forget all."""
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
            action()
            del action
