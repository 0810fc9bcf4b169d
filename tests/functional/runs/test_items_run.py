"""A run of items from its request to its results, with workers and a checker that are killed between any two calls."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import ScriptFailedError
from sparklet.inputs.list_requests import ListRequest
from sparklet.model import RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from sparklet.worker.executor import Execution
from tests.functional.runs.readers import Worker, event_of
from tests.world import SCRIPT, Fault, KilledError, World

CITIES = ["Ulm", "Köln", "Ulm", "Bonn", "Jena"]
KILLED_AFTER = range(1, 16)  # calls of an attempt, the last of which are after its end


class Scene:
    """A world with one worker, whose script answers with the items in capitals."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.world, self.fails, self.seen = World(), set[str](), list[list[str]]()
        cities = ListRequest("-", json.dumps(CITIES).encode(), "json", items=True)
        request = self.world.request(inputs=(), lists=(cities,), options=RunOptions(max_objects=2, **options))
        plan(self.world.at, new_run(self.world.at, request).run_id)
        self.worker = Worker(self.world, self.script, folder)

    def script(self, execution: Execution, _: Path) -> ShardResult:
        event = event_of(execution)
        self.seen.append(event["items"])
        if self.fails & set(event["items"]):
            raise ScriptFailedError(SCRIPT, 1, cause_class="ValueError", cause="bad city", permanent=True)
        return ShardResult(answer=([city.upper() for city in event["items"]],))

    def work(self) -> None:
        while message := self.world.receive():
            self.worker.take(message)
            self.worker.finish()

    def end(self) -> RunState:
        """Whatever was lost is found and done."""
        for _ in range(20):
            self.work()
            if (report := self.world.check()).run.state.ended:
                return report.run.state
            self.world.clock.advance(60)
        raise AssertionError("the run does not end")

    def results(self) -> list[Any]:
        lines = self.world.store.get("s3://sparklet/runs/run-1/results.jsonl").splitlines()
        return [json.loads(line) for line in lines]


RESULTS = [
    {"shard": 0, "answer": ["ULM", "KÖLN"]},
    {"shard": 1, "answer": ["ULM", "BONN"]},
    {"shard": 2, "answer": ["JENA"]},
]


def test_a_redrive_does_failed_items_only_and_adds_answers(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.fails = {"Bonn"}
    assert scene.end() is RunState.FAILED
    assert scene.results() == [RESULTS[0], RESULTS[2]]

    scene.fails, scene.seen = set(), []
    redrive(scene.world.at, "run-1")

    assert scene.end() is RunState.SUCCEEDED
    assert scene.seen == [["Ulm", "Bonn"]] and scene.results() == RESULTS


@pytest.mark.parametrize("calls", KILLED_AFTER)
def test_a_worker_killed_anywhere_leaves_one_answer_a_shard(tmp_path: Path, calls: int) -> None:
    scene = Scene(tmp_path)
    message = scene.world.receive()
    assert message is not None
    scene.worker.take(message)
    assert scene.worker.attempt is not None
    scene.worker.attempt.step(calls)
    scene.worker.attempt.kill()

    assert scene.end() is RunState.SUCCEEDED
    assert scene.results() == RESULTS


def test_a_checker_killed_anywhere_leaves_whole_results(tmp_path: Path) -> None:
    for calls in range(1, 200):
        scene = Scene(tmp_path / str(calls))
        scene.work()
        fault = Fault(calls, after_effect=calls % 2 == 0)
        try:
            report = check(fault.deployment(scene.world.at), "run-1")
        except KilledError:
            assert scene.end() is RunState.SUCCEEDED
            assert scene.results() == RESULTS
        else:
            assert report.run.state is RunState.SUCCEEDED and fault.calls < calls
            return
    raise AssertionError("the checker never ends")
