"""One execution environment of the worker function: the real handler over a runner that only notes what it was asked.

The process is forked with its clients made but unused, so a crash costs a fork. It reads invocations from a pipe, one
JSON document a line, and answers each; a fault ends it in the middle of one, as Lambda ends a function.
"""

import json
import os
import sys
import time
import uuid
from dataclasses import dataclass, field
from mmap import mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.scale.faults import Faults, LedgerFaults
from benchmarks.scale.notes import BACK, DIED, EXECUTED, LEDGER, TOLD, Notes
from benchmarks.scale.world import World
from sparklet.aws import clients as clients_module
from sparklet.aws.clients import AwsClients
from sparklet.errors import SparkletError
from sparklet.job.outcome import EVENT
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.worker import handler

KILLED = 137


@dataclass(frozen=True, slots=True)
class Context:
    """Lambda's context of one invocation."""

    timeout_s: float
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_s: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        """As Lambda's."""
        return round((self.timeout_s - (time.monotonic() - self.started_s)) * 1000)


class NotingRunner:
    """A ``Runner`` whose scripts do nothing but leave a note; faults by plan."""

    def __init__(self, faults: Faults, notes: Notes, met: mmap) -> None:
        self._faults, self._notes, self._met = faults, notes, met
        self.executed: list[tuple[int, str]] = []  # in this invocation: shard, attempt

    def start(self) -> None:
        """There is no JVM."""

    def close(self) -> None:
        """There are no processes."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Do the shard, unless a fault has it otherwise."""
        event: dict[str, Any] = json.loads(call.env[EVENT])
        shard, attempt = event["sparklet"]["shard"], event["sparklet"]["attempt"]
        if self._faults.poisoned(shard):
            return ScriptResult(1, cause_class="AnalysisException", cause="a column that is not there")
        if self._faults.flaky(shard) and self.first(shard, FLAKY):
            return ScriptResult(1, cause_class="ConnectionResetError", cause="a peer that went away")
        self.die(shard, attempt, "claimed")
        (source,) = event["inputs"]
        self._notes.add(EXECUTED, shard, f"{attempt} {source}")
        self.executed.append((shard, attempt))
        Path(call.env["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"rows": 1}))
        self.die(shard, attempt, "executed")
        return ScriptResult(0)

    def die(self, shard: int, attempt: str, where: str) -> None:
        """End the process here if that is this shard's fault; only once for a shard."""
        if self._faults.crash(shard) == where and self.first(shard, CRASHED):
            self._notes.add(DIED, shard, f"{attempt} {where}")
            os._exit(KILLED)

    def first(self, shard: int, flag: int) -> bool:
        """Whether a fault meets a shard for the first time, in any process."""
        was = self._met[shard]
        self._met[shard] = was | flag
        return not was & flag


CRASHED, FLAKY, DOUBLED, STARVED_OUT = 1, 2, 4, 8
"""Flags of a shard in the memory that all processes share. Only who holds the shard's message sets one."""


def clients_at_rest(world: World) -> AwsClients:
    """Clients that are made and not used: whoever is forked with them makes connections of its own."""
    clients = world.clients()
    _ = clients.s3, clients.dynamodb, clients.sqs
    return clients


def serve(world: World, clients: AwsClients, met: mmap, invocations: Connection) -> None:
    """Do invocations until one is None."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    notes, faults = Notes(world.notes, "environment"), Faults(world.seed, world.faults)
    runner = NotingRunner(faults, notes, met)
    os.environ["SPARKLET_SCRATCH"] = str(world.notes / f"scratch-{os.getpid()}")
    if world.faults:
        LedgerFaults(faults, lambda shard, what: notes.add(LEDGER, shard, what)).register(clients.dynamodb)
    with (
        patch.object(handler, "runner_for", lambda _: runner),
        patch.object(clients_module, "AwsClients", lambda: clients),
    ):
        handler._worker()
    while (event := invocations.recv()) is not None:
        runner.executed.clear()
        answer = _invoke(event, world.timeout_s)
        _note(runner, notes, _failed(answer))
        invocations.send(answer)


def _invoke(event: Any, timeout_s: float) -> Any:
    """The handler's answer, or Lambda's form of what it raised."""
    try:
        return handler.lambda_handler(event, Context(timeout_s))
    except SparkletError as error:
        return {"errorType": type(error).__name__, "errorMessage": str(error)}


def _failed(answer: Any) -> bool:
    return "errorType" in answer or bool(answer.get("batchItemFailures"))


def _note(runner: NotingRunner, notes: Notes, failed: bool) -> None:
    """What the handler told of what was executed; and the last place where it may die."""
    for shard, attempt in runner.executed:
        if not failed:
            runner.die(shard, attempt, "recorded")
        notes.add(BACK if failed else TOLD, shard, attempt)
