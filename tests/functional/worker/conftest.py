"""Both runners with real Spark. The tests of a module share a warm runner, as the tasks of a worker do."""

import functools
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.java import find_java
from sparklet.local.spark_installation import stack_file, worker_archive, worker_jars
from sparklet.settings import SparkSettings, spark_settings
from sparklet.spark.runner import Deadline, Runner, ScriptCall, ScriptResult, Stream, task_folder
from sparklet.spark.script import Script
from sparklet.spark.spark_submit import SubmitRunner
from sparklet.spark.warm_runner import WarmRunner
from tests.waiting import deadline_s, eventually

if TYPE_CHECKING:
    from tests.functional.worker.ledgered import Function

STACK = stack_file()
MARK = "TEST_MARK"
SMALL = {
    "SPARKLET_HEAP_MB": "512",
    "SPARKLET_CORES": "2",
    "SPARKLET_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -Xshare:auto",
}
SPARK = "from pyspark.sql import SparkSession, functions as F\nspark = SparkSession.builder.getOrCreate()\n"
JVM = "from pyspark import SparkContext\nSparkContext._ensure_initialized()\njvm = SparkContext._jvm\n"  # no context
JVM_PID = "jvm.java.lang.ProcessHandle.current().pid()"


@dataclass
class Ran:
    """The result and the output of a script."""

    result: ScriptResult
    lines: list[tuple[Stream, bytes]]

    @property
    def code(self) -> int:
        return self.result.exit_code

    def text(self, stream: Stream) -> str:
        return b"".join(line for name, line in self.lines if name == stream).decode(errors="replace")

    def printed(self) -> Any:
        """The JSON that the script printed last."""
        assert self.code == 0, self.text("stderr")
        return json.loads(self.text("stdout").strip().splitlines()[-1])


@dataclass
class Bench:
    """Runs pieces of code as scripts."""

    runner: Runner
    scratch: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    lines: list[tuple[Stream, bytes]] = field(default_factory=list)  # the output of the last script

    def run(
        self,
        code: str,
        args: Sequence[str] = (),
        *,
        name: str = "job.py",
        env: Mapping[str, str] | None = None,
        py_files: Sequence[Path] = (),
        files: Sequence[Path] = (),
        conf: Mapping[str, str] | None = None,
        limit_s: float = deadline_s(60),
        until: bytes = b"",
        left_s: float = 0.0,
        grace_s: float = 0.0,
        at_once: bool = False,
    ) -> Ran:
        """Run code as a script. Its deadline comes ``left_s`` after its line ``until``; ``at_once``: with no grace."""
        folder = self.scratch / f"script-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        script = folder / name
        script.write_text(code)
        self.lines.clear()
        with task_folder(self.scratch, uuid.uuid4().hex[:12]) as work_dir:
            call = ScriptCall(
                script=script,
                source=Script(script.read_bytes()),
                args=tuple(args),
                work_dir=work_dir,
                deadline=Deadline.within(limit_s, grace_s),
                env={MARK: self.mark, **(env or {})},
                py_files=tuple(py_files),
                files=tuple(files),
                conf=conf or {},
            )

            def add_line(stream: Stream, line: bytes) -> None:
                self.lines.append((stream, line))
                if line == until and left_s:
                    call.deadline.guard_s = time.time() + left_s
                elif line == until:
                    call.deadline.expire("its time is over", at_once=at_once)

            result = self.runner.run(call, add_line)
        return Ran(result, list(self.lines))

    def hello(self) -> None:
        """Check that the next task works."""
        ran = self.run(SPARK + "print(spark.range(10).agg(F.sum('id')).first()[0])")
        assert (ran.code, ran.text("stdout")) == (0, "45\n"), ran.text("stderr")

    def settle(self) -> None:
        """Check that a warm runner has a working JVM, also after a failure, by a job, which is cheaper than a query."""
        if isinstance(self.runner, WarmRunner):
            ran = self.run(SPARK + "print(spark.sparkContext._jsc.sc().range(0, 10, 1, 2).count())")
            assert (ran.code, ran.text("stdout")) == (0, "10\n"), ran.text("stderr")

    def jvm_pid(self) -> int:
        """Return the process id of the JVM, without starting a context."""
        return int(self.run(f"{JVM}print({JVM_PID})").printed())

    @property
    def tasks_per_jvm(self) -> int:
        """How many tasks show what a JVM keeps of a task: 2 if the runner keeps its JVM, else 1."""
        return 2 if isinstance(self.runner, WarmRunner) else 1

    def survivors(self) -> dict[int, str]:
        """Return the processes of this bench's scripts that still run."""
        return processes_with(self.mark)


