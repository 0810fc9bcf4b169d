"""Two runs with one local output leave the same files as in S3, or report that they did not."""

from collections import Counter
from pathlib import Path

import pytest

from sparklet.model import RunState, ShardResult, ShardState
from sparklet.runs.checker import check
from tests.unit.cli.conftest import Terminal
from tests.world import SCRIPT, SOURCE

MODES = ("refuse", "append", "overwrite")
S3_OUTPUT = "s3://data/out/"


class Folder:
    """An output, local or in S3, and the runs that write to it; each run writes a file of its name."""

    def __init__(self, terminal: Terminal, local: Path | None) -> None:
        self.terminal, self.local = terminal, local
        terminal.world.put(1)
        terminal.do = self.do

    def do(self, number: int) -> ShardResult:
        world = self.terminal.world
        for run in world.ledger.runs.list():
            if any(world.ledger.shards.list(run.run_id, ShardState.RUNNING)):
                world.store.put(f"{run.shard_output(number)}/part-0", run.run_id.encode())
        return ShardResult(rows=1)

    def types(self, command: str, run_id: str, mode: str = "refuse") -> int:
        """The exit code of a command for a run: ``plan`` begins it, ``watch`` ends it and fills a local output."""
        words: tuple[str, ...] = (run_id,)
        output = str(self.local or S3_OUTPUT)
        if command in ("plan", "run"):
            how = () if mode == "refuse" else (f"--{mode}",)
            words = (SCRIPT, "-i", SOURCE, "-o", output, "--run-id", run_id, *how)
        self.terminal.world.clock.advance(10)
        told = self.terminal.types(command, *words)
        assert told.code == 0 or output in told.err
        self.told = told.err
        return told.code

    def writers(self) -> Counter[str]:
        """How many files each run has in the output."""
        if self.local:
            return Counter(path.read_text() for path in self.local.rglob("*") if path.is_file())
        world = self.terminal.world
        return Counter(world.store.get(uri).decode() for uri in world.keys(S3_OUTPUT))


@pytest.fixture(params=["local", "S3"])
def folder(request: pytest.FixtureRequest, terminal: Terminal, tmp_path: Path) -> Folder:
    return Folder(terminal, tmp_path / "out" if request.param == "local" else None)


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_while_a_run_is_open_another_can_only_append(folder: Folder, first: str, second: str) -> None:
    assert folder.types("plan", "run-1", first) == 0

    code = folder.types("run", "run-2", second)

    assert code == (0 if second == "append" else 1)
    assert folder.types("watch", "run-1") == 0
    assert folder.writers() == Counter(["run-1", "run-2"] if second == "append" else ["run-1"])


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_a_second_run_refuses_appends_or_overwrites(folder: Folder, first: str, second: str) -> None:
    assert folder.types("run", "run-1", first) == 0

    assert folder.types("run", "run-2", second) == (1 if second == "refuse" else 0)

    left = {"refuse": ["run-1"], "append": ["run-1", "run-2"], "overwrite": ["run-2"]}
    assert folder.writers() == Counter(left[second])


@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_a_local_output_that_is_filled_late_has_no_file_twice(
    terminal: Terminal, tmp_path: Path, first: str, second: str
) -> None:
    """GIVEN two ended runs, WHEN the first run's client fills the folder last, THEN no file is there twice."""
    folder = Folder(terminal, tmp_path / "out")
    assert folder.types("plan", "run-1", first) == 0
    terminal.world.work(folder.do)
    assert check(terminal.world.deployment, "run-1").run.state is RunState.SUCCEEDED
    assert folder.types("run", "run-2", second) == 0

    code = folder.types("watch", "run-1")

    assert code == (1 if second == "refuse" else 0)
    assert folder.writers() == Counter(["run-1", "run-2"] if second == "append" else ["run-2"])
    assert ("now belongs to run-2" in folder.told) == (second == "overwrite")


def test_resume_fills_an_output_that_could_not_be_filled(terminal: Terminal, tmp_path: Path) -> None:
    folder = Folder(terminal, tmp_path / "out")
    assert folder.types("plan", "run-1") == 0
    (tmp_path / "out").touch()  # a file instead of the folder

    told = terminal.types("watch", "run-1")

    assert told.code == 1 and "sparklet resume run-1" in told.err
    assert "out cannot be filled from s3://" in told.err
    (tmp_path / "out").unlink()
    assert folder.types("resume", "run-1") == 0
    assert folder.writers() == Counter(["run-1"])


@pytest.mark.parametrize("names", [("out/deeper", "out"), ("out", "out/deeper")])
def test_an_output_within_an_open_runs_output_is_refused(
    terminal: Terminal, tmp_path: Path, names: tuple[str, str]
) -> None:
    one, other = (Folder(terminal, tmp_path / name) for name in names)
    assert one.types("plan", "run-1") == 0

    told = terminal.types("run", SCRIPT, "-i", SOURCE, "-o", str(other.local), "--run-id", "run-2")

    assert told.code == 1 and "run-1 writes to" in told.err


@pytest.mark.parametrize(("given", "output"), [(".", "out"), ("in", "in/out"), ("in", "in"), ("link", "in/out")])
def test_an_output_within_a_local_input_is_refused(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, output: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.csv").write_text("a\n")
    (tmp_path / "link").symlink_to("in")
    monkeypatch.chdir(tmp_path)

    told = terminal.types("run", SCRIPT, "-i", given, "-o", output, "--run-id", "run-1", "--append")

    assert told.code == 1 and "lies inside the input" in told.err


@pytest.mark.parametrize("given", ["out", "out/shard=old_0_000000", "link/part-0.csv", "linked/day.csv", "file"])
def test_an_input_within_an_overwritten_output_is_refused(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (old := tmp_path / "out" / "shard=old_0_000000").mkdir(parents=True)
    (old / "part-0.csv").write_text("a\n")
    (tmp_path / "link").symlink_to(old)
    for name in ("linked", "in"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "day.csv").symlink_to(old / "part-0.csv")
    words = ("-i", SOURCE, "--param-file", "f=in/day.csv") if given == "file" else ("-i", given)

    told = terminal.types("run", SCRIPT, *words, "-o", "out", "--run-id", "run-1", "--overwrite")

    assert (told.code == 1 and "and this run would delete it" in told.err) or "lies inside the input" in told.err
    assert (old / "part-0.csv").exists()


def test_the_state_folder_is_refused_as_input(terminal: Terminal, tmp_path: Path) -> None:
    words = ("run", SCRIPT, "-i", str(terminal.state.parent), "--run-id", "run-1")
    for output in ("s3://data/out/", str(tmp_path.parent / "out")):
        told = terminal.types(*words, "-o", output)

        assert told.code == 1 and "the state folder" in told.err and "lies inside the input" in told.err
