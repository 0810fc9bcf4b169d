"""The steps that state machines call: they return the same keys each time, and raise errors a Retry can name."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from sparklet.errors import EventError, ObjectStoreError, OrchestrationError, PlanError, RunNotFoundError
from sparklet.model import MAX_INLINE, Counts, Dispatch, RunOptions, ShardResult
from sparklet.model.redaction import HIDDEN
from sparklet.ports.deployment import Deployment
from sparklet.runs import handlers
from sparklet.runs.dispatch import TOLERANCE_EXCEEDED
from tests.stand_ins.memory import MemoryNotifier
from tests.world import BROKEN, World

MAX_STATE_BYTES = 256 * 1024
RECORD = {
    "execution": "arn:aws:states:eu-west-1:123456789012:execution:Map:run-1-g0",
    "machine": "arn:aws:states:eu-west-1:123456789012:stateMachine:Map",
    "where": "Plan",
    "error": "PlanError",
    "cause": "the input is empty",
}


@pytest.fixture
def world() -> World:
    return World(dispatch=Dispatch.MAP)


# --- check ---


def test_a_check_reports_a_runs_status_until_it_has_ended(world: World) -> None:
    world.run(2)
    refs = world.handed_out(world.step("map"))
    owner, _ = world.claim_ref(refs[0])
    world.children(refs[1:])

    assert world.step("check") == {
        "run_id": "run-1",
        "state": "RUNNING",
        "ended": False,
        "wait_s": 1,
        "generation": 0,
        "counts": {"pending": 0, "running": 1, "succeeded": 1, "failed": 0},
        "next_run_id": "",
    }
    world.ledger.attempts.succeed("run-1", 0, owner, ShardResult())
    answer = world.step("check")
    assert (answer["state"], answer["ended"]) == ("SUCCEEDED", True)
    assert world.step("check") == answer


def test_the_wait_is_bounded_by_the_age_of_the_execution(world: World) -> None:
    world.run(100)
    world.clock.advance(86_400)
    started = "2023-11-15T22:03:20.000Z"  # 600 s before the clock's time
    assert world.step("check")["wait_s"] == 300
    assert world.step("check", started=started)["wait_s"] == 15
    with pytest.raises(EventError, match="started must be a time"):
        world.step("check", started="yesterday")


# --- map ---


def test_the_largest_inline_map_fits_into_a_state(world: World) -> None:
    run_id = "r" * 63
    world.put(MAX_INLINE)
    world.plan(run_id=run_id, options=RunOptions(max_objects=1))
    answer = world.step("map", run_id=run_id)
    assert len(answer["items"]) == MAX_INLINE
    assert len(json.dumps(answer)) < MAX_STATE_BYTES / 10


def test_a_run_dispatched_by_the_queue_gets_no_map(world: World) -> None:
    world.dispatch = Dispatch.QUEUE
    world.run(2)
    with pytest.raises(PlanError, match="its dispatch is queue"):
        world.step("map")


@pytest.mark.parametrize(
    ("options", "tolerated"),
    [
        ({}, 10),  # without a limit all shards
        ({"tolerated_failure_count": 3}, 3),
        ({"tolerated_failure_percentage": 59.9}, 5),
        ({"tolerated_failure_percentage": 90.0, "tolerated_failure_count": 4}, 4),
    ],
)
def test_a_map_has_the_number_of_tolerated_failures(world: World, options: dict[str, float], tolerated: int) -> None:
    world.run(10, **options)
    assert world.step("map")["tolerated_failures"] == tolerated


# --- give_up ---


def test_pending_shards_are_given_up_after_too_many_failures(world: World) -> None:
    world.run(5, tolerated_failure_count=1)
    refs = world.handed_out(world.step("map"))
    world.children(refs[:2], lambda _: BROKEN)
    owner, _ = world.claim_ref(refs[2])

    answer = world.step("give_up", reason="States.ExceedToleratedFailureThreshold")

    assert answer["counts"] == {"pending": 0, "running": 1, "succeeded": 0, "failed": 4} and not answer["ended"]
    assert {r.error_class for r in world.shards()[3:]} == {TOLERANCE_EXCEEDED}
    world.ledger.attempts.succeed("run-1", 2, owner, ShardResult())
    assert world.step("check")["state"] == "FAILED"
    assert world.step("give_up", reason="again")["state"] == "FAILED"


@pytest.mark.parametrize("options", [{}, {"tolerated_failure_count": 2}, {"tolerated_failure_percentage": 40.0}])
def test_nothing_is_given_up_within_the_tolerance(world: World, options: dict[str, float]) -> None:
    """Step Functions also counts children that were killed or aborted; the ledger's count decides."""
    world.run(5, **options)
    world.children(world.handed_out(world.step("map"))[:2], lambda _: BROKEN)
    assert world.step("give_up", reason="x")["counts"] == {"pending": 3, "running": 0, "succeeded": 0, "failed": 2}


# --- record ---


