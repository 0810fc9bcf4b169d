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
KEYS = {"id": "task_id", "attempt": "attempt_id", **{name: name for name in SAME}}  # keys of the document: fields
TASK_KEPT_S = 30 * 86_400  # from its last change; no message can be that old
NOTICE_VERSION = 1  # raised if a reader of the old version would misread the new one; not for further fields
CAUSE_CHARACTERS = 4096
MAX_SUBJECT = 100


@dataclass(frozen=True, slots=True)
class TaskRecord(Record):
    """The status of a task of the API, or of a call of ``functions``; the API shows its document.

    A task that was never recorded is PENDING with the revision 0.
    """

    task_id: str
    accepted_s: float = 0.0  # when the queue took its message; 0: not known
    answer: tuple[Any, ...] = ()  # one value, if the task has succeeded and gave one

    @property
    def expires_s(self) -> int:
        """When the table is allowed to delete the item."""
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
        """The task of a document by ``to_document``; LedgerError if a newer Sparklet wrote it."""
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
        the same text. Without ``run_id`` the execution failed before it had a run.
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
        """A line for people: printable ASCII, as long as SNS allows; a name that is too long loses its beginning."""
        name = "".join(c if " " <= c <= "~" else "?" for c in str(self.document.get("id", "")))
        before, after = f"Sparklet: {self.kind} ", f" ended as {self.state}"
        return f"{before}{name[-(MAX_SUBJECT - len(before) - len(after)) :]}{after}"

    def to_json(self) -> str:
        """The message, the same for every notifier: ``{"version": 1, "kind": "run", "state": …, "run": {…}}``."""
        document = {"version": NOTICE_VERSION, "kind": self.kind, "state": self.state}
        return json.dumps({**document, self.kind: dict(self.document)})


MAX_NAME = 80  # characters of an execution's name
MAX_INLINE = 40  # iterations of an inline Map at a time; a Distributed Map does more shards

_SUCCESSOR = re.compile(r"(.+-g\d+)-(\d+)")


def execution_name(run_id: str, generation: int) -> str:
    """The name of the first execution that a command line starts for a run's generation."""
    return f"{run_id}-g{generation}"


def successor(name: str) -> str:
    """The name of the execution that continues another's run: the first name and ``-2``, then ``-3``, and so on."""
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
    """An execution. It drives a run, whose state is in the ledger."""

    execution: str  # its id
    state: ExecutionState
    started_s: float
    ended_s: float = 0.0  # 0: it has not ended
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None  # of an execution that has SUCCEEDED
    error: str = ""  # of an execution that has not
    cause: str = ""

    @property
    def name(self) -> str:
        """The name of the execution, which ends its id."""
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
    """How a function receives messages from a queue."""

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
    checker_scheduled: bool  # an enabled rule calls the checker
    reserved: int | None = None  # the worker's reserved concurrency; None: it has none
    unreserved: int | None = None  # the account's unreserved concurrency; None: not known
    further_queues: Mapping[str, QueueSettings] = field(default_factory=dict)  # by name; the worker reads them, too
