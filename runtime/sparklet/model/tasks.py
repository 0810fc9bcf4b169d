"""Tasks of the asynchronous API, and notices of how a task, a run or a state machine's execution ended.

``notice.schema.json`` beside this module is the one schema of all notices.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from sparklet.errors import LedgerError
from sparklet.model.runs import Run
from sparklet.model.shards import Record, ShardState

TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TASK_FORMAT = 1
SAME = (
    *("attempts", "accepted_s", "started_s", "changed_s", "lease_end_s", "log_stream", "revision"),
    *("rows", "output_bytes"),
)
KEYS = {"id": "task_id", "attempt": "attempt_id", **{name: name for name in SAME}}  # of a task's document: its fields
TASK_KEPT_S = 30 * 86_400  # since its last change; no message is that old
NOTICE_VERSION = 1  # raised when a reader of the older one would misread the newer one; more fields do not raise it
CAUSE_CHARACTERS = 4096
MAX_SUBJECT = 100


@dataclass(frozen=True, slots=True)
class TaskRecord(Record):
    """A task's status, of a call of ``functions`` too; its document is what the API shows of it.

    One that was never recorded is PENDING with the revision 0.
    """

    task_id: str
    accepted_s: float = 0.0  # when the queue took its message; 0: not known
    answer: tuple[Any, ...] = ()  # one value, if it has succeeded and gave one

    @property
    def expires_s(self) -> int:
        """When the table may forget it."""
        return int(self.changed_s) + TASK_KEPT_S

    def to_document(self) -> dict[str, Any]:
        """The document of the API and of notices: times in seconds since the epoch."""
        has_failed = self.error_class or self.error_message
        document: dict[str, Any] = {
            **{key: getattr(self, name) for key, name in KEYS.items()},
            "state": str(self.state),
            "error": {"class": self.error_class, "message": self.error_message} if has_failed else None,
            "outputs": list(self.outputs),
            "format": TASK_FORMAT,
        }
        return document | ({"answer": self.answer[0]} if self.answer else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_document`` made; LedgerError if a newer Sparklet wrote it."""
        if document["format"] > TASK_FORMAT:
            raise LedgerError(f"task {document['id']} was written by a newer Sparklet (format {document['format']})")
        error = document["error"] or {"class": "", "message": ""}
        return cls(
            **{name: document[key] for key, name in KEYS.items()},
            state=ShardState(document["state"]),
            error_class=error["class"],
            error_message=error["message"],
            outputs=tuple(document["outputs"]),
            answer=(document["answer"],) if "answer" in document else (),
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """The notice that a task, a run or an execution has ended."""

    kind: str  # task | run | execution
    state: str
    document: Mapping[str, Any]  # has an "id"

    @classmethod
    def of_task(cls, record: TaskRecord) -> Self:
        """The notice that a task of the asynchronous API has ended."""
        return cls("task", str(record.state), record.to_document())

    @classmethod
    def of_run(cls, run: Run, outcome: Mapping[str, Any]) -> Self:
        """The notice that a run has ended, with the ``outcome`` of ``runs.phases``."""
        return cls("run", str(run.state), {**outcome, "ended_s": run.ended_s})

    @classmethod
    def of_execution(
        cls, execution: str, machine: str, where: str, error: str, cause: str, run_id: str = "", recorded: str = ""
    ) -> Self:
        """The notice that a state machine's execution ended by an error of its own; its run goes on without it.

        ``execution`` and ``machine`` are names or ARNs, ``where`` is the state that failed, ``recorded`` the file with
        the same text. Without ``run_id`` it failed before it had a run.
        """
        document = {
            "id": execution,
            "machine": machine,
            "where": where,
            "error": {"class": error, "message": cause[:CAUSE_CHARACTERS]},
            "run_id": run_id,
            "recorded": recorded,
        }
        return cls("execution", "FAILED", document)

    @property
    def subject(self) -> str:
        """One line for people: printable ASCII, no longer than SNS takes it; a name that is too long loses its head."""
        name = "".join(c if " " <= c <= "~" else "?" for c in str(self.document.get("id", "")))
        before, after = f"Sparklet: {self.kind} ", f" ended as {self.state}"
        return f"{before}{name[-(MAX_SUBJECT - len(before) - len(after)) :]}{after}"

    def to_json(self) -> str:
        """The message, the same for every notifier: ``{"version": 1, "kind": "run", "state": …, "run": {…}}``."""
        document = {"version": NOTICE_VERSION, "kind": self.kind, "state": self.state}
        return json.dumps({**document, self.kind: dict(self.document)})


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
