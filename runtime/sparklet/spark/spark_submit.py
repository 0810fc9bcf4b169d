"""The submit runner, which starts a JVM for each script, and the options by which a script asks for it.

A script has them in comments, anywhere, at the start of a line::

    # sparklet: runner=submit
    # sparklet: spark.driver.memory=3g
    # sparklet: spark.driver.extraJavaOptions=-Duser.language=de

A script needs its own JVM if a comment, or a literal in its code such as
``.config("spark.jars.packages", "group:artifact:1.0")``, has an option that only a new JVM can take. It then gets one
with those options. Both runners use the other options in comments, and with ``runner=warm`` a script stays on the warm
JVM whatever its code has.
"""

import ast
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIGKILL
from urllib.parse import quote

from sparklet.errors import DeadlineExceededError, GatewayLostError, ScriptError
from sparklet.settings import SparkSettings
from sparklet.spark import script_main
from sparklet.spark.host_process import Event, Exited, Gone, HostProcess, Started
from sparklet.spark.processes import environment
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.script_output import TaskOutput, where_it_was
from sparklet.spark.spark_options import class_path, java_command, process_env, spark_defaults, task_conf, task_env

JVM_OPTIONS = frozenset(
    {
        *("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions", "spark.driver.extraLibraryPath"),
        *("spark.driver.extraClassPath", "spark.driver.userClassPathFirst", "spark.jars", "spark.jars.excludes"),
        *("spark.jars.ivySettings", "spark.jars.packages", "spark.jars.repositories"),
    }
)
"""Not ``spark.driver.memory``: spark-submit, too, ignores it in code, and the JVM has all the function's memory."""

IN_A_COMMENT = JVM_OPTIONS | {"spark.driver.memory"}
SETTERS = frozenset({"config", "set", "setIfMissing"})

JVM, SCRIPT = "jvm", "script"  # a host of its own runs one of each
SHUTDOWN_LIMIT_S = 5.0  # for the JVM to follow a script that has ended

