"""The checker resends lost shards and ends every run, by the strongly consistent count alone."""

from unittest.mock import Mock

import pytest

from sparklet.errors import ObjectForbiddenError, UnplannableError
from sparklet.ledger.rules import LEASE_S
from sparklet.model import ClaimStatus, Counts, RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.checker import PLANNER_SILENT_S
from sparklet.runs.dispatch import MESSAGE
from tests.unit.runs.conftest import once, refuse
from tests.unit.runs.test_cancel import half_planned
from tests.world import SOURCE, World, all_but

# --- lost shards ---


def test_a_check_changes_nothing_in_a_run_that_goes_well(world: World) -> None:
    world.run(3)
    world.take()
    report = world.check()
    assert (report.expired, report.requeued, report.abandoned, report.planned) == (0, 0, 0, False)
    assert report.counts == Counts(pending=2, running=1)
    assert report.run.state is RunState.RUNNING and report.summary is None


def test_a_stalled_runs_messages_are_resent_ever_less_often(world: World) -> None:
    world.run(2)
    world.queue.entries.clear()  # the messages are lost
    sent_at = []
    for _ in range(100):
        if world.check().requeued:
            sent_at.append(round(world.clock.now_s() - world.ledger.runs.get("run-1").created_s))
        world.clock.advance(30)

    assert len(sent_at) == 5  # after 60, then 120, 240, 480, 960 s more, give or take a step
    gaps = [later - earlier for earlier, later in zip([0, *sent_at], sent_at, strict=False)]
    assert all(60 * 2**n <= gap <= 60 * 2**n + 60 for n, gap in enumerate(gaps))
    assert world.work() == 2
    assert world.check().run.state is RunState.SUCCEEDED


def test_a_run_with_work_or_recent_change_is_not_stalled(world: World) -> None:
    world.run(3)
    world.clock.advance(MESSAGE.again_after_s + 1)
    owner, _ = world.take()
    assert world.check().requeued == 0
    world.ledger.attempts.succeed("run-1", 0, owner, ShardResult())
    assert world.check().requeued == 0  # that was just now
    world.clock.advance(MESSAGE.again_after_s + 1)
    assert world.check().requeued == 2


# --- planning, the time limit, the end ---


