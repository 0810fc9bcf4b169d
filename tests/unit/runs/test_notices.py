"""Whoever wants to hear how a run ended hears it, at least once, and no run is held open by that."""

import json
from typing import Any

import pytest

from sparklet.model import RunState
from sparklet.ports.deployment import Deployment
from sparklet.runs import handlers
from sparklet.runs.checker import check, log_unnotified
from sparklet.runs.notices import NOTIFY_WITHIN_S, due
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.test_follow_ups import WRONG, followed, start
from tests.world import World, all_but


def heard(ear: MemoryNotifier) -> list[tuple[str, str, str]]:
    return [(notice.kind, notice.document["id"], notice.state) for notice in ear.notices]


def test_a_runs_end_is_announced_once_with_its_figures(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    world.run(3, tolerated_failure_count=1)
    world.work(all_but(2))
    check(at, "run-1")
    check(at, "run-1")

    assert heard(ear) == [("run", "run-1", "SUCCEEDED_WITH_FAILURES")]
    told: dict[str, Any] = json.loads(ear.notices[0].to_json())
    assert (told["version"], told["kind"], told["state"]) == (1, "run", "SUCCEEDED_WITH_FAILURES")
    run = told["run"]
    assert run["counts"] == {"pending": 0, "running": 0, "succeeded": 2, "failed": 1, "total": 3}
    assert (run["output"], run["rows"], run["ended_s"]) == ("s3://data/out/", 2, world.clock.now_s())
    assert run["causes"] == [{"class": "ValueError", "count": 1, "example_shard": 2, "message": "bad"}]
    assert (run["check"], run["next_run_id"]) == (None, "")
    assert run["manifest"] == world.at.run_uri("run-1", "manifest.json")
    assert world.ledger.runs.get("run-1").notified_s == world.clock.now_s()


def test_an_unsent_notice_is_sent_by_a_later_check(
    world: World, at: Deployment, ear: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(1)
    world.work()
    ear.down = True

    assert handlers.handle_check(at)["runs"]["run-1"]["state"] == "SUCCEEDED"
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["level"], line["message"], line["subject"]) == ("ERROR", "a notice was not sent", "run-1")
    assert "notifier is down" in line["error"]

    ear.down = False
    assert list(handlers.handle_check(at)["runs"]) == ["run-1"]
    assert heard(ear) == [("run", "run-1", "SUCCEEDED")]
    assert handlers.handle_check(at) == {"runs": {}}


def test_a_checker_with_a_notifier_announces_anothers_end(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    assert world.ran(1).run.state is RunState.SUCCEEDED  # from a command line, say

    assert list(due(world.at, world.ledger.runs.unfinalized())) == []
    handlers.handle_check(at)

    assert heard(ear) == [("run", "run-1", "SUCCEEDED")]


def test_open_runs_come_before_unsent_notices(world: World, at: Deployment) -> None:
    world.ran(1)
    world.clock.advance(-10)
    start(world, run_id="run-2")

    assert [run.run_id for run in due(at, world.ledger.runs.unfinalized())] == ["run-2", "run-1"]


def test_an_unsent_notice_is_dropped_after_a_day(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    world.ran(1)
    ear.down = True
    for _ in range(3):
        handlers.handle_check(at)
        world.clock.advance(NOTIFY_WITHIN_S / 4)
    assert [run.run_id for run in world.ledger.runs.unfinalized()] == ["run-1"]

    world.clock.advance(NOTIFY_WITHIN_S)
    ear.down = False

    assert list(due(at, world.ledger.runs.unfinalized())) == []
    check(at, "run-1")
    assert ear.notices == []
    handlers.handle_check(at)
    assert list(world.ledger.runs.unfinalized()) == []


def test_an_unsent_notice_is_retried_ever_less_often(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    world.run(1)
    world.work()
    ear.down = True
    tried = []
    for minute in range(300):
        if list(handlers.handle_check(at)["runs"]):
            tried.append(minute)
        world.clock.advance(60.5)  # the schedule is not quite punctual
    assert tried[:5] == [0, 1, 2, 3, 4] and len(tried) < 20

    ear.down = False
    while not ear.notices:
        handlers.handle_check(at)
        world.clock.advance(60.5)
    assert world.clock.now_s() - (world.ledger.runs.get("run-1").ended_s or 0) < 600 * 60


def test_a_failed_check_is_announced_with_its_run(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    followed(world)
    world.work(lambda _: WRONG)
    check(at, "run-1")

    assert heard(ear) == [("run", "run-1", "FAILED")]
    assert ear.notices[0].document["check"] == {
        "run_id": "run-1-check-0",
        "state": "FAILED",
        "error": {"class": WRONG.error_class, "message": WRONG.message},
    }
    assert list(due(at, world.ledger.runs.unfinalized())) == []


def test_a_next_run_is_named_and_announced_itself(world: World, at: Deployment, ear: MemoryNotifier) -> None:
    start(world, check="")
    world.work()
    check(at, "run-1")
    world.clock.advance(100)
    check(at, "run-1-next-0")  # nothing was written, so there is nothing to work on

    assert heard(ear) == [("run", "run-1", "SUCCEEDED")]
    assert ear.notices[0].document["next_run_id"] == "run-1-next-0"
    check(at, "run-1-next-0")
    assert heard(ear)[1:] == [("run", "run-1-next-0", "FAILED")]


def test_only_unsent_notices_are_logged(capsys: pytest.CaptureFixture[str], world: World) -> None:
    log_unnotified(world.ran(1))
    assert capsys.readouterr().out == ""
