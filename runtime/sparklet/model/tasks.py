"""Tasks of the asynchronous API, and notices of how a task, a run or a state machine's execution ended.

Every change of a task makes a new record with the next revision; a store takes it only if the one before it is still
there. ``notice.schema.json`` beside this module is the one schema of all notices.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sparklet.errors import LedgerError
from sparklet.model.runs import Run
from sparklet.model.shards import Failure, ShardResult, ShardState

TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TASK_FORMAT = 1
SAME = ("attempts", "accepted_s", "started_s", "changed_s", "lease_end_s", "log_stream", "revision")
KEYS = {"id": "task_id", "attempt": "attempt_id", **{name: name for name in SAME}}  # of a task's document: its fields
TASK_KEPT_S = 30 * 86_400  # since its last change; no message is that old
ANSWER_BYTES = 16 * 1024
MAX_OUTPUTS = 20
OUTPUT_BYTES = 1024  # of one URI, the longest that S3 has
NOTICE_VERSION = 1  # raised when a reader of the older one would misread the newer one; more fields do not raise it
CAUSE_CHARACTERS = 4096
MAX_SUBJECT = 100


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task's status; its document is what the API shows of it."""

    task_id: str
    state: ShardState = ShardState.PENDING
    revision: int = 0
    attempts: int = 0
    attempt_id: str = ""  # of the last attempt
    accepted_s: float = 0.0  # when the queue took its message; 0: not known
    started_s: float = 0.0  # when the last attempt began
    changed_s: float = 0.0
    lease_end_s: float = 0.0
    failure: Failure | None = None  # of the last attempt that did not succeed
    result: ShardResult | None = None  # once it has succeeded
    log_stream: str = ""

    def claimed(self, attempt_id: str, now_s: float, lease_s: float, log_stream: str) -> Self:
        """RUNNING, by one more attempt."""
        attempt = {"attempts": self.attempts + 1, "attempt_id": attempt_id, "log_stream": log_stream}
        return self._changed(ShardState.RUNNING, now_s, started_s=now_s, lease_end_s=now_s + lease_s, **attempt)

    def succeeded(self, result: ShardResult, now_s: float) -> Self:
        """SUCCEEDED, with what fits of the result."""
        encoded = (uri.encode(errors="replace") for uri in result.outputs[:MAX_OUTPUTS])
        outputs = tuple(uri.decode() for uri in encoded if len(uri) <= OUTPUT_BYTES)
        answer = result.answer if len(json.dumps(result.answer)) <= ANSWER_BYTES + 2 else ()  # the brackets
        kept = ShardResult(result.rows, result.output_bytes, outputs, answer)
        return self._changed(ShardState.SUCCEEDED, now_s, result=kept, failure=None)

    def failed(self, failure: Failure, now_s: float) -> Self:
        """FAILED, for good."""
        return self._changed(ShardState.FAILED, now_s, failure=failure)

    def released(self, failure: Failure, now_s: float) -> Self:
        """PENDING again, for another attempt."""
        return self._changed(ShardState.PENDING, now_s, failure=failure)

    def _changed(self, state: ShardState, now_s: float, **changes: Any) -> Self:
        return replace(self, state=state, revision=self.revision + 1, changed_s=now_s, **changes)

    @property
    def expires_s(self) -> int:
        """When the table may forget it."""
        return int(self.changed_s) + TASK_KEPT_S

    def to_document(self) -> dict[str, Any]:
        """The document of the API and of notices: times in seconds since the epoch."""
        result, failure = self.result, self.failure
        document: dict[str, Any] = {
            **{key: getattr(self, name) for key, name in KEYS.items()},
            "state": str(self.state),
            "error": {"class": failure.error_class, "message": failure.message} if failure else None,
            "rows": result.rows if result else None,
            "output_bytes": result.output_bytes if result else None,
            "outputs": list(result.outputs) if result else [],
            "format": TASK_FORMAT,
        }
        return document | ({"answer": result.answer[0]} if result and result.answer else {})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``to_document`` made; LedgerError if a newer Sparklet wrote it."""
        if document["format"] > TASK_FORMAT:
            raise LedgerError(f"task {document['id']} was written by a newer Sparklet (format {document['format']})")
        state, error = ShardState(document["state"]), document["error"]
        answer = (document["answer"],) if "answer" in document else ()
        outputs = tuple(document["outputs"])
        result = ShardResult(document["rows"], document["output_bytes"], outputs, answer)
        return cls(
            **{name: document[key] for key, name in KEYS.items()},
            state=state,
            failure=Failure(error["class"], error["message"]) if error else None,
            result=result if state is ShardState.SUCCEEDED else None,
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """That a task, a run or an execution has ended."""

    kind: str  # task | run | execution
    state: str
    document: Mapping[str, Any]  # has an "id"

    @classmethod
    def of_task(cls, record: TaskRecord) -> Self:
        """That a task of the asynchronous API has ended."""
        return cls("task", str(record.state), record.to_document())

    @classmethod
    def of_run(cls, run: Run, statistics: Mapping[str, Any]) -> Self:
        """That a run has ended, with the ``statistics`` of ``runs.summary``."""
        return cls("run", str(run.state), {**statistics, "ended_s": run.ended_s})

    @classmethod
    def of_execution(
        cls, execution: str, machine: str, where: str, error: str, cause: str, run_id: str = "", recorded: str = ""
    ) -> Self:
        """That an execution of a state machine ended by an error of its own; its run goes on without it.

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
