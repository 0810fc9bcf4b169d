"""Deadline, task folder, free space, and processes that must not outlive their task.

Linux only, like Lambda: processes are found in ``/proc``.
"""

import contextlib
import itertools
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sparklet.errors import ScratchFullError

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MIB = 1024 * 1024
MAX_SCRIPT_GRACE_S = 3.0  # for a commit that is being written: an object of a few KiB
NAMELESS = "sparklet"  # Hadoop's name for a user whom passwd does not know: it does not start without one
IN_LAMBDA = "AWS_LAMBDA_RUNTIME_API"  # set where Lambda itself starts a function
_OURS = ("sparklet-", "task-", ".ivy2")
_STARTED_S = time.time()

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deadline:
    """When an attempt must end: its script at ``guard_s``, the attempt itself at ``end_s``.

    Both are times of day, since timers do not run while an environment is frozen.
    """

    guard_s: float  # time.time(): the guard ends the script
    end_s: float  # time.time(): Lambda ends the environment; by then the ledger must have the attempt's result
    reason: str = ""  # why the guard acts early; "": it does not

    @classmethod
    def within(cls, left_s: float, grace_s: float = 0.0, now_s: float | None = None) -> Self:
        """The end in ``left_s`` seconds, the guard ``grace_s`` before it."""
        end_s = (time.time() if now_s is None else now_s) + left_s
        return cls(end_s - grace_s, end_s)

    def share(self, share_s: float, now_s: float) -> Self:
        """The same end, with the guard in ``share_s`` seconds or, if that is earlier, where it is."""
        return type(self)(min(self.guard_s, now_s + share_s), self.end_s)

    def remaining_s(self, now_s: float | None = None) -> float:
        """Seconds until the guard acts; never negative."""
        return max(0.0, self.guard_s - (time.time() if now_s is None else now_s))

    def grace_end_s(self, since_s: float) -> float:
        """Until when a script that the guard interrupted at ``since_s`` may end by itself; the rest is the worker's."""
        return min(since_s + MAX_SCRIPT_GRACE_S, (since_s + self.end_s) / 2)

    def expire(self, reason: str, *, at_once: bool = False) -> None:
        """Let the guard act now; runners look at least once a second. Any thread may call this.

        ``at_once``: the script is killed without grace, since it must not commit anything any more.
        """
        self.reason = reason
        if at_once:
            self.end_s = 0.0
        self.guard_s = 0.0


@contextlib.contextmanager
def task_folder(scratch: Path, attempt_id: str, min_free_bytes: int = 0) -> Iterator[Path]:
    """A task's own folder, ``<scratch>/task-<attempt>``, deleted afterwards with all its content.

    Only that folder: the rest of scratch holds native libraries that the JVM unpacked. Raises ScratchFullError unless
    ``min_free_bytes`` are free under ``scratch`` at first.
    """
    if not attempt_id or Path(attempt_id).name != attempt_id:
        raise ValueError(f"{attempt_id!r} cannot name a folder")
    if shutil.disk_usage(scratch).free < min_free_bytes:
        delete_strays(scratch)
    usage, folder = shutil.disk_usage(scratch), scratch / f"task-{attempt_id}"
    if usage.free < min_free_bytes:
        raise ScratchFullError(
            f"{scratch} has {usage.free / MIB:.0f} MiB free of {usage.total / MIB:.0f} MiB, a task needs"
            f" {min_free_bytes / MIB:.0f} MiB: give the function more ephemeral storage, make shards smaller"
            " or lower SPARKLET_MIN_FREE_BYTES"
        )
    try:
        delete_tree(folder)
        folder.mkdir(mode=0o700, parents=True)
        yield folder
    except ScratchFullError:
        delete_strays(scratch)
        raise
    finally:
        delete_tree(folder)


