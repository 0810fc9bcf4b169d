"""Every error Sparklet raises on purpose.

::

    SparkletError                    base; `retryable` is False unless starred
    ├── SettingsError                an environment variable or option is missing or wrong
    ├── EventError                   an event or message has not the shape it must have
    ├── ExpectationError             what a check script expects of a run is not so
    ├── ObjectStoreError*            S3 did not do what it was asked to
    │   ├── ObjectNotFoundError      the object is not there
    │   ├── ObjectChangedError       the object is not the version that was asked for
    │   └── ObjectForbiddenError     the object may not be read or written
    ├── LedgerError*                 the ledger did not do what it was asked to
    │   ├── RunNotFoundError         no run of that id
    │   ├── RunExistsError           a run of that id is there already
    │   ├── ShardNotFoundError       the run has no such shard
    │   └── CheckpointConflictError  another planner moved this run's checkpoint
    ├── QueueError*                  the queue did not do what it was asked to
    ├── NoticeError*                 nobody could be told how something ended
    ├── OrchestrationError*          a state machine did not do what it was asked to
    │   └── ExecutionExistsError     an execution of that name has ended, or has another input
    ├── LogsError                    the workers' logs could not be read
    ├── PlanError                    the input cannot be planned as asked
    │   └── NothingNewError          everything in it was done before, or is too old: no failure of anybody
    ├── ScriptError
    │   ├── ScriptNotAllowedError    the script lies outside the allowed prefixes
    │   ├── ScriptFetchError*        the script could not be fetched
    │   └── ScriptFailedError        the script ran and exited with a code other than 0
    ├── SparkRuntimeError*           Spark, not the script, failed
    │   ├── GatewayLostError*        the JVM went away under the script
    │   ├── OutOfMemoryError*        the JVM or Python ran out of memory
    │   └── ScratchFullError*        too little space in /tmp
    ├── DeadlineExceededError*       the guard ended the script before the function's deadline
    ├── LeaseLostError*              another attempt owns the shard, or it has ended
    ├── ShardNotDoneError*           a shard that was asked for directly has not ended
    ├── ShardFailedError             a shard that was asked for directly has FAILED for good
    ├── RemoteTaskError              a function could not be invoked
    │   └── RemoteFailureError       it answered with an error of its own
    └── LocalStackError              the embedded stack could not be started or used

Starred errors are ``retryable``: the record goes back to its source, and a shard is
released. The others end a shard as FAILED with their message as its cause. (A
``ScriptFailedError`` decides for itself, see its docstring.)
"""

from sparklet.job.errors import EventError, ExpectationError, SparkletError

__all__ = [
    "CheckpointConflictError",
    "DeadlineExceededError",
    "EventError",
    "ExecutionExistsError",
    "ExpectationError",
    "GatewayLostError",
    "LeaseLostError",
    "LedgerError",
    "LocalStackError",
    "LogsError",
    "NothingNewError",
    "NoticeError",
    "ObjectChangedError",
    "ObjectForbiddenError",
    "ObjectNotFoundError",
    "ObjectStoreError",
    "OrchestrationError",
    "OutOfMemoryError",
    "PlanError",
    "QueueError",
    "RemoteFailureError",
    "RemoteTaskError",
    "RunExistsError",
    "RunNotFoundError",
    "ScratchFullError",
    "ScriptError",
    "ScriptFailedError",
    "ScriptFetchError",
    "ScriptNotAllowedError",
    "SettingsError",
    "ShardFailedError",
    "ShardNotDoneError",
    "ShardNotFoundError",
    "SparkRuntimeError",
    "SparkletError",
]


class SettingsError(SparkletError):
    """An environment variable or a command-line option is missing or wrong."""


class NotDeployedError(SettingsError):
    """There is no stack of this name in this account and region."""


class ObjectStoreError(SparkletError):
    """The object store did not do what it was asked to; trying again may help."""

    retryable = True


class ObjectNotFoundError(ObjectStoreError):
    """The object is not there."""

    retryable = False


class ObjectChangedError(ObjectStoreError):
    """The object is not the version (ETag) that was asked for, or exists already."""

    retryable = False


