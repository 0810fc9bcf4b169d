"""The warm runner: it keeps the JVM; every task gets a new Python process and a JVM cleaned of the last task.

A task: wait for the JVM, prepare it, fork the script from the host, end its remaining processes, clean the JVM, end
Spark's remaining processes. The worker calls the JVM by a connection that no script has; only a JVM's first script
prepares it itself. A JVM that cannot be trusted is replaced; the new one boots between two tasks.
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
from sparklet.spark.java_classes import encoded
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
MIN_CLEAN_S = 1.0  # of the grace, if the script took all the time there was
LONG_S, LONG_TASKS = 2.0, 2  # of a JVM's CPU time a task; so many in a row pay for a start of one that optimizes
MIN_SHARED = 0.5  # an archive holds three quarters of a JVM's classes, Java's own archive a sixth
UNUSED = "only %s classes came from the class-data archive, so the JVM started slowly: sparklet doctor says why"
UNKNOWN = "each script makes a SparkContext of its own: Spark %s is unknown here, contexts of %s can be kept"
BOOT_POLL_S = 0.005
PYTHON_DAEMON = "sparklet.spark.python_daemon"
TRACE, TRACE_PROPERTY = "_X_AMZN_TRACE_ID", "com.amazonaws.xray.traceHeader"
"""An invocation's own, which Java's SDKs send along: by it Lambda finds loops. They read the property, too."""
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
    """The JVM was lost before the script's first line: it can be run again at once."""


