"""The plugin for pytest. Since pytest imports it at every start, the rest of Sparklet is imported only on use."""

import json
import os
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

Inputs = Mapping[str, str] | Iterable[str | Path]  # file names with their texts, or paths
SUBMIT = (
    "--master local[2] --conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false "
    "--driver-java-options '-XX:+UseSerialGC -XX:TieredStopAtLevel=1' pyspark-shell"
)


@dataclass(frozen=True)
class Finished:
    """The result of a script; ``rows`` and ``answer`` are None if the script reported none."""

    job: "SparkletJob"
    folder: Path  # the output folder
    rows: int | None = None
    answer: Any = None

    def output(self, format: str = "parquet", **options: Any) -> list[dict[str, Any]]:  # noqa: A002 - Spark's word
        """Return the rows of the output; ``options`` are those of Spark's reader."""
        frame = self.job.session.read.format(format).options(**options).load(str(self.folder))
        return [row.asDict(recursive=True) for row in frame.collect()]


class SparkletJob:
    """Runs scripts in one test; each script that runs in this process has a Spark context of its own."""

    def __init__(self, request: pytest.FixtureRequest, home: Path) -> None:
        self._request, self._home, self._calls = request, home, 0
        self._tests_context = _context()  # made by the tests themselves: it is used, and never stopped

    def __call__(
        self, script: str | Path, inputs: Inputs = (), *, event: Any = None, worker: bool | None = None, **options: Any
    ) -> Finished:
        """Run a script as one shard of all ``inputs``, or on an ``event``. A failure of the script is raised.

        With ``worker`` the script runs on the local stack, else in this process; the default is set by
        ``pytest --sparklet-worker``. ``options`` are those of ``sparklet.run``: on the local stack all of them, in this
        process ``params``, ``items``, ``args`` and ``env``.
        """
        self._calls += 1
        root, home = self._request.config.rootpath, self._home / f"job-{self._calls}"
        (home / "work").mkdir(parents=True)
        paths = [root / path for path in inputs]
        if isinstance(inputs, Mapping):
            paths = [home / "input" / name for name in inputs]
            for path, text in zip(paths, inputs.values(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        by_worker = self._request.config.getoption("--sparklet-worker") if worker is None else worker
        run = self._run_by_worker if by_worker else self._run_in_process
        return run(root / script, paths, home, event, **options)

    @property
    def session(self) -> Any:
        """The Spark session of this process; the next script stops it."""
        from sparklet.job import Job

        with mock.patch.dict(os.environ, _variables()):
            return Job().spark("pytest")

    def stop(self) -> None:
        """Stop the Spark context, unless the tests made it; its JVM stays for the next context."""
        if (context := _context()) and context is not self._tests_context:
            sessions = context._jvm.SparkSession
            # Otherwise the next script would find the stopped context's session.
            sessions.clearActiveSession()
            sessions.clearDefaultSession()
            context.stop()

    def _run_in_process(self, script: Path, paths: list[Path], home: Path, event: Any, **options: Any) -> Finished:
        from sparklet.model import InputObject, Run, Shard, ShardRecord
        from sparklet.spark.script import Script
        from sparklet.spark.spark_options import AWSGLUE
        from sparklet.worker.executor import read_outcome, script_arguments, shard_event, write_event

        params, items, args, env = (options.pop(name, ()) for name in ("params", "items", "args", "env"))
        if options:
            raise TypeError(f"only worker=True takes {', '.join(options)}")
        self.stop()
        is_shard, output, outcome = event is None, str(home / "output"), home / "outcome.json"
        if is_shard:
            objects = [InputObject(f"file://{path}", path.stat().st_size) for path in paths]
            shard = Shard(0, (*objects, *map(InputObject.of_item, items)))
            record = ShardRecord("test", 0, "", 0, 0, len(shard.objects), shard.size_bytes, attempts=1, attempt_id="1")
            event = shard_event(Run("test", (), output, (), params=dict(params)), record, shard, output)
        event_env = write_event(event, home, is_shard=is_shard)
        option = Script(script.read_bytes()).event_option
        arguments = script_arguments(args, event if is_shard else {}, option, event_env)
        variables = {
            **dict.fromkeys(("output_path", "OUTPUT_PATH"), output),
            **event_env,
            **dict(env),
            "SPARKLET_OUTCOME_FILE": str(outcome),
            # As in a worker, since only a claimed shard is allowed to stage rows.
            "SPARKLET_CLAIMED": "1",
        }
        with mock.patch.dict(os.environ, {**_variables(), **variables}), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), *arguments])
            patch.syspath_prepend(script.parent)
            # At the end of the path, as in a worker, so that a real awsglue is imported instead.
            sys.path.append(AWSGLUE)
            patch.chdir(home / "work")
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                if end.code:
                    raise
            except Exception as error:
                if re.search("DATA_SOURCE_NOT_FOUND|ClassNotFound|NoClassDefFound|No FileSystem", str(error)):
                    error.add_note("Jars of S3A and of tables are missing here: worker=True has them.")
                raise
        job_outcome = read_outcome(outcome)
        return Finished(self, home / "output", job_outcome.rows, *job_outcome.answer)

    def _run_by_worker(self, script: Path, paths: list[Path], home: Path, event: Any, **options: Any) -> Finished:
        from sparklet.client import Stack
        from sparklet.runs.summary import results

        with Stack(state_dir=self._request.getfixturevalue("_sparklet_state"), workers=1, quiet=True) as stack:
            if event is not None:
                options["env"] = {"output_path": str(home / "output"), **options.get("env", {})}
                outcome = stack.submit_script(script, event, **options).result()
                return Finished(self, home / "output", outcome.get("rows"), outcome.get("answer"))
            run = stack.run(script, paths, home / "output", **options)
            document, deployment = run.result(), stack.opened.deployment
            answers = [
                json.loads(line)["answer"] for line in results(deployment, deployment.ledger.runs.get(run.run_id))
            ]
        shards = list((home / "output").glob("shard=*"))
        return Finished(self, shards[0] if len(shards) == 1 else home / "output", document["rows"], *answers[:1])


def _context() -> Any:
    """The Spark context of this process; None if there is none."""
    return sys.modules["pyspark"].SparkContext._active_spark_context if "pyspark" in sys.modules else None


def _variables() -> dict[str, str]:
    """The environment, with variables that Spark needs at its start; variables that are set keep their values."""
    from sparklet.local.java import find_java

    defaults = {
        "PYSPARK_SUBMIT_ARGS": SUBMIT,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return {"JAVA_HOME": str(find_java().parent.parent), **defaults, **os.environ}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``pytest --sparklet-worker``, by which every script runs on Sparklet's local stack."""
    parser.addoption("--sparklet-worker", action="store_true", help="run scripts on Sparklet's local stack")


@pytest.fixture(scope="session")
def _sparklet_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a local stack that lives until the test session ends."""
    from sparklet.local.lock import Lock
    from sparklet.local.stack import stop
    from sparklet.local.state import StateDir

    state = StateDir(tmp_path_factory.mktemp("sparklet"))
    state.create()
    # While this lock is held, the stack does not stop between tests.
    with Lock(state.clients_lock) as lock:
        lock.shared()
        yield state.root
    stop(state.root)


@pytest.fixture
def sparklet_job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SparkletJob]:
    """Runs a script: ``sparklet_job("my_script.py", inputs={"a.csv": "…"}).output()``."""
    job = SparkletJob(request, tmp_path)
    yield job
    job.stop()