def processes_with(mark: str) -> dict[int, str]:
    """Return the command lines, by process id, of the running processes with a mark in their environment."""
    commands = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if f"={mark}".encode() in (folder / "environ").read_bytes():
                    commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # the process has just ended
                continue
    return commands


def wait_until_none(mark: str) -> None:
    """Wait until no process has the mark in its environment."""
    eventually(lambda: not processes_with(mark), "all processes have ended")


@functools.cache
def local_jars(*, offline: bool = False) -> dict[str, str]:
    """Return the settings for the jars of S3A and all table formats, and for the class-data archive of these jars.

    With the archive JVMs start in half the time; without it the setting is left out.
    """
    jars = worker_jars(find_java(), print, offline)
    archive = worker_archive(find_java(), jars).path
    archive_setting = {"SPARKLET_CDS_ARCHIVE": str(archive)} if archive.exists() else {}
    return {"SPARKLET_JARS": os.pathsep.join(map(str, jars)), **archive_setting}


def _jars_here() -> dict[str, str]:
    """Return the settings of ``local_jars``, or none if the jars have not been downloaded."""
    try:
        return local_jars(offline=True)
    except LocalStackError:
        return {}


def small_env(**env: str) -> dict[str, str]:
    return {**SMALL, **({} if "SPARKLET_JARS" in env else _jars_here()), **env}


def small_settings(**env: str) -> SparkSettings:
    return spark_settings({**{key: os.environ[key] for key in ("JAVA_HOME",) if key in os.environ}, **small_env(**env)})


def make(kind: str, scratch: Path, **env: str) -> Runner:
    settings = small_settings(**env)
    return WarmRunner(settings, scratch) if kind == "warm" else SubmitRunner(settings, scratch)


SUBMITS_OWN = {
    *("test_a_script_is_run_as_python_would_run_it", "test_exit_codes_and_signals_are_distinguished"),
    *("test_output_of_any_form_is_passed_on_unchanged", "test_the_jvms_output_is_part_of_the_tasks_output"),
    *("test_py_files_are_importable_by_script_and_spark_workers", "test_a_spark_job_is_ended_at_its_deadline"),
    *("test_a_hanging_script_is_ended_at_its_deadline_with_its_line", "test_a_jvm_out_of_memory_is_reported"),
    *("test_python_out_of_memory_is_reported_with_its_line", "test_everything_dies_with_a_worker_that_is_killed"),
    *("test_a_jvm_that_is_killed_under_the_script_is_a_lost_gateway", "test_nothing_is_started_after_the_deadline"),
    *("test_each_port_of_a_worker_needs_its_secret", "test_a_job_is_cancelled_and_commits_nothing"),
    *("test_no_command_line_shows_the_values_of_settings", "test_files_and_options_come_with_a_script"),
    "test_the_master_that_a_script_sets_is_ignored",
}
"""The tests of what the submit runner does in its own way; it runs all others only nightly, as each starts a JVM."""
SUBMITS_CODES = (None, 3, -9)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the submit runner as nightly if both runners share the tested code."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        own = getattr(item, "originalname", "") in SUBMITS_OWN and params.get("exit_code") in SUBMITS_CODES
        if params.get("bench") == "submit" and not own:
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(autouse=True)
def _time_to_clean(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Allow more time for cleaning, as a busy machine would replace the JVM that a test expects to be kept."""
    monkeypatch.setattr("sparklet.spark.warm_runner.CLEAN_LIMIT_S", deadline_s())
    monkeypatch.setattr("sparklet.spark.warm_runner.PREPARE_LIMIT_S", deadline_s())
    caplog.set_level("INFO", "sparklet.spark.warm_runner")  # a failure says why a JVM was replaced


@pytest.fixture(scope="module", params=["warm", "submit"])
def bench(request: pytest.FixtureRequest, warm: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each of the two runners, as both have the same promises."""
    if request.param == "warm":
        return warm
    scratch = tmp_path_factory.mktemp("submit")
    runner = make("submit", scratch, **local_jars())
    runner.start()
    return Bench(runner, scratch)


@pytest.fixture(scope="session")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Function"]:
    """A worker function for all tests that need no special settings."""
    from tests.functional.worker.ledgered import deployed

    folder, scratch = tmp_path_factory.mktemp("function"), tmp_path_factory.mktemp("scratch")
    with deployed(folder, scratch, **local_jars()) as function:
        yield function
