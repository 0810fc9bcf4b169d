"""The real clock; tests move one of their own."""

import random
import time


class SystemClock:
    """A ``Clock`` that follows the machine's."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        time.sleep(max(0.0, duration_s))


def back_off_s(tries: int, first_s: float, most_s: float) -> float:
    """Exponential back-off with full jitter on its upper half."""
    max_s = min(most_s, first_s * 2 ** min(tries - 1, 10))
    return random.uniform(max_s / 2, max_s)
