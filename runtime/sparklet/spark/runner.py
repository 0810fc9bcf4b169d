"""The contract of all runners: the call of a script, its result and the protocol ``Runner``.

``warm_runner`` keeps a JVM between scripts, ``spark_submit`` starts one for each, ``AttachedRunner`` uses that of a
platform. Scripts run in processes that ``script_host`` forks; ``host_process`` is the worker's side of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sparklet.errors import DeadlineExceededError
from sparklet.model import InputObject
from sparklet.spark.script import Script
from sparklet.spark.task_limits import Deadline

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
    per_input: bool = False  # whether each input has an output, so no task may read two
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
        """Whether its Spark lists a shard's inputs in their folders, and reads copies at the objects' addresses."""
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
