"""The warm runner, which keeps the JVM: each task gets a new Python process and a JVM cleaned of the last task.

Steps of a task: wait for the JVM, prepare it, fork the script from the host, end the script's remaining processes,
clean the JVM, end Spark's remaining processes. The worker calls the JVM by a connection that no script has; only a
JVM's first script prepares the JVM itself. A JVM that cannot be trusted is replaced; the new one boots between two
tasks.
"""

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from sparklet.errors import DeadlineExceededError, GatewayLostError, SparkRuntimeError
from sparklet.job.spark_lines import SCALA, is_known, version_on
from sparklet.settings import SparkSettings, WorkerSettings, spark_settings
from sparklet.spark.host_process import HostProcess
from sparklet.spark.java_classes import encode_properties
from sparklet.spark.owned import delete_own
from sparklet.spark.processes import cpu_time_s
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult, Stream
from sparklet.spark.script_options import script_options
from sparklet.spark.script_output import ScriptOutput, Tail, root_cause
from sparklet.spark.spark_options import (
    SHELL,
    class_path,
    compiles_plainly,
    has_own_java,
    is_local,
    java_command,
    java_path,
    process_env,
    spark_defaults,
    task_conf,
    task_env,
)
from sparklet.spark.spark_submit import SubmitRunner, deadline_exceeded

PREPARE_LIMIT_S = CLEAN_LIMIT_S = 10.0
MIN_CLEAN_S = 1.0  # time for cleaning, taken from the grace if the script has used up its own time
LONG_S, LONG_TASKS = 2.0, 2  # after so many tasks in a row with more CPU time than this, an optimizing JVM pays off
MIN_SHARED = 0.5  # our archive has three quarters of a JVM's classes, Java's own archive a sixth
UNUSED = "only %s classes came from the class-data archive, so the JVM started slowly: sparklet doctor says why"
UNKNOWN = "each script makes a SparkContext of its own: Spark %s is unknown here, contexts of %s can be kept"
BOOT_POLL_S = 0.005
PYTHON_DAEMON = "sparklet.spark.python_daemon"
TRACE, TRACE_PROPERTY = "_X_AMZN_TRACE_ID", "com.amazonaws.xray.traceHeader"
"""An invocation's trace id. Java's SDKs send it along, so that Lambda finds loops; they read the property, too."""
PORT, SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"

_COUNTED = re.compile(r"(\d+) classes \((\d+) shared\)")
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})
_log = logging.getLogger(__name__)


def runner_for(settings: WorkerSettings, spark: SparkSettings | None = None) -> Runner:
    """The runner that the settings ask for; ``start`` it early."""
    spark = spark or spark_settings()
    if settings.runner == "submit" or not is_local(spark):
        return SubmitRunner(spark, settings.scratch)
    return WarmRunner(spark, settings.scratch, settings.tasks_per_jvm, keep_context=settings.keep_context)


class _NotStartedError(GatewayLostError):
    """The JVM was lost before the script's first line, so the script can be run again at once."""


