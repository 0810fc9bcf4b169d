"""Every error Sparklet raises on purpose.

::

    SparkletError                    base; `retryable` is False unless starred
    ├── SettingsError                an environment variable or option is missing or wrong
    │   └── NotDeployedError         there is no such stack
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
    ├── NoticeError*                 a notice could not be sent
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

from sparklet.job.errors import EventError as EventError
from sparklet.job.errors import ExpectationError as ExpectationError
from sparklet.job.errors import SparkletError as SparkletError


class SettingsError(SparkletError):
    """An environment variable or a command-line option is missing or wrong."""


class NotDeployedError(SettingsError):
    """There is no stack of this name in this account and region."""


class ObjectStoreError(SparkletError, retryable=True):
    """The object store did not do what it was asked to; trying again may help."""


class ObjectNotFoundError(ObjectStoreError, retryable=False):
    """The object is not there."""


class ObjectChangedError(ObjectStoreError, retryable=False):
    """The object is not the version (ETag) that was asked for, or exists already."""


class ObjectForbiddenError(ObjectStoreError, retryable=False):
    """The object may not be read or written with these credentials."""


class LedgerError(SparkletError, retryable=True):
    """The ledger did not do what it was asked to; trying again may help."""


class RunNotFoundError(LedgerError, retryable=False):
    """The ledger has no run of that id."""


class RunExistsError(LedgerError, retryable=False):
    """A run of that id is in the ledger already."""


class ShardNotFoundError(LedgerError, retryable=False):
    """The run has no shard of that number."""


class CheckpointConflictError(LedgerError, retryable=False):
    """Another planner moved this run's checkpoint; this one must stop."""


class QueueError(SparkletError, retryable=True):
    """The queue did not do what it was asked to; trying again may help."""


class NoticeError(SparkletError, retryable=True):
    """A notice could not be sent; what it is about is not changed by that."""


class OrchestrationError(SparkletError, retryable=True):
    """A state machine did not do what it was asked to; trying again may help."""


class ExecutionExistsError(OrchestrationError, retryable=False):
    """There is an execution of that name, and it has ended or was given another input."""


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
        reason = ": ".join(part for part in (cause_class, cause) if part)
        at = f" at {place}" if place else ""
        super().__init__(f"{script_uri} exited with {exit_code}{at}" + (f": {reason}" if reason else ""))
        self.exit_code = exit_code
        self.cause_class = cause_class
        self.cause = cause
        self.place = place
        self.stderr_tail = stderr_tail
        self.retryable = not permanent


class SparkRuntimeError(SparkletError, retryable=True):
    """Spark or its JVM, not the script, failed."""


class GatewayLostError(SparkRuntimeError):
    """The JVM went away, or never came up."""


class OutOfMemoryError(SparkRuntimeError):
    """The JVM or the script's Python process ran out of memory."""


class ScratchFullError(SparkRuntimeError):
    """There is too little space under the scratch folder to start, or to go on."""


class DeadlineExceededError(SparkletError, retryable=True):
    """The guard ended the script ``grace_s`` before the function's deadline."""


class LeaseLostError(SparkletError, retryable=True):
    """Another attempt owns the shard now, or the shard has ended; nothing was written."""


class ShardNotDoneError(SparkletError, retryable=True):
    """The shard that was asked for has not ended, and nobody holds it: ask again after a while.

    With ``ShardFailedError`` and ``LeaseLostError`` (ask again once the lease is over) all that a state machine
    which asks for a shard needs to tell apart.
    """


class ShardFailedError(SparkletError):
    """The shard that was asked for has FAILED: asking again does not help, a redrive may."""


class RemoteTaskError(SparkletError):
    """A function could not be invoked, or answered with what nobody can read."""


class RemoteFailureError(RemoteTaskError):
    """An invoked function answered with an error of its own."""


class LocalStackError(SparkletError):
    """The embedded local stack could not be started or used."""
