"""Executions of state machines, and the settings of a deployed stack that depend on one another."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_NAME = 80  # characters
MAX_INLINE = 40  # iterations that an inline Map has at once; more shards go to a Distributed Map

_SUCCESSOR = re.compile(r"(.+-g\d+)-(\d+)")


def execution_name(run_id: str, generation: int) -> str:
    """The name of the first execution that a command line starts for a run's generation."""
    return f"{run_id}-g{generation}"


def successor(name: str) -> str:
    """The name of an execution that goes on with another one's run: ``-2`` behind the first's name, and so on."""
    if numbered := _SUCCESSOR.fullmatch(name):
        return f"{numbered[1]}-{int(numbered[2]) + 1}"
    return f"{name}-2"


class ExecutionState(StrEnum):
    """An execution's status, in Step Functions' words."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    ABORTED = "ABORTED"  # a user stopped it
    PENDING_REDRIVE = "PENDING_REDRIVE"  # of a map's children only

    @property
    def ended(self) -> bool:
        """Whether nothing but a redrive changes this state."""
        return self is not ExecutionState.RUNNING


@dataclass(frozen=True, slots=True)
class ExecutionStatus:
    """An execution; it drives a run, whose state only the ledger knows."""

    execution: str  # its id
    state: ExecutionState
    started_s: float
    ended_s: float = 0.0  # 0: it has not
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None  # once it has SUCCEEDED
    error: str = ""  # why it did not
    cause: str = ""

    @property
    def name(self) -> str:
        """The end of its id."""
        return self.execution.rpartition(":")[2]

    @property
    def ended_early(self) -> bool:
        """Whether it failed, timed out or was stopped."""
        return self.state.ended and self.state is not ExecutionState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """A queue's settings."""

    visibility_s: int
    retention_s: int
    max_receive_count: int | None = None  # None: no dead-letter queue
    dead_letters_arn: str = ""


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """How a function takes messages from a queue."""

    enabled: bool
    reports_failures: bool  # ReportBatchItemFailures
    most_at_once: int | None = None  # MaximumConcurrency; None: no limit of its own


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Queues, mappings and functions of one stack."""

    queue: QueueSettings
    dead_letters: QueueSettings
    dead_letters_arn: str
    worker_timeout_s: int
    worker_grace_s: float
    consumer_timeout_s: int
    worker_mapping: MappingSettings | None  # None: there is none
    consumer_mapping: MappingSettings | None
    checker_scheduled: bool  # a rule that is enabled calls it
    reserved: int | None = None  # of concurrency, for the worker; None: nothing
    unreserved: int | None = None  # of the account, what functions without a reserve share; None: not known
    further_queues: Mapping[str, QueueSettings] = field(default_factory=dict)  # that the worker reads, by name
