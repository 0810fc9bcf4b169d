"""All errors that Sparklet raises on purpose. Those that scripts can raise or catch are from ``sparklet.job.errors``.

::

    SparkletError
    ├─ SettingsError
    │  └─ NotDeployedError
    ├─ ObjectStoreError*
    │  └─ ObjectNotFoundError, ObjectChangedError, ObjectForbiddenError
    ├─ LedgerError*
    │  └─ RunNotFoundError, RunExistsError, ShardNotFoundError, CheckpointConflictError
    ├─ OrchestrationError*
    │  └─ ExecutionExistsError
    ├─ PlanError
    │  └─ NothingNewError, UnplannableError
    ├─ ScriptError
    │  └─ ScriptNotAllowedError, ScriptFetchError°, ScriptFailedError°, MixedInputsError
    ├─ SparkRuntimeError*
    │  ├─ GatewayLostError*, OutOfMemoryError*
    │  └─ ScratchFullError*
    │     └─ TooLargeError
    ├─ RemoteTaskError
    │  └─ RemoteFailureError
    ├─ EventError, PayloadError, QueueError*, NoticeError*, LogsError, LocalStackError
    ├─ DeadlineExceededError*, LeaseLostError*, ShardNotDoneError*, ShardFailedError, RunFailedError
    └─ DriftError, TableError, DatabaseError*, ExpectationError, CommitConflictError*, CommitStateUnknownError

Errors with ``*`` are retryable; for those with ``°`` it depends on the cause. A retryable error sends the record back
to its source and releases the shard. Any other error ends the shard as FAILED, with the message as its cause. A class
inherits ``retryable`` unless it sets its own value.
"""

from collections.abc import Mapping
from typing import Any

from sparklet.job.errors import CommitConflictError as CommitConflictError
from sparklet.job.errors import CommitStateUnknownError as CommitStateUnknownError
from sparklet.job.errors import DatabaseError as DatabaseError
from sparklet.job.errors import DriftError as DriftError
from sparklet.job.errors import EventError as EventError
from sparklet.job.errors import ExpectationError as ExpectationError
from sparklet.job.errors import SparkletError as SparkletError
from sparklet.job.errors import TableError as TableError

KNOWN_OF_WORKERS = ("request_id", "memory_mb", "log_stream", "pid")


class SettingsError(SparkletError):
    """An environment variable or a command-line option is missing or wrong."""


class NotDeployedError(SettingsError):
    """There is no stack of this name in this account and region."""


class ObjectStoreError(SparkletError, retryable=True):
    """A request to the object store failed; another try may help."""


class ObjectNotFoundError(ObjectStoreError, retryable=False):
    """The object is not there."""


class ObjectChangedError(ObjectStoreError, retryable=False):
    """The object has another ETag than requested, or it exists already and must not."""


class ObjectForbiddenError(ObjectStoreError, retryable=False):
    """The object may not be read or written with these credentials."""


class LedgerError(SparkletError, retryable=True):
    """A request to the ledger failed; another try may help."""


class RunNotFoundError(LedgerError, retryable=False):
    """The ledger has no run of that id."""


class RunExistsError(LedgerError, retryable=False):
    """The ledger has a run of that id already."""


class ShardNotFoundError(LedgerError, retryable=False):
    """The run has no shard of that number."""


class CheckpointConflictError(LedgerError, retryable=False):
    """The run has changed since it was read: another planner has moved its checkpoint, or it was cancelled or redriven.

    The caller must stop its work on the run.
    """


class QueueError(SparkletError, retryable=True):
    """A request to the queue failed; another try may help."""


class NoticeError(SparkletError, retryable=True):
    """A notice could not be sent; its run or task is not affected."""


class OrchestrationError(SparkletError, retryable=True):
    """A request to a state machine failed; another try may help."""


class ExecutionExistsError(OrchestrationError, retryable=False):
    """An execution of that name exists, and has ended or has another input."""


class LogsError(SparkletError):
    """The workers' logs could not be read."""


class PlanError(SparkletError):
    """The input cannot be planned as requested."""


class NothingNewError(PlanError):
    """There is nothing to do: earlier runs have done the whole input, or all of it is older than requested."""


class UnplannableError(PlanError):
    """One Spark job could not read the whole input together, so no later planner can plan it either."""


class ScriptError(SparkletError):
    """The script could not be run, or failed."""


