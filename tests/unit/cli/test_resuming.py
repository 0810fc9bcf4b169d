"""An interrupted command prints the command that resumes its run, and the printed command works."""

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

MOMENTS = {"uploading": 1, "planning": 0, "watching": 0}  # and the number of calls that succeed before the failure


def fail_at(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException) -> None:
    """Let one call of that moment fail."""
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
    """The words of the command that a message has on a line of its own."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith("sparklet "))
    return shlex.split(line)


@pytest.fixture
def words(terminal: Terminal, tmp_path: Path) -> list[str]:
    """The command for a run of local files into a local folder, without a run id."""
    (tmp_path / "my in").mkdir()
    for number in range(3):
        (tmp_path / "my in" / f"{number}.csv").write_text("a\n")
    where = ["-i", str(tmp_path / "my in"), "-o", str(tmp_path / "out"), "--max-objects", "1"]
    return ["run", SCRIPT, *where, "--workers", "2", "--timeout", "60", "--", "--day", "2013-01-01"]


def test_with_a_kept_stack_the_message_names_the_cancel_command(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(terminal, monkeypatch, "watching", KeyboardInterrupt())
    StateDir(terminal.state).keep_file.touch()

    message = terminal.types(*words).err
    _, _, stop = message.partition("`")

    assert terminal.types(*shlex.split(stop.partition("`")[0])[1:]).code == 0
    (run,) = terminal.world.ledger.runs.list()
    assert run.cancelled_s is not None


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        *((moment, KeyboardInterrupt()) for moment in MOMENTS),
        *((moment, LocalStackError("it was ended")) for moment in MOMENTS),
        *((moment, LedgerError("no answer")) for moment in ("uploading", "planning")),  # watch retries by itself
    ],
)
def test_the_printed_command_completes_the_run(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    fail_at(terminal, monkeypatch, moment, error)

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


def test_the_printed_command_shows_no_secret(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(terminal, monkeypatch, "uploading", KeyboardInterrupt())

    broken = terminal.types(*words, "--password", "of-an-arg")

    assert command_in(broken.err)[-2:] == ["--password", HIDDEN]
    assert "of-an-arg" not in broken.err + broken.out


def test_a_dead_stack_is_reported_before_its_consequences(
    terminal: Terminal, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended() -> None:
        raise LocalStackError("the local stack was ended from outside")

    terminal.change = lambda env: replace(env, check=ended)
    fail_at(terminal, monkeypatch, "planning", LedgerError("127.0.0.1 refused the connection"))

    told = terminal.types(*words)

    assert "ended from outside" in told.err and "127.0.0.1" not in told.err
    assert command_in(told.err)[1] == "resume"


def test_a_refused_run_prints_no_resume_command(terminal: Terminal, words: list[str], tmp_path: Path) -> None:
    for each in (tmp_path / "my in").iterdir():
        each.unlink()

    told = terminal.types(*words)

    assert told.code == 1
    assert "sparklet run" not in told.err and "sparklet resume" not in told.err


def test_resume_of_a_machines_run_starts_no_second_execution(terminal: Terminal) -> None:
    terminal.world.put(2)
    terminal.machines["run"] = terminal.drives
    terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, "--dispatch-mode", "inline")

    told = terminal.types("resume", RUN)

    assert told.code == 0, told.err
    assert list(terminal.orchestrator.executions) == [f"run:{RUN}-g0"]
