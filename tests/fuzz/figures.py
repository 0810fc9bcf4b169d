"""How many inputs of each kind a campaign tries, and what memory each takes."""

import tracemalloc
from collections import Counter
from collections.abc import Callable

MEASURED_EACH = 10  # memory is traced for one input in ten: tracing takes three times as long
LEAST_INPUTS = 100_000  # of a whole campaign
INPUTS, REFUSED, TASKS = Counter[str](), Counter[str](), Counter[str]()
"""By kind; those refused are so by an EventError or a SettingsError."""


def peak_bytes(kind: str, work: Callable[[], None], *, trace: bool = False) -> int:
    """Do the work on one input; the peak of memory it took, if it is one of those that are traced, else 0."""
    trace = trace or INPUTS[kind] % MEASURED_EACH == 0
    INPUTS[kind] += 1
    if not trace:
        work()
        return 0
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
