"""What a process and all below it cost: CPU time and memory, read from /proc while they live.

Both sides of a benchmark are read in the same way. A process that has ended is in its parent's figures, if the parent
waited for it; so the sum over the living is that of all there ever were.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sparklet.spark.processes import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLED_EVERY_S = 0.2  # a look takes 3 ms


def cpu_s(root: int) -> float:
    """CPU time, user and system, that ``root`` and everything below it have used so far."""
    return sum(map(_cpu_ticks, tree(root))) / _TICKS_PER_S


def memory_mb(root: int) -> float:
    """Resident memory of ``root`` and everything below it; what two of them share counts twice."""
    return sum(map(_resident_pages, tree(root))) * _PAGE_BYTES / 2**20


def proportional_mb(root: int) -> float:
    """Memory of ``root`` and everything below it; of what several share each has its part (Pss)."""
    return sum(map(_proportional_kb, tree(root))) / 1024


def end(root: int) -> None:
    """Kill ``root``, a child of this process, and everything below it."""
    send(root, signal.SIGKILL)


def send(root: int, number: signal.Signals) -> None:
    """Send a signal to ``root`` and everything below it."""
    for pid in tree(root):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_on_sigterm() -> None:
    """SIGTERM ends this process as Ctrl-C does: what it has started goes first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended by SIGTERM"))


@dataclass
class MemoryPeak:
    """The most that was seen while ``sampled`` was entered."""

    mb: float = 0.0
    every_s: float = SAMPLED_EVERY_S
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def sampled(self, root: int, limit_s: float) -> Iterator["MemoryPeak"]:
        """Look at the tree every so often and at the end; kill it after ``limit_s`` seconds."""
        thread = threading.Thread(target=self._sample, args=(root, limit_s), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            self.mb = max(self.mb, memory_mb(root))

    def _sample(self, root: int, limit_s: float) -> None:
        rounds = 0
        while not self._stop.wait(self.every_s):
            self.mb = max(self.mb, memory_mb(root))
            rounds += 1
            if rounds * self.every_s > limit_s:
                end(root)
                return


def tree(root: int) -> set[int]:
    """``root`` and everything below it."""
    return {root} | descendants(root)


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # it has ended, and its parent has its figures
        return 0
    return sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    except OSError:
        return 0


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