@dataclass(slots=True)
class Jvm:
    """A JVM that is booting, is up, or has ended; after its end the host's ``codes`` have its exit code."""

    name: str
    host: HostProcess
    folder: Path  # the JVM's java.io.tmpdir, which is deleted with it
    aws: Mapping[str, str]  # AWS's variables when the JVM started: Java does not get later changes
    archived: bool = False  # whether the JVM has a class-data archive
    log: Tail = field(default_factory=lambda: Tail(8 * 1024))  # the JVM's output while it boots
    port: int = 0
    secret: str = ""
    connection: socket.socket | None = None  # the worker's own connection to Py4J
    tasks: int = 0
    long_tasks: int = 0  # how many tasks in a row were long

    @property
    def connection_file(self) -> Path:
        """The file to which the JVM writes port and secret once it is up."""
        return self.folder / "connection"

    def is_up(self) -> bool:
        """Whether the JVM can be called; read port and secret once it can."""
        # Spark renames the file into its place, so it is complete: the port, the secret's length, the secret.
        if not self.port and self.connection_file.exists():
            content = self.connection_file.read_bytes()
            self.port = int.from_bytes(content[:4], "big")
            self.secret = content[8:].decode()
        return bool(self.port)

    def call(self, until_s: float, method: str, *arguments: str, target: str = "t") -> str:
        """Call a method of ``WarmJvm``, which is Py4J's object "t", or of another ``target``; return Py4J's answer.

        "" if no answer came in time or the JVM has ended. Py4J's own client is not used, since no pipe would be read
        while it waits.
        """
        host = self.host
        host.answers.pop(self.name, None)  # the late answer to an earlier call
        with contextlib.suppress(OSError):  # the JVM has ended, which ``codes`` shows
            self.connection = self.connection or host.connect(self.name, self.port, self.secret)
            words = ("c", target, method, *(argument.translate(_ESCAPED) for argument in arguments), "e")
            self.connection.sendall("".join(f"{word}\n" for word in words).encode(errors="replace"))
        host.wait(until_s, lambda: self.name in host.answers or self.name in host.codes)
        if not host.alive:
            raise GatewayLostError("the script host was killed from outside")
        return host.answers.get(self.name, "")

    def prepare(self, properties: str, *, restored: bool) -> None:
        """Set the next task's system properties, and renew random states after a restore; raises _NotStartedError."""
        calls = [("prepare", f"s{properties}")]
        if restored:
            calls.insert(0, ("reseed", f"L{int.from_bytes(os.urandom(8), 'big', signed=True)}"))
        for call in calls:
            answer = self.call(time.time() + PREPARE_LIMIT_S, *call)
            if not answer.startswith("!y"):
                raise _NotStartedError(f"the JVM could not be made ready: {answer or 'it does not answer'}")

    def run(
        self, script_output: ScriptOutput, env: Mapping[str, str], properties: str, *, keep: bool, restored: bool
    ) -> int:
        """Fork and run a script until all its processes have ended; return its exit code.

        With ``keep`` its SparkContext may be a kept one. For ``restored`` see ``renew``. A JVM's first script prepares
        the JVM with ``properties`` (text of ``encode_properties``); for later scripts the worker has done so.
        """
        call, host = script_output.call, self.host
        self.tasks += 1
        fds = [host.pipe(partial(script_output.add, "script", stream)) for stream in ("stdout", "stderr")]
        name = f"script {self.tasks} on {self.name}"
        host.request(
            "script",
            [*fds, host.status_pipe(name)],
            name=name,
            host=host.pid,
            script=str(call.script),
            args=call.args,
            cwd=str(call.work_dir),
            env={**env, PORT: str(self.port), SECRET: self.secret, **host.mark},
            port=self.port,
            secret=self.secret,
            first=self.tasks == 1,
            keep=keep,
            restored=restored,
            properties=properties,
        )
        host.wait_for_script(script_output, self.name, lambda: name in host.codes or self.name in host.codes)
        if name in host.codes or self.name in host.codes:
            host.end(spare="jvm tree")
        elif host.alive:
            host.end_script(host.pids.get(name, 0), call.deadline, self.port, self.secret)
            raise deadline_exceeded(script_output)
        has_begun, code = host.pids.pop(name, 0), host.codes.pop(name, None)
        loss: SparkRuntimeError
        if self.name in host.codes:  # the JVM has ended, which is a failure even if the script succeeded
            loss = script_output.jvm_failure(host.codes[self.name])
        elif code is None:
            loss = GatewayLostError(f"the process that ran {call.script.name} was killed from outside")
        elif has_begun:
            return code
        else:
            cause = ": ".join(filter(None, root_cause(script_output.script_stderr())))
            loss = GatewayLostError(f"the JVM could not be made ready for {call.script.name}: {cause}")
        raise loss if has_begun else _NotStartedError(str(loss))

    def cpu_s(self) -> float:
        """The CPU time that the JVM has used; 0 if the JVM has ended."""
        return cpu_time_s(self.host.pids.get(self.name, 0))

    def clean(self, guard_s: float, *, may_keep: bool) -> str:
        """Clean the JVM after a task, whose context is kept if ``may_keep``. Return the reason to replace it, or ""."""
        if self.name in self.host.codes:
            return "it has ended"
        now_s = time.time()
        until_s = max(now_s + MIN_CLEAN_S, min(now_s + CLEAN_LIMIT_S, guard_s))
        answer = self.call(until_s, "clean", f"b{'true' if may_keep else 'false'}")
        # After an exception Py4J answers with a reference to it; its text needs another call.
        cause = self.call(until_s, "toString", target=answer[3:]) if answer.startswith("!xr") else ""
        checks_archive = self.archived and self.tasks == 1 and answer == "!ys"
        counts = _COUNTED.search(self.call(until_s, "loaded")) if checks_archive else None
        survivors = self.host.end(spare="jvm")
        if survivors:
            return f"processes {', '.join(map(str, survivors))} do not end"
        if not answer.startswith("!ys"):
            return f"it could not be cleaned: {cause.removeprefix('!ys') or 'it took too long'}"
        class_count, shared_count = map(int, counts.groups()) if counts else (0, 0)
        if shared_count < MIN_SHARED * class_count:
            _log.warning(UNUSED, f"{shared_count} of {class_count}")
        return answer.removeprefix("!ys")


