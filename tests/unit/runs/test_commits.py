"""Commits to tables: the writes that shards declare are committed once, and the run ends as its commit does."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from sparklet.app.clean import clean, folders_of, named_run
from sparklet.errors import NothingNewError, PlanError
from sparklet.model import Dispatch, RunKind, RunOptions, RunState, ShardResult, ShardState
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.phases import task_status
from sparklet.runs.redrive import redrive
from sparklet.spark.runner import ScriptResult
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.one_table import RUN, Trial

BROKEN = ScriptResult(1, cause_class="ValueError", cause="bad")


def failing(*shards: int) -> Any:
    return lambda shard: BROKEN if shard in shards else None


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_a_run_waits_for_its_commit_and_ends_well(trial: Trial) -> None:
    trial.enter(3)
    trial.check_all()
    trial.work()
    trial.check_all()

    waiting = trial.run_now
    assert waiting.state is RunState.RUNNING and trial.table.commits == {}
    assert trial.go_on().state is RunState.SUCCEEDED

    assert trial.table.commits == {f"{waiting.identity}/commit-0": trial.winners()} and len(trial.winners()) == 3
    run = trial.world.ledger.runs.get(f"{RUN}-commit-0")
    assert (run.state, run.parent, run.params, run.shard_count) == (RunState.SUCCEEDED, RUN, {"commits_made": []}, 1)
    assert trial.world.json("manifest.json")["run"]["commit"]["state"] == "SUCCEEDED"


def test_a_run_without_a_table_lists_declared_writes_once(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.world.run(2)
    trial.world.work()
    monkeypatch.setattr(trial.world.store, "list", listing := Mock(side_effect=trial.world.store.list))
    trial.check_all()

    assert trial.run_now.state is RunState.SUCCEEDED
    assert {run.run_id for run in trial.world.ledger.runs.list()} == {RUN}
    listed = (each.args[0] for each in listing.mock_calls)
    assert [uri for uri in listed if "writes" in uri or "_commit" in uri] == [
        trial.world.deployment.run_uri(RUN, "writes/")
    ]


def test_a_redrive_commits_the_rows_of_shards_that_had_failed(trial: Trial) -> None:
    trial.fails = failing(1)
    run = trial.enter(3, tolerated_failure_count=1)
    assert trial.go_on().state is RunState.SUCCEEDED_WITH_FAILURES
    first = trial.winners()

    trial.fails = failing()
    redrive(trial.deployment, RUN)
    assert trial.go_on().state is RunState.SUCCEEDED

    assert trial.table.commits == {
        f"{run.identity}/commit-0": first,
        f"{run.identity}/commit-1": trial.winners() - first,
    }
    assert trial.world.ledger.runs.get(f"{RUN}-commit-1").params == {"commits_made": [0]}


def test_a_failed_commit_fails_the_run_until_a_redrive_succeeds(trial: Trial) -> None:
    trial.fails = failing(-1)
    run = trial.enter(2)

    assert trial.go_on().state is RunState.FAILED

    found = task_status(trial.deployment, trial.run_now)[RunKind.COMMIT]
    assert (found.error_class, found.state) == ("ValueError", RunState.FAILED)
    assert trial.world.json("manifest.json")["run"]["commit"]["error"]["class"] == "ValueError"
    assert trial.table.commits == {} and len(trial.winners()) == 2

    scripts = trial.scripts
    trial.fails = failing()
    redriven = redrive(trial.deployment, RUN)

    assert redriven.shards == 0 and trial.go_on().state is RunState.SUCCEEDED
    assert trial.table.commits == {f"{run.identity}/commit-0": trial.winners()}
    assert trial.scripts == scripts and trial.commit_sets() == [trial.winners(), frozenset()]


@pytest.mark.parametrize(("every", "commits"), [("2", 2), ("1", 2), ("1s", 2), ("1h", 1), ("5", 1), ("", 1)])
def test_commit_every_sets_the_number_of_commits(trial: Trial, every: str, commits: int) -> None:
    """At most two commits, since the first commit run's message comes behind the messages of all shards."""
    trial.at_once = 1
    trial.enter(5, commit_every=every)

    assert trial.go_on().state is RunState.SUCCEEDED

    assert len(trial.table.commits) == commits and trial.table.rows == trial.winners()


