"""Sparklet's own worker, but with scripts that run as plain Python: a task of the API needs no Spark."""

import os
import subprocess
import sys
from typing import Any

from sparklet.spark import warm_runner
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult


class PlainRunner(Runner):
    """A ``Runner`` that starts a script with this Python."""

    def start(self) -> None:
        """Do nothing."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run a script to its end; return its result."""
        command = [sys.executable, str(call.script), *call.args]
        done = subprocess.run(
            command, env={**os.environ, **call.env}, cwd=call.work_dir, capture_output=True, text=True
        )
        last = done.stderr.strip().rpartition("\n")[2]
        cause_class, _, cause = last.partition(": ") if done.returncode else ("", "", "")
        return ScriptResult(done.returncode, done.stderr, cause_class, cause)

    def close(self) -> None:
        """Do nothing."""


setattr(warm_runner, "runner_for", lambda *_: PlainRunner())  # noqa: B010 - a patch, as by pytest's monkeypatch


def worker(event: Any, context: Any) -> Any:
    """Call Sparklet's handler; it is imported only here, since the import chooses the runner."""
    from sparklet.worker import handler

    return handler.lambda_handler(event, context)
