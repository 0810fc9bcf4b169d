"""Processes of Linux: who descends from whom, signals to all of them, and what ``prctl`` sets.

Processes are found in ``/proc``.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def has_name() -> bool:
    """Whether this process's user has a line in passwd; in Lambda it depends on the image."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def become_subreaper() -> None:
    """Make orphans below this process its children, double forks and setsid included."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Let the kernel kill this process, or send it another signal, when its parent ends.

    Only for children of a single-threaded process: the signal comes when the *thread* that forked ends.
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:  # it ended before the kernel knew
        os._exit(1)


def descendants(*roots: int) -> set[int]:
    """All living processes below ``roots``, in whatever session or group."""
    return _tree(_children(), roots)


def end_descendants(
    spared: Collection[int], reap: Callable[[], None], limit_s: float, *, spare_below: bool = False
) -> set[int]:
    """Kill all descendants of this process, a subreaper, in rounds; returns those still alive after ``limit_s``.

    The ``spared`` processes live on, with ``spare_below`` all below them, too; ``reap`` collects ended children.
    """
    give_up_s = time.monotonic() + limit_s
    # One pass is not enough: a process may fork before its signal arrives, and leaves its children to this subreaper.
    pause_s = 0.001
    while True:
        children = _children()
        victims = _tree(children, [os.getpid()]).difference(spared, _tree(children, spared) if spare_below else ())
        for pid in victims:
            signal_process(pid, signal.SIGKILL)
        reap()
        if not victims or time.monotonic() > give_up_s:
            return victims
        time.sleep(pause_s)
        pause_s = min(0.05, 2 * pause_s)


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL a process and all its descendants; they are stopped first, so that none forks or leaves the tree."""
    stopped: set[int] = set()
    while fresh := ({pid} if itself else set()).union(descendants(pid)) - stopped:
        for member in fresh:
            signal_process(member, signal.SIGSTOP)
        stopped |= fresh
    for member in stopped:
        signal_process(member, signal.SIGKILL)


def end_marked(mark: tuple[str, str], limit_s: float = 5.0) -> None:
    """Kill all processes with that variable in their environment, whoever is their parent."""
    give_up_s = time.monotonic() + limit_s
    while time.monotonic() < give_up_s:
        pids = [pid for pid, _ in _living() if environment(pid).get(mark[0]) == mark[1]]
        if not pids:
            return
        for pid in pids:
            signal_process(pid, signal.SIGKILL)
        time.sleep(0.01)


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty if it has ended, or is another user's."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(word.partition("=")[::2] for word in words)


def signal_process(pid: int, number: int) -> None:
    """Send a signal; nothing happens if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def cpu_time_s(pid: int) -> float:
    """CPU time of a process; 0 if it has ended."""
    try:
        return _cpu_time_s(Path(f"/proc/{pid}/stat").read_bytes())
    except OSError:
        return 0.0


def cpu_times_s(pid: int, threads: tuple[str, ...]) -> tuple[float, float]:
    """CPU time of a process, and of its threads whose names begin with ``threads``; less if it ends meanwhile."""
    whole_s, part_s = cpu_time_s(pid), 0.0
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # this thread has ended, others count
                stat = path.read_bytes()
                if stat.partition(b"(")[2].decode(errors="replace").startswith(threads):
                    part_s += _cpu_time_s(stat)
    return whole_s, part_s


def _cpu_time_s(stat: bytes) -> float:
    # A process chooses its name, which may hold spaces and brackets: the fields begin behind the last one.
    return sum(map(int, stat[stat.rindex(b")") + 2 :].split(None, 13)[11:13])) / os.sysconf("SC_CLK_TCK")


def wait_until_handled(pid: int, number: int, limit_s: float) -> None:
    """Wait until a process that was sent a signal has handled it: a thread blocks the signal while it does."""
    give_up_s = time.monotonic() + limit_s
    time.sleep(0.005)
    while _is_awaited(pid, number) and time.monotonic() < give_up_s:
        time.sleep(0.005)


def _is_awaited(pid: int, number: int) -> bool:
    """Whether a signal is pending, or blocked by any of the threads."""
    masks = ("ShdPnd:", "SigPnd:", "SigBlk:")
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # this thread has ended, others may not have
            values = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(masks)]
            if any(int(value, 16) >> (number - 1) & 1 for value in values):
                return True
    return False


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, parent in _living():
        children.setdefault(parent, []).append(pid)
    return children


def _tree(children: Mapping[int, Sequence[int]], roots: Iterable[int]) -> set[int]:
    pids: set[int] = set()
    open_pids = list(roots)
    while open_pids:
        below = children.get(open_pids.pop(), ())
        open_pids += below
        pids.update(below)
    return pids


def _living() -> Iterator[tuple[int, int]]:
    """Pid and parent of every process that is not a zombie."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - each task waits for this
        try:
            with open(f"/proc/{name}/stat", "rb", 0) as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        # As in ``_cpu_time_s``: a name may hold brackets.
        fields = stat[stat.rindex(b")") + 2 :].split(None, 18)
        if fields[0] not in b"ZX" or int(fields[17]) > 1:  # a zombie with further threads lives
            yield int(name), int(fields[1])


def _prctl(option: int, value: int) -> None:
    import ctypes  # only a script's processes need it, and it would slow a cold start

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
