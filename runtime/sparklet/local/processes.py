"""Process trees as ``/proc`` tells them, and how to end one without leaving anything.

Only the standard library: the workers' shim loads this.
"""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process ``signal_number`` when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, instead of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """Living (not zombie) children of a process."""
    return [child for child, parent in _living().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Living descendants of a process, parents before their children; also those with a session of their own."""
    parents = _living()
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def zombies(pid: int) -> list[int]:
    """Children of a process that have ended and wait to be collected."""
    return [entry for entry, parent, state in _processes() if parent == pid and state == "Z"]


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return pid in _living()


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL a process and all its descendants.

    They are stopped first, until no new one appears: a stopped process forks no more, and nobody is
    orphaned out of the tree before it was seen.
    """
    stopped: set[int] = set()
    while fresh := {*([pid] if itself and is_alive(pid) else []), *descendants(pid)} - stopped:
        for member in fresh:
            send(member, signal.SIGSTOP)
        stopped |= fresh
    for member in stopped:
        send(member, signal.SIGKILL)


def send(pid: int, signal_number: int) -> bool:
    """Send a signal; False if there is no such process (any more), or none of ours."""
    try:
        os.kill(pid, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def wait_gone(pids: Collection[int], within_s: float) -> bool:
    """Wait until none of the processes lives; False if one still does after ``within_s``."""
    end_s = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


def collect(pids: Iterable[int]) -> None:
    """Take ended children's exit codes, so that no zombie stays."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def _living() -> dict[int, int]:
    return {pid: parent for pid, parent, state in _processes() if state not in "ZX"}


def _processes() -> Iterator[tuple[int, int, str]]:
    """Pid, parent's pid and state letter of every process."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are what is wanted, fast
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended in the meantime
        yield int(name), int(fields[1]), fields[0].decode()


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
