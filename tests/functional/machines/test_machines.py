"""The real state machine over the real handlers: every way that a run can end, and every state that can fail."""

from dataclasses import replace

import pytest

from sparklet.model import ExecutionState, RunState
from sparklet.runs import checker
from sparklet.runs.dispatch import MESSAGE
from sparklet.runs.redrive import redrive
from tests.functional.machines.conftest import ABOVE_INLINE, WAYS, WORKERS, Stage
from tests.waiting import eventually

pytestmark = pytest.mark.stack

SUCCEEDED, FAILED = ExecutionState.SUCCEEDED, ExecutionState.FAILED


@pytest.mark.parametrize("mode", WAYS)
def test_a_run_that_the_machine_plans_and_drives_succeeds(stage: Stage, mode: str) -> None:
    request = stage.request(mode, "a", "b", "c")

    status = stage.run_through(request)

    run_id, shards = request["run_id"], ABOVE_INLINE if mode == "map" else 3
    assert (status.state, status.error) == (SUCCEEDED, "")
    assert stage.run(run_id).state is RunState.SUCCEEDED
    assert stage.by_state(run_id) == {"SUCCEEDED": shards}
    assert all(shard.attempts == 1 for shard in stage.deployment.ledger.shards.list(run_id))
    assert stage.hows() == {"loop": [], "map": ["distributed"], "inline": ["inline"]}[mode]
    assert max(map(int, (stage.shown / "at-once").read_text().split())) <= WORKERS
    assert stage.records(run_id) == []


@pytest.mark.parametrize("mode", WAYS)
def test_the_failure_tolerance_decides_a_runs_end(stage: Stage, mode: str) -> None:
    tolerant = stage.request(mode, "bad-1", "b", "c", tolerate=1)
    strict = stage.request(mode, "bad-1", "b", "c")

    fine, failed = stage.start(tolerant), stage.start(strict)

    assert stage.ended(fine).state is SUCCEEDED
    assert stage.run(tolerant["run_id"]).state is RunState.SUCCEEDED_WITH_FAILURES
    status = stage.ended(failed)
    assert (status.state, status.error) == (FAILED, "RunFailed")
    assert strict["run_id"] in status.cause
    assert stage.run(strict["run_id"]).state is RunState.FAILED
    assert stage.by_state(strict["run_id"])["FAILED"] == 1  # all others were tried: nothing stopped early
    assert stage.records(strict["run_id"]) == []  # it was the run that failed, not its execution


@pytest.mark.parametrize("mode", WAYS)
def test_a_cancelled_run_finishes_running_shards_only(stage: Stage, mode: str) -> None:
    (stage.shown / "held").touch()
    request = stage.request(mode, *(f"held-{number}" for number in range(4)))
    execution = stage.start(request)
    eventually((stage.shown / "began").exists, "a shard is in work")

    stage.deployment.ledger.runs.cancel(request["run_id"])
    if mode == "loop":
        eventually(lambda: not stage.by_state(request["run_id"]).get("PENDING"), "a check has seen it")
    (stage.shown / "held").unlink()

    status = stage.ended(execution)
    assert (status.state, status.error) == (FAILED, "RunCancelled")
    assert stage.run(request["run_id"]).state is RunState.CANCELLED
    assert not stage.by_state(request["run_id"]).keys() & {"PENDING", "RUNNING"}


def test_a_redriven_run_does_its_failed_shards_by_messages(stage: Stage) -> None:
    (stage.shown / "broken").touch()
    request = stage.request("inline", "broken-1", "broken-2", "good", max_attempts=1)
    assert stage.run_through(request).error == "RunFailed"
    (stage.shown / "broken").unlink()
    # What Step Functions' own redrive does, here with the same input: an ended run stays as it is.
    assert stage.run_through(request).error == "RunFailed"
    assert stage.run(request["run_id"]).generation == 0

    redrive(stage.deployment, request["run_id"])
    status = stage.run_through({"run_id": request["run_id"]})

    assert status.state is SUCCEEDED
    assert (stage.run(request["run_id"]).state, stage.run(request["run_id"]).generation) == (RunState.SUCCEEDED, 1)
    again = [shard for shard in stage.deployment.ledger.shards.list(request["run_id"]) if shard.generation == 1]
    assert len(again) == 2
    assert stage.run_through(request).state is SUCCEEDED  # and the first input again: nothing more is done
    assert all(shard.attempts == 1 for shard in stage.deployment.ledger.shards.list(request["run_id"]))
    assert stage.hows() == ["inline", "none", "none", "none"]


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_a_worker_that_is_killed_loses_no_shard(stage: Stage, mode: str) -> None:
    request = stage.request(mode, "killed", "b")

    status = stage.run_through(request)

    assert status.state is SUCCEEDED
    assert stage.run(request["run_id"]).state is RunState.SUCCEEDED
    attempts = sorted(shard.attempts for shard in stage.deployment.ledger.shards.list(request["run_id"]))
    assert attempts == [*([1] * (len(attempts) - 1)), 2]