class ScriptNotAllowedError(ScriptError):
    """The script lies outside the prefixes that the operator allowed."""


class ScriptFetchError(ScriptError):
    """The script could not be fetched; a stale copy is never run instead."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class MixedInputsError(ScriptError):
    """Each input is to have its own output, but the script wrote rows of several inputs, or of none, to one file."""


class ScriptFailedError(ScriptError):
    """The script exited with a code other than 0; the code is minus the signal's number if a signal ended it.

    ``cause_class`` and ``cause`` are class and message of the root-cause exception if the script's output names it,
    else "" and the last line or the signal. ``place`` is the line of the script, such as ``line 7 of job.py``. With
    ``permanent`` every attempt would fail in the same way (a syntax error, an ``AnalysisException``), so the shard is
    not retried.
    """

    def __init__(
        self,
        script_uri: str,
        exit_code: int,
        *,
        cause_class: str = "",
        cause: str = "",
        place: str = "",
        stderr_tail: str = "",
        permanent: bool = False,
        files: tuple[str, ...] = (),
    ) -> None:
        reason = ": ".join(part for part in (cause_class, cause) if part)
        position = f" at {place}" if place else ""
        super().__init__(f"{script_uri} exited with {exit_code}{position}" + (f": {reason}" if reason else ""))
        self.exit_code = exit_code
        self.cause_class = cause_class
        self.cause = cause
        self.place = place
        self.stderr_tail = stderr_tail
        self.retryable = not permanent
        self.files = files
        # Messages of a batch whose rows a table already has: they are retried apart from the other messages.
        self.committed: tuple[str, ...] = ()


class SparkRuntimeError(SparkletError, retryable=True):
    """Spark or its JVM, not the script, failed."""


class GatewayLostError(SparkRuntimeError):
    """The JVM has ended unexpectedly, or did not start."""


class OutOfMemoryError(SparkRuntimeError):
    """The JVM or the script's Python process ran out of memory."""


class ScratchFullError(SparkRuntimeError):
    """There is too little space under the scratch folder to start or to continue."""


class TooLargeError(ScratchFullError, retryable=False):
    """The unpacked inputs of a shard are larger than the free space, or than a function is allowed to process."""


class DeadlineExceededError(SparkletError, retryable=True):
    """The script was ended ``grace_s`` before the function's deadline."""


class LeaseLostError(SparkletError, retryable=True):
    """Another attempt holds the shard (try again once its lease has expired), or the shard has ended."""


class ShardNotDoneError(SparkletError, retryable=True):
    """The requested shard has not ended, and no attempt holds it: try again later."""


class ShardFailedError(SparkletError):
    """The requested shard has FAILED. Another request does not help, but a redrive might."""


class PayloadError(SparkletError):
    """A call or its answer cannot be encoded, is not allowed, or is not signed with the deployment's key."""


class RemoteTaskError(SparkletError):
    """A function could not be invoked, ended without an answer, or its answer cannot be read.

    Parameters
    ----------
    reason
        ``killed``, ``memory``, ``timeout``, ``throttled``, ``refused`` (it was not started) or "".
    log_tail
        The last lines that the worker wrote.
    facts
        Facts about the worker, as far as they are known: ``request_id``, ``memory_mb``, ``log_stream``, ``pid``.
    """

    def __init__(
        self, message: str, reason: str = "", *, log_tail: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.log_tail, self.facts = reason, log_tail, dict(facts or {})

    def __str__(self) -> str:
        facts = ", ".join(f"{name} {self.facts[name]}" for name in KNOWN_OF_WORKERS if self.facts.get(name))
        tail = f"\nthe end of its log:\n{self.log_tail}" if self.log_tail else ""
        return super().__str__() + (f" ({facts})" if facts else "") + tail


class RunFailedError(SparkletError):
    """A run has ended FAILED or CANCELLED; ``document`` is its result, as ``sparklet status --json`` shows it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        shards, causes = document["shards"], document["failures"]
        reasons = "".join(
            f"; {cause['count']} × {cause['error_class']}: {cause['example_message']}" for cause in causes
        )
        failed = f"{shards['failed']} of {shards['total']} shards failed"
        super().__init__(f"the run {document['run_id']} is {document['state']}: {failed}{reasons}")
        self.document = document


class RemoteFailureError(RemoteTaskError):
    """An invoked function answered with an error of its own."""


class LocalStackError(SparkletError):
    """The embedded local stack could not be started or used."""
