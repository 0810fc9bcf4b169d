"""How much memory the processes of this environment had at their most."""

import os
import re
import resource

from sparklet.worker.guards import descendants

_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def memory_peak_mb() -> float:
    """The peaks of this process and of those below it, added up; of those that have ended, the largest counts alone.

    More than was ever needed at one time, if they peaked one after the other: a bound, not a reading.
    """
    ended_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    living_kb = sum(map(_peak_kb, descendants(os.getpid())))
    return round((_peak_kb(os.getpid()) + max(living_kb, ended_kb)) / 1024, 1)


def _peak_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            found = _PEAK.search(file.read())
    except OSError:  # it has ended
        return 0
    return int(found[1]) if found else 0  # a zombie has no memory
