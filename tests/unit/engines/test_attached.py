"""A worker attached to another program's driver: refused options, and fetched inputs for its executors."""

from pathlib import Path

import pytest

from sparklet.engines.attached import AttachedRunner
from sparklet.errors import ScriptError
from sparklet.events import Source, Task
from sparklet.log import Log
from sparklet.model import InputObject
from sparklet.settings import spark_settings
from sparklet.spark.runner import Deadline, ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.warm_runner import PORT, SECRET
from sparklet.worker.attempt import Attempt
from sparklet.worker.inputs import ShardInputs
from sparklet.worker.without_view import WithoutView
from tests.stand_ins.memory import FakeClock, MemoryObjectStore


def test_options_of_a_jvm_that_runs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, "1")
    monkeypatch.setenv(SECRET, "secret")
    script = tmp_path / "job.py"
    script.write_text("# sparklet: spark.jars.packages=org.apache.spark:spark-avro_2.12:3.5.1\n")
    runner = AttachedRunner(spark_settings({}), tmp_path)

    with pytest.raises(ScriptError, match=r"spark\.jars\.packages"):
        runner.run(
            ScriptCall(script, Script(script.read_bytes()), (), tmp_path, Deadline.within(60)),
            lambda stream, line: None,
        )


def test_fetched_inputs_are_uploaded_for_executors(tmp_path: Path) -> None:
    store = MemoryObjectStore(FakeClock())
    store.put("s3://in/_hidden.csv", b"a,b\n")
    items = InputObject("s3://in/_hidden.csv", 4), InputObject("s3://in/plain.csv", 4)
    staged = "s3://runs/staged/run-1/000000-a1"
    attempt = Attempt("a1", Task(Source.DIRECT, {}), Deadline.within(60), Log())
    view = WithoutView(
        ShardInputs(items, open_store=lambda: store), Script(b""), store=store, copies=f"{staged}-inputs"
    )

    with view.provide(attempt, tmp_path, 0) as (hidden, plain):
        assert store.get(hidden.path) == b"a,b\n"
        assert plain.path == "s3://in/plain.csv"
        assert not list(store.list(f"{staged}/"))  # or a script could not write there
        assert hidden.copy and not hidden.copy.exists()

    assert not list(store.list(staged))
