"""The submit runner, which starts a JVM for each script with the command line of spark-submit."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from signal import SIGKILL
from urllib.parse import quote

from sparklet.errors import DeadlineExceededError, GatewayLostError
from sparklet.settings import SparkSettings
from sparklet.spark import script_main
from sparklet.spark.host_process import HostProcess
from sparklet.spark.processes import environment
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.script_options import ScriptOptions, script_options
from sparklet.spark.script_output import ScriptOutput, line_reached
from sparklet.spark.spark_options import (
    class_path,
    has_own_java,
    java_command,
    process_env,
    spark_defaults,
    task_conf,
    task_env,
)

JVM, SCRIPT = "jvm", "script"  # names for the script host, which is new for each task and so runs one of each
SHUTDOWN_LIMIT_S = 5.0  # how long the JVM can take to end after its script


@dataclass
class SubmitRunner(Runner):
    """Runs each script under its own spark-submit or, if there is a Spark Connect server, as plain Python."""

    spark: SparkSettings
    scratch: Path

    @cached_property
    def has_view(self) -> bool:
        """Whether our Java is on the class path; cached, since each jar is checked."""
        return has_own_java(self.spark, class_path(self.spark))

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``."""
        call.refuse_if_over()
        options = script_options(call.source, lambda: class_path(self.spark), call.conf)
        options.warn(output)
        host = HostProcess(self.scratch, process_env(self.spark, os.environ))
        try:
            script_output = ScriptOutput(output, call)
            self._submit(script_output, options, host)
            return _result(script_output, host)
        finally:
            host.close()

    def _submit(self, script_output: ScriptOutput, options: ScriptOptions, host: HostProcess) -> None:
        call, env = script_output.call, task_env(script_output.call, self.spark)
        if remote := self.spark.conf.get("spark.remote"):  # Spark Connect: there is no JVM
            if token := self.spark.remote_token:
                remote = f"{remote.rstrip('/')}{'' if ';' in remote else '/'};token={quote(token, safe='')}"
            command, env = [sys.executable], {**env, "SPARK_REMOTE": remote}
        else:
            command = self._java(call, options, env)
        sinks = [
            partial(script_output.add, source, stream)
            for source in ("jvm", "script")
            for stream in ("stdout", "stderr")
        ]
        host.request(
            "jvm",
            # In the order of their numbers in the JVM: its own two streams, then STDOUT, STDERR, STATUS of script_main.
            [*map(host.pipe, sinks), host.status_pipe(SCRIPT)],
            name=JVM,
            command=[*command, script_main.__file__, str(call.script), *call.args],
            env={**process_env(self.spark, os.environ), **env, **host.mark},
            cwd=str(call.work_dir),
            java=not remote,
        )

    def _java(self, call: ScriptCall, options: ScriptOptions, env: Mapping[str, str]) -> list[str]:
        """The command line of spark-submit's JVM, without the script and its arguments."""
        jars = class_path(self.spark)
        conf = {**spark_defaults(self.spark, self.scratch, jars), **task_conf(call, env, self.spark), **options.conf}
        return java_command(
            self.spark,
            [*filter(None, [options.conf.get("spark.driver.extraClassPath")]), *jars],
            tmp=call.work_dir,
            properties={"derby.system.home": str(call.work_dir)},
            conf=conf,
            script_conf=options.conf,
        )


def _result(script_output: ScriptOutput, host: HostProcess) -> ScriptResult:
    """Wait for the script, or for a JVM that ended before starting it, and return its result.

    Raises an error if the deadline has passed, the JVM has failed, or the host was killed. A JVM that still runs is
    ended.
    """
    call, deadline, codes = script_output.call, script_output.call.deadline, host.codes
    host.wait_for_script(script_output, JVM, lambda: bool(codes))  # until a process has reported its exit code
    # The JVM's exit code shows whether the JVM itself failed, so its end is awaited as well, but not for long.
    if SCRIPT in codes:
        host.wait(min(deadline.guard_s, time.time() + SHUTDOWN_LIMIT_S), lambda: JVM in codes)
    if not host.alive:
        raise GatewayLostError(f"the process that ran {call.script.name} was killed from outside")
    jvm_code = codes.get(JVM)  # None if the JVM still runs, and is ended below
    if codes:
        host.end()
    else:  # the deadline has passed before any process ended
        pid = host.pids.get(SCRIPT, 0)
        # spark-submit passes the JVM's port and secret only to its own child.
        port, secret = map(environment(pid).get, ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"))
        had_grace = host.end_script(pid, deadline, int(port or 0), secret or "")
        if had_grace or codes.get(SCRIPT) in (None, -SIGKILL):  # -SIGKILL: it was killed here, and reported after that
            raise deadline_exceeded(script_output)
    if SCRIPT in codes:
        # The JVM is checked even if the script exited with 0: its failure may be reported after the script's end.
        if script_output.out_of_memory or jvm_code not in (None, script_main.jvm_code(codes[SCRIPT])):
            raise script_output.jvm_failure(jvm_code or 0)
        return script_output.result(codes[SCRIPT])
    # The script has not ended by itself: spark-submit refused its options, or the JVM was lost.
    code = jvm_code or 0
    if SCRIPT in host.pids or code <= 0 or script_output.out_of_memory:
        raise script_output.jvm_failure(code)
    return script_output.result(code, started=False)


def deadline_exceeded(script_output: ScriptOutput) -> DeadlineExceededError:
    """The error for a script that was ended, with the line that it had reached."""
    call, line = script_output.call, line_reached(script_output.script_stderr(), script_output.files)
    reason = call.deadline.reason
    when = "early" if reason else "at its deadline"
    place = f", at {line}" if line else ""
    remedy = reason or "make its shards smaller or give the function more time"
    return DeadlineExceededError(
        f"{call.script.name} was ended {when}{place}: {remedy}; "
        "commit state unknown: its own writes to tables may be there"
    )