def test_untolerated_failures_stop_early_commits(trial: Trial) -> None:
    trial.fails = lambda shard: replace(BROKEN, cause_class="SyntaxError") if shard == 0 else None
    trial.enter(3, commit_every="1")

    assert trial.go_on().state is RunState.FAILED and trial.table.commits == {}


def test_cleaning_a_run_and_its_commit_run_removes_all_files(trial: Trial) -> None:
    trial.enter(2)
    trial.go_on()

    clean(trial.deployment, named_run(trial.deployment, RUN), folders_of(trial.deployment, RUN))
    clean(
        trial.deployment,
        named_run(trial.deployment, f"{RUN}-commit-0"),
        folders_of(trial.deployment, f"{RUN}-commit-0"),
    )

    assert trial.world.keys(trial.deployment.run_uri(RUN)) == [] and len(trial.table.rows) == 2


def test_a_commit_runs_end_is_notified_with_its_parents(trial: Trial, notifier: MemoryNotifier) -> None:
    trial.deployment = replace(trial.deployment, notifier=notifier)
    trial.enter(1)
    trial.go_on()

    (notice,) = notifier.notices
    assert notice.document["id"] == RUN
    assert notice.document["commit"] == {"run_id": f"{RUN}-commit-0", "state": "SUCCEEDED", "error": None}


def test_only_declared_shards_are_in_a_commit(trial: Trial) -> None:
    trial.enter(2)
    trial.check_all()
    messages = list(trial.world.queue.receive(10))
    attempt, claim = trial.world.claim(messages[0])  # a shard whose script writes to no table
    trial.world.ledger.attempts.succeed(RUN, claim.record.number, attempt, ShardResult(rows=1))
    trial.world.queue.delete(messages[0].receipt)

    assert trial.go_on().state is RunState.SUCCEEDED
    assert {shard for shard, _ in trial.table.rows} == {1}
    assert trial.world.ledger.shards.get(RUN, 0).state is ShardState.SUCCEEDED


# --- shards that are redriven ---


def test_a_shard_that_has_appended_rows_is_not_redriven(trial: Trial) -> None:
    trial.enter(2)
    trial.go_on()
    with pytest.raises(PlanError, match=r"shard 1 has appended to delta:s3://lake/t, which would have its rows twice"):
        redrive(trial.deployment, RUN, [1])
    assert trial.run_now.generation == 0


def test_a_commit_after_a_redrive_has_the_new_winners_rows(trial: Trial) -> None:
    trial.fails = failing(1)
    trial.enter(2)
    trial.go_on()
    [(_, before)] = trial.winners()
    trial.fails = failing()

    assert redrive(trial.deployment, RUN, [0, 1]).shards == 2
    assert trial.go_on().state is RunState.SUCCEEDED

    assert trial.table.rows == trial.winners() and before not in {attempt for _, attempt in trial.table.rows}


# --- the inputs of a later incremental run ---


def nightly(trial: Trial, run_id: str) -> list[int]:
    """Plan another incremental run of the same name. Return the numbers of the inputs that it takes."""
    options = RunOptions(max_objects=1, max_attempts=2, incremental=True)
    trial.world.plan(run_id=run_id, name="nightly", options=options, output_uri=f"s3://data/{run_id}/")
    return [int(uri.removesuffix(".csv")[-5:]) for uri in trial.world.taken(run_id)]


def test_a_later_run_plans_inputs_again_that_were_not_committed(trial: Trial) -> None:
    trial.fails = failing(1)
    trial.world.put(3)
    assert nightly(trial, RUN) == [0, 1, 2]
    assert trial.go_on().state is RunState.FAILED  # two shards have SUCCEEDED, and are in no table

    assert nightly(trial, "run-2") == [0, 1, 2]
    with pytest.raises(PlanError, match="the later run run-2 plans again what it has not done"):
        redrive(trial.deployment, RUN, [0])  # it has SUCCEEDED


