"""Calls functions at their times."""

import contextlib
import math
import sched
import threading
import time
from collections.abc import Callable


class Timer:
    """Calls functions at times of the monotonic clock, in one thread, which is started with the first."""

    def __init__(self) -> None:
        self._scheduler = sched.scheduler(time.monotonic)
        self._lock, self._changed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._wakes_s = math.inf  # when the thread looks again by itself
        self._stopped = False

    def at(self, when_s: float, action: Callable[[], None]) -> sched.Event:
        """Call ``action`` then; what ``cancel`` takes."""
        event = self._scheduler.enterabs(when_s, 0, action)
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
        if when_s < self._wakes_s:
            self._changed.set()
        return event

    def cancel(self, event: sched.Event) -> None:
        """Do not call it."""
        with contextlib.suppress(ValueError):  # it was called
            self._scheduler.cancel(event)

    def stop(self) -> None:
        """Forget all."""
        self._stopped, self._scheduler = True, sched.scheduler(time.monotonic)
        self._changed.set()

    def _run(self) -> None:
        while not self._stopped:
            self._wakes_s = math.inf  # until it is known again, every change wakes it
            wait_s = self._scheduler.run(blocking=False)
            self._wakes_s = math.inf if wait_s is None else time.monotonic() + wait_s
            self._changed.wait(wait_s)
            self._changed.clear()