def test_a_failed_execution_is_recorded_and_its_run_goes_on(
    world: World, deployment: Deployment, notifier: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(1)

    answer = world.step("record", deployment, **RECORD, request={"script": "s3://x.py"})

    assert answer == {"run_id": "run-1", "recorded": "s3://sparklet/runs/run-1/executions/run-1-g0.json"}
    written = world.json("executions/run-1-g0.json")
    assert (written["where"], written["cause"]) == ("Plan", RECORD["cause"])
    assert written["request"] == {"script": "s3://x.py"}
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["level"], line["error"], line["subject"]) == ("ERROR", "PlanError", "run-1")
    (notice,) = notifier.notices
    assert (notice.kind, notice.state, notice.document["recorded"]) == ("execution", "FAILED", answer["recorded"])
    assert world.ledger.shards.count("run-1") == Counts(pending=1)


@pytest.mark.parametrize(
    ("found", "recorded"),
    [({"script": "s3://x.py"}, {"script": "s3://x.py"}), (OrchestrationError("It is gone"), "not known: It is gone")],
)
def test_a_record_has_the_executions_input_if_it_is_known(world: World, found: Any, recorded: Any) -> None:
    """The step looks the input up, since an input of 256 KB and an error are more than a state can hold."""
    world.run(1)
    input_of = Mock(side_effect=[found])

    world.step("record", replace(world.deployment, input_of=input_of), **RECORD)

    input_of.assert_called_once_with(RECORD["execution"])
    assert world.json("executions/run-1-g0.json")["request"] == recorded


def test_a_record_of_an_execution_shows_no_secret(
    world: World, deployment: Deployment, notifier: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(1)
    cause = '{"errorMessage": "{\\"password\\": \\"of-the-cause\\"}", "errorType": "PlanError"}'
    request = {"script": "s3://x.py", "params": {"db_token": "of-a-param"}, "args": ["--password", "of-an-arg"]}

    world.step("record", deployment, **{**RECORD, "cause": cause}, request=request)

    written = world.json("executions/run-1-g0.json")
    assert written["request"]["params"] == {"db_token": HIDDEN}
    (notice,) = notifier.notices
    assert "of-" not in json.dumps(written) + notice.to_json() + capsys.readouterr().out


def test_an_execution_that_failed_before_its_run_is_recorded(world: World) -> None:
    answer = world.step("record", run_id=None, **RECORD)
    assert answer == {"run_id": "", "recorded": "s3://sparklet/executions/run-1-g0.json"}


def test_a_failing_notifier_does_not_prevent_the_record(
    world: World, deployment: Deployment, notifier: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    notifier.down = True
    recorded = world.step("record", deployment, run_id="run-9", **RECORD)["recorded"]
    assert recorded.endswith("runs/run-9/executions/run-1-g0.json")
    assert "the notifier is down" in capsys.readouterr().out


def test_no_execution_name_leads_out_of_the_folder(world: World) -> None:
    for name in ("../../../x", "", "ü/%2e", "x" * 300):
        uri = world.step("record", **RECORD | {"execution": name})["recorded"]
        folder, _, file = uri.rpartition("/")
        assert folder == "s3://sparklet/runs/run-1/executions" and 5 < len(file) < 130 and not file.startswith(".json")


def test_a_record_keeps_the_cause_and_a_notice_shortens_it(
    world: World, deployment: Deployment, notifier: MemoryNotifier
) -> None:
    world.step("record", deployment, **RECORD | {"cause": "c" * 100_000})
    assert len(world.json("executions/run-1-g0.json")["cause"]) == 32_768
    assert len(notifier.notices[0].to_json()) < 10_000


# --- wrong events ---


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ([], "must be a JSON object, not a list"),
        ({}, "there is no step ''; there are check, map"),
        ({"step": "chekc"}, "there is no step 'chekc'"),
        ({"step": 3}, "step is a int; it must be a string"),
        ({"step": "check"}, "run_id is ''; it must be a run's id"),
        ({"step": "check", "run_id": "../etc"}, "must be a run's id"),
        ({"step": "record", "run_id": "run-1/../x"}, "must be a run's id"),
    ],
)
def test_a_wrong_event_is_refused_with_its_fault(
    world: World, monkeypatch: pytest.MonkeyPatch, event: Any, words: str
) -> None:
    monkeypatch.setattr(handlers, "this_deployment", lambda: world.deployment)
    with pytest.raises(EventError, match=words):
        handlers.step_handler(event, None)


def test_a_step_for_an_unknown_run_raises_run_not_found(world: World) -> None:
    for step in ("check", "map", "give_up"):
        with pytest.raises(RunNotFoundError):
            world.step(step)


def test_an_error_of_the_store_is_raised_and_changes_no_shard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    monkeypatch.setattr(world.store, "head", Mock(side_effect=ObjectStoreError("S3 does not answer")))
    with pytest.raises(ObjectStoreError):
        world.step("map")
    assert world.ledger.shards.count("run-1") == Counts(pending=1)
