"""A command that was broken off prints the command that goes on with its run, and that one does."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.app import watch
from sparklet.errors import LedgerError, LocalStackError
from sparklet.local.state import StateDir
from sparklet.model import Counts, RunState
from sparklet.model.redaction import HIDDEN
from tests.unit.cli.conftest import RUN, Terminal
from tests.world import SCRIPT, SOURCE

MOMENTS = {"uploading": 1, "planning": 0, "watching": 0}  # and how many calls of it go well before


def breaks_off(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException) -> None:
    """Let a call of that moment fail, once."""
    calls_of: dict[str, tuple[Any, str]] = {
        "uploading": (terminal.world.store, "upload"),
        "planning": (terminal.world.ledger.runs, "add_part"),
        "watching": (watch, "check"),
    }
    owner, name = calls_of[moment]
    true, left = getattr(owner, name), MOMENTS[moment]

    def call(*given: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == -1:
            raise error
        return true(*given, **named)

    monkeypatch.setattr(owner, name, call)


def command_in(text: str) -> list[str]:
    """The words of the command that a message prints, on a line of its own."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith("sparklet "))
    return shlex.split(line)


@pytest.fixture
def words(terminal: Terminal, tmp_path: Path) -> list[str]:
    """A run of local files into a local folder, whose id nobody chose."""
    (tmp_path / "my in").mkdir()
    for number in range(3):
        (tmp_path / "my in" / f"{number}.csv").write_text("a\n")
    where = ["-i", str(tmp_path / "my in"), "-o", str(tmp_path / "out"), "--max-objects", "1"]
    return ["run", SCRIPT, *where, "--workers", "2", "--timeout", "60", "--", "--day", "2013-01-01"]


def test_a_kept_stack_goes_on_and_the_message_says_what_ends_it(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks_off(terminal, monkeypatch, "watching", KeyboardInterrupt())
    StateDir(terminal.state).keep_file.touch()

    said = terminal.types(*words).err
    _, _, stop = said.partition("`")

    assert terminal.types(*shlex.split(stop.partition("`")[0])[1:]).code == 0
    (run,) = terminal.world.ledger.runs.list()
    assert run.cancelled_s is not None


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        *((moment, KeyboardInterrupt()) for moment in MOMENTS),
        *((moment, LocalStackError("it was ended")) for moment in MOMENTS),
        *((moment, LedgerError("no answer")) for moment in ("uploading", "planning")),  # a watch asks again by itself
    ],
)
def test_the_command_that_is_printed_goes_on(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    breaks_off(terminal, monkeypatch, moment, error)

    broken = terminal.types(*words)
    command = command_in(broken.err)
    done = terminal.types(*command[1:])

    assert broken.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert command[0] == "sparklet"
    assert done.code == 0, done.err
    (run,) = terminal.world.ledger.runs.list()
    assert run.state is RunState.SUCCEEDED and run.args == ("--day", "2013-01-01")
    assert terminal.world.ledger.shards.count(run.run_id) == Counts(succeeded=3)
    assert [(selection.workers, selection.timeout_s) for selection in terminal.selections] == [(2, 60)] * 2


def test_the_command_that_is_printed_shows_no_secret(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks_off(terminal, monkeypatch, "uploading", KeyboardInterrupt())

    broken = terminal.types(*words, "--password", "of-an-arg")

    assert command_in(broken.err)[-2:] == ["--password", HIDDEN]
    assert "of-an-arg" not in broken.err + broken.out


def test_a_dead_stack_is_reported_before_its_consequences(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended() -> None:
        raise LocalStackError("the local stack was ended from outside")

    terminal.change = lambda env: replace(env, check=ended)
    breaks_off(terminal, monkeypatch, "planning", LedgerError("127.0.0.1 refused the connection"))

    told = terminal.types(*words)

    assert "ended from outside" in told.err and "127.0.0.1" not in told.err
    assert command_in(told.err)[1] == "resume"


def test_a_run_that_cannot_resume_prints_no_command(terminal: Terminal, words: list[str], tmp_path: Path) -> None:
    for each in (tmp_path / "my in").iterdir():
        each.unlink()

    told = terminal.types(*words)

    assert told.code == 1
    assert "sparklet run" not in told.err and "sparklet resume" not in told.err


def test_a_run_that_a_machine_drives_is_resumed_by_its_machine(terminal: Terminal) -> None:
    terminal.world.put(2)
    terminal.machines["run"] = terminal.drives
    terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, "--dispatch-mode", "inline")

    told = terminal.types("resume", RUN)

    assert told.code == 0, told.err
    assert list(terminal.orchestrator.executions) == [f"run:{RUN}-g0"]
