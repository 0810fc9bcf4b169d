"""A shard's event that comes as a task: nobody has claimed the shard, so nobody commits what its script stages."""

from typing import Any

from sparklet.errors import EventError
from sparklet.job import Job
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import Bench, reports

EVENT = {  # as docs/schemas/event.json has it, and as a log or job.event shows it
    "sparklet": {"run": "flights-1", "identity": "flights-1_18b", "shard": 7, "attempt": "a", "generation": 0},
    "inputs": ["s3://data/in/7.csv"],
    "input_path": "s3://data/in/7.csv",
    "output_path": "s3://data/debug",
    "params": {},
    "table": "delta:s3://lake/t",
}


def test_a_script_that_stages_for_nobody_is_told_so(bench: Bench) -> None:
    refused: list[str] = []

    def append(call: ScriptCall, output: Output) -> ScriptResult:
        frame: Any = None  # it is not looked at
        try:
            Job.from_args(list(call.args), call.env).append(frame)
        except EventError as error:
            refused.append(str(error))
            return ScriptResult(1, "", "EventError", str(error))
        return ScriptResult(0)

    bench.runner.behaviour = append
    (outcome,) = bench.invoke(EVENT)

    assert outcome.error is not None and "commit='direct'" in refused[0]


def test_a_task_that_has_staged_a_write_has_failed(bench: Bench) -> None:
    write = {"table": "delta:s3://lake/t", "folder": "s3://lake/t/x", "files": []}
    bench.runner.behaviour = reports({"rows": 1000, "writes": [write]})
    (outcome,) = bench.invoke(EVENT)

    assert isinstance(outcome.error, EventError) and "only a run commits" in str(outcome.error)
