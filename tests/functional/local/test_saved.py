"""The state of an ended local stack is read without a start, and commands print the same as before its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.cli import main
from sparklet.local.lock import is_locked
from sparklet.local.saved import SavedStack
from sparklet.local.stack import LocalStack
from sparklet.model import Failure, RunOptions, ShardResult, execution_name
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from tests.functional.local.conftest import Lab, port_of
from tests.waiting import eventually

pytestmark = pytest.mark.stack

RUN = "saved-1"
BROKEN = Failure("ValueError", "column 3 is bad", retryable=False)
COMMANDS = (
    ("status", RUN),
    ("status", RUN, "--shards"),
    ("status", RUN, "--object", "s3://{bucket}/in/1.csv"),
    ("explain", RUN),
    ("logs", RUN),
    ("logs", RUN, "1"),
    ("runs",),
    ("results", RUN),
    ("status", "open-1"),
    ("status", "nowhere"),
)


@pytest.fixture
def ended(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Lab, dict[tuple[str, ...], Any]]:
    """An ended stack with an ended and an open run, and the outputs that commands had while it was running."""
    script = tmp_path / "job.py"
    script.write_text("print()\n")
    with lab.attach(processing=False) as stack:
        deployment = stack.deployment()
        for name in ("1.csv", "2.csv", "3 ü.csv"):
            deployment.store.put(f"s3://{deployment.bucket}/in/{name}", b"x,y\n")
        for run_id in (RUN, "open-1"):
            enter(deployment, run_id, str(script))
        end(deployment)
        drive(stack)
        log = {"time": "2026-11-23T10:00:00Z", "level": "INFO", "message": "ended", "attempt": "a1", "run": RUN}
        (lab.state.log / "worker-1.log").write_text(json.dumps({**log, "shard": 1}) + "\nof the script\n")
        outputs: dict[tuple[str, ...], Any] = {
            command: output_of(lab, capsys, command, deployment.bucket) for command in COMMANDS
        }
    lab.gone(port_of(stack.info))
    return lab, {**outputs, ("bucket",): deployment.bucket}


def enter(deployment: Deployment, run_id: str, script: str) -> None:
    request = RunRequest(
        script,
        (f"s3://{deployment.bucket}/in/",),
        f"s3://{deployment.bucket}/out-{run_id}/",
        run_id,
        options=RunOptions(max_objects=1),
    )
    plan(deployment, new_run(deployment, request).run_id)


def end(deployment: Deployment) -> None:
    """End the run's shards: shard 1 fails, the others succeed with an answer and a file."""
    for number, record in enumerate(list(deployment.ledger.shards.list(RUN))):
        claim = deployment.ledger.attempts.claim(record.ref, f"a{number}", 100.0, 3, "worker-1.log")
        if number == 1:
            deployment.ledger.attempts.fail(RUN, 1, "a1", BROKEN)
            continue
        body = json.dumps({"shard": number, "answer": [number, "ü"]}).encode()
        deployment.store.put(deployment.run_uri(RUN, claim.record.answer_file), body)
        deployment.store.put(f"{deployment.ledger.runs.get(RUN).shard_output(number)}/part-0.csv", b"rows")
        deployment.ledger.attempts.succeed(RUN, number, f"a{number}", ShardResult(rows=number))
    assert check(deployment, RUN).run.state.ended


def drive(stack: LocalStack) -> None:
    """Start an execution of the state machine for the run, and wait until it has ended."""
    machine, name = stack.info.run_machine, execution_name(RUN, 0)
    stack.orchestrator.start(machine, name, {"run_id": RUN})
    found = stack.orchestrator.find(machine, name)
    if not (found and found.state.ended):
        stack.orchestrator.stop(stack.orchestrator.start(machine, name, {"run_id": RUN}), "it has driven enough")
    eventually(lambda: (found := stack.orchestrator.find(machine, name)) and found.state.ended, "it has ended")


def output_of(lab: Lab, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], bucket: str) -> tuple[int, str]:
    capsys.readouterr()
    words = [word.format(bucket=bucket) for word in command]
    code = main([*words, "--state-dir", str(lab.root), "--json"])
    return code, capsys.readouterr().out


def test_commands_on_an_ended_stack_print_the_same_as_before(
    ended: tuple[Lab, dict[tuple[str, ...], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    lab, before = ended

    for command in COMMANDS:
        assert output_of(lab, capsys, command, before["bucket",]) == before[command], command

    status = json.loads(before["status", RUN][1])
    assert status["execution"]["name"] == execution_name(RUN, 0) and status["shards"]["failed"] == 1
    assert not is_locked(lab.state.host_lock)


def test_no_saved_stack_is_found_while_one_runs_or_none_exists(lab: Lab) -> None:
    assert SavedStack.find(lab.state, print) is None
    lab.state.create()
    lab.state.last_file.write_text('{"deployed": {"bucket": "of another version"}, "request": {}}')
    assert SavedStack.find(lab.state, print) is None

    with lab.attach(processing=False):
        assert SavedStack.find(lab.state, print) is None