_COMMENT = re.compile(r"^#\s*sparklet:\s*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """The options of a script."""

    submit: bool = False  # it needs its own JVM
    conf: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class SubmitRunner(Runner):
    """Runs each script under a spark-submit of its own; against a Spark Connect server as plain Python."""

    spark: SparkSettings
    scratch: Path

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

    def _submit(self, call: ScriptCall, options: ScriptOptions, host: HostProcess, task: TaskOutput) -> None:
        env = task_env(call, self.spark)
        if remote := self.spark.conf.get("spark.remote"):  # Spark Connect: there is no JVM
            if token := self.spark.remote_token:
                remote = f"{remote.rstrip('/')}{'' if ';' in remote else '/'};token={quote(token, safe='')}"
            command, env = [sys.executable], {**env, "SPARK_REMOTE": remote}
        else:
            command = self._java(call, options, env)
        sinks = [partial(task.add, source, stream) for source in ("jvm", "script") for stream in ("stdout", "stderr")]
        host.ask(
            "jvm",
            [*map(host.pipe, sinks), host.status_pipe(SCRIPT)],
            name=JVM,
            command=[*command, script_main.__file__, str(call.script), *call.args],
            env={**process_env(self.spark, os.environ), **env, **host.mark},
            cwd=str(call.work_dir),
            java=not remote,
        )

    def _java(self, call: ScriptCall, options: ScriptOptions, env: Mapping[str, str]) -> list[str]:
        """The command line of spark-submit's JVM, without what it runs."""
        jars = class_path(self.spark)
        conf = {**spark_defaults(self.spark, self.scratch, jars), **task_conf(call, env, self.spark), **options.conf}
        return java_command(
            self.spark,
            [*filter(None, [options.conf.get("spark.driver.extraClassPath")]), *jars],
            tmp=call.work_dir,
            properties={"derby.system.home": str(call.work_dir)},
            conf=conf,
            given=options.conf,
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
        """The result of the script, or of the JVM if the script never started."""
        self._listen(lambda: self.call.deadline.guard_s)
        if self.script_code is not None:
            self._listen(min(self.call.deadline.guard_s, time.time() + SHUTDOWN_LIMIT_S))
        over = self.jvm_code is None and self.script_code is None
        jvm_code = self.jvm_code  # None: we end it
        port, secret = map(environment(self.script_pid).get, ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"))
        self.host.end_script(self.script_pid if over else 0, self.call.deadline, int(port or 0), secret or "")
        for event in self.host.events(0):
            self._take(event)
        if over and self.script_code in (None, -SIGKILL):  # we killed it, even if its end was reported after that
            raise deadline_exceeded(self.call, self.task)
        if self.script_code is not None:  # even 0: which of the two ends is reported first is chance
            if self.task.out_of_memory or jvm_code not in (None, script_main.jvm_code(self.script_code)):
                raise self.task.jvm_failure(jvm_code or 0)
            return self.task.result(self.script_code)
        code = jvm_code or 0  # spark-submit refused its options, or the JVM was lost
        if self.script_pid or code <= 0 or self.task.out_of_memory:
            raise self.task.jvm_failure(code)
        return self.task.result(code, started=False)

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


def deadline_exceeded(call: ScriptCall, task: TaskOutput) -> DeadlineExceededError:
    """The error for a script that was ended, with the line it had reached."""
    place = where_it_was(task.script_stderr(), task.files)
    return DeadlineExceededError(
        f"{call.script.name} was ended {'early' if call.deadline.reason else 'at its deadline'}"
        + (f", at {place}: " if place else ": ")
        + (call.deadline.reason or "make its shards smaller or give the function more time")
        + "; commit state unknown: its own writes to tables may be there"
    )


def read_options(script: Path) -> ScriptOptions:
    """The options of a script file; raises ScriptError if it cannot be read or its comments are wrong."""
    try:
        return script_options(script.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise ScriptError(f"{script} cannot be read: {error.strerror}") from error


def script_options(source: str) -> ScriptOptions:
    """The options in a script's text; raises ScriptError if a ``# sparklet:`` comment is wrong or two contradict."""
    asked = dict(_commented(source))
    runner = asked.pop("runner", "")
    jvm_options = sorted(IN_A_COMMENT.intersection(asked))
    if runner == "warm":
        if jvm_options:
            raise ScriptError(f"the script's comments ask for runner=warm and for {jvm_options[0]}, which needs submit")
        return ScriptOptions(conf=asked)
    seen = dict(_written_out(source)) if any(option in source for option in JVM_OPTIONS) else {}
    conf = {**{key: value for key, value in seen.items() if value is not None}, **asked}
    return ScriptOptions(runner == "submit" or bool(jvm_options) or bool(seen), conf)


def _commented(source: str) -> Iterator[tuple[str, str]]:
    for match in _COMMENT.finditer(source):
        key, equals, value = (part.strip() for part in match[1].partition("="))
        if not (equals and (key.startswith("spark.") or (key == "runner" and value in ("warm", "submit")))):
            line = source.count("\n", 0, match.start()) + 1
            raise ScriptError(
                f"line {line} of the script: '# sparklet: {match[1]}' must be runner=submit, runner=warm or spark.…=…"
            )
        yield key, value


def _written_out(source: str) -> Iterator[tuple[str, str | None]]:
    """JVM options in the code, each with its value if that is a plain string."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # running it fails with a better message
        return
    for node in ast.walk(tree):
        for key, value in _pairs(node):
            if isinstance(key, ast.Constant) and key.value in JVM_OPTIONS:
                literal = value.value if isinstance(value, ast.Constant) else None
                yield str(key.value), literal if isinstance(literal, str) else None


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    """Where code names an option and its value: ``.config(k, v)``, ``(k, v)``, ``{k: v}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
        if node.func.attr in SETTERS:
            yield node.args[0], node.args[1]
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[0], node.elts[1]
    elif isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
