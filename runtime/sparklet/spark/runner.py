"""The contract of all runners: the call of a script, its result and the protocol ``Runner``.

``warm_runner`` keeps a JVM between scripts, ``spark_submit`` starts one for each, ``AttachedRunner`` uses that of a
platform. Scripts run in processes that ``script_host`` forks; ``host_process`` is the worker's side of it.
"""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from sparklet.errors import DeadlineExceededError, ScratchFullError
from sparklet.model import MIB, InputObject
from sparklet.spark.owned import delete_tree
from sparklet.spark.script import Script

MAX_SCRIPT_GRACE_S = 3.0  # for a commit that is being written: an object of a few KiB
IN_LAMBDA = "AWS_LAMBDA_RUNTIME_API"  # set where Lambda itself starts a function
WATCHED_S, LOOKS = 30.0, 6  # how long a JVM must do nothing but collect garbage, looked at so many times
MIN_COLLECTING = 0.95  # of its CPU time
MIN_BUSY = 0.4  # of a core, 1,024 MB buy 0.58: of a JVM that waits for others, collecting can be all that it does
COLLECTORS = ("VM Thread", "GC Thread#", "G1 ")  # Java's names; the serial collector runs in the first
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
        """The time until which a script that was interrupted at ``since_s`` may end by itself."""
        # The other half is the worker's, which must still tell the ledger how the attempt has ended.
        return min(since_s + MAX_SCRIPT_GRACE_S, (since_s + self.end_s) / 2)

    def expire(self, reason: str, *, at_once: bool = False) -> None:
        """Let the guard act now; runners look at least once a second. Any thread may call this.

        ``at_once``: the script is killed without grace, since it must not commit anything any more.
        """
        self.reason = reason
        if at_once:
            self.end_s = 0.0
        # Last, since other threads look at it: what acts on it must find the reason and the end.
        self.guard_s = 0.0


@dataclass(slots=True)
class CollectorWatch:
    """Tells when a heap is so full that its JVM does nothing but collect garbage, and frees next to nothing.

    Java's serial collector has no overhead limit: the script would crawl until its deadline. The parallel one gives up
    at 98 % of the time, of CPU time 96 % if two tasks run in the rest. CPU time stands still in a freeze.
    """

    next_s: float  # of a monotonic clock, when to look; a short script is not looked at
    _seen: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=LOOKS + 1))

    def is_stuck(self, now_s: float, cpu_times_s: Callable[[], tuple[float, float]]) -> bool:
        """Look if it is time to. ``cpu_times_s``: the JVM's and its collector's, since it began."""
        if now_s < self.next_s:
            return False
        self.next_s = now_s + WATCHED_S / LOOKS
        self._seen.append((now_s, *cpu_times_s()))
        took_s, worked_s, collected_s = (series[-1] - series[0] for series in zip(*self._seen, strict=True))
        return len(self._seen) > LOOKS and worked_s >= MIN_BUSY * took_s and collected_s >= MIN_COLLECTING * worked_s


@contextlib.contextmanager
def task_folder(scratch: Path, attempt_id: str, min_free_bytes: int = 0) -> Iterator[Path]:
    """A task's own folder, ``<scratch>/task-<attempt>``, deleted afterwards; the JVM's files beside it stay.

    Raises ScratchFullError unless ``min_free_bytes`` are free under ``scratch`` at first.
    """
    if not attempt_id or Path(attempt_id).name != attempt_id:
        raise ValueError(f"{attempt_id!r} cannot name a folder")
    if shutil.disk_usage(scratch).free < min_free_bytes:
        delete_leftovers(scratch)
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
        # This task has failed; the next one is to find more room.
        delete_leftovers(scratch)
        raise
    finally:
        delete_tree(folder)


def delete_leftovers(scratch: Path, since_s: float = _STARTED_S) -> None:
    """In Lambda, delete files that scripts left in ``/tmp`` since this process began, because space is short.

    Any other scratch folder may be shared, such as one on EFS.
    """
    if IN_LAMBDA not in os.environ or scratch.resolve() != Path(tempfile.gettempdir()).resolve():
        return
    for entry in scratch.iterdir():
        with contextlib.suppress(OSError):  # it may belong to another user, or be gone
            status = entry.lstat()
            if entry.name.startswith(_OURS) or status.st_ctime < since_s or status.st_uid != os.getuid():
                continue
            _log.warning("%s was left by a script and is deleted: there is too little space", entry)
            if entry.is_dir() and not entry.is_symlink():
                delete_tree(entry)
            else:
                entry.unlink()


Stream = Literal["stdout", "stderr"]
Output = Callable[[Stream, bytes], None]
"""Receives the script's output line by line while it runs; lines keep their newline."""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One execution of a script."""

    script: Path
    source: Script  # what that file says
    args: tuple[str, ...]
    work_dir: Path  # the task's own folder; the current directory, TMPDIR, spark.local.dir, warehouse
    deadline: Deadline  # the guard ends the script at ``guard_s``, which may come earlier while it runs
    env: Mapping[str, str] = field(default_factory=dict)  # added to the worker's own environment
    py_files: tuple[Path, ...] = ()  # .py, .zip, .whl, .egg: importable by driver and Python workers
    files: tuple[Path, ...] = ()  # others, for ``SparkFiles``
    conf: Mapping[str, str] = field(default_factory=dict)  # options of Spark, as of ``--conf``
    inputs: tuple[InputObject, ...] = ()  # if known: their sizes decide how Spark reads
    sees_options: bool = False  # whether readers' options decide what they see, as of a local copy of an input
    output: str = ""  # a folder of this attempt alone, without readers until the attempt has won
    files_apart: bool = False  # whether no task may read two files
    is_priming: bool = False  # for its JVM alone
    events: Path | None = None  # where Spark writes its event log

    def refuse_if_over(self) -> None:
        """Raise DeadlineExceededError if the deadline is over."""
        if not self.deadline.remaining_s():
            reason = self.deadline.reason or "its deadline is over"
            raise DeadlineExceededError(f"{self.script.name} was not started: {reason}")


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """How a script ended."""

    exit_code: int  # minus the signal's number if a signal ended it
    stderr_tail: str = ""  # the last lines, at most 8 KiB
    cause_class: str = ""  # the root cause's exception if the output names it, e.g. "AnalysisException"
    cause: str = ""
    place: str = ""  # the script's line in its traceback, e.g. "line 7 of job.py"
    files: tuple[str, ...] = ()  # that could not be read, as Spark writes their addresses
    comes_again: bool = False  # Spark says that a value of the input is at fault: every attempt on it fails so
    suspect: bool = False  # Spark's own code failed, in a JVM that other scripts had used and that is now replaced


class Runner(Protocol):
    """Runs scripts, one after the other. No process or file of a script is left after ``run``."""

    @property
    def has_view(self) -> bool:
        """Whether its Spark has our S3A, which shows each input of a shard as it is planned."""
        return False

    def start(self) -> None:
        """Begin to start the JVM, if it can start before the first task; never waits. Else nothing happens."""
        return

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end.

        Raises DeadlineExceededError if its deadline ended it, or was over before it began; GatewayLostError if the JVM,
        not the script, failed; OutOfMemoryError or ScratchFullError if either used up memory or space.
        """

    def close(self) -> None:
        """End every process this runner started; nothing happens if none outlives its task."""
        return
