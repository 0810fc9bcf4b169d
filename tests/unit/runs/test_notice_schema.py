"""Real notices of every kind are what the one schema says, and it would notice if they were not."""

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from sparklet.ledger import transitions
from sparklet.model import Failure, Notice, ShardResult, TaskRecord
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.test_follow_ups import WRONG, start
from tests.world import World, all_but

SCHEMA: dict[str, Any] = json.loads((files("sparklet.model") / "notice.schema.json").read_text())


def valid(notice: Notice) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(notice.to_json())
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    fields = SCHEMA["$defs"][notice.kind]["properties"].keys()
    assert document[notice.kind].keys() | {"answer"} == fields | {"answer"}, "fields that only one of both has"
    return document


@pytest.fixture
def notices_of_runs(world: World, at: Deployment, ear: MemoryNotifier) -> list[Notice]:
    """Of every end that a run can have, told by the checker itself."""
    start(world, options={"tolerated_failure_count": 1})
    world.work(all_but(1))
    check(at, "run-1")
    world.work(lambda _: WRONG)
    check(at, "run-1")
    redrive(at, "run-1")
    world.work(lambda _: ShardResult(rows=1, output_bytes=10, outputs=("s3://data/out/x",)))
    check(at, "run-1")
    world.work()
    check(at, "run-1")
    start(world, run_id="run-2", check="", next_output="s3://data/next-2/")
    cancel(at, "run-2")
    check(at, "run-2")
    check(at, "run-1-next-1", planner_silent_s=0)
    check(at, "run-1-next-1")
    start(world, run_id="run-3", check="", next="", next_output="", options={"tolerated_failure_count": 1})
    world.work(all_but(2))
    check(at, "run-3")
    return ear.notices


def test_notices_of_runs_match_the_schema(notices_of_runs: list[Notice]) -> None:
    told = [valid(notice) for notice in notices_of_runs]

    assert {each["state"] for each in told} == {"SUCCEEDED", "SUCCEEDED_WITH_FAILURES", "FAILED", "CANCELLED"}
    assert {each["run"]["check"]["state"] for each in told if each["run"]["check"]} == {"SUCCEEDED", "FAILED"}
    assert any(each["run"]["next_run_id"] for each in told) and any(each["run"]["causes"] for each in told)


def test_notices_of_tasks_match_the_schema() -> None:
    running = transitions.claim_task(TaskRecord("t-1"), "a", 1.5, 60.0, 3, "log").record
    for ended in (
        transitions.succeed(running, "a", 2.5, ShardResult(1, 2, ("s3://x/y",), answer=({"k": "é"},))),
        transitions.succeed(running, "a", 2.5, ShardResult()),
        transitions.fail(running, "a", 2.5, Failure("E", "why")),
        transitions.give_up(TaskRecord("t-2"), 2.5, None, is_lost=False).record,
    ):
        valid(Notice.of_task(ended))


def test_notices_of_executions_match_the_schema() -> None:
    cause = "x" * 40_000
    valid(Notice.of_execution("e-1", "LoopMachine", "Plan", "States.TaskFailed", cause, "run-1", "s3://b/runs/run-1/x"))
    document = valid(Notice.of_execution("e-2", "LoopMachine", "Plan", "States.Timeout", ""))

    assert (document["execution"]["run_id"], document["execution"]["recorded"]) == ("", "")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"kind": "task"},
        {"kind": "other"},
        {"state": "RUNNING"},
        {"run": None},
        {"run": {"rows": -1}},
        {"run": {"rows": "1"}},
        {"run": {"id": "No Such"}},
        {"run": {"inputs": ["s3://x"] * 21}},
        {"run": {"check": {"run_id": "x"}}},
        {"run": {"counts": {}}},
    ],
)
def test_anything_but_a_notice_is_refused(notices_of_runs: list[Notice], change: dict[str, Any]) -> None:
    document = valid(notices_of_runs[0])
    for key, value in change.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_subject_is_one_that_sns_takes() -> None:
    for name in ("run-1", "ä\nb", "x" * 200):
        subject = replace(Notice.of_execution(name, "m", "w", "E", "c"), state="SUCCEEDED_WITH_FAILURES").subject
        assert len(subject) <= 100 and subject.isascii() and subject.isprintable()
        assert subject.startswith("Sparklet: execution ") and subject.endswith(" ended as SUCCEEDED_WITH_FAILURES")
