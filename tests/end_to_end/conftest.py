"""The command line as a user has it: a process of its own, real workers, real Spark, a state folder for each test."""

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
RUN_S = 100.0  # the time of the longest run on an idle machine


@dataclass(frozen=True)
class Answer:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The document that the command printed because of --json."""
        return json.loads(self.out)


@dataclass(frozen=True)
class User:
    """A user with a terminal and a state folder."""

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
        """The shards of a run, as ``sparklet status`` prints them."""
        listed: list[dict[str, Any]] = self.types("status", run_id, "--shards", "--json").document["shard_list"]
        return listed

    def holds(self) -> TextIO:
        """Lock and return a file; ``copy_rows`` waits at the input ``slow_on`` until this file (``held``) is closed."""
        file = (self.home / "held").open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def inputs(self, count: int, name: str = "in") -> Path:
        """Make a folder with ``count`` CSV files of ten rows each."""
        folder = self.home / name
        folder.mkdir()
        for number in range(count):
            rows = "".join(f"{number},{row}\n" for row in range(ROWS_PER_FILE))
            (folder / f"{number:03d}.csv").write_text("file,row\n" + rows)
        return folder

    def run_arguments(self, inputs: Path, *more: str, run_id: str = "test-run") -> list[str]:
        """Arguments of a run with one file per shard into ``out``; one worker, as two JVMs would double the time."""
        places = ["--input", str(inputs), "--output", str(self.home / "out"), "--run-id", run_id]
        return ["run", str(COPY_ROWS), *places, "--max-objects", "1", "--workers", "1", *more, "--json"]

    def processes(self, part: str = "") -> list[int]:
        """The living processes of the state folder whose command line contains ``part``."""
        mark = f"{self.state}".encode()
        return [pid for pid, command, env in _all_processes() if mark in command + env and part.encode() in command]

    def workers(self) -> list[int]:
        """The worker function's processes."""
        return [pid for pid in self.processes("_worker.py") if b"WorkerFunction" in _read(pid, "cmdline")]


def heed_ctrl_c() -> None:
    """Let a command react to SIGINT, as in a terminal: a shell's background job, where tests might run, ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answer(process: subprocess.Popen[str]) -> Answer:
    """Wait for a command's end; return its exit code and output."""
    try:
        out, err = process.communicate(timeout=deadline_s(RUN_S))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"not done in time:\n{out}\n{err}") from None
    return Answer(process.returncode, out, err)


def rows_of(folder: Path) -> list[tuple[int, int]]:
    """All rows of a Parquet output, including duplicates."""
    query = f"SELECT file::INT, row::INT FROM read_parquet('{folder}/*/*.parquet') ORDER BY ALL"
    return duckdb.sql(query).fetchall()


def every_row(files: int) -> list[tuple[int, int]]:
    """The rows that the output of ``files`` inputs must have."""
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
    """Run a stack with one worker for several tests: the start of a stack and a JVM takes longer than most runs."""
    selection = StackSelection(state_dir=state, workers=1, memory_mb=memory_mb, timeout_s=timeout_s)
    with open_stack(selection, Screen(as_json=True)):
        yield state
    user = User(state, state.parent)
    eventually(lambda: not user.processes(), "no process is left")


def at_home(state: Path, tmp_path: Path) -> User:
    """A user of a shared stack with a home folder for this test, whose name has a space."""
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
    """A user whose folders have a space in their names; after the test, none of the user's processes is left."""
    user = at_home(tmp_path / "my home" / "state dir", tmp_path)
    yield user
    user.types("stop")
    eventually(lambda: not user.processes(), "no process is left")
