"""Sparklet's own handlers as the stand-in's functions: a script is a name here, and a step fails when it is told to.

What an input object's name says is what becomes of its shard: ``bad`` fails for good, ``broken`` fails while there is a
marker of that name, ``killed`` ends the worker the first time, ``held`` waits while there is a marker, ``writes`` has
output. All the rest is real: claim, lease, ledger, publishing, plan, index, checks.
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
BAD = ScriptResult(1, cause_class="AnalysisException", cause="no such column")  # which no retry mends


class NamedRunner(Runner):
    """A runner whose scripts do what their inputs' names say."""

    def start(self) -> None:
        """Nothing to begin."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Note that a shard is in work, for as long as it is."""
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
        if "killed" in name and not (told := SHOWN / f"{name}-once").exists():
            told.touch()
            (SHOWN / f"working-{os.getpid()}").unlink()
            os._exit(1)
        if "held" in name:
            (SHOWN / "began").touch()
            eventually(lambda: not (SHOWN / "held").exists())
        return BAD if "bad" in name or ("broken" in name and (SHOWN / "broken").exists()) else GOOD

    def close(self) -> None:
        """Nothing was started."""


def worker(event: Any, context: Any) -> Any:
    """The worker's handler over the runner above."""
    from sparklet.worker import handler

    return handler.lambda_handler(event, context)


def planner(event: Any, context: Any) -> Any:
    """The planner's handler, unless it is told to fail."""
    from sparklet.runs.handlers import planner_handler

    _fail_if_told("plan")
    return planner_handler(event, context)


def step(event: Any, context: Any) -> Any:
    """The steps' handler, unless that step is told to fail."""
    from sparklet.runs.handlers import step_handler

    _fail_if_told(event["step"])
    answer = step_handler(event, context)
    if event["step"] == "map":
        with (SHOWN / "hows").open("a") as file:
            file.write(f"{answer['how']}\n")
        if (SHOWN / "lose-index").exists():
            answer["key"] = "runs/nowhere.jsonl"
    return answer


def _fail_if_told(step: str) -> None:
    """``fail-<step>`` holds the class of an error and how often it is raised."""
    told = SHOWN / f"fail-{step}"
    if told.exists():
        name, times = told.read_text().split()
        if int(times) > 1:
            told.write_text(f"{name} {int(times) - 1}")
        else:
            told.unlink()
        raise getattr(errors, name)(f"{step} was told to fail")


warm_gateway.runner_for = lambda *settings: NamedRunner()  # before the worker's handler takes it