def test_a_request_without_key_is_the_run_of_its_executions_name(stage: Stage) -> None:
    request = stage.request("inline", "a")
    del request["run_id"]

    first = stage.ended(stage.start(request, "named"))
    again = stage.ended(stage.start({**request, "idempotency_key": "named"}))

    assert first.output["run_id"] == again.output["run_id"]


def test_the_next_run_has_an_execution_of_its_own(stage: Stage) -> None:
    output = f"s3://{stage.deployment.bucket}/output/next/"
    request = stage.request("inline", "writes", next=stage.script(), next_output=output)

    status = stage.run_through(request)

    following = status.output["next_run_id"]
    assert (status.state, following) == (SUCCEEDED, f"{request['run_id']}-next-0")
    second = stage.found(f"{following}-g0")
    assert second is not None
    assert stage.ended(second.execution).state is SUCCEEDED
    assert stage.run(following).state is RunState.SUCCEEDED
    # A second execution of the first run finds that the next one was started.
    assert stage.run_through({"run_id": request["run_id"]}).state is SUCCEEDED


# --- failures of the machine itself ---


@pytest.mark.parametrize(
    ("change", "error"),
    [({"shard_sise": "1MiB"}, "EventError"), ({"inputs": ["s3://nowhere-at-all/x/"]}, "")],
)
def test_a_request_that_is_refused_is_recorded_with_its_reason(
    stage: Stage, change: dict[str, object], error: str
) -> None:
    request = stage.request("inline", "a", **change)

    execution = stage.start(request)
    status = stage.ended(execution)

    assert status.state is FAILED
    (record,) = [record for record in stage.records() if record["execution"] == execution]
    assert (record["where"], record["error"]) == ("Plan", status.error)
    assert record["request"] == request
    assert status.error == error or not error


@pytest.mark.parametrize(("step", "where"), [("plan", "Plan"), ("map", "Dispatch"), ("check", "Check")])
def test_a_failing_step_is_retried_and_a_hopeless_one_recorded(stage: Stage, step: str, where: str) -> None:
    told = stage.shown / f"fail-{step}"
    told.write_text("LedgerError 1")
    assert stage.run_through(stage.request("inline", "a")).state is SUCCEEDED

    told.write_text("SettingsError 1")
    request = stage.request("inline", "a")
    execution = stage.start(request)
    status = stage.ended(execution)

    assert (status.state, status.error) == (FAILED, "SettingsError")
    assert "was told to fail" in status.cause
    records = stage.records("" if step == "plan" else request["run_id"])
    (record,) = [each for each in records if each["execution"] == execution]
    assert (record["where"], record["error"], record["request"]) == (where, "SettingsError", request)
    # Started again with the run's id alone, it goes on where it was.
    again = {"run_id": request["run_id"]} if step != "plan" else request
    assert stage.run_through(again).state is SUCCEEDED


def test_a_failure_that_cannot_be_recorded_keeps_its_reason(stage: Stage) -> None:
    (stage.shown / "fail-check").write_text("SettingsError 1")
    (stage.shown / "fail-record").write_text("PlanError 1")

    status = stage.run_through(stage.request("loop", "a"))

    assert (status.state, status.error) == (FAILED, "SettingsError")


def test_a_step_that_gives_up_is_recorded_and_the_run_goes_on(stage: Stage) -> None:
    (stage.shown / "fail-give_up").write_text("SettingsError 1")
    request = stage.request("map", "bad-1", "bad-2", tolerate=1)

    status = stage.run_through(request)

    assert (status.state, status.error) == (FAILED, "SettingsError")
    assert [record["where"] for record in stage.records(request["run_id"])] == ["GiveUp"]
    assert stage.run_through({"run_id": request["run_id"]}).error == "RunFailed"


def test_what_a_map_cannot_read_is_recorded_and_has_messages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage.shown / "lose-index").touch()
    request = stage.request("map")

    status = stage.run_through(request)

    run_id = request["run_id"]
    assert (status.state, status.error) == (FAILED, "States.ItemReaderFailed")
    assert [record["where"] for record in stage.records(run_id)] == ["Distributed"]
    assert stage.by_state(run_id) == {"PENDING": ABOVE_INLINE}
    monkeypatch.setattr(checker, "MESSAGE", replace(MESSAGE, again_after_s=0.0))  # nobody waits a minute
    assert checker.check(stage.deployment, run_id).requeued == ABOVE_INLINE
    eventually(lambda: "PENDING" not in stage.by_state(run_id), "the queue has it", 40)
    assert stage.run_through({"run_id": run_id}).state is SUCCEEDED
    assert stage.hows() == ["distributed", "none"]
