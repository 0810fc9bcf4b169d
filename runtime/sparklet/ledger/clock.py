"""The real clocks, and the waiting time between tries; tests move a clock of their own."""

import random
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Time, so that a test can move it."""

    def now_s(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, duration_s: float) -> None:
        """Wait."""


class SystemClock:
    """A ``Clock`` that follows the machine's."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        time.sleep(max(0.0, duration_s))


class ServiceClock(SystemClock):
    """A service's time: the machine's clock, corrected by each answer of the service.

    Leases are judged by it, so that machines whose clocks differ agree. An answer's time, in whole seconds, lies
    between request and answer; a clock that agrees is left as it is. Before the first answer it is the machine's.
    """

    def __init__(self, machine_s: Callable[[], float] = time.time) -> None:
        self._machine_s = machine_s
        self._behind_s = 0.0  # the machine

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self._machine_s() + self._behind_s

    def heard(self, date_s: float, took_s: float) -> None:
        """Correct the clock by an answer of this time that came just now, ``took_s`` after its request."""
        least_s = date_s - self._machine_s()
        self._behind_s = min(max(self._behind_s, least_s), least_s + 1 + took_s)


def back_off_s(tries: int, first_s: float, most_s: float) -> float:
    """Exponential back-off with full jitter on its upper half."""
    max_s = min(most_s, first_s * 2 ** min(tries - 1, 10))
    return random.uniform(max_s / 2, max_s)