@pytest.mark.parametrize("is_committed", [True, False])
def test_inputs_count_as_done_only_if_committed_before_a_redrive(trial: Trial, is_committed: bool) -> None:
    trial.table.upserts = True
    trial.fails = failing() if is_committed else failing(1)
    trial.world.put(2)
    nightly(trial, RUN)
    trial.go_on()
    trial.fails = failing(0, 1)
    redrive(trial.deployment, RUN, [0, 1] if is_committed else [0])
    assert trial.go_on().state is RunState.FAILED

    if is_committed:
        with pytest.raises(NothingNewError):
            nightly(trial, "run-2")
    else:
        assert nightly(trial, "run-2") == [0, 1]


def test_a_later_run_does_not_plan_committed_inputs_again(trial: Trial) -> None:
    trial.world.put(3)
    nightly(trial, RUN)
    trial.go_on()
    trial.world.put(4)

    assert nightly(trial, "run-2") == [3]


def test_a_commit_with_an_unknown_result_stops_the_next_run(trial: Trial) -> None:
    """The commit run may have committed before it failed: another run could double its rows, or lose them."""
    trial.fails = failing(-1)
    trial.world.put(3)
    nightly(trial, RUN)
    assert trial.go_on().state is RunState.FAILED

    with pytest.raises(PlanError, match="sparklet redrive run-1"):
        nightly(trial, "run-2")

    trial.fails = failing()
    redrive(trial.deployment, RUN)
    assert trial.go_on().state is RunState.SUCCEEDED and len(trial.table.rows) == 3
    with pytest.raises(NothingNewError):
        nightly(trial, "run-3")


def test_no_commit_begins_for_a_run_cancelled_meanwhile(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a checker that sleeps, WHEN the run is cancelled and the next one plans its rows, THEN it commits none."""
    trial.world.put(2)
    nightly(trial, RUN)
    trial.work()
    put, planned = trial.world.store.put, list[int]()

    def sleeping(uri: str, body: bytes, create_only: bool = False) -> str:
        if "_commit-" in uri and not planned:
            cancel(trial.world.deployment, RUN)
            check(trial.world.deployment, RUN)
            planned.extend(nightly(trial, "run-2"))
        return put(uri, body, create_only)

    monkeypatch.setattr(trial.world.store, "put", sleeping)
    check(trial.deployment, RUN)

    assert trial.run_now.state is RunState.CANCELLED and planned == [0, 1]
    assert trial.deployment.known_run(f"{RUN}-commit-0") is None and trial.table.commits == {}


def test_the_commit_of_a_map_run_is_dispatched_by_the_queue(trial: Trial) -> None:
    trial.world.dispatch = Dispatch.MAP
    trial.enter(2)
    refs = trial.world.handed_out(trial.world.step("map", trial.deployment))
    trial.world.queue.send([ref.to_body() for ref in refs])  # its children, each once
    number, ended = 0, False
    while not ended and number < 10:
        trial.work()
        trial.world.clock.advance(1000)
        number, ended = number + 1, trial.world.step("check", trial.deployment)["ended"]

    assert ended and trial.run_now.state is RunState.SUCCEEDED
    assert trial.table.rows == trial.winners() and len(trial.table.commits) == 1


def test_shards_are_not_recounted_while_a_run_commits(trial: Trial) -> None:
    trial.enter(1)
    trial.work()
    trial.check_all()
    before = trial.seam.names.count("count")
    trial.world.queue.entries.clear()

    check(trial.deployment, RUN)

    assert trial.run_now.state is RunState.RUNNING and trial.seam.names.count("count") == before


def test_a_failed_run_does_not_wait_for_an_early_commit(trial: Trial) -> None:
    trial.at_once, trial.fails = 1, failing(2)
    trial.enter(3, commit_every="1")
    while trial.world.ledger.shards.count(RUN).open:
        trial.check_all()
        trial.work()
        trial.world.clock.advance(60)

    check(trial.world.deployment, RUN)

    assert trial.run_now.state is RunState.FAILED
