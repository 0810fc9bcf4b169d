"""What every orchestrator promises: one execution per name, its outcome with the cause, and repeatable stops."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import MAX_INPUT_BYTES, StepFunctionsOrchestrator
from sparklet.errors import ExecutionExistsError, OrchestrationError
from sparklet.model import ExecutionState, ExecutionStatus
from sparklet.ports import Orchestrator
from tests.contract.conftest import ON_STACK
from tests.stand_ins.memory import MemoryOrchestrator
from tests.waiting import eventually

Stage = tuple[Orchestrator, Mapping[str, str]]
"""An orchestrator, and the names that it has for the machines ``repeat``, ``refuse`` and ``wait``."""


class TooMuchError(Exception):
    """The error of the machine ``refuse``."""


def _refuse(input_: Any) -> Any:
    raise TooMuchError(f"{input_['n']} is too much")


def _in_memory() -> Stage:
    machines = {"repeat": lambda input_: input_, "refuse": _refuse, "wait": None}
    return MemoryOrchestrator(machines), {name: name for name in machines}


def _deployed(clients: AwsClients) -> Stage:
    states = {
        "repeat": {"Type": "Succeed"},
        "refuse": {"Type": "Fail", "Error": "TooMuchError", "Cause": "3 is too much"},
        "wait": {"Type": "Wait", "Seconds": 3600, "End": True},
    }
    arns = {
        name: clients.states.create_state_machine(
            name=f"contract-{name}",
            roleArn="arn:aws:iam::000000000000:role/any",
            definition=json.dumps({"StartAt": "Only", "States": {"Only": state}}),
        )["stateMachineArn"]
        for name, state in states.items()
    }
    return StepFunctionsOrchestrator(clients), arns


@pytest.fixture(scope="module", params=["memory", pytest.param("ministack", marks=ON_STACK)])
def stage(request: pytest.FixtureRequest) -> Stage:
    return _in_memory() if request.param == "memory" else _deployed(request.getfixturevalue("ministack_clients"))


def ended(orchestrator: Orchestrator, execution: str) -> ExecutionStatus:
    eventually(lambda: orchestrator.status(execution).state.ended)
    return orchestrator.status(execution)


def test_an_execution_reports_its_input_and_its_outcome(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    before_s = time.time()

    status = ended(orchestrator, orchestrator.start(machines["repeat"], run_id, {"run_id": "größe", "n": [1.5, None]}))

    assert (status.state, status.error) == (ExecutionState.SUCCEEDED, "")
    assert status.input == status.output == {"run_id": "größe", "n": [1.5, None]}
    assert before_s - 2 < status.started_s <= status.ended_s + 0.001 < time.time() + 2


def test_a_failed_execution_reports_its_cause(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage

    status = ended(orchestrator, orchestrator.start(machines["refuse"], run_id, {"n": 3}))

    assert (status.state, status.error, status.cause) == (ExecutionState.FAILED, "TooMuchError", "3 is too much")
    assert status.output is None


def test_one_name_and_input_is_one_execution(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    first = orchestrator.start(machines["wait"], run_id, {"b": 1, "a": 2})

    assert orchestrator.start(machines["wait"], run_id, {"a": 2, "b": 1}) == first
    assert orchestrator.start(machines["wait"], f"{run_id}-2", {"a": 2, "b": 1}) != first
    with pytest.raises(ExecutionExistsError, match="another input"):
        orchestrator.start(machines["wait"], run_id, {"a": 3})


def test_the_name_of_an_execution_that_has_ended_is_taken(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    ended(orchestrator, orchestrator.start(machines["repeat"], run_id, {}))

    with pytest.raises(ExecutionExistsError, match="SUCCEEDED already: choose another name"):
        orchestrator.start(machines["repeat"], run_id, {})


def test_an_execution_can_be_stopped_more_than_once(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    execution = orchestrator.start(machines["wait"], run_id, {})
    assert orchestrator.status(execution).state is ExecutionState.RUNNING

    orchestrator.stop(execution, "enough")
    orchestrator.stop(execution, "again")

    status = orchestrator.status(execution)
    assert (status.state, status.cause) == (ExecutionState.ABORTED, "enough")
    done = orchestrator.start(machines["repeat"], run_id, {})
    ended(orchestrator, done)
    orchestrator.stop(done)
    assert orchestrator.status(done).state is ExecutionState.SUCCEEDED


def test_a_missing_machine_or_execution_is_named(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    nowhere = machines["repeat"].replace("repeat", "nowhere")

    with pytest.raises(OrchestrationError, match="nowhere"):
        orchestrator.start(nowhere, run_id, {})
    for call in (orchestrator.status, orchestrator.stop):
        with pytest.raises(OrchestrationError, match="nothing-of-that-name"):
            call(f"{machines['repeat'].replace(':stateMachine:', ':execution:')}:nothing-of-that-name")


def test_an_execution_is_found_again_by_its_name(stage: Stage, run_id: str) -> None:
    orchestrator, machines = stage
    execution = orchestrator.start(machines["wait"], run_id, {"a": 1})

    found = orchestrator.find(machines["wait"], run_id)

    assert found is not None and (found.execution, found.state) == (execution, ExecutionState.RUNNING)
    assert orchestrator.find(machines["wait"], f"{run_id}-2") is None
    assert orchestrator.find(machines["repeat"], run_id) is None


def test_too_long_a_name_or_input_is_refused_before_it_is_sent() -> None:
    nowhere = StepFunctionsOrchestrator(AwsClients(endpoint_url="http://127.0.0.1:1", region="us-east-1"))

    with pytest.raises(OrchestrationError, match="Put lists of inputs into S3"):
        nowhere.start("arn", "name", {"x": "y" * MAX_INPUT_BYTES})
    with pytest.raises(OrchestrationError, match="1 to 80 characters"):
        nowhere.start("arn", "n" * 81, {})
