"""`sparklet init` begins a project; `sparklet.toml` has its jobs, whose options a command line may replace."""

import json
import os
from pathlib import Path

import pytest

from sparklet.app.project import PROJECT, WORKFLOW
from sparklet.cli import main, options
from sparklet.errors import SettingsError
from sparklet.local.state import StateDir
from tests.unit.cli.conftest import RUN, Terminal

JOBS = """
[jobs.sales]
script = "clean.py"
input = ["data"]
output = "out"
max-objects = 1
overwrite = true
param = {day = "2026-01-01", limits = [1, 2]}
"""
A = "[jobs.a]\nscript = 'clean.py'\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one script, two files and the job ``sales``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/a.csv", "data/b.csv"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "clean.py").write_text("print(1)\n")
    (tmp_path / PROJECT).write_text(JOBS)
    return tmp_path


def test_init_writes_a_project_and_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / PROJECT).write_text("mine")

    assert main(["init", str(folder)]) == 0
    written = set(capsys.readouterr().out.split())
    assert main(["init", str(folder), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {"folder": str(folder), "written": []}
    assert (folder / PROJECT).read_text() == "mine" and {"wrote", "kept"} < written
    assert (folder / WORKFLOW).is_file() and not list(folder.rglob("__pycache__"))
    rows = [line for path in sorted(folder.glob("data/*.csv")) for line in path.read_text().splitlines()[1:]]
    assert len(rows) == 10


def test_options_missing_on_the_command_line_come_from_the_job(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "sales", "--dry-run", "--json", "--output", "elsewhere"]) == 0

    shown = capsys.readouterr()
    assert json.loads(shown.out)["shards"] == 2
    told = [line for line in shown.err.splitlines() if " = " in line]
    assert told == [
        'name = "sales"',
        'script = "clean.py"',
        'inputs = ["data"]',
        'output = "elsewhere"',
        "max_objects = 1",
        "overwrite = true",
        'params = ["day=2026-01-01", "limits=[1, 2]"]',
    ]


def test_the_name_of_a_script_file_is_not_read_as_a_job(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / PROJECT).write_text(JOBS.replace("jobs.sales", "jobs.'clean.py'"))

    assert main(["run", "clean.py", "--input", "data", "--output", "out", "--dry-run", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["shards"] == 1 and "max_objects" not in shown.err


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (JOBS, "sale", "there is no script sale here, and no job sale in sparklet.toml, which has sales"),
        (JOBS, "sale.py", "the script sale.py is not there"),
        (f"{A}ouput = 'x'", "a", "[jobs.a]: ouput is not an option of this command; did you mean output?"),
        ("[jobs.a]\noutput = 'x'", "a", "[jobs.a]: there is no script"),
        (f"{A}since = 2026-01-01", "a", "since is datetime.date(2026, 1, 1); write it as a string, in quotes"),
        (f"{A}max-objects = 'x'", "a", "for '--max-objects': Input should be a valid integer"),
        ("[job.a]\n", "a", "needs a table for each job"),
        ("output = 'x'\n[jobs.a]\n", "a", "has 'output' outside of its jobs"),
        ("[jobs", "a", "sparklet.toml is not TOML"),
    ],
)
def test_a_wrong_project_file_is_refused_with_its_fault(
    project: Path, capsys: pytest.CaptureFixture[str], text: str, name: str, told: str
) -> None:
    (project / PROJECT).write_text(text)

    assert main(["run", name, "--input", "data", "--output", "out", "--dry-run"]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_command_without_a_run_id_uses_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(options.STATE_DIR, str(tmp_path / "state"))
    state = StateDir(tmp_path / "state")
    with pytest.raises(SettingsError, match="no run was started from this machine: name one"):
        options.last_run()
    state.create()
    for age_s, name in ((10, "older"), (0, "newer"), (20, "oldest")):
        (state.local_paths / f"{name}.json").write_text("{}")
        os.utime(state.local_paths / f"{name}.json", (1e9 - age_s, 1e9 - age_s))

    assert options.last_run() == "newer"


def test_each_state_folder_has_its_own_last_run(terminal: Terminal, tmp_path: Path) -> None:
    terminal.world.run(1)
    (state := StateDir(tmp_path / "another")).create()
    (state.local_paths / f"{RUN}.json").write_text("{}")

    told = terminal.types("status", "--json", "--state-dir", str(tmp_path / "another"))

    assert told.code == 3 and told.document["run_id"] == RUN, told.err
