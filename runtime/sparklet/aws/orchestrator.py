"""State machines in AWS Step Functions."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sparklet.aws.clients import AwsClients, error_code, failing_as
from sparklet.errors import ExecutionExistsError, OrchestrationError
from sparklet.model import MAX_NAME, ExecutionState, ExecutionStatus

MAX_INPUT_BYTES = 256_000  # of a state's 256 KiB: the machine adds a key


class StepFunctionsOrchestrator:
    """An ``Orchestrator`` over deployed state machines, named by their ARNs."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        # Sorted, so that the same request is the same text: Step Functions takes a start of the same name and input for
        # a repetition.
        body = json.dumps(input, ensure_ascii=False, sort_keys=True)
        if (size_bytes := len(body.encode())) > MAX_INPUT_BYTES or not 0 < len(name) <= MAX_NAME:
            raise OrchestrationError(
                f"{name} cannot be started: a name has 1 to {MAX_NAME} characters (it has {len(name)}), an input "
                f"at most {MAX_INPUT_BYTES} bytes ({size_bytes}). Put lists of inputs into S3 and pass their URI"
            )
        with failing_as(OrchestrationError, f"{machine} cannot be started"):
            states = self._clients.states
            # The name is taken by another input, or by an execution that has ended: the status tells which.
            with suppress(states.exceptions.ExecutionAlreadyExists):
                answer = states.start_execution(stateMachineArn=machine, name=name, input=body)
                return str(answer["executionArn"])
        status = self.status(execution_arn(machine, name))
        if status.state.ended:
            raise ExecutionExistsError(f"{name} has {status.state} already: choose another name to start it again")
        if status.input != input:  # the emulator does not compare inputs
            raise ExecutionExistsError(f"{name} runs with another input: choose another name")
        return status.execution

    def status(self, execution: str) -> ExecutionStatus:
        with failing_as(OrchestrationError, f"{execution} cannot be looked up"):
            answer = self._clients.states.describe_execution(executionArn=execution)
        return ExecutionStatus(
            execution=execution,
            state=ExecutionState(answer["status"]),
            started_s=answer["startDate"].timestamp(),
            ended_s=answer["stopDate"].timestamp() if answer.get("stopDate") else 0.0,
            input=json.loads(answer.get("input") or "{}"),
            output=json.loads(answer["output"]) if answer["status"] == "SUCCEEDED" and answer.get("output") else None,
            error=answer.get("error", ""),
            cause=answer.get("cause", ""),
        )

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name, if there is one; Step Functions forgets them after 90 days."""
        try:
            return self.status(execution_arn(machine, name))
        except OrchestrationError as error:
            if isinstance(error.__cause__, Exception) and error_code(error.__cause__) == "ExecutionDoesNotExist":
                return None
            raise

    def stop(self, execution: str, cause: str = "") -> None:
        try:
            with failing_as(OrchestrationError, f"{execution} cannot be stopped"):
                self._clients.states.stop_execution(executionArn=execution, cause=cause)
        except OrchestrationError:
            # It may have ended by itself in between, which is as good.
            if not self.status(execution).state.ended:
                raise


def execution_arn(machine: str, name: str) -> str:
    """The ARN of an execution, from that of its machine."""
    return f"{machine.replace(':stateMachine:', ':execution:', 1)}:{name}"
