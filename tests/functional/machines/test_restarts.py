"""Executions that the end of the local stack aborts are started again at its next start."""

from pathlib import Path

import pytest

from sparklet.model import ExecutionState, RunState
from tests.functional.local.conftest import Lab, port_of
from tests.functional.machines.conftest import OPTIONS, Stage
from tests.waiting import deadline_s, eventually

pytestmark = [pytest.mark.nightly, pytest.mark.stack]
PATIENT = {**OPTIONS, "timeout_s": int(deadline_s())}  # longer, since three shards are held at once


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

    lab.gone(port)  # ends workers during their calls, and the executions
    (lab.shown / "held").unlink()

    with lab.attach(**PATIENT) as stack:
        stage = Stage(stack, lab.shown, stack.deployment())
        for name in (f"{named['run_id']}-g0", "nightly"):
            before = stage.execution_named(name)
            assert before is not None
            assert (before.state, before.error) == (ExecutionState.FAILED, "States.ServiceRestart")
            after = stage.execution_named(f"{name}-2")
            assert after is not None
            assert stage.ended(after.execution).state is ExecutionState.SUCCEEDED
        runs = list(stack.deployment().ledger.runs.list())
        assert [run.state for run in runs] == [RunState.SUCCEEDED] * 2  # there is no third run
        port = port_of(stack.info)
    lab.gone(port)

    with lab.attach(**PATIENT) as stack:
        stage = Stage(stack, lab.shown, stack.deployment())
        # An execution that succeeded or was restarted is not started again.
        assert stage.execution_named("nightly-3") is None
        assert stage.execution_named("nightly-2-2") is None