class ObjectForbiddenError(ObjectStoreError):
    """The object may not be read or written with these credentials."""

    retryable = False


class LedgerError(SparkletError):
    """The ledger did not do what it was asked to; trying again may help."""

    retryable = True


class RunNotFoundError(LedgerError):
    """The ledger has no run of that id."""

    retryable = False


class RunExistsError(LedgerError):
    """A run of that id is in the ledger already."""

    retryable = False


class ShardNotFoundError(LedgerError):
    """The run has no shard of that number."""

    retryable = False


class CheckpointConflictError(LedgerError):
    """Another planner moved this run's checkpoint; this one must stop."""

    retryable = False


class QueueError(SparkletError):
    """The queue did not do what it was asked to; trying again may help."""

    retryable = True


class NoticeError(SparkletError):
    """A notice could not be sent; what it was to tell of is not touched by that."""

    retryable = True


class OrchestrationError(SparkletError):
    """A state machine did not do what it was asked to; trying again may help."""

    retryable = True


class ExecutionExistsError(OrchestrationError):
    """There is an execution of that name, and it has ended or was given another input."""

    retryable = False


class LogsError(SparkletError):
    """The workers' logs could not be read."""


class PlanError(SparkletError):
    """The input cannot be planned as asked."""


class NothingNewError(PlanError):
    """What is in the input was done by an earlier run, or is older than asked for: there is nothing to do."""


class ScriptError(SparkletError):
    """The script could not be run, or failed."""


class ScriptNotAllowedError(ScriptError):
    """The script lies outside the prefixes that the operator allowed."""


class ScriptFetchError(ScriptError):
    """The script could not be fetched; a stale copy is never run instead."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class ScriptFailedError(ScriptError):
    """The script ran and exited with a code other than 0.

    Parameters
    ----------
    script_uri
        Where the script came from.
    exit_code
        Its exit code; minus the signal's number if a signal ended it.
    cause_class, cause
        Class and message of the root-cause exception, as far as the script's
        output names it; without a class, the last line or the signal.
    place
        The script's line it came through, as ``line 7 of job.py``.
    stderr_tail
        The last lines the script wrote to standard error.
    permanent
        Whether another attempt must fail in the same way (a syntax error, an
        ``AnalysisException``): such a shard is not retried.
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
    ) -> None:
        said = ": ".join(part for part in (cause_class, cause) if part)
        at = f" at {place}" if place else ""
        super().__init__(f"{script_uri} exited with {exit_code}{at}" + (f": {said}" if said else ""))
        self.exit_code = exit_code
        self.cause_class = cause_class
        self.cause = cause
        self.place = place
        self.stderr_tail = stderr_tail
        self.retryable = not permanent


class SparkRuntimeError(SparkletError):
    """Spark or its JVM, not the script, failed."""

    retryable = True


class GatewayLostError(SparkRuntimeError):
    """The JVM went away, or never came up."""


class OutOfMemoryError(SparkRuntimeError):
    """The JVM or the script's Python process ran out of memory."""


class ScratchFullError(SparkRuntimeError):
    """There is too little space under the scratch folder to start, or to go on."""


class DeadlineExceededError(SparkletError):
    """The guard ended the script ``grace_s`` before the function's deadline."""

    retryable = True


class LeaseLostError(SparkletError):
    """Another attempt owns the shard now, or the shard has ended; nothing was written."""

    retryable = True


class ShardNotDoneError(SparkletError):
    """The shard that was asked for has not ended, and nobody holds it: ask again after a while.

    With ``ShardFailedError`` and ``LeaseLostError`` (ask again once the lease is over) all that a state machine
    which asks for a shard needs to tell apart.
    """

    retryable = True


class ShardFailedError(SparkletError):
    """The shard that was asked for has FAILED: asking again does not help, a redrive may."""


class RemoteTaskError(SparkletError):
    """A function could not be invoked, or answered with what nobody can read."""


class RemoteFailureError(RemoteTaskError):
    """An invoked function answered with an error of its own."""


class LocalStackError(SparkletError):
    """The embedded local stack could not be started or used."""
