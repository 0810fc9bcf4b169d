"""A notice of a run's end is sent at least once, and no run is held open by notices."""

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from sparklet.ledger import transitions
from sparklet.model import Failure, Notice, RunState, ShardResult, TaskRecord
from sparklet.ports.deployment import Deployment
from sparklet.runs import handlers
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check, log_unnotified
from sparklet.runs.manifest import NOTIFY_WITHIN_S, runs_to_check
from sparklet.runs.redrive import redrive
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.test_phases import WRONG, followed, start
from tests.world import World, all_but


def sent_notices(notifier: MemoryNotifier) -> list[tuple[str, str, str]]:
    return [(notice.kind, notice.document["id"], notice.state) for notice in notifier.notices]


def test_a_runs_end_is_announced_once_with_its_figures(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    world.run(3, tolerated_failure_count=1)
    world.work(all_but(2))
    check(deployment, "run-1")
    check(deployment, "run-1")

    assert sent_notices(notifier) == [("run", "run-1", "SUCCEEDED_WITH_FAILURES")]
    document: dict[str, Any] = json.loads(notifier.notices[0].to_json())
    assert (document["version"], document["kind"], document["state"]) == (1, "run", "SUCCEEDED_WITH_FAILURES")
    run = document["run"]
    assert run["counts"] == {"pending": 0, "running": 0, "succeeded": 2, "failed": 1, "total": 3}
    assert (run["output"], run["rows"], run["ended_s"]) == ("s3://data/out/", 2, world.clock.now_s())
    assert run["causes"] == [{"class": "ValueError", "count": 1, "example_shard": 2, "message": "bad"}]
    assert (run["check"], run["next_run_id"]) == (None, "")
    assert run["manifest"] == world.deployment.run_uri("run-1", "manifest.json")
    assert world.ledger.runs.get("run-1").notified_s == world.clock.now_s()


def test_an_unsent_notice_is_sent_by_a_later_check(
    world: World, deployment: Deployment, notifier: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(1)
    world.work()
    notifier.down = True

    assert handlers.handle_check(deployment)["runs"]["run-1"]["state"] == "SUCCEEDED"
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["level"], line["message"], line["subject"]) == ("ERROR", "a notice was not sent", "run-1")
    assert "notifier is down" in line["error"]

    notifier.down = False
    assert list(handlers.handle_check(deployment)["runs"]) == ["run-1"]
    assert sent_notices(notifier) == [("run", "run-1", "SUCCEEDED")]
    assert handlers.handle_check(deployment) == {"runs": {}}


def test_a_run_ended_by_another_process_is_announced(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    assert world.ran(1).run.state is RunState.SUCCEEDED  # for example by a command

    assert list(runs_to_check(world.deployment, world.ledger.runs.unfinalized())) == []
    handlers.handle_check(deployment)

    assert sent_notices(notifier) == [("run", "run-1", "SUCCEEDED")]


def test_open_runs_come_before_unsent_notices(world: World, deployment: Deployment) -> None:
    world.ran(1)
    world.clock.advance(-10)
    start(world, run_id="run-2")

    assert [run.run_id for run in runs_to_check(deployment, world.ledger.runs.unfinalized())] == ["run-2", "run-1"]


def test_an_unsent_notice_is_dropped_after_a_day(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    world.ran(1)
    notifier.down = True
    for _ in range(3):
        handlers.handle_check(deployment)
        world.clock.advance(NOTIFY_WITHIN_S / 4)
    assert [run.run_id for run in world.ledger.runs.unfinalized()] == ["run-1"]

    world.clock.advance(NOTIFY_WITHIN_S)
    notifier.down = False

    assert list(runs_to_check(deployment, world.ledger.runs.unfinalized())) == []
    check(deployment, "run-1")
    assert notifier.notices == []
    handlers.handle_check(deployment)
    assert list(world.ledger.runs.unfinalized()) == []


def test_an_unsent_notice_is_retried_ever_less_often(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    world.run(1)
    world.work()
    notifier.down = True
    tried_minutes = []
    for minute in range(300):
        if list(handlers.handle_check(deployment)["runs"]):
            tried_minutes.append(minute)
        world.clock.advance(60.5)  # the schedule is not quite punctual
    assert tried_minutes[:5] == [0, 1, 2, 3, 4] and len(tried_minutes) < 20

    notifier.down = False
    while not notifier.notices:
        handlers.handle_check(deployment)
        world.clock.advance(60.5)
    assert world.clock.now_s() - (world.ledger.runs.get("run-1").ended_s or 0) < 600 * 60


def test_a_failed_check_is_announced_with_its_run(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    followed(world)
    world.work(lambda _: WRONG)
    check(deployment, "run-1")

    assert sent_notices(notifier) == [("run", "run-1", "FAILED")]
    assert notifier.notices[0].document["check"] == {
        "run_id": "run-1-check-0",
        "state": "FAILED",
        "error": {"class": WRONG.error_class, "message": WRONG.message},
    }
    assert list(runs_to_check(deployment, world.ledger.runs.unfinalized())) == []


def test_a_next_run_is_named_and_gets_a_notice_itself(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    start(world, check="")
    world.work()
    check(deployment, "run-1")
    world.clock.advance(100)
    check(deployment, "run-1-next-0")  # nothing was written, so there is nothing to work on

    assert sent_notices(notifier) == [("run", "run-1", "SUCCEEDED")]
    assert notifier.notices[0].document["next_run_id"] == "run-1-next-0"
    check(deployment, "run-1-next-0")
    assert sent_notices(notifier)[1:] == [("run", "run-1-next-0", "FAILED")]


def test_a_run_without_a_notifier_logs_no_unsent_notice(capsys: pytest.CaptureFixture[str], world: World) -> None:
    log_unnotified(world.ran(1))
    assert capsys.readouterr().out == ""


# --- notices of every kind match the one schema ---

SCHEMA: dict[str, Any] = json.loads((files("sparklet.model") / "notice.schema.json").read_text())


def valid(notice: Notice) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(notice.to_json())
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    fields = SCHEMA["$defs"][notice.kind]["properties"].keys()
    assert document[notice.kind].keys() | {"answer"} == fields | {"answer"}, "fields of only one of the two"
    return document


@pytest.fixture
def notices_of_runs(world: World, deployment: Deployment, notifier: MemoryNotifier) -> list[Notice]:
    """The notices that the checker sends for every state in which a run can end."""
    start(world, options={"tolerated_failure_count": 1})
    world.work(all_but(1))
    check(deployment, "run-1")
    world.work(lambda _: WRONG)
    check(deployment, "run-1")
    redrive(deployment, "run-1")
    world.work(lambda _: ShardResult(rows=1, output_bytes=10, outputs=("s3://data/out/x",)))
    check(deployment, "run-1")
    world.work()
    check(deployment, "run-1")
    start(world, run_id="run-2", check="", next_output="s3://data/next-2/")
    cancel(deployment, "run-2")
    check(deployment, "run-2")
    check(deployment, "run-1-next-1", planner_silent_s=0)
    check(deployment, "run-1-next-1")
    start(world, run_id="run-3", check="", next="", next_output="", options={"tolerated_failure_count": 1})
    world.work(all_but(2))
    check(deployment, "run-3")
    return notifier.notices


def test_notices_of_runs_match_the_schema(notices_of_runs: list[Notice]) -> None:
    documents = [valid(notice) for notice in notices_of_runs]

    assert {each["state"] for each in documents} == {"SUCCEEDED", "SUCCEEDED_WITH_FAILURES", "FAILED", "CANCELLED"}
    assert {each["run"]["check"]["state"] for each in documents if each["run"]["check"]} == {"SUCCEEDED", "FAILED"}
    assert any(each["run"]["next_run_id"] for each in documents) and any(each["run"]["causes"] for each in documents)


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
    valid(Notice.of_execution("e-1", "RunMachine", "Plan", "States.TaskFailed", cause, "run-1", "s3://b/runs/run-1/x"))
    document = valid(Notice.of_execution("e-2", "RunMachine", "Plan", "States.Timeout", ""))

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
def test_the_schema_refuses_a_changed_notice(notices_of_runs: list[Notice], change: dict[str, Any]) -> None:
    document = valid(notices_of_runs[0])
    for key, value in change.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_every_notice_has_a_subject_that_sns_accepts() -> None:
    for name in ("run-1", "ä\nb", "x" * 200):
        subject = replace(Notice.of_execution(name, "m", "w", "E", "c"), state="SUCCEEDED_WITH_FAILURES").subject
        assert len(subject) <= 100 and subject.isascii() and subject.isprintable()
        assert subject.startswith("Sparklet: execution ") and subject.endswith(" ended as SUCCEEDED_WITH_FAILURES")
