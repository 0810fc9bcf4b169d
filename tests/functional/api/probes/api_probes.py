"""Sparklet's own worker, whose scripts run as plain Python: what a task of the API needs of it, Spark is no part of."""

import os
import subprocess
import sys
from typing import Any

from sparklet.spark import warm_runner
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult


class PlainRunner(Runner):
    """A ``Runner`` that starts a script with this Python."""

    def start(self) -> None:
        """There is nothing to start."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run a script to its end."""
        command = [sys.executable, str(call.script), *call.args]
        done = subprocess.run(
            command, env={**os.environ, **call.env}, cwd=call.work_dir, capture_output=True, text=True
        )
        last = done.stderr.strip().rpartition("\n")[2]
        cause_class, _, cause = last.partition(": ") if done.returncode else ("", "", "")
        return ScriptResult(done.returncode, done.stderr, cause_class, cause)

    def close(self) -> None:
        """There is nothing to end."""


setattr(warm_runner, "runner_for", lambda *_: PlainRunner())  # noqa: B010 - as a test's monkeypatch does


def worker(event: Any, context: Any) -> Any:
    """Sparklet's handler, which chooses its runner as it is imported."""
    from sparklet.worker import handler

    return handler.lambda_handler(event, context)
