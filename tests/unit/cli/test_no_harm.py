"""No command changes files or objects that Sparklet did not make, even if their names look like Sparklet's."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from sparklet.cli import main
from sparklet.cli.app import app
from sparklet.model import Failure, ShardResult
from tests.unit.cli.conftest import RUN, Terminal
from tests.world import BUCKET, SCRIPT, SOURCE

DAY_S = 24 * 3600.0
JOB = "print(1)\n"
FILES = {
    **{f"{folder}/mine.txt": "mine" for folder in ("tmp", "tasks", "scratch", "services", "log", "local-paths")},
    **{f"log/worker-{number}.log": "mine" for number in range(70)},
    "s3/000000000000/sparklet-local/runs/run-1/manifest.json": "{}",
    **{f"{name}.lock": str(os.getpid()) for name in ("host", "clients", "start", "fill")},
    **{f"{name}.json": '{"deployed": {}, "request": {}}' for name in ("stack", "last", "request")},
    **dict.fromkeys(("keep", "failure.txt", "no-aws-config", "layer.zip", "Dockerfile", "python/own.py"), "mine"),
    **{f"{folder}/rows.csv": "a\n1\n" for folder in ("in", "shard=mine", "shard=000000", "task-1", "sparklet-old")},
    ".incoming-1/mine.txt": "mine",
    "job.py": JOB,
    "event.json": "{}",
}
LOOKS: Mapping[str, tuple[str, ...]] = {
    "status": (RUN,),
    "watch": (RUN,),
    "report": (RUN,),
    "ui": (),
    "history": (RUN,),
    "runs": (),
    "results": (RUN,),
    "ddl": (RUN,),
    "explain": (RUN,),
    "logs": (RUN,),
    "doctor": (),
}
COMMANDS: Mapping[str, tuple[str, ...]] = {
    **LOOKS,
    "run": ("job.py", "-i", "in", "-o", "new"),
    "plan": ("job.py", "-i", "in", "-o", "new"),
    "resume": (RUN,),
    "invoke": ("job.py", "--event", "event.json"),
    "redrive": (RUN,),
    "cancel": (RUN,),
    "clean": ("--keep", "0", "--yes"),
    "stop": (),
    "env": (),
}
OUTSIDE = {"deploy", "init", "package"}  # these commands use no state folder


def snapshot(folder: Path) -> dict[str, object]:
    """The modes, times and contents of a folder and of everything below it."""
    found: dict[str, object] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = status.st_mode, status.st_mtime_ns, content
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, also the current directory, whose files have names like Sparklet's own files."""
    folder = tmp_path / "home"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "link").symlink_to(folder)
    folder.chmod(0o755)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("SPARKLET_STATE_DIR", raising=False)
    monkeypatch.chdir(folder)
    return folder


def test_these_tests_know_every_command() -> None:
    assert typer.main.get_command(app).commands.keys() == COMMANDS.keys() | OUTSIDE  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_sparklet_did_not_make_is_no_state_folder(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    before = snapshot(home)

    code = main([command, *COMMANDS[command], "--state-dir", str(home)])

    told = capsys.readouterr()
    assert code == 1 and "Sparklet did not make it" in told.err + told.out and str(home) in told.err + told.out
    assert snapshot(home) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("named", ["", "~/state"])
def test_without_a_home_the_variable_for_the_state_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, named: str
) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)  # a user without an entry in passwd
    monkeypatch.setenv("SPARKLET_STATE_DIR", named)

    code = main([command, *COMMANDS[command]])

    told = capsys.readouterr()
    assert code == 1 and "set SPARKLET_STATE_DIR" in told.err and told.out == "" and told.err.count("\n") == 1


@pytest.mark.parametrize("named", [".", "~", "", "tmp", "link"])
@pytest.mark.parametrize("command", ["runs", "stop", "clean"])
def test_a_relative_empty_or_foreign_state_folder_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str, named: str
) -> None:
    before = snapshot(home)
    monkeypatch.setenv("SPARKLET_STATE_DIR", named or str(home))

    assert main([command, *COMMANDS[command], *(["--state-dir", ""] if not named else [])]) == 1

    assert snapshot(home) == before


