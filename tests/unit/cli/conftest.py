"""Run commands over ports in memory, without a stack."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sparklet import client
from sparklet.app.costs import WorkerSize
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.cli import main
from sparklet.cli.commands import changing, looking, reporting, starting
from sparklet.cli.console import Screen
from sparklet.local.state import StateDir
from sparklet.model import Dispatch, Failure, ShardResult
from sparklet.planning.planner import plan
from tests.stand_ins.memory import Machine, MemoryCompute, MemoryOrchestrator
from tests.world import SOURCE, World

RUN = "run-1"
ONE_A_SHARD = ("-i", SOURCE, "-o", "s3://data/out/", "--max-objects", "1")
BROKEN = Failure("ValueError", "column 3 is bad", retryable=False)


class Lines:
    """The workers' logs in memory, as one stream."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        return {"worker-1.log": since_s} if self.lines else {}

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        start = int(after or 0)
        return self.lines[start:], str(len(self.lines))


@dataclass
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Terminal:
    """A terminal in which commands are typed, with a deployment in memory."""

    capsys: pytest.CaptureFixture[str]
    state: Path
    world: World = field(default_factory=World)
    logs: Lines = field(default_factory=Lines)
    selections: list[StackSelection] = field(default_factory=list)
    change: Callable[[OpenStack], OpenStack] = lambda env: env
    do: Callable[[int], ShardResult | Failure] = lambda _: ShardResult(rows=1)
    work_from_s: float = 0.0  # workers do nothing before this time
    # At most one: its function; None if it only waits.
    machines: dict[str, Machine | None] = field(default_factory=dict)
    orchestrator: MemoryOrchestrator = field(init=False)

    def __post_init__(self) -> None:
        self.orchestrator = MemoryOrchestrator(self.machines, self.world.clock)

    def meanwhile(self) -> None:
        """Let workers work while a command waits."""
        if self.world.clock.now_s() >= self.work_from_s:
            self.world.work(self.do)

    def drives(self, given: Any) -> None:
        """Act as the state machine: plan, and do a Map's children. A later check ends the run."""
        if plan(self.world.deployment, given["run_id"]).dispatch is Dispatch.MAP:
            self.world.children(self.world.handed_out(self.world.step("map", **given)), self.do)

    def types(self, *words: str) -> CommandResult:
        """Type a command. Return its exit code and output."""
        self.capsys.readouterr()
        code = main(list(words))
        return CommandResult(code, *self.capsys.readouterr())

    @contextmanager
    def environment(
        self, selection: StackSelection, screen: Screen, *, reading: bool = False, looking: bool = False
    ) -> Iterator[OpenStack]:
        """In place of ``sparklet.app.stack.open_stack``."""
        self.selections.append(selection)
        env = OpenStack(
            self.world.deployment,
            MemoryCompute({}),
            "worker",
            self.logs,
            WorkerSize(is_local=True),
            self.orchestrator,
            state=self.state,
            command_options=selection.command_options,
            machine="".join(self.machines),
        )
        yield self.change(env)

    def deployed(self, env: OpenStack) -> OpenStack:
        """The same environment, as that of a deployed stack."""
        given = {"FunctionMemoryMB": "3008", "FunctionTimeoutS": "900", "ImageUri": "x.dkr.ecr/y:1"}
        return replace(env, name="prod", state=None, parameters=given)


def ended(terminal: Terminal, *failures: Failure, succeeded: int = 1) -> None:
    """Make a run that has ended, and whose first shards failed with these failures."""
    terminal.world.run(len(failures) + succeeded)
    terminal.world.work(lambda n: failures[n] if n < len(failures) else ShardResult(rows=1))
    terminal.world.check()


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("SPARKLET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SPARKLET_STACK", raising=False)
    monkeypatch.chdir(tmp_path)  # reports are written into the current folder
    terminal = Terminal(capsys, tmp_path / "state")
    StateDir(terminal.state).create()
    for module in (starting, looking, reporting, changing, client):
        monkeypatch.setattr(module, "open_stack", terminal.environment)

    def meanwhile(duration_s: float) -> None:  # workers work while a command waits
        terminal.world.clock.advance(duration_s)
        terminal.meanwhile()

    monkeypatch.setattr(terminal.world.clock, "sleep", meanwhile)
    return terminal
