"""What whoever wants to hear is told: how a task, a run or a state machine's execution ended.

``notice.schema.json`` beside this module is the one schema of all of them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sparklet.model.runs import Run
from sparklet.model.tasks import TaskRecord

NOTICE_VERSION = 1  # raised when a reader of the older one would misread the newer one; more fields do not raise it
CAUSE_CHARACTERS = 4096
LONGEST_SUBJECT = 100


@dataclass(frozen=True, slots=True)
class Notice:
    """Something came to its end, and somebody may want to hear of it."""

    kind: str  # task | run | execution
    state: str
    document: Mapping[str, Any]  # has an "id"

    @classmethod
    def of_task(cls, record: TaskRecord) -> Self:
        """That a task of the asynchronous API has ended."""
        return cls("task", str(record.state), record.to_document())

    @classmethod
    def of_run(cls, run: Run, figures: Mapping[str, Any]) -> Self:
        """That a run has ended.

        Parameters
        ----------
        figures
            What it has to show: see ``fanout.reporting.figures``.
        """
        return cls("run", str(run.state), {**figures, "ended_s": run.ended_s})

    @classmethod
    def of_execution(
        cls, execution: str, machine: str, where: str, error: str, cause: str, run_id: str = "", recorded: str = ""
    ) -> Self:
        """That an execution of a state machine ended by an error of its own; its run goes on without it.

        Parameters
        ----------
        execution, machine
            Names or ARNs.
        where
            The state that failed.
        error, cause
            As Step Functions has them.
        run_id
            The run that it drove; "": it had not come so far.
        recorded
            The file that says the same.
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
        return f"{before}{name[-(LONGEST_SUBJECT - len(before) - len(after)) :]}{after}"

    def to_json(self) -> str:
        """The message, alike on every way: ``{"version": 1, "kind": "run", "state": …, "run": {…}}``."""
        document = {"version": NOTICE_VERSION, "kind": self.kind, "state": self.state}
        return json.dumps({**document, self.kind: dict(self.document)})