def test_shards_still_to_be_dispatched_are_not_requeued(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(world.queue, "send", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.run(2)
    world.clock.advance(MESSAGE.again_after_s + 1)
    assert (world.check().requeued, len(world.queue)) == (0, 0)
    world.clock.advance(PLANNER_SILENT_S)
    report = world.check()
    assert report.planned and len(world.queue) == 2


def test_an_unfinishable_plan_fails_the_run_at_its_time_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    half_planned(world, time_limit_s=3600.0)
    world.work()
    refuse(monkeypatch, world.store, "list", SOURCE, ObjectForbiddenError("it may not be listed"))
    world.clock.advance(PLANNER_SILENT_S + 1)
    with pytest.raises(ObjectForbiddenError):
        world.check()
    world.clock.advance(3600)

    assert world.check().run.state is RunState.FAILED
    assert world.json("manifest.json")["run"]["counts"]["succeeded"] == 2


def test_a_table_folder_found_while_planning_fails_the_run(world: World) -> None:
    for name in ("1.csv", "2.csv", f"t/_delta_log/{0:020d}.json", "t/a.parquet"):
        world.store.put(SOURCE + name, b"data")
    # Nothing asks to read the input to its end before it is planned.
    options = RunOptions(limit=0, max_objects=1, archived="skip", missing="skip", too_large="fail")
    new_run(world.deployment, world.request(options=options))
    with pytest.raises(UnplannableError):
        plan(world.deployment, "run-1", part_shards=1)
    world.clock.advance(PLANNER_SILENT_S + 1)
    with pytest.raises(UnplannableError):
        world.check()
    world.work()

    assert world.check().run.state is RunState.FAILED
    assert world.json("manifest.json")["run"]["counts"]["succeeded"] == 1


def test_at_the_time_limit_pending_shards_fail_and_running_go_on(world: World) -> None:
    world.run(3, time_limit_s=1000.0)
    world.clock.advance(990)
    owner, _ = world.take()
    world.clock.advance(20)

    report = world.check()

    assert report.abandoned == 2 and report.run.state is RunState.RUNNING
    world.ledger.attempts.succeed("run-1", 0, owner, ShardResult())
    report = world.check()
    assert report.run.state is RunState.FAILED
    assert report.counts == Counts(succeeded=1, failed=2)
    assert world.shards()[1].error_class == "RunTimeLimit"


@pytest.mark.parametrize(
    ("options", "failed", "state"),
    [
        ({}, (), RunState.SUCCEEDED),
        ({}, (3,), RunState.FAILED),
        ({"tolerated_failure_count": 1}, (3,), RunState.SUCCEEDED_WITH_FAILURES),
        ({"tolerated_failure_count": 1}, (3, 4), RunState.FAILED),
        ({"tolerated_failure_percentage": 20.0}, (3, 4), RunState.SUCCEEDED_WITH_FAILURES),
        ({"tolerated_failure_percentage": 19.9}, (3, 4), RunState.FAILED),
        ({"tolerated_failure_percentage": 50.0, "tolerated_failure_count": 1}, (3, 4), RunState.FAILED),
        ({"tolerated_failure_percentage": 5.0, "tolerated_failure_count": 5}, (3,), RunState.FAILED),
    ],
)
def test_a_run_ends_by_its_failure_tolerance(
    world: World, options: dict[str, float], failed: tuple[int, ...], state: RunState
) -> None:
    report = world.ran(10, all_but(*failed), **options)

    assert report.run.state is state and report.run.ended_s == world.clock.now_s()
    assert report.summary is not None
    assert report.summary.counts == report.counts == Counts(succeeded=10 - len(failed), failed=len(failed))


def test_counts_of_a_lagging_index_do_not_end_a_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(2)
    monkeypatch.setattr(world.ledger.shards, "glance", lambda run_id: Counts(succeeded=2))
    assert world.check().run.state is RunState.RUNNING


def test_shards_that_are_not_in_the_ledger_yet_hold_the_run_open(world: World) -> None:
    world.run(2)
    world.work()
    world.ledger.forget("run-1", 1)
    assert world.check().run.state is RunState.RUNNING


def test_a_run_ends_once_and_a_lost_manifest_is_rewritten(world: World) -> None:
    ended = world.ran(2).run
    body = world.store.get(world.deployment.run_uri("run-1", "manifest.json"))
    world.clock.advance(100)

    again = world.check()

    assert again.run == ended and again.summary is None and again.counts == Counts(succeeded=2)
    world.store.delete(world.deployment.run_uri("run-1", "manifest.json"))
    assert world.check().summary is not None
    assert world.store.get(world.deployment.run_uri("run-1", "manifest.json")) == body


def test_a_redrive_that_comes_while_the_run_is_ended_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(2)
    world.work(all_but(1))

    def redriven_and_done() -> None:
        world.ledger.runs.start_generation("run-1", 1, world.ledger.runs.get("run-1").scripts[0])
        record = world.ledger.attempts.redrive("run-1", 1, 1)
        assert record is not None
        world.queue.send([record.ref.to_body()])
        world.work_and_check()

    once(monkeypatch, world.ledger.runs, "finish", before=redriven_and_done)

    report = world.check()

    assert (report.run.state, report.run.generation) == (RunState.SUCCEEDED, 1)
    assert world.json("manifest.json")["run"]["state"] == "SUCCEEDED"
    assert world.keys(world.deployment.run_uri("run-1", "FAILED_")) == []


# --- how soon a killed worker is noticed, whatever the queue's visibility timeout is ---

CHECKED_EVERY_S = 60  # on AWS: the template's schedule
TARGET_S = 90
START_S = 10  # of the next invocation, cold


@pytest.mark.parametrize("killed_after_s", [0.0, 1.5, 7.9, 8.1, 100.0])
@pytest.mark.parametrize("phase_s", [0, 1, 15, 17, 30, 59])
def test_after_a_kill_the_next_attempt_begins_within_90_s(killed_after_s: float, phase_s: int) -> None:
    world = World()
    world.run(1)
    message = world.receive()
    assert message is not None  # the killed worker cannot give the message back, so the message stays invisible
    attempt, claim = "killed", world.ledger.attempts.claim(world.shards()[0].ref, "killed", LEASE_S, 3)
    for _ in range(int(killed_after_s // (LEASE_S / 2))):
        world.clock.advance(LEASE_S / 2)
        world.ledger.attempts.renew("run-1", 0, attempt, LEASE_S)
    world.clock.advance(killed_after_s % (LEASE_S / 2))
    killed_s = world.clock.now_s()

    world.clock.advance(phase_s)
    while (again := world.receive()) is None:
        world.check()
        if not len(world.bodies()) > 1:
            world.clock.advance(CHECKED_EVERY_S)

    assert world.clock.now_s() - killed_s + START_S <= TARGET_S
    assert world.claim(again)[1].status is ClaimStatus.GRANTED
    assert claim.record.attempts + 1 == world.shards()[0].attempts
