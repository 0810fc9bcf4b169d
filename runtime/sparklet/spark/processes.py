"""Linux processes: finds their descendants in ``/proc``, sends signals to them, and calls ``prctl``."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def has_name() -> bool:
    """Whether passwd names this process's user; in Lambda this depends on the image."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def become_subreaper() -> None:
    """Let this process become the parent of all orphans below it, also after double forks and setsid."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Let the kernel kill this process, or send it another signal, when its parent ends.

    Only for children of a single-threaded process: the signal comes when the *thread* that forked ends.
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent_pid:  # the parent ended before the call
        os._exit(1)


def descendants(*roots: int) -> set[int]:
    """All living processes below ``roots``, in any session or group."""
    return _tree(_children(), roots)


def end_descendants(
    spared: Collection[int], reap: Callable[[], None], limit_s: float, *, spare_below: bool = False
) -> set[int]:
    """Kill all descendants of this process, a subreaper, in rounds; return those still alive after ``limit_s``.

    The ``spared`` processes are not killed; with ``spare_below`` their descendants are spared as well. ``reap``
    collects ended children.
    """
    give_up_s = time.monotonic() + limit_s
    # One round is not enough: a process may fork before its signal arrives, and its children become ours.
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
    """Kill a process and all its descendants; all are stopped first, so that none forks or leaves the tree."""
    stopped: set[int] = set()
    while running := ({pid} if itself else set()).union(descendants(pid)) - stopped:
        for member in running:
            signal_process(member, signal.SIGSTOP)
        stopped |= running
    for member in stopped:
        signal_process(member, signal.SIGKILL)


def end_marked(mark: tuple[str, str], limit_s: float = 5.0) -> None:
    """Kill all processes with the variable ``mark`` (name and value) in their environment, whoever is their parent."""
    give_up_s = time.monotonic() + limit_s
    while time.monotonic() < give_up_s:
        pids = [pid for pid, _ in _living_processes() if environment(pid).get(mark[0]) == mark[1]]
        if not pids:
            return
        for pid in pids:
            signal_process(pid, signal.SIGKILL)
        time.sleep(0.01)


def environment(pid: int) -> dict[str, str]:
    """The environment with which a process was started; empty if the process has ended or belongs to another user."""
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
    """CPU time of a process; 0 if the process has ended."""
    try:
        return _cpu_time_s(Path(f"/proc/{pid}/stat").read_bytes())
    except OSError:
        return 0.0


def cpu_times_s(pid: int, threads: tuple[str, ...]) -> tuple[float, float]:
    """CPU time of a process, and of its threads whose names begin with one of ``threads``; less while it is ending."""
    process_s, threads_s = cpu_time_s(pid), 0.0
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # this thread has ended; the others count
                stat = path.read_bytes()
                if stat.partition(b"(")[2].decode(errors="replace").startswith(threads):
                    threads_s += _cpu_time_s(stat)
    return process_s, threads_s


def _cpu_time_s(stat: bytes) -> float:
    # A process chooses its name, which can have spaces and brackets: the other fields begin behind the last bracket.
    return sum(map(int, stat[stat.rindex(b")") + 2 :].split(None, 13)[11:13])) / os.sysconf("SC_CLK_TCK")


def wait_until_handled(pid: int, number: int, limit_s: float) -> None:
    """Wait until a process has handled a signal that was sent; a thread blocks the signal while its handler runs."""
    give_up_s = time.monotonic() + limit_s
    time.sleep(0.005)
    while _is_unhandled(pid, number) and time.monotonic() < give_up_s:
        time.sleep(0.005)


def _is_unhandled(pid: int, number: int) -> bool:
    """Whether a signal is pending, or is blocked by a thread of the process."""
    masks = ("ShdPnd:", "SigPnd:", "SigBlk:")
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # this thread has ended, but others may still run
            values = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(masks)]
            if any(int(value, 16) >> (number - 1) & 1 for value in values):
                return True
    return False


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid, parent in _living_processes():
        children.setdefault(parent, []).append(pid)
    return children


def _tree(children: Mapping[int, Sequence[int]], roots: Iterable[int]) -> set[int]:
    """All processes below ``roots``, given the children of each process."""
    pids: set[int] = set()
    open_pids = list(roots)
    while open_pids:
        below = children.get(open_pids.pop(), ())
        open_pids += below
        pids.update(below)
    return pids


def _living_processes() -> Iterator[tuple[int, int]]:
    """Yield pid and parent's pid of each process that is not a zombie."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - each task waits for this
        try:
            with open(f"/proc/{name}/stat", "rb", 0) as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):  # has just ended
            continue
        # A name can have brackets, see ``_cpu_time_s``.
        fields = stat[stat.rindex(b")") + 2 :].split(None, 18)
        if fields[0] not in b"ZX" or int(fields[17]) > 1:  # a zombie that has other threads is still alive
            yield int(name), int(fields[1])


def _prctl(option: int, value: int) -> None:
    import ctypes  # imported here, since only a script's processes need it: it would slow a cold start

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
