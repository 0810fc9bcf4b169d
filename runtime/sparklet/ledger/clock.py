"""The real clocks, and the time to wait between tries; tests have a clock that they set."""

import random
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """The time, behind a port so that a test can set it."""

    def now_s(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, duration_s: float) -> None:
        """Wait."""


class SystemClock:
    """A ``Clock`` that shows the machine's time."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        time.sleep(max(0.0, duration_s))


class ServiceClock(SystemClock):
    """A service's time: the machine's clock, corrected by the time in each response of the service.

    Leases are judged by this clock, so that machines whose clocks differ agree. A response contains the service's
    time, in whole seconds, at some moment between request and response. A clock that agrees with it is not changed.
    Before the first response this clock shows the machine's time.
    """

    def __init__(self, machine_s: Callable[[], float] = time.time) -> None:
        self._machine_s = machine_s
        self._correction_s = 0.0  # added to the machine's time

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return self._machine_s() + self._correction_s

    def correct(self, date_s: float, round_trip_s: float) -> None:
        """Correct the clock by the time ``date_s`` in a response that came now, ``round_trip_s`` after its request."""
        min_correction_s = date_s - self._machine_s()
        # ``date_s`` is in whole seconds, so up to a second is cut off; the response is up to ``round_trip_s`` old.
        max_correction_s = min_correction_s + 1 + round_trip_s
        self._correction_s = min(max(self._correction_s, min_correction_s), max_correction_s)


def back_off_s(tries: int, first_s: float, most_s: float) -> float:
    """How long to wait after this many tries: exponential back-off up to ``most_s``, randomly reduced by up to half."""
    max_s = min(most_s, first_s * 2 ** min(tries - 1, 10))
    return random.uniform(max_s / 2, max_s)
