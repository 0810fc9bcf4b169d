"""lambda-large: one asynchronous call of the large function for each worker."""

from collections.abc import Mapping
from typing import Any

import pytest

from sparklet.aws.services import LambdaCompute
from sparklet.engines.lambda_large import LargeFunction
from sparklet.errors import RemoteTaskError
from sparklet.events import parse_event
from sparklet.settings import worker_settings
from sparklet.spark.warm_runner import runner_for
from sparklet.worker.handler import worker_over_aws

COMMAND = ("shard", "--run", "run-1", "--shard", "7", "--generation", "2")


class Called(LambdaCompute):
    """Lambda's compute port that records its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, Mapping[str, Any], bool]] = []
        self.error = error

    def invoke(self, function: str, event: Mapping[str, Any], *, wait: bool = True) -> Any:
        if self.error:
            raise self.error
        self.calls.append((function, event, wait))


def test_a_call_names_the_shard_and_waits_for_no_answer() -> None:
    compute = Called()
    engine = LargeFunction(compute, "large:live", at_once=3)

    task_id = engine.start("token-1", COMMAND)

    [(function, event, waits)] = compute.calls
    [task] = parse_event(dict(event))
    assert (function, waits, task.problem) == ("large:live", False, None)
    assert task.shard and (task.shard.run_id, task.shard.shard, task.shard.generation) == ("run-1", 7, 2)
    assert engine.stopped([task_id]) == {}
    engine.stop(task_id)
    assert len(compute.calls) == 1


def test_a_throttled_call_counts_as_a_lack_of_capacity() -> None:
    engine = LargeFunction(Called(RemoteTaskError("rate exceeded", "throttled")), "large:live")

    with pytest.raises(RemoteTaskError) as raised:
        engine.start("token-1", COMMAND)

    assert raised.value.reason == "throttled"


@pytest.mark.parametrize("engine", ["", "lambda-large"])
def test_the_functions_environment_names_its_engine(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setenv("SPARKLET_ENGINE", engine)
    monkeypatch.setenv("SPARKLET_LEDGER_TABLE", "ledger")
    monkeypatch.setenv("SPARKLET_BUCKET", "runs")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    settings = worker_settings()

    worker = worker_over_aws(settings, runner_for(settings))

    assert worker.shards and worker.shards.engine == engine