@pytest.mark.parametrize("output", [".", "~/", "link", "python"])
def test_package_replaces_no_folder_that_sparklet_did_not_make(home: Path, output: str) -> None:
    for name in FILES:
        if name not in ("Dockerfile", "layer.zip", "python/own.py", "in/rows.csv"):
            (home / name).unlink()
    before = snapshot(home)

    assert main(["package", "in", "-o", str(Path(output).expanduser())]) == 1

    assert snapshot(home) == before


def test_package_replaces_its_own_earlier_output(home: Path) -> None:
    for name in ("first.py", "second.py"):
        (home / name).write_text(JOB)
        assert main(["package", name, "-o", "made"]) == 0

    assert [path.name for path in (home / "made" / "python").iterdir()] == ["second.py"]


# --- outputs, and the bucket ---


@pytest.mark.parametrize("existing", ["--overwrite", "--append", ""])
@pytest.mark.parametrize("output", [".", "shard=mine", "in", "log"])
def test_files_of_the_user_in_a_local_output_are_not_changed(
    terminal: Terminal, home: Path, output: str, existing: str
) -> None:
    terminal.world.put(1)
    before = snapshot(home)

    more = ["--no-report", *filter(None, [existing])]
    told = terminal.types("run", SCRIPT, "-i", SOURCE, "-o", output, "--run-id", RUN, *more)

    assert told.code == (0 if existing == "--append" else 1), told.err
    assert snapshot(home) == before


OTHERS = [
    *(f"s3://{BUCKET}/{place}" for place in ("runs", "mine/x", "input/mine/x", "staged/mine/x", "staged/mine/a/x.csv")),
    *(f"s3://{BUCKET}/{folder}/{RUN}0/x" for folder in ("runs", "input", "output")),
    *(f"s3://data/{place}" for place in ("out", "out-2/x", "shard=mine/x", "out/shard=mine/x", "out/shard=000000/x")),
]
CHANGES = (
    ("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", "run-2", "--overwrite"),
    ("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", "run-3", "--append"),
    ("redrive", RUN),
    ("resume", RUN),
    ("cancel", "run-3"),
    ("clean", "--run", RUN, "--yes"),
    ("clean", "--keep", "0", "--yes"),
)


def test_objects_that_no_run_wrote_stay_in_the_bucket(terminal: Terminal) -> None:
    world = terminal.world
    world.put(2)
    terminal.do = lambda number: Failure("ValueError", "bad", retryable=False) if number else ShardResult(rows=1)
    options = ("--max-objects", "1", "--append", "--run-id", RUN)
    assert terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", *options).code == 2
    for uri in OTHERS:
        world.store.put(uri, b"mine")
    world.clock.advance(30 * DAY_S)

    for words in CHANGES:
        terminal.types(*words)
        for command, arguments in LOOKS.items():
            if command not in ("ui", "history", "report", "doctor"):
                terminal.types(command, *arguments)

    assert {uri: world.store.get(uri) for uri in OTHERS} == dict.fromkeys(OTHERS, b"mine")
    assert [run.run_id for run in world.ledger.runs.list()] == []
    assert world.keys(f"s3://{BUCKET}/runs/{RUN}/") == []


def test_overwriting_deletes_only_files_that_runs_published(terminal: Terminal) -> None:
    world = terminal.world
    world.put(1)
    published, *mine = "s3://data/out/shard=run-0_1f_000000/part-0", "s3://data/out-2/x", "s3://data/shard=mine/x"
    for uri in (published, *mine):
        world.store.put(uri, b"mine")

    told = terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, "--overwrite")

    assert told.code == 0, told.err
    assert world.keys(published) == []
    assert world.keys("s3://data/out-2/") + world.keys("s3://data/shard=mine/") == mine
