"""A clock that moves only when it is told to."""

import threading


class FakeClock:
    """A ``Clock`` for tests: ``sleep`` returns at once, and it is that much later then.

    Parameters
    ----------
    start_s
        Seconds since the epoch at the beginning.
    """

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Be ``duration_s`` later."""
        self.advance(max(0.0, duration_s))

    def advance(self, duration_s: float) -> None:
        """Be ``duration_s`` later; what tests call where nobody sleeps."""
        with self._lock:
            self._now_s += duration_s
