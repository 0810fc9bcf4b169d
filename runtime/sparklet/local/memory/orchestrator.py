"""State machines in this process."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sparklet.clock import SystemClock
from sparklet.errors import ExecutionExistsError, OrchestrationError
from sparklet.model import ExecutionState, ExecutionStatus
from sparklet.ports import Clock

Machine = Callable[[Any], Any]


class MemoryOrchestrator:
    """An ``Orchestrator`` over Python callables; input and output pass through JSON, as they do in Step Functions.

    Parameters
    ----------
    machines
        By name, what each does with its input, within ``start``; None runs until it is stopped.
    """

    def __init__(self, machines: Mapping[str, Machine | None], clock: Clock | None = None) -> None:
        self._machines = machines
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self.executions: dict[str, ExecutionStatus] = {}

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        """Start an execution, or find the one of that name and input that runs."""
        if machine not in self._machines:
            raise OrchestrationError(f"there is no state machine {machine}; there are {', '.join(self._machines)}")
        execution, received = f"{machine}:{name}", json.loads(json.dumps(input))
        with self._lock:
            if there := self.executions.get(execution):
                if there.state.ended:
                    raise ExecutionExistsError(
                        f"{name} has {there.state} already: choose another name to start it again"
                    )
                if there.input != received:
                    raise ExecutionExistsError(f"{name} runs with another input: choose another name")
                return execution
            self.executions[execution] = ExecutionStatus(
                execution, ExecutionState.RUNNING, self._clock.now_s(), input=received
            )
        if act := self._machines[machine]:
            self._perform(execution, act)
        return execution

    def status(self, execution: str) -> ExecutionStatus:
        """Where an execution stands."""
        try:
            return self.executions[execution]
        except KeyError:
            raise OrchestrationError(f"there is no execution {execution}") from None

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name, if there is one."""
        return self.executions.get(f"{machine}:{name}")

    def stop(self, execution: str, cause: str = "") -> None:
        """End an execution, unless it has ended."""
        if not self.status(execution).state.ended:
            self._end(execution, state=ExecutionState.ABORTED, cause=cause)

    def _perform(self, execution: str, act: Machine) -> None:
        try:
            output = act(self.executions[execution].input)
        except Exception as error:  # noqa: BLE001 - the machine's boundary: any error ends its execution, not the caller
            self._end(execution, state=ExecutionState.FAILED, error=type(error).__name__, cause=str(error))
        else:
            self._end(execution, state=ExecutionState.SUCCEEDED, output=json.loads(json.dumps(output)))

    def _end(self, execution: str, **changes: Any) -> None:
        with self._lock:
            self.executions[execution] = replace(self.executions[execution], ended_s=self._clock.now_s(), **changes)