def delete_tree(folder: Path) -> None:
    """Delete a folder of any depth with all its content, read-only folders included; no link is followed.

    Folders within folders are moved up, so no path gets too long. Nothing is raised, since the task's result must not
    depend on it: remaining files are logged, and the next task checks the free space.
    """
    if folder.is_symlink() or not folder.exists():
        return
    mark, numbers, found = os.urandom(8).hex(), itertools.count(), [folder]
    with contextlib.suppress(OSError):
        for path in found:
            path.chmod(0o700)
            for entry in list(path.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    entry.chmod(0o700)  # or it cannot be moved
                    found.append(entry.rename(folder / f"{mark}{next(numbers)}"))
    with contextlib.suppress(RecursionError):  # of folders that could not be moved
        shutil.rmtree(folder, ignore_errors=True)
    if stays := [f"{path.relative_to(folder)}" for path in itertools.islice(folder.rglob("*"), 3)]:
        _log.warning("%s could not be deleted whole, there stays %a", folder, stays)


def delete_strays(scratch: Path, since_s: float = _STARTED_S) -> None:
    """In Lambda, delete files of scripts in ``scratch`` outside their own folders, because space is short.

    Files that are older than this process stay, and so do those of Sparklet and Spark.
    """
    if IN_LAMBDA not in os.environ:
        return
    for entry in scratch.iterdir():
        with contextlib.suppress(OSError):  # it may belong to another user, or be gone
            status = entry.lstat()
            if entry.name.startswith(_OURS) or status.st_ctime < since_s or status.st_uid != os.getuid():
                continue
            _log.warning("%s was left by a script and is deleted: space is short", entry)
            if entry.is_dir() and not entry.is_symlink():
                delete_tree(entry)
            else:
                entry.unlink()


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
    return _below(_children(), roots)


def end_descendants(
    spared: Collection[int], reap: Callable[[], None], limit_s: float, *, spare_below: bool = False
) -> set[int]:
    """Kill all descendants of this process, which must be a subreaper; returns those still alive after ``limit_s``.

    In rounds, until none is left, since a process may fork while it is being killed; one in an uninterruptible call
    does not end. The ``spared`` live, and all below them with ``spare_below``; ``reap`` collects ended children.
    """
    give_up_s = time.monotonic() + limit_s
    pause_s = 0.001
    while True:
        children = _children()
        victims = _below(children, [os.getpid()]).difference(spared, _below(children, spared) if spare_below else ())
        for pid in victims:
            signal_process(pid, signal.SIGKILL)
        reap()
        if not victims or time.monotonic() > give_up_s:
            return victims
        time.sleep(pause_s)
        pause_s = min(0.05, 2 * pause_s)


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """SIGKILL a process and all its descendants.

    They are stopped first, until no new one appears: a stopped process forks no more, and none leaves the tree.
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
    import psutil  # only the local stack's host has it

    for child in psutil.Process().children():
        if child.pid not in spared:
            kill_tree(child.pid)
            os.waitpid(child.pid, os.WNOHANG)


def end_marked(mark: tuple[str, str], limit_s: float = 5.0) -> None:
    """Kill all processes with that variable in their environment: they have no parent that could."""
    give_up_s = time.monotonic() + limit_s
    while time.monotonic() < give_up_s:
        found = [pid for pid, _ in _living() if environment(pid).get(mark[0]) == mark[1]]
        if not found:
            return
        for pid in found:
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


def _children() -> dict[int, list[int]]:
    """The living children of every process."""
    children: dict[int, list[int]] = {}
    for pid, parent in _living():
        children.setdefault(parent, []).append(pid)
    return children


def _below(children: Mapping[int, Sequence[int]], roots: Iterable[int]) -> set[int]:
    found: set[int] = set()
    open_pids = list(roots)
    while open_pids:
        below = children.get(open_pids.pop(), ())
        open_pids += below
        found.update(below)
    return found


def _living() -> Iterator[tuple[int, int]]:
    """Pid and parent of every process that is not a zombie."""
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - each task waits for this
        try:
            with open(f"/proc/{name}/stat", "rb", 0) as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        fields = stat[stat.rindex(b")") + 2 :].split(None, 18)
        if fields[0] not in b"ZX" or int(fields[17]) > 1:  # a zombie with further threads lives
            yield int(name), int(fields[1])


def _prctl(option: int, value: int) -> None:
    import ctypes  # only a script's processes need it, and it would slow a cold start

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