class WarmRunner:
    """Runs scripts in new processes with one JVM, which is replaced after ``tasks_per_jvm`` tasks (never if that is 0).

    ``scratch`` is the only writable folder. With ``keep_context`` the SparkContext may outlive a task.
    """

    def __init__(
        self, spark: SparkSettings, scratch: Path, tasks_per_jvm: int = 0, *, keep_context: bool = True
    ) -> None:
        self._spark, self._scratch, self._tasks_per_jvm = spark, scratch, tasks_per_jvm
        self._keep_context = keep_context
        self._submit = SubmitRunner(spark, scratch)
        self._host: HostProcess | None = None
        self._jvm: Jvm | None = None
        self._running_output: ScriptOutput | None = None  # of the running task; it also gets the JVM's output
        self.jvm_starts = 0
        self._restored = False  # whether the environment was restored from a snapshot since the last task
        self._optimizing = False  # whether JVMs get the optimizing compiler
        self._script_env: Callable[[], Mapping[str, str]] = dict

    def renew(self, script_env: Callable[[], Mapping[str, str]]) -> None:
        """After a restore: let the next task renew Java's random states, and give each script ``script_env``."""
        self._restored, self._script_env = True, script_env

    def start(self) -> None:
        """Begin to boot the JVM and to import pyspark; never waits."""
        if self._jvm is None:
            self._boot()

    @cached_property
    def has_view(self) -> bool:
        """Whether our Java is on the class path; cached, since each jar is checked."""
        return has_own_java(self._spark, class_path(self._spark))

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``."""
        call.refuse_if_over()
        options = script_options(call.source, lambda: class_path(self._spark), call.conf)
        if options.submit:
            self._drop_jvm()  # the function's memory suffices for one JVM; the next warm task boots a new one
            return self._submit.run(call, output)
        options.warn(output)
        try:
            return self._attempt(call, options.conf, output)
        except _NotStartedError:  # the JVM has ended since the last task, and the script has not done anything
            return self._attempt(call, options.conf, output)

    def _attempt(self, call: ScriptCall, conf: Mapping[str, str], output: Output) -> ScriptResult:
        """Run a script on the warm JVM and clean the JVM, or replace it."""
        jvm = self._ready_jvm(call)
        self._running_output = script_output = ScriptOutput(output, call)
        try:
            _point(jvm.host.home / "cwd", call.work_dir)
            env, properties = self._task_options(call, conf, jvm)
            restored, self._restored = self._restored, False
            since_s = jvm.cpu_s()
            if jvm.tasks:
                jvm.prepare(properties, restored=restored)
            code = jvm.run(script_output, env, properties, keep=self._keep_context, restored=restored)
            # A JVM's first task takes longer, since it loads everything, and priming is not a user's task: neither
            # shows how long the users' tasks are.
            is_long = jvm.tasks > 1 and not call.is_priming and jvm.cpu_s() - since_s > LONG_S
            jvm.long_tasks = jvm.long_tasks + 1 if is_long else 0
            # Not kept: a killed script may have left anything in the context, and an event log is in the task's folder.
            problem = jvm.clean(call.deadline.guard_s, may_keep=code >= 0 and not call.events)
            # The end of a JVM under the script may be reported only now.
            jvm_code = jvm.host.codes.get(jvm.name)
            if problem and jvm_code is not None and (code != 0 or jvm_code != 0):
                raise script_output.jvm_failure(jvm_code)
            result = script_output.result(code, used=jvm.tasks > 1)
        except BaseException:  # nothing of this task is allowed to stay
            self._replace()
            raise
        finally:
            self._running_output = None
        # An earlier script may have broken this JVM; the worker runs this script again in a new one.
        if result.suspect:
            problem = problem or "Spark's own code failed in it"
        if not problem and self._tasks_per_jvm and jvm.tasks >= self._tasks_per_jvm:
            problem = f"it has done {jvm.tasks} tasks"
        if jvm.long_tasks >= LONG_TASKS and not self._optimizing and compiles_plainly(self._spark):
            problem = problem or "its tasks are long, and the next one optimizes"
            self._optimizing = True
        if problem:
            _log.info("the JVM is replaced: %s", problem)
            self._replace()
        return result

    def close(self) -> None:
        """End the host with the JVM and all other processes."""
        if self._host is not None:
            self._host.close()
        self._host = self._jvm = None

    def _ready_jvm(self, call: ScriptCall) -> Jvm:
        """Wait until the JVM is up, and return it."""
        jvm = self._current_jvm()
        host = jvm.host
        while not jvm.is_up():
            host.wait(min(call.deadline.guard_s, time.time() + BOOT_POLL_S))
            if jvm.name in host.codes or not host.alive:
                self._drop_jvm()
                raise GatewayLostError(f"the JVM did not start: {' '.join(jvm.log.text().split())[-500:]}")
            if not call.deadline.remaining_s():
                self._replace()
                raise DeadlineExceededError(f"{call.script.name} was not started: the JVM was not up by its deadline")
        return jvm

    def _current_jvm(self) -> Jvm:
        """The current JVM, or a new one if it or its host has ended or the credentials have changed."""
        if self._host is not None:
            # The pipes have the reports of processes that have ended since the last task.
            self._host.drain()
            if not self._host.alive:
                self.close()
        if self._jvm is not None:
            if self._jvm.name not in self._jvm.host.codes and self._jvm.aws == _aws_environment():
                return self._jvm
            self._drop_jvm()
        return self._boot()

    def _boot(self) -> Jvm:
        """Start a JVM, with a new host if there is none."""
        env, jars = process_env(self._spark, os.environ), class_path(self._spark)
        env.pop(TRACE, None)  # it would be that of the invocation that happens to start the JVM
        java_path(self._spark)  # raises SettingsError before any process starts
        is_new = self._host is None
        if self._host is None:
            self._host = HostProcess(self._scratch, env)
        host = self._host
        self.jvm_starts += 1
        name = f"jvm-{self.jvm_starts}"
        jvm = Jvm(name, host, host.home / name, _aws_environment())
        jvm.folder.mkdir()
        _point(host.home / "cwd", jvm.folder)
        conf = {**spark_defaults(self._spark, self._scratch, jars), "spark.python.daemon.module": PYTHON_DAEMON}
        command = java_command(
            self._spark,
            jars,
            tmp=jvm.folder,
            properties={"user.dir": str(host.home / "cwd")},
            conf=conf,
            optimizing=self._optimizing,
        )
        jvm.archived = any(word.startswith("-XX:SharedArchiveFile=") for word in command)
        fds = [host.pipe(partial(self._add_jvm_output, jvm, stream)) for stream in ("stdout", "stderr")]
        host.request(
            "jvm",
            fds,
            name=name,
            command=[*command, SHELL],
            env={**env, **host.mark, "_PYSPARK_DRIVER_CONN_INFO_PATH": str(jvm.connection_file)},
            cwd=str(host.home),
        )
        # Requested after the JVM, so that the host imports pyspark while the JVM boots.
        if is_new:
            host.request("preload")
            spark = version_on(jars)
            if self._keep_context and not is_known(spark):  # contexts are only kept in Sparks that were examined
                _log.warning(UNKNOWN, spark or "of a nameless version", " and ".join(SCALA))
                self._keep_context = False
        self._jvm = jvm
        return jvm

    def _task_options(self, call: ScriptCall, conf: Mapping[str, str], jvm: Jvm) -> tuple[dict[str, str], str]:
        """The environment and the Java properties of a task."""
        env, folder = task_env(call, self._spark), str(call.work_dir)
        properties = {
            **task_conf(call, env, self._spark),
            # A kept context needs a folder that stays. Hadoop's is the task's: S3A makes its folder for buffers anew.
            **({"spark.local.dir": str(jvm.folder)} if self._keep_context else {}),
            **conf,
            "user.dir": folder,
            "derby.system.home": folder,
            TRACE_PROPERTY: os.environ.get(TRACE, ""),
        }
        return {**process_env(self._spark, os.environ), **self._script_env(), **env}, encode_properties(properties)

    def _add_jvm_output(self, jvm: Jvm, stream: Stream, line: bytes) -> None:
        if self._running_output is not None:
            self._running_output.add("jvm", stream, line)
        else:
            jvm.log.add(line)

    def _replace(self) -> None:
        self._drop_jvm()
        self._boot()

    def _drop_jvm(self) -> None:
        """End the JVM and all other processes of the host; end the host as well if some survive."""
        if self._host is None or self._jvm is None:
            return
        try:
            survivors = self._host.end()
        except GatewayLostError:  # the host has ended, and all processes with it
            survivors = ()
        delete_own(self._jvm.folder)
        self._jvm = None
        if survivors or not self._host.alive:
            self.close()


def _point(link: Path, folder: Path) -> None:
    """Make ``link``, which is Java's current folder and cannot be changed in a running JVM, point to ``folder``."""
    new_link = link.with_name("new")
    new_link.symlink_to(folder)
    new_link.replace(link)


def _aws_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
