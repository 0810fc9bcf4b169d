"""How a process tree is ended without leaving anything; beside what the worker's guards know of trees."""

import ctypes
import os
import signal
import time
from collections.abc import Collection

from sparklet.spark.guards import PR_SET_PDEATHSIG, descendants, signal_process

_POLL_S = 0.02


def signal_when_parent_dies(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL a process and all its descendants.

    They are stopped first, until no new one appears: a stopped process forks no more, and no process
    leaves the tree, because its parent died, before it was seen.
    """
    stopped: set[int] = set()
    while fresh := ({pid} if itself else set()).union(descendants(pid)) - stopped:
        for member in fresh:
            signal_process(member, signal.SIGSTOP)
        stopped |= fresh
    for member in stopped:
        signal_process(member, signal.SIGKILL)


def end_children(spared: Collection[int]) -> None:
    """Kill all children of this process but these, with all below them, and take the exit codes of those that ended."""
    import psutil  # 25 ms, which the start of a worker, whose shim imports this module, can do without

    for child in psutil.Process().children():
        if child.pid not in spared:
            kill_tree(child.pid)
            os.waitpid(child.pid, os.WNOHANG)


def wait_gone(pids: Collection[int], within_s: float) -> bool:
    """Wait until none of the processes lives; False if one still does after ``within_s``."""
    end_s = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    import psutil

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def collect_all(within_s: float) -> None:
    """Wait for all children of this process, which are ending, and take their exit codes."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(_POLL_S)
        except ChildProcessError:
            return
