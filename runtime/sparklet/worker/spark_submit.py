"""The parity runner: one spark-submit a task, Java started directly, nothing kept."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from sparklet.errors import DeadlineExceededError, GatewayLostError, ScriptError
from sparklet.settings import SparkSettings
from sparklet.worker import script_main
from sparklet.worker.host_process import Event, Exited, Gone, HostProcess, Started
from sparklet.worker.root_cause import where_it_was
from sparklet.worker.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.script_options import ScriptOptions, script_options
from sparklet.worker.script_output import TaskOutput
from sparklet.worker.spark_options import (
    class_path,
    java_command,
    process_env,
    spark_defaults,
    task_conf,
    task_env,
)

JVM, SCRIPT = "jvm", "script"  # a host of its own runs one of each
SHUTDOWN_LIMIT_S = 5.0  # for the JVM to follow a script that has ended


@dataclass(slots=True)
class SubmitRunner:
    """Runs each script under a spark-submit of its own."""

    spark: SparkSettings
    scratch: Path

    def start(self) -> None:
        """There is nothing to begin: Java starts with the script."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``."""
        call.refuse_if_over()
        options = read_options(call.script)
        host = HostProcess(self.scratch, process_env(self.spark, os.environ))
        try:
            task = TaskOutput(output, call)
            self._submit(call, options, host, task)
            return _Watch(call, host, task).result()
        finally:
            host.close()

    def close(self) -> None:
        """Nothing is left after a task."""

    def _submit(self, call: ScriptCall, options: ScriptOptions, host: HostProcess, task: TaskOutput) -> None:
        env = task_env(call, self.spark)
        jars = class_path(self.spark)
        conf = {**spark_defaults(self.spark, self.scratch, jars), **task_conf(call, env, self.spark), **options.conf}
        command = java_command(
            self.spark,
            [*options.jars, *jars],
            tmp=call.work_dir,
            properties={"derby.system.home": str(call.work_dir)},
            conf=conf,
            options=options.java_options,
            heap=options.heap,
        )
        fds = [
            host.pipe(task.sink("jvm", "stdout")),
            host.pipe(task.sink("jvm", "stderr")),
            host.pipe(task.sink("script", "stdout")),
            host.pipe(task.sink("script", "stderr")),
            host.status_pipe(SCRIPT),
        ]
        host.ask(
            "jvm",
            fds,
            name=JVM,
            command=[*command, script_main.__file__, str(call.script), *call.args],
            env={**process_env(self.spark, os.environ), **env, **host.mark},
            cwd=str(call.work_dir),
        )


@dataclass(slots=True)
class _Watch:
    """One spark-submit, from its start until nothing of it is left."""

    call: ScriptCall
    host: HostProcess
    task: TaskOutput
    script_pid: int = 0
    script_code: int | None = None
    jvm_code: int | None = None

    def result(self) -> ScriptResult:
        """The script's end; the JVM's where there was none."""
        self._listen(lambda: self.call.deadline.guard_s)
        if self.script_code is not None:
            self._listen(min(self.call.deadline.guard_s, time.time() + SHUTDOWN_LIMIT_S))
        over = self.jvm_code is None and self.script_code is None
        jvm_code = self.jvm_code  # None: it ends by our doing
        self.host.end(dump=self.script_pid if over else 0)
        for event in self.host.events(0):
            self._take(event)
        if over and self.script_code in (None, -SIGKILL):  # by our doing, though the script's end was still heard
            raise deadline_exceeded(self.call, self.task)
        if self.script_code is not None:  # whatever it says of itself; which of the two is seen to end first is chance
            if self.task.out_of_memory or jvm_code not in (None, script_main.jvm_code(self.script_code)):
                raise self.task.jvm_failure(jvm_code or 0)
            return self.task.result(self.script_code)
        return self._jvm_result()

    def _listen(self, until_s: float | Callable[[], float]) -> None:
        """Wait for the script's end, then for the JVM's."""
        for event in self.host.events(until_s):
            self._take(event)
            if isinstance(event, Exited) or self.jvm_code is not None:
                return

    def _take(self, event: Event) -> None:
        match event:
            case Started(_, pid):
                self.script_pid = pid
            case Exited(_, code):
                self.script_code = code
            case Gone(name, code) if name == JVM:
                self.jvm_code = code
            case Gone("host"):
                raise GatewayLostError(f"the process that ran {self.call.script.name} was killed from outside")

    def _jvm_result(self) -> ScriptResult:
        """The JVM ended before the script did: spark-submit refused its options, or the JVM was lost."""
        code = self.jvm_code or 0
        if self.script_pid or code <= 0 or self.task.out_of_memory:
            raise self.task.jvm_failure(code)
        return self.task.result(code, started=False)


def read_options(script: Path) -> ScriptOptions:
    """What a script asks of its JVM.

    Raises
    ------
    ScriptError
        If there is no such file, or its comments cannot be followed.
    """
    try:
        return script_options(script.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from error


def deadline_exceeded(call: ScriptCall, task: TaskOutput) -> DeadlineExceededError:
    """What to raise after a script was ended, saying where it was."""
    place = where_it_was(task.script_stderr(), task.files)
    return DeadlineExceededError(
        f"{call.script.name} was ended {'early' if call.deadline.reason else 'at its deadline'}"
        + (f", at {place}: " if place else ": ")
        + (call.deadline.reason or "make its shards smaller or give the function more time")
    )
