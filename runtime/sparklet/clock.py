"""The real clock; tests move one of their own."""

import time


class SystemClock:
    """A ``Clock`` that follows the machine's."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        time.sleep(max(0.0, duration_s))
