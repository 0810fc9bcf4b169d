"""How a process tree is ended without leaving anything; beside what the worker's guards know of trees."""

import os
import signal
from collections.abc import Collection

from sparklet.spark.guards import descendants, signal_process


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
