"""The contract of all runners: the call of a script, its result and the protocol ``Runner``.

``warm_runner`` keeps a JVM between scripts, ``spark_submit`` starts a JVM for each, ``AttachedRunner`` uses a
platform's JVM. Scripts run in processes that ``script_host`` forks; ``host_process`` is its side in the worker.
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

MAX_SCRIPT_GRACE_S = 3.0  # enough to finish a commit that is being written, an object of a few KiB
IN_LAMBDA = "AWS_LAMBDA_RUNTIME_API"  # set if Lambda itself has started the process
WATCHED_S, LOOKS = 30.0, 6  # how long a JVM must do nothing but collect garbage, and how often that is checked
MIN_COLLECTING = 0.95  # the collector's share of the JVM's CPU time
MIN_BUSY = 0.4  # of a core (1,024 MB buy 0.58); below this a JVM may just wait for others, and only its collector runs
COLLECTORS = ("VM Thread", "GC Thread#", "G1 ")  # Java's thread names; the serial collector runs in the first
_OWN_PREFIXES = ("sparklet-", "task-", ".ivy2")
_STARTED_S = time.time()

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deadline:
    """When an attempt must end: its script at ``guard_s``, the attempt itself at ``end_s``.

    The guard is the runner's check of the time, which ends the script. Both are times of day, since timers do not run
    while an environment is frozen.
    """

    guard_s: float  # as of time.time(): when the guard ends the script
    end_s: float  # as of time.time(): when Lambda ends the environment; by then the result must be in the ledger
    reason: str = ""  # why the guard acts early; "" if it does not

    @classmethod
    def within(cls, left_s: float, grace_s: float = 0.0, now_s: float | None = None) -> Self:
        """A deadline that ends in ``left_s`` seconds; the guard acts ``grace_s`` before."""
        end_s = (time.time() if now_s is None else now_s) + left_s
        return cls(end_s - grace_s, end_s)

    def share(self, share_s: float, now_s: float) -> Self:
        """A deadline with the same end, whose guard acts in ``share_s`` seconds, but not later than this one's."""
        return type(self)(min(self.guard_s, now_s + share_s), self.end_s)

    def remaining_s(self, now_s: float | None = None) -> float:
        """Seconds until the guard acts; never negative."""
        return max(0.0, self.guard_s - (time.time() if now_s is None else now_s))

    def grace_end_s(self, since_s: float) -> float:
        """The time until which a script that was interrupted at ``since_s`` is allowed to run."""
        # At most half of the rest: in the other half the worker records the attempt's result.
        return min(since_s + MAX_SCRIPT_GRACE_S, (since_s + self.end_s) / 2)

    def expire(self, reason: str, *, at_once: bool = False) -> None:
        """Let the guard act now; runners check the deadline at least once a second. Any thread may call this.

        With ``at_once`` the script is killed without grace, since it must not commit any more.
        """
        self.reason = reason
        if at_once:
            self.end_s = 0.0
        # Set last: a thread that reads it must find the reason and the end, too.
        self.guard_s = 0.0


@dataclass(slots=True)
class CollectorWatch:
    """Detects a JVM whose heap is so full that it does nothing but collect garbage, and frees next to nothing.

    Java's serial collector has no overhead limit, so the script would make next to no progress until its deadline. The
    parallel collector gives up at 98 % of the time, which is 96 % of CPU time if two tasks run in the rest. CPU time is
    measured, since it stands still in a freeze.
    """

    next_s: float  # by a monotonic clock: when to check next; a short script is never checked
    _samples: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=LOOKS + 1))

    def is_stuck(self, now_s: float, cpu_times_s: Callable[[], tuple[float, float]]) -> bool:
        """Check, if it is time to, whether the JVM only collects garbage.

        ``cpu_times_s`` returns the CPU times of the JVM and of its collector since the JVM began.
        """
        if now_s < self.next_s:
            return False
        self.next_s = now_s + WATCHED_S / LOOKS
        self._samples.append((now_s, *cpu_times_s()))
        elapsed_s, jvm_s, collector_s = (series[-1] - series[0] for series in zip(*self._samples, strict=True))
        return len(self._samples) > LOOKS and jvm_s >= MIN_BUSY * elapsed_s and collector_s >= MIN_COLLECTING * jvm_s


