"""``sparklet invoke`` shows a script's output and answer, and sends its files and options."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import RemoteFailureError, RemoteTaskError
from sparklet.model import CONF_FILE
from tests.stand_ins.memory import MemoryCompute
from tests.unit.cli.conftest import Terminal
from tests.world import BUCKET


class Worker(MemoryCompute):
    """A worker function that first refuses some invocations, then does one and writes log lines."""

    def __init__(self, terminal: Terminal, *refusals: RemoteTaskError) -> None:
        super().__init__({"worker": self.work})
        self.terminal, self.refusals, self.task = terminal, list(refusals), dict[str, Any]()

    def invoke(self, function: str, event: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop(0)
        return super().invoke(function, event)

    def work(self, event: Any) -> Any:
        self.task = event["sparklet"]
        fields = {"time": "2026-11-26T12:00:00.000Z", "level": "INFO", "run": self.task["invocation"], "shard": 0}
        own = [json.dumps({**fields, "message": f"script {what}", "attempt": "a1"}) for what in ("started", "ended")]
        other = json.dumps({**fields, "message": "script started", "attempt": "b2", "run": "another"})
        self.terminal.logs.lines += [own[0], "hello \x1b[31mred", own[1], other, "not ours"]
        return {"state": "SUCCEEDED"}


@pytest.fixture
def job(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "job.py").write_text("print('hello')\n")
    (tmp_path / "event.json").write_text("{}")
    return "invoke", str(tmp_path / "job.py"), "--event", str(tmp_path / "event.json")


def use_worker(terminal: Terminal, *refusals: RemoteTaskError) -> Worker:
    worker = Worker(terminal, *refusals)
    terminal.change = lambda env: replace(env, compute=worker)
    return worker


def test_the_scripts_output_is_shown_and_then_its_answer(terminal: Terminal, job: tuple[str, ...]) -> None:
    worker = use_worker(terminal)

    done = terminal.types(*job)

    first, answer = done.out.split("\n", 1)
    assert (done.code, json.loads(answer)) == (0, {"state": "SUCCEEDED"})
    assert first.startswith("hello ") and "\x1b" not in first and "not ours" not in done.out
    again = terminal.types("logs", worker.task["invocation"])
    assert "hello" in again.out and "not ours" not in again.out


def test_with_json_only_the_answer_is_on_stdout(terminal: Terminal, job: tuple[str, ...]) -> None:
    use_worker(terminal)

    done = terminal.types(*job, "--json")

    assert done.document == {"state": "SUCCEEDED"}
    assert "hello" in done.err


def test_files_and_options_are_sent_with_the_script(terminal: Terminal, job: tuple[str, ...], tmp_path: Path) -> None:
    worker, names = use_worker(terminal), ("helper.py", "lookup.json")
    for name in names:
        (tmp_path / name).write_text(name)
    given = ("--py-files", str(tmp_path / names[0]), "--files", str(tmp_path / names[1]), "--py-files", "s3://b/x.zip")

    done = terminal.types(*job, *given, "--conf", "spark.sql.shuffle.partitions=3", "--env", "DAY=1")

    assert done.code == 0, done.err
    beside, *copies = worker.task["py_files"]
    assert beside == "s3://b/x.zip"
    assert all(uri.startswith(f"s3://{BUCKET}/scripts/") for uri in copies)
    assert [uri.rpartition("/")[2] for uri in copies] == [*names, CONF_FILE]
    bodies = [b"helper.py", b"lookup.json", b'{"spark.sql.shuffle.partitions": "3"}']
    assert [terminal.world.store.get(uri) for uri in copies] == bodies
    assert json.loads(terminal.world.store.get(worker.task["env"])) == {"DAY": "1"}


def test_invoke_waits_for_a_busy_worker(terminal: Terminal, job: tuple[str, ...]) -> None:
    busy = RemoteTaskError("worker could not be invoked: TooManyRequestsException", "throttled")
    use_worker(terminal, busy, busy)

    done = terminal.types(*job)

    assert done.code == 0
    assert done.err.count("all workers are busy; waiting") == 1


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("ModuleNotFoundError: No module named 'x'", "--py-files"),
        ("NameError: name 'spark' is not defined", "spark = SparkSession.builder.getOrCreate()"),
        ("AnalysisException: Path does not exist: file:/tmp/t/work/in/x.csv", "an address such as s3://"),
        ("IOException: Input path does not exist: file:/a b/task-1/work/in/x.csv", "an address such as s3://"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'lookup.json'", "--files"),
        ("AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table `a` cannot be found", "as DATABASE.TABLE"),
        ("AnalysisException: [SCHEMA_NOT_FOUND] The schema `db` cannot be found", "by getSink"),
        ("AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] … 'InsertIntoStatement 'Unres", "job.append"),
        ("AnalysisException: [_LEGACY_ERROR_TEMP_1055] The database name is not valid", "spark.sql.catalog.NAME"),
        ("RuntimeException: [unresolved dependency: org.x#y;1.0: not found]", "EXTRA_COORDINATES"),
        ("KeyError: 'day'", ""),
    ],
)
def test_a_failure_is_printed_with_its_remedy(
    terminal: Terminal, job: tuple[str, ...], cause: str, remedy: str
) -> None:
    use_worker(terminal, RemoteFailureError(f"worker failed: ScriptFailedError: job.py exited with 1: {cause}"))

    done = terminal.types(*job)

    assert done.code == 2 and "redrive" not in done.err
    assert cause[:30] in done.err and remedy in " ".join(done.err.split())
