"""The Lambda entry points, over ports in memory; a scheduled check that dies is completed by the next one."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, call

import pytest

from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import SqsTaskQueue
from sparklet.errors import LedgerError, RunNotFoundError, SettingsError
from sparklet.model import RunState
from sparklet.planning.new_run import new_run
from sparklet.runs import handlers
from sparklet.runs.checker import check
from sparklet.runs.dispatch import MESSAGE
from sparklet.runs.manifest import MAX_FINALIZED
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.conftest import refuse
from tests.world import BUCKET, Fault, KilledError, World

RUNTIME = str(Path(__file__).resolve().parents[3] / "runtime")


def queue_event(*bodies: str) -> dict[str, object]:
    records = [
        {"messageId": f"id-{n}", "receiptHandle": "r", "body": body, "eventSource": "aws:sqs"}
        for n, body in enumerate(bodies)
    ]
    return {"Records": records}


def test_only_dead_letters_that_raised_are_reported_as_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(3)
    refuse(monkeypatch, world.ledger.shards, "get", 1, LedgerError("the ledger does not answer"))

    first, second, third = (record.ref.to_body() for record in world.shards())
    answer = handlers.handle_dead_letters(world.deployment, queue_event(first, second, "garbage", third))

    assert answer == {"batchItemFailures": [{"itemIdentifier": "id-1"}]}
    assert len(world.keys(f"s3://{BUCKET}/dead-letters/")) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("disposition") for line in lines] == ["SENT_AGAIN", None, "KEPT", "SENT_AGAIN"]
    assert [line["level"] for line in lines] == ["INFO", "ERROR", "ERROR", "INFO"]
    assert "does not answer" in lines[1]["error"]


def test_every_open_run_is_checked(world: World) -> None:
    world.run(1)
    world.plan(run_id="run-2")
    world.plan(run_id="run-3")
    new_run(world.deployment, world.request(run_id="run-4"))
    world.work()
    check(world.deployment, "run-3")

    answer = handlers.handle_check(world.deployment)

    assert list(answer["runs"]) == ["run-2", "run-1", "run-4"]  # runs that are still being planned come last
    assert answer["runs"]["run-1"]["state"] == "SUCCEEDED"
    assert answer["runs"]["run-4"]["state"] == "PLANNING"
    json.dumps(answer)
    assert list(handlers.handle_check(world.deployment)["runs"]) == ["run-4"]


def test_a_failing_check_of_one_run_stops_no_other_and_is_raised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    world.plan(run_id="run-2")
    world.work()
    refuse(monkeypatch, world.ledger.shards, "glance", "run-2", RunNotFoundError("there is no run run-2"))

    with pytest.raises(RunNotFoundError):
        handlers.handle_check(world.deployment)

    assert world.ledger.runs.get("run-1").state is RunState.SUCCEEDED


def test_the_entry_points_use_the_deployed_ports(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    world.work()
    monkeypatch.setattr(handlers, "this_deployment", lambda: world.deployment)
    assert handlers.checker_handler({}, None)["runs"]["run-1"]["state"] == "SUCCEEDED"
    assert handlers.dlq_handler(queue_event(), None) == {"batchItemFailures": []}


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARKLET_LEDGER_TABLE", raising=False)
    with pytest.raises(SettingsError, match="SPARKLET_LEDGER_TABLE is not set"):
        handlers.checker_handler({}, None)


def test_the_settings_choose_the_deployed_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKLET_LEDGER_TABLE", "ledger")
    monkeypatch.setenv("SPARKLET_BUCKET", "bucket-1")
    monkeypatch.setenv("SPARKLET_QUEUE_URL", "http://queue")
    handlers.this_deployment.cache_clear()
    try:
        deployment = handlers.this_deployment()
        assert deployment is handlers.this_deployment()
    finally:
        handlers.this_deployment.cache_clear()
    assert deployment.run_uri("r", "x") == "s3://bucket-1/runs/r/x"
    assert (type(deployment.ledger), type(deployment.queue), type(deployment.store)) == (
        DynamoLedger,
        SqsTaskQueue,
        S3ObjectStore,
    )


def test_zip_functions_import_only_modules_of_lambdas_python() -> None:
    code = f"""if True:
        import json, sys
        sys.path.insert(0, {RUNTIME!r})
        before = set(sys.modules)
        import sparklet.runs.handlers
        print(json.dumps(sorted(set(sys.modules) - before)))
    """
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)

    imported = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "sparklet" in imported
    assert imported - set(sys.stdlib_module_names) <= {"sparklet", "boto3", "botocore"}


# --- the scheduled check ---


def unfinalized_ids(world: World) -> set[str]:
    return {run.run_id for run in world.ledger.runs.unfinalized()}


def plan_run(world: World, run_id: str) -> None:
    world.put(2)
    world.plan(run_id=run_id)


def test_many_ended_runs_are_finalized_over_several_checks(world: World) -> None:
    for number in range(MAX_FINALIZED + 3):
        plan_run(world, f"run-{number}")
    world.work()

    unfinalized_counts = []
    for _ in range(3):
        handlers.handle_check(world.deployment)
        unfinalized_counts.append(len(unfinalized_ids(world)))

    assert unfinalized_counts == [MAX_FINALIZED + 3, 3, 0]


@pytest.mark.parametrize("after_effect", [False, True])
def test_every_run_is_ended_announced_and_finalized_after_kills(after_effect: bool) -> None:
    """Four runs: open, with a lost message, ended without a notice, and ended with one. The check dies at each call."""
    for at_call in range(1, 400):
        world, notifier = World(), MemoryNotifier()
        deployment = replace(world.deployment, notifier=notifier)
        plan_run(world, "told")
        plan_run(world, "untold")
        world.work()
        handlers.handle_check(deployment)
        handlers.handle_check(world.deployment)
        plan_run(world, "open")
        plan_run(world, "lost")
        world.queue.entries.popitem()
        world.clock.advance(MESSAGE.again_after_s + 1)
        fault = Fault(at_call, after_effect)

        with suppress(KilledError):
            handlers.handle_check(fault.deployment(deployment))
        for _ in range(6):
            handlers.handle_check(deployment)
            world.work()
            world.clock.advance(MESSAGE.again_after_s + 1)

        assert unfinalized_ids(world) == set()
        assert {run.state for run in world.ledger.runs.list()} == {RunState.SUCCEEDED}
        assert {notice.document["id"] for notice in notifier.notices} == {"told", "untold", "open", "lost"}
        if fault.calls < at_call:
            assert at_call > 20
            return
    pytest.fail("the check makes more calls than were tried")


def test_the_shards_of_a_waiting_run_are_read_ever_less_often(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run behind another has many waiting shards and none RUNNING; its shards are not read every minute."""
    world.run(4)
    monkeypatch.setattr(world.ledger.shards, "list", read := Mock(side_effect=world.ledger.shards.list))
    for _ in range(6 * 60):
        world.check()
        world.clock.advance(60)

    assert read.mock_calls.count(call("run-1")) < 12
    assert len(world.bodies()) > 4  # messages were sent again for them, as before
