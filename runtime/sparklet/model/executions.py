"""What is known of an execution of a state machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ExecutionState(StrEnum):
    """Where an execution stands, in Step Functions' words."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    ABORTED = "ABORTED"  # somebody stopped it
    PENDING_REDRIVE = "PENDING_REDRIVE"  # of a map's children only

    @property
    def ended(self) -> bool:
        """Whether nothing but a redrive changes this state."""
        return self is not ExecutionState.RUNNING


@dataclass(frozen=True, slots=True)
class ExecutionStatus:
    """An execution; it drives a run, but what has become of the run only the ledger knows."""

    execution: str  # its id
    state: ExecutionState
    started_s: float
    ended_s: float = 0.0  # 0: it has not
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None  # once it has SUCCEEDED
    error: str = ""  # why it did not
    cause: str = ""
