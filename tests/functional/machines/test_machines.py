"""The real state machine with the real handlers: every end that a run can have, and every state that can fail."""

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
def test_the_machine_plans_and_drives_a_run_to_success(stage: Stage, mode: str) -> None:
    request = stage.request(mode, "a", "b", "c")

    status = stage.run_through(request)

    run_id, shards = request["run_id"], ABOVE_INLINE if mode == "map" else 3
    assert (status.state, status.error) == (SUCCEEDED, "")
    assert stage.run(run_id).state is RunState.SUCCEEDED
    assert stage.by_state(run_id) == {"SUCCEEDED": shards}
    assert all(shard.attempts == 1 for shard in stage.deployment.ledger.shards.list(run_id))
    assert stage.map_kinds() == {"loop": [], "map": ["distributed"], "inline": ["inline"]}[mode]
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
    assert stage.by_state(strict["run_id"])["FAILED"] == 1  # all others were tried: the Map did not stop early
    assert stage.records(strict["run_id"]) == []  # the run failed, but its execution worked


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


def test_a_redriven_runs_failed_shards_are_sent_as_messages(stage: Stage) -> None:
    (stage.shown / "broken").touch()
    request = stage.request("inline", "broken-1", "broken-2", "good", max_attempts=1)
    assert stage.run_through(request).error == "RunFailed"
    (stage.shown / "broken").unlink()
    # Step Functions' own redrive starts the machine with the same input: an ended run is not changed by that.
    assert stage.run_through(request).error == "RunFailed"
    assert stage.run(request["run_id"]).generation == 0

    redrive(stage.deployment, request["run_id"])
    status = stage.run_through({"run_id": request["run_id"]})

    assert status.state is SUCCEEDED
    assert (stage.run(request["run_id"]).state, stage.run(request["run_id"]).generation) == (RunState.SUCCEEDED, 1)
    again = [shard for shard in stage.deployment.ledger.shards.list(request["run_id"]) if shard.generation == 1]
    assert len(again) == 2
    assert stage.run_through(request).state is SUCCEEDED  # with the first input again: nothing more is done
    assert all(shard.attempts == 1 for shard in stage.deployment.ledger.shards.list(request["run_id"]))
    assert stage.map_kinds() == ["inline", "none", "none", "none"]


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_a_worker_that_is_killed_loses_no_shard(stage: Stage, mode: str) -> None:
    request = stage.request(mode, "killed", "b")

    status = stage.run_through(request)

    assert status.state is SUCCEEDED
    assert stage.run(request["run_id"]).state is RunState.SUCCEEDED
    attempts = sorted(shard.attempts for shard in stage.deployment.ledger.shards.list(request["run_id"]))
    assert attempts == [*([1] * (len(attempts) - 1)), 2]


def test_a_request_without_run_id_is_keyed_by_its_execution(stage: Stage) -> None:
    request = stage.request("inline", "a")
    del request["run_id"]

    first = stage.ended(stage.start(request, "named"))
    again = stage.ended(stage.start({**request, "idempotency_key": "named"}))

    assert first.output["run_id"] == again.output["run_id"]


def test_the_next_run_has_an_execution_of_its_own(stage: Stage) -> None:
    output = f"s3://{stage.deployment.bucket}/output/next/"
    request = stage.request("inline", "writes", next=stage.script(), next_output=output)

    status = stage.run_through(request)

    next_run_id = status.output["next_run_id"]
    assert (status.state, next_run_id) == (SUCCEEDED, f"{request['run_id']}-next-0")
    second = stage.execution_named(f"{next_run_id}-g0")
    assert second is not None
    assert stage.ended(second.execution).state is SUCCEEDED
    assert stage.run(next_run_id).state is RunState.SUCCEEDED
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
def test_a_retryable_error_is_retried_and_another_is_recorded(stage: Stage, step: str, where: str) -> None:
    order = stage.shown / f"fail-{step}"
    order.write_text("LedgerError 1")
    assert stage.run_through(stage.request("inline", "a")).state is SUCCEEDED

    order.write_text("SettingsError 1")
    request = stage.request("inline", "a")
    execution = stage.start(request)
    status = stage.ended(execution)

    assert (status.state, status.error) == (FAILED, "SettingsError")
    assert "was told to fail" in status.cause
    records = stage.records("" if step == "plan" else request["run_id"])
    (record,) = [each for each in records if each["execution"] == execution]
    assert (record["where"], record["error"], record["request"]) == (where, "SettingsError", request)
    # An execution with the run's id alone continues the run.
    again = {"run_id": request["run_id"]} if step != "plan" else request
    assert stage.run_through(again).state is SUCCEEDED


def test_a_failure_that_cannot_be_recorded_keeps_its_reason(stage: Stage) -> None:
    (stage.shown / "fail-check").write_text("SettingsError 1")
    (stage.shown / "fail-record").write_text("PlanError 1")

    status = stage.run_through(stage.request("loop", "a"))

    assert (status.state, status.error) == (FAILED, "SettingsError")


def test_a_failed_give_up_is_recorded_and_the_run_can_go_on(stage: Stage) -> None:
    (stage.shown / "fail-give_up").write_text("SettingsError 1")
    request = stage.request("map", "bad-1", "bad-2", tolerate=1)

    status = stage.run_through(request)

    assert (status.state, status.error) == (FAILED, "SettingsError")
    assert [record["where"] for record in stage.records(request["run_id"])] == ["GiveUp"]
    assert stage.run_through({"run_id": request["run_id"]}).error == "RunFailed"


def test_shards_of_an_unreadable_index_get_messages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage.shown / "lose-index").touch()
    request = stage.request("map")

    status = stage.run_through(request)

    run_id = request["run_id"]
    assert (status.state, status.error) == (FAILED, "States.ItemReaderFailed")
    assert [record["where"] for record in stage.records(run_id)] == ["Distributed"]
    assert stage.by_state(run_id) == {"PENDING": ABOVE_INLINE}
    monkeypatch.setattr(checker, "MESSAGE", replace(MESSAGE, again_after_s=0.0))  # instead of a minute
    assert checker.check(stage.deployment, run_id).requeued == ABOVE_INLINE
    eventually(lambda: "PENDING" not in stage.by_state(run_id), "the queue has it", 40)
    assert stage.run_through({"run_id": run_id}).state is SUCCEEDED
    assert stage.map_kinds() == ["distributed", "none"]
