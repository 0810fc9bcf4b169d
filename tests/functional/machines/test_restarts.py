"""What becomes of executions when the local stack ends under them, and of what they had called."""

from pathlib import Path

import pytest

from sparklet.model import ExecutionState, RunState
from tests.functional.local.conftest import Lab, port_of
from tests.functional.machines.conftest import OPTIONS, Stage
from tests.waiting import deadline_s, eventually

pytestmark = [pytest.mark.nightly, pytest.mark.stack]
PATIENT = {**OPTIONS, "timeout_s": int(deadline_s())}  # three workers are held at once


def test_an_aborted_execution_is_restarted_for_the_same_run(lab: Lab, tmp_path: Path) -> None:
    with lab.attach(**PATIENT) as stack:
        stage = Stage(stack, lab.shown, stack.deployment())
        (lab.shown / "held").touch()
        named = stage.request("inline", "held-1", "held-2")
        keyed = {key: value for key, value in stage.request("inline", "held-3").items() if key != "run_id"}
        stage.start(named, f"{named['run_id']}-g0")
        stage.start(keyed, "nightly")
        ledger = stack.deployment().ledger
        eventually(lambda: sum(ledger.shards.count(run.run_id).running for run in ledger.runs.list()) == 3)
        port = port_of(stack.info)

    lab.gone(port)  # workers in the middle of their calls, and threads that would have called them
    (lab.shown / "held").unlink()

    with lab.attach(**PATIENT) as stack:
        stage = Stage(stack, lab.shown, stack.deployment())
        for name in (f"{named['run_id']}-g0", "nightly"):
            before = stage.found(name)
            assert before is not None
            assert (before.state, before.error) == (ExecutionState.FAILED, "States.ServiceRestart")
            after = stage.found(f"{name}-2")
            assert after is not None
            assert stage.ended(after.execution).state is ExecutionState.SUCCEEDED
        runs = list(stack.deployment().ledger.runs.list())
        assert [run.state for run in runs] == [RunState.SUCCEEDED] * 2  # and no third one
        port = port_of(stack.info)
    lab.gone(port)

    with lab.attach(**PATIENT) as stack:
        stage = Stage(stack, lab.shown, stack.deployment())
        assert stage.found("nightly-3") is None  # what has ended well, or was started again, rests
        assert stage.found("nightly-2-2") is None
