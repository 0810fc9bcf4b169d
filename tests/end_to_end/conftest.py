"""The command line as a user has it: a process of its own, real workers, real Spark, a state folder of the test's."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import duckdb
import pytest

from sparklet.app.stack import StackSelection, open_stack
from sparklet.cli.console import Screen
from tests.waiting import deadline_s, eventually

SCRIPTS = Path(__file__).parent / "scripts"
COPY_ROWS = SCRIPTS / "copy_rows.py"
ROWS_PER_FILE = 10
RUN_S = 100.0  # the longest run's, on an idle machine


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its --json document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class User:
    """Somebody with a terminal and a state folder."""

    state: Path
    home: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Type a command and do not wait for it."""
        env = {**os.environ, "SPARKLET_STATE_DIR": str(self.state), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "sparklet.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=self.home,
            preexec_fn=heed_ctrl_c,
        )

    def types(self, *arguments: str) -> Answer:
        """Type a command and wait for its end."""
        return answer(self.start(*arguments))

    def shards(self, run_id: str = "test-run") -> list[dict[str, Any]]:
        """What the command line tells of each shard of a run."""
        listed: list[dict[str, Any]] = self.types("status", run_id, "--shards", "--json").document["shard_list"]
        return listed

    def holds(self) -> TextIO:
        """A file for ``copy_rows`` (``held``), which stops at the input ``slow_on`` until this is closed."""
        file = (self.home / "held").open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def inputs(self, count: int, name: str = "in") -> Path:
        """A folder with so many CSV files of ten rows each."""
        folder = self.home / name
        folder.mkdir()
        for number in range(count):
            rows = "".join(f"{number},{row}\n" for row in range(ROWS_PER_FILE))
            (folder / f"{number:03d}.csv").write_text("file,row\n" + rows)
        return folder

    def run_arguments(self, inputs: Path, *more: str, run_id: str = "test-run") -> list[str]:
        """A run of one file a shard that fills ``out``, by one worker: two JVMs would take the tests twice the time."""
        where = ["--input", str(inputs), "--output", str(self.home / "out"), "--run-id", run_id]
        return ["run", str(COPY_ROWS), *where, "--max-objects", "1", "--workers", "1", *more, "--json"]

    def processes(self, part: str = "") -> list[int]:
        """Living processes that belong to the state folder, whose command line holds ``part``."""
        mark = f"{self.state}".encode()
        return [pid for pid, command, env in _all_processes() if mark in command + env and part.encode() in command]

    def workers(self) -> list[int]:
        """The worker function's processes."""
        return [pid for pid in self.processes("_worker.py") if b"WorkerFunction" in _read(pid, "cmdline")]


def heed_ctrl_c() -> None:
    """As a terminal starts commands: a shell's background job, in which tests may run, ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answer(process: subprocess.Popen[str]) -> Answer:
    """Wait for a command's end."""
    try:
        out, err = process.communicate(timeout=deadline_s(RUN_S))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done in time:\n{out}\n{err}") from None
    return Answer(process.returncode, out, err)


def rows_of(folder: Path) -> list[tuple[int, int]]:
    """Every row of a Parquet output, duplicates included."""
    query = f"SELECT file::INT, row::INT FROM read_parquet('{folder}/*/*.parquet') ORDER BY ALL"
    return duckdb.sql(query).fetchall()


def every_row(files: int) -> list[tuple[int, int]]:
    """What the output of ``files`` inputs must be."""
    return [(file, row) for file in range(files) for row in range(ROWS_PER_FILE)]


def _all_processes() -> Iterator[tuple[int, bytes, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            pid = int(entry.name)
            yield pid, _read(pid, "cmdline").replace(b"\0", b" "), _read(pid, "environ")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@contextmanager
def shared_stack(state: Path, *, memory_mb: int | None = None, timeout_s: int | None = None) -> Iterator[Path]:
    """A stack of one worker that several tests use, for its start and its JVM's take longer than most runs."""
    selection = StackSelection(state_dir=state, workers=1, memory_mb=memory_mb, timeout_s=timeout_s)
    with open_stack(selection, Screen(as_json=True)):
        yield state
    someone = User(state, state.parent)
    eventually(lambda: not someone.processes(), "no process is left")


def at_home(state: Path, tmp_path: Path) -> User:
    """Somebody with a home of the test's, whose name has a space."""
    home = tmp_path / "my home"
    home.mkdir()
    return User(state, home)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a stack that the tests of a module share."""
    with shared_stack(tmp_path_factory.mktemp("a home") / "state dir") as folder:
        yield folder


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user whose folders have a space in their names, and who leaves nothing running."""
    someone = at_home(tmp_path / "my home" / "state dir", tmp_path)
    yield someone
    someone.types("stop")
    eventually(lambda: not someone.processes(), "no process is left")
