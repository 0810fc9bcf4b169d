"""Functions that are called at their times: deadlines of tries, and the times of next tries."""

import contextlib
import math
import sched
import threading
import time
from collections.abc import Callable


class Timer:
    """Calls functions, which must not raise, in one daemon thread, which starts with the first function."""

    def __init__(self) -> None:
        self._due = sched.scheduler(time.monotonic)
        self._changed = threading.Event()
        self._looks_s = math.inf  # when the thread looks next, unless something changes
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def at(self, when_s: float, action: Callable[[], None]) -> sched.Event:
        """Call ``action`` at a time of the monotonic clock; returns an entry for ``cancel``."""
        entry = self._due.enterabs(when_s, 0, action)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-timer", daemon=True)
                self._thread.start()
        if when_s < self._looks_s:
            self._changed.set()
        return entry

    def cancel(self, entry: sched.Event) -> None:
        """Do not call an entry's action any more."""
        with contextlib.suppress(ValueError):  # it was called
            self._due.cancel(entry)

    def stop(self) -> None:
        """Call nothing any more."""
        self._stopped = True
        self._changed.set()

    def _run(self) -> None:
        while not self._stopped:
            self._looks_s = math.inf  # what is entered from now on sets the event
            self._changed.clear()
            in_s = self._due.run(blocking=False)
            if in_s is not None:
                self._looks_s = time.monotonic() + in_s
            self._changed.wait(in_s)
