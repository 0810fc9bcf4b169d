"""How a process tree is ended without leaving anything; beside what the worker's guards know of trees.

Only the standard library and the guards: the workers' shim loads this.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator

from sparklet.worker.guards import become_subreaper, descendants, signal_process

__all__ = [
    "become_subreaper",
    "children",
    "collect_all",
    "collect_zombies",
    "is_alive",
    "kill_tree",
    "signal_process",
    "tell_when_parent_dies",
    "wait_gone",
]

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02


def tell_when_parent_dies(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def children(pid: int) -> list[int]:
    """Living children of a process."""
    return [child for child, alive in _children(pid) if alive]


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return _read(pid)[1]


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL a process and all its descendants.

    They are stopped first, until no new one appears: a stopped process forks no more, and nobody is
    orphaned out of the tree before it was seen.
    """
    stopped: set[int] = set()
    while fresh := (({pid} if itself and is_alive(pid) else set()) | descendants(pid)) - stopped:
        for member in fresh:
            signal_process(member, signal.SIGSTOP)
        stopped |= fresh
    for member in stopped:
        signal_process(member, signal.SIGKILL)


def wait_gone(pids: Collection[int], within_s: float) -> bool:
    """Wait until none of the processes lives; False if one still does after ``within_s``."""
    end_s = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


def collect_zombies(spared: int) -> None:
    """Take the exit codes of this process' ended children but one, so that no zombie stays."""
    for pid, alive in list(_children(os.getpid())):
        if alive or pid == spared:
            continue
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue  # collected already


def collect_all(within_s: float) -> None:
    """Wait for all children of this process, which were told to end, and take their exit codes."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_POLL_S)
        except ChildProcessError:
            return


def _children(parent: int) -> Iterator[tuple[int, bool]]:
    """Pids of a process' children, and whether they live."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are what is wanted, fast
        if name.isdigit():
            found, alive = _read(int(name))
            if found == parent:
                yield int(name), alive


def _read(pid: int) -> tuple[int, bool]:
    """A process' parent, and whether it lives; (0, False) if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, False
    return int(fields[1]), fields[0] not in b"ZX" or int(fields[17]) > 1  # a zombie with further threads lives