@contextlib.contextmanager
def task_folder(scratch: Path, attempt_id: str, min_free_bytes: int = 0) -> Iterator[Path]:
    """Make a task's folder, ``<scratch>/task-<attempt>``, and delete it after the block.

    If less than ``min_free_bytes`` are free under ``scratch`` before, leftovers of scripts are deleted. Raises
    ScratchFullError if that does not suffice.
    """
    if not attempt_id or Path(attempt_id).name != attempt_id:
        raise ValueError(f"the attempt's id {attempt_id!r} is not a folder's name")
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
        # This task has failed, but the next one is to have more space.
        delete_leftovers(scratch)
        raise
    finally:
        delete_tree(folder)


def delete_leftovers(scratch: Path, since_s: float = _STARTED_S) -> None:
    """In Lambda, delete files that scripts have left in ``/tmp`` since this process began, because space is short.

    Nothing is deleted in any other scratch folder, since it may be shared, such as one on EFS.
    """
    if IN_LAMBDA not in os.environ or scratch.resolve() != Path(tempfile.gettempdir()).resolve():
        return
    for entry in scratch.iterdir():
        with contextlib.suppress(OSError):  # the entry may belong to another user, or be gone
            status = entry.lstat()
            if entry.name.startswith(_OWN_PREFIXES) or status.st_ctime < since_s or status.st_uid != os.getuid():
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
    source: Script  # the content of the file ``script``
    args: tuple[str, ...]
    work_dir: Path  # the task's own folder, used as current directory, TMPDIR, spark.local.dir and for the warehouse
    deadline: Deadline  # the guard ends the script at ``guard_s``, which may become earlier while the script runs
    env: Mapping[str, str] = field(default_factory=dict)  # added to the worker's own environment
    py_files: tuple[Path, ...] = ()  # .py, .zip, .whl, .egg: importable by driver and Python workers
    files: tuple[Path, ...] = ()  # other files, for ``SparkFiles``
    conf: Mapping[str, str] = field(default_factory=dict)  # Spark options, as with ``--conf``
    inputs: tuple[InputObject, ...] = ()  # the inputs, if known: their sizes decide how Spark reads
    sees_options: bool = False  # whether our S3A must know the readers' options, as for a local copy of an input
    output: str = ""  # the folder of this attempt alone, which nobody reads until the attempt has won
    files_apart: bool = False  # whether each Spark task may read one file only
    is_priming: bool = False  # whether the script only primes the JVM
    events: Path | None = None  # the folder for Spark's event log

    def refuse_if_over(self) -> None:
        """Raise DeadlineExceededError if the deadline is over."""
        if not self.deadline.remaining_s():
            reason = self.deadline.reason or "its deadline is over"
            raise DeadlineExceededError(f"{self.script.name} was not started: {reason}")


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """How a script ended."""

    exit_code: int  # minus the signal's number if a signal ended the script
    stderr_tail: str = ""  # the last lines of standard error, at most 8 KiB
    cause_class: str = ""  # the root cause's exception if the output names it, e.g. "AnalysisException"
    cause: str = ""
    place: str = ""  # the script's line in its traceback, e.g. "line 7 of job.py"
    files: tuple[str, ...] = ()  # files that could not be read, with their addresses as Spark writes them
    comes_again: bool = False  # whether each attempt would fail in this way, since Spark blames a value of the input
    suspect: bool = False  # whether Spark's own code failed, in a JVM that other scripts had used; it is now replaced


class Runner(Protocol):
    """Runs scripts, one after the other. No process or file of a script is left after ``run``."""

    @property
    def has_view(self) -> bool:
        """Whether the runner's Spark has our S3A (``TaskS3A``), which presents a shard's inputs as planned."""
        return False

    def start(self) -> None:
        """Begin to start the JVM if it can start before the first task, else do nothing; never waits."""
        return

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end.

        Raises DeadlineExceededError if the script was ended at its deadline, or the deadline was over before it began;
        GatewayLostError if the JVM, not the script, failed; OutOfMemoryError or ScratchFullError if memory or space was
        used up.
        """

    def close(self) -> None:
        """End all processes that this runner started and that outlive a task."""
        return