@dataclass(slots=True)
class Jvm:
    """A JVM that is booting, up, or has ended; its host's ``codes`` say which."""

    name: str
    host: HostProcess
    folder: Path  # its java.io.tmpdir, deleted with it
    aws: Mapping[str, str]  # when the JVM started: Java does not see later changes
    archived: bool = False  # whether it has a class-data archive
    log: Tail = field(default_factory=lambda: Tail(8 * 1024))  # its output while it boots
    port: int = 0
    secret: str = ""
    line: socket.socket | None = None  # the worker's own, to Py4J
    tasks: int = 0
    long_tasks: int = 0  # in a row

    @property
    def connection_file(self) -> Path:
        """The file to which it writes port and secret once it is up."""
        return self.folder / "connection"

    def is_up(self) -> bool:
        """Whether it can be reached; reads port and secret."""
        # Spark renames the file into its place, so it is whole: the port, the secret's length, the secret.
        if not self.port and self.connection_file.exists():
            content = self.connection_file.read_bytes()
            self.port = int.from_bytes(content[:4], "big")
            self.secret = content[8:].decode()
        return bool(self.port)

    def call(self, until_s: float, method: str, *arguments: str, of: str = "t") -> str:
        """Call ``WarmJvm``; return its answer as Py4J words it, or "" if none came in time or the JVM has ended.

        Py4J's own client is not used: it would wait, and no pipe would be read meanwhile.
        """
        host = self.host
        host.answers.pop(self.name, None)  # to a call that took too long
        with contextlib.suppress(OSError):  # it has ended: ``codes`` tells
            self.line = self.line or host.connect(self.name, self.port, self.secret)
            words = ("c", of, method, *(argument.translate(_ESCAPED) for argument in arguments), "e")
            self.line.sendall("".join(f"{word}\n" for word in words).encode(errors="replace"))
        host.wait(until_s, lambda: self.name in host.answers or self.name in host.codes)
        if not host.alive:
            raise GatewayLostError("the script host was killed from outside")
        return host.answers.get(self.name, "")

    def prepare(self, properties: str, *, restored: bool) -> None:
        """Renew random states after a restore, set the next task's system properties; raises _NotStartedError."""
        calls = [("prepare", f"s{properties}")]
        if restored:
            calls.insert(0, ("reseed", f"L{int.from_bytes(os.urandom(8), 'big', signed=True)}"))
        for call in calls:
            answer = self.call(time.time() + PREPARE_LIMIT_S, *call)
            if not answer.startswith("!y"):
                raise _NotStartedError(f"the JVM could not be made ready: {answer or 'it does not answer'}")

    def run(self, task: ScriptOutput, env: Mapping[str, str], properties: str, *, keep: bool, restored: bool) -> int:
        """Run a script from its fork until nothing of it is left; return its exit code.

        ``keep``: its SparkContext may be a kept one; ``restored``: see ``renew``. A JVM's first script prepares it with
        ``properties``, ``encoded``; later the JVM has them already.
        """
        call, host = task.call, self.host
        self.tasks += 1
        fds = [host.pipe(partial(task.add, "script", stream)) for stream in ("stdout", "stderr")]
        name = f"script {self.tasks} on {self.name}"
        host.ask(
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
        host.wait_for_script(task, self.name, lambda: name in host.codes or self.name in host.codes)
        if name in host.codes or self.name in host.codes:
            host.end(spare="jvm tree")
        elif host.alive:
            host.end_script(host.pids.get(name, 0), call.deadline, self.port, self.secret)
            raise deadline_exceeded(task)
        has_begun, code = host.pids.pop(name, 0), host.codes.pop(name, None)
        lost: SparkRuntimeError
        if self.name in host.codes:  # even if the script succeeded
            lost = task.jvm_failure(host.codes[self.name])
        elif code is None:
            lost = GatewayLostError(f"the process that ran {call.script.name} was killed from outside")
        elif has_begun:
            return code
        else:
            cause = ": ".join(filter(None, root_cause(task.script_stderr())))
            lost = GatewayLostError(f"the JVM could not be made ready for {call.script.name}: {cause}")
        raise lost if has_begun else _NotStartedError(str(lost))

    def cpu_s(self) -> float:
        """The CPU time that it has used; 0 if it has ended."""
        return cpu_time_s(self.host.pids.get(self.name, 0))

    def clean(self, guard_s: float, *, may_keep: bool) -> str:
        """Clean it after a task, whose context may be kept; the reason to replace it, or ""."""
        if self.name in self.host.codes:
            return "it has ended"
        now_s = time.time()
        until_s = max(now_s + MIN_CLEAN_S, min(now_s + CLEAN_LIMIT_S, guard_s))
        answer = self.call(until_s, "clean", f"b{'true' if may_keep else 'false'}")
        # Py4J answers with a reference to an exception, whose text is another call.
        cause = self.call(until_s, "toString", of=answer[3:]) if answer.startswith("!xr") else ""
        first = self.archived and self.tasks == 1
        counted = _COUNTED.search(self.call(until_s, "loaded")) if first and answer == "!ys" else None
        survivors = self.host.end(spare="jvm")
        if survivors:
            return f"processes {', '.join(map(str, survivors))} do not end"
        if not answer.startswith("!ys"):
            return f"it could not be cleaned: {cause.removeprefix('!ys') or 'it took too long'}"
        loaded, shared = map(int, counted.groups()) if counted else (0, 0)
        if shared < MIN_SHARED * loaded:
            _log.warning(UNUSED, f"{shared} of {loaded}")
        return answer.removeprefix("!ys")


class WarmRunner:
    """Runs scripts in new processes against one JVM, which is replaced after ``tasks_per_jvm`` tasks (0: never).

    ``scratch`` is the only writable folder; ``keep_context``: whether the SparkContext may outlive a task.
    """

    def __init__(
        self, spark: SparkSettings, scratch: Path, tasks_per_jvm: int = 0, *, keep_context: bool = True
    ) -> None:
        self._spark, self._scratch, self._tasks_per_jvm = spark, scratch, tasks_per_jvm
        self._keep_context = keep_context
        self._submit = SubmitRunner(spark, scratch)
        self._host: HostProcess | None = None
        self._jvm: Jvm | None = None
        self._task: ScriptOutput | None = None  # it gets the JVM's output
        self.jvm_starts = 0
        self._restored = False  # since the last task
        self._optimizing = False  # whether JVMs get the optimizing compiler
        self._script_env: Callable[[], Mapping[str, str]] = dict

    def renew(self, script_env: Callable[[], Mapping[str, str]]) -> None:
        """After a restore: the next task renews Java's random states; ``script_env``: variables of each script."""
        self._restored, self._script_env = True, script_env

    def start(self) -> None:
        """Begin to boot the JVM and to import pyspark; never waits."""
        if self._jvm is None:
            self._boot()

    @cached_property
    def has_view(self) -> bool:
        """Whether our Java is on the class path: a look at each jar."""
        return has_own_java(self._spark, class_path(self._spark))

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``."""
        call.refuse_if_over()
        options = script_options(call.source, lambda: class_path(self._spark), call.conf)
        if options.submit:
            self._drop_jvm()  # the function's memory is made for one; the next warm task boots another
            return self._submit.run(call, output)
        options.warn(output)
        try:
            return self._attempt(call, options.conf, output)
        except _NotStartedError:  # the JVM had died since the last task: nothing has been done yet
            return self._attempt(call, options.conf, output)

    def _attempt(self, call: ScriptCall, conf: Mapping[str, str], output: Output) -> ScriptResult:
        jvm = self._ready_jvm(call)
        self._task = task = ScriptOutput(output, call)
        try:
            _point(jvm.host.home / "cwd", call.work_dir)
            env, properties = self._task_options(call, conf, jvm)
            restored, self._restored = self._restored, False
            since_s = jvm.cpu_s()
            if jvm.tasks:
                jvm.prepare(properties, restored=restored)
            code = jvm.run(task, env, properties, keep=self._keep_context, restored=restored)
            # A JVM's first task starts everything, and priming is no user's work: neither tells how long events are.
            is_long = jvm.tasks > 1 and not call.is_priming and jvm.cpu_s() - since_s > LONG_S
            jvm.long_tasks = jvm.long_tasks + 1 if is_long else 0
            # A killed script may have left anything in the context, and an event log lies in the task's folder.
            problem = jvm.clean(call.deadline.guard_s, may_keep=code >= 0 and not call.events)
            ended = jvm.host.codes.get(jvm.name)
            if problem and ended is not None and (code != 0 or ended != 0):  # its end may be reported late
                raise task.jvm_failure(ended)
            result = task.result(code, used=jvm.tasks > 1)
        except BaseException:  # nothing of this task may stay
            self._replace()
            raise
        finally:
            self._task = None
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
        """End the JVM and every process there is."""
        if self._host is not None:
            self._host.close()
        self._host = self._jvm = None

    def _ready_jvm(self, call: ScriptCall) -> Jvm:
        jvm = self._booting()
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

    def _booting(self) -> Jvm:
        """The current JVM and its host, or new ones if they have ended or the credentials have changed."""
        if self._host is not None:
            # What has ended since the last task is known only once the pipes are read.
            self._host.drain()
            if not self._host.alive:
                self.close()
        if self._jvm is not None:
            if self._jvm.name not in self._jvm.host.codes and self._jvm.aws == _aws_environment():
                return self._jvm
            self._drop_jvm()
        return self._boot()

    def _boot(self) -> Jvm:
        """Start a JVM; the first thing that a new host does."""
        env, jars = process_env(self._spark, os.environ), class_path(self._spark)
        env.pop(TRACE, None)  # of the invocation that happens to start the JVM
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
        fds = [host.pipe(partial(self._hear_jvm, jvm, stream)) for stream in ("stdout", "stderr")]
        host.ask(
            "jvm",
            fds,
            name=name,
            command=[*command, SHELL],
            env={**env, **host.mark, "_PYSPARK_DRIVER_CONN_INFO_PATH": str(jvm.connection_file)},
            cwd=str(host.home),
        )
        # After the JVM, so that the host imports pyspark while the JVM boots
        if is_new:
            host.ask("preload")
            spark = version_on(jars)
            if self._keep_context and not is_known(spark):  # nobody has looked at its insides
                _log.warning(UNKNOWN, spark or "of a nameless version", " and ".join(SCALA))
                self._keep_context = False
        self._jvm = jvm
        return jvm

    def _task_options(self, call: ScriptCall, conf: Mapping[str, str], jvm: Jvm) -> tuple[dict[str, str], str]:
        """The environment and the Java properties of a task."""
        env, folder = task_env(call, self._spark), str(call.work_dir)
        properties = {
            **task_conf(call, env, self._spark),
            # A kept context's folder; Hadoop's stays the task's: S3A makes its buffers' folder anew for each.
            **({"spark.local.dir": str(jvm.folder)} if self._keep_context else {}),
            **conf,
            "user.dir": folder,
            "derby.system.home": folder,
            TRACE_PROPERTY: os.environ.get(TRACE, ""),
        }
        return {**process_env(self._spark, os.environ), **self._script_env(), **env}, encoded(properties)

    def _hear_jvm(self, jvm: Jvm, stream: Stream, line: bytes) -> None:
        if self._task is not None:
            self._task.add("jvm", stream, line)
        else:
            jvm.log.add(line)

    def _replace(self) -> None:
        self._drop_jvm()
        self._boot()

    def _drop_jvm(self) -> None:
        if self._host is None or self._jvm is None:
            return
        try:
            survivors = self._host.end()
        except GatewayLostError:  # its host has ended, and with it all processes
            survivors = ()
        delete_own(self._jvm.folder)
        self._jvm = None
        if survivors or not self._host.alive:
            self.close()


def _point(link: Path, folder: Path) -> None:
    """Make ``link`` point to ``folder``: Java always resolves relative paths against its first folder, this link."""
    new = link.with_name("new")
    new.symlink_to(folder)
    new.replace(link)


def _aws_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
