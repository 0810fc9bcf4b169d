"""Sparklet's own handlers as the stand-in's functions, without scripts; a step fails if a test orders it by a file.

The name of a shard's input decides its outcome: ``bad`` fails for good, ``broken`` fails while there is a file of that
name, ``killed`` ends the worker the first time, ``held`` waits while there is a file of that name, ``writes`` has
output. Everything else is real: claim, lease, ledger, publishing, plan, index, checks.
"""

import json
import os
from pathlib import Path
from typing import Any

from sparklet import errors
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.job.outcome import EVENT
from sparklet.spark import warm_runner as warm_gateway
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from tests.waiting import eventually

SHOWN = Path(os.environ["PROBE_DIR"])
GOOD = ScriptResult(0)
BAD = ScriptResult(1, cause_class="AnalysisException", cause="no such column")  # not retryable


class NamedRunner(Runner):
    """A runner that returns the outcome that the input's name decides."""

    def start(self) -> None:
        """Do nothing."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Return the shard's outcome; meanwhile a file notes that the shard is in work."""
        event = json.loads(call.env[EVENT])
        name = event["inputs"][0].rpartition("/")[2]
        if "writes" in name:
            S3ObjectStore(AwsClients()).put(f"{event['output_path']}/part-0.csv", b"1\n")
        working = SHOWN / f"working-{os.getpid()}"
        working.touch()
        with (SHOWN / "at-once").open("a") as file:
            file.write(f"{len(list(SHOWN.glob('working-*')))}\n")
        try:
            return self._do(name)
        finally:
            working.unlink()

    def _do(self, name: str) -> ScriptResult:
        if "killed" in name and not (was_killed := SHOWN / f"{name}-once").exists():
            was_killed.touch()
            (SHOWN / f"working-{os.getpid()}").unlink()
            os._exit(1)
        if "held" in name:
            (SHOWN / "began").touch()
            eventually(lambda: not (SHOWN / "held").exists())
        return BAD if "bad" in name or ("broken" in name and (SHOWN / "broken").exists()) else GOOD

    def close(self) -> None:
        """Do nothing."""


def worker(event: Any, context: Any) -> Any:
    """Call the worker's handler, with the runner above."""
    from sparklet.worker import handler

    return handler.lambda_handler(event, context)


def planner(event: Any, context: Any) -> Any:
    """Call the planner's handler, unless it was ordered to fail."""
    from sparklet.runs.handlers import planner_handler

    _fail_if_ordered("plan")
    return planner_handler(event, context)


def step(event: Any, context: Any) -> Any:
    """Call the steps' handler, unless that step was ordered to fail."""
    from sparklet.runs.handlers import step_handler

    _fail_if_ordered(event["step"])
    answer = step_handler(event, context)
    if event["step"] == "map":
        with (SHOWN / "hows").open("a") as file:
            file.write(f"{answer['how']}\n")
        if (SHOWN / "lose-index").exists():
            answer["key"] = "runs/nowhere.jsonl"
    return answer


def _fail_if_ordered(step: str) -> None:
    """Raise the error that the file ``fail-<step>`` orders: it has the error's class, and how often it is raised."""
    order = SHOWN / f"fail-{step}"
    if order.exists():
        name, times = order.read_text().split()
        if int(times) > 1:
            order.write_text(f"{name} {int(times) - 1}")
        else:
            order.unlink()
        raise getattr(errors, name)(f"{step} was told to fail")


warm_gateway.runner_for = lambda *settings: NamedRunner()  # before the worker's handler reads it
