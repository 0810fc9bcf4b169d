"""The reference page and the help are current, complete, and agree with the commands' options."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.cli_reference import SCHEMA, reference, schema
from sparklet.cli import main
from sparklet.cli.app import app
from sparklet.cli.options import USUAL
from sparklet.local.state import StateDir
from tests.unit.test_public_names import loaded

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "commands.md"
GROUP: Any = typer.main.get_command(app)
EXAMPLES = [
    line.partition("| sparklet ")[2] or line.removeprefix("sparklet ")
    for command in GROUP.commands.values()
    for line in command.epilog.split("\n\n")
    if "sparklet " in line and not line.startswith("Exit")
]


def test_the_page_matches_the_help() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_the_stored_request_schema_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), "run: make docs"


def test_every_command_and_option_is_explained() -> None:
    page = reference()
    for command in GROUP.commands.values():
        assert f"## sparklet {command.name}\n" in page and command.help
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


def test_the_help_of_since_points_to_incremental() -> None:
    option = next(each for each in GROUP.commands["run"].params if each.name == "since")

    assert "taken twice or never; --incremental takes each once" in option.help


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_helps_examples_are_valid_commands(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("event.json").write_text("{}")
    name, *words = shlex.split(example.partition(" | ")[0])
    command = GROUP.commands[name]
    context = command.make_context(name, words, parent=typer.Context(GROUP))
    assert context.params


def test_help_is_shown_without_starting_anything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKLET_STATE_DIR", str(tmp_path / "state"))
    for name in ("", *GROUP.commands):
        assert main([name, "--help"] if name else ["--help"]) == 0
        assert "Exit codes" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_help_shows_usual_options_and_help_all_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = {}
    for option in ("--help", "--help-all"):
        assert main(["run", option]) == 0
        lines = capsys.readouterr().out.splitlines()
        shown[option] = [line.split()[1] for line in lines if line.startswith("│ --")]

    assert len(shown["--help"]) == len(USUAL) + 2 and shown["--help"][0] == "--input"
    options = {each.opts[0] for each in GROUP.commands["run"].params if each.param_type_name == "option"}
    assert {*shown["--help-all"]} == options | {"--help"}


def test_line_breaks_in_docstrings_are_not_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["run", "--help"]) == 0
    assert "filled at the end. With a --dispatch-mode other than queue a" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["--version", "", "st", "--ver"])
def test_a_command_is_imported_when_it_is_called(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version and the completion of a command's name import no command and no heavy library."""
    if typed != "--version":
        monkeypatch.setenv("_SPARKLET_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"sparklet {typed}")
        monkeypatch.setenv("COMP_CWORD", "1")
    program = (
        f"import contextlib; from sparklet.cli import main\nwith contextlib.suppress(SystemExit): main([{typed!r}])\n"
    )

    names = loaded(f"{program}print()")

    assert "sparklet.cli.app" in names
    assert not {"rich", "pydantic", "boto3", "sparklet.model", "sparklet.cli.console"} & {*names}
    assert not [name for name in names if name.startswith(("sparklet.cli.commands.", "sparklet.app"))]


def test_a_misspelt_command_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats"]) == 1
    assert "status" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("sta", "status"), ("run x.py --inp", "--input"), ("status fli", "flights-1"), ("run x.py --split p", "parquet")],
)
def test_a_shell_completes_commands_options_values_and_runs(
    typed: str, completed: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDir(tmp_path).create()
    (tmp_path / "local-paths" / "flights-1.json").write_text("{}")
    monkeypatch.setenv("SPARKLET_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("_SPARKLET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"sparklet {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    with pytest.raises(SystemExit):
        main([])
    assert completed in capsys.readouterr().out.split()
