"""What both runners share: the call, its result and the contract."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sparklet.worker.shard_conf import InputSize

Stream = Literal["stdout", "stderr"]
Output = Callable[[Stream, bytes], None]
"""Receives the script's output line by line while it runs, from any thread; lines keep their newline."""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One execution of a script."""

    script: Path
    args: tuple[str, ...]  # all of argv after the script
    work_dir: Path  # the task's own folder; the current directory, TMPDIR, spark.local.dir, warehouse
    deadline_s: float  # time.time() at which the guard ends it
    env: Mapping[str, str] = field(default_factory=dict)  # beside the worker's own environment
    py_files: tuple[Path, ...] = ()  # .py, .zip, .whl, .egg: importable by driver and Python workers
    input_size: InputSize = field(default_factory=InputSize)
    moving_end_s: Callable[[], float] | None = None  # an earlier end, as it stands now: of a lost lease

    def end_s(self) -> float:
        """When the guard ends what runs now; never after ``deadline_s``."""
        return self.deadline_s if self.moving_end_s is None else min(self.deadline_s, self.moving_end_s())


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """How a script ended."""

    exit_code: int  # minus the signal's number if a signal ended it
    stderr_tail: str = ""  # the last lines, at most 8 KiB
    cause_class: str = ""  # root-cause exception as far as the output names it, e.g. "AnalysisException"
    cause: str = ""
    place: str = ""  # the script's line it came through, e.g. "line 7 of job.py"


class Runner(Protocol):
    """Runs scripts, one after the other. After ``run`` nothing of the script is left, however it ended."""

    def start(self) -> None:
        """Begin what can begin before the first task (the JVM); never waits."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end.

        Raises
        ------
        DeadlineExceededError
            If it had to be ended at ``call.deadline_s``.
        GatewayLostError
            If the JVM, not the script, failed.
        OutOfMemoryError, ScratchFullError
            If memory or space was used up, whoever met that.
        """

    def close(self) -> None:
        """End every process this runner started."""
