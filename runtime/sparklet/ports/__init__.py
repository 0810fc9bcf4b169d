"""The services that Sparklet's core needs, as protocols; ``sparklet.aws`` implements them, and tests do in memory.

Adapters raise the errors of ``sparklet.errors`` only: no botocore exception passes a port.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sparklet.ledger import Ledger as Ledger
from sparklet.ledger.clock import Clock as Clock
from sparklet.model import ExecutionStatus, Failure, Notice


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object, as a listing or a HEAD describes it."""

    uri: str
    size_bytes: int
    etag: str
    modified_s: float
    version_id: str = ""  # the version that was requested; "": the current one
    archived: bool = False  # must be restored before it can be read
    storage_class: str = ""  # from a listing; "": S3's standard, or not known
    owner: str = ""  # from a HEAD; the owner that ``copy_all`` has stored with the object


class ObjectStore(Protocol):
    """Objects by ``s3://bucket/key`` URI. Keys are taken literally; nothing is URL-decoded.

    Every method raises ObjectNotFoundError, ObjectForbiddenError or another ObjectStoreError. Where a ``version_id``
    is given, that version is read, else the current one.
    """

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order, page by page; only keys after ``start_after`` (a whole key)."""

    def head(self, uri: str, version_id: str = "") -> ObjectInfo:
        """Size and ETag of an object."""

    def head_all(self, addresses: Sequence[tuple[str, str]]) -> Iterator[ObjectInfo | None]:
        """``head`` for each URI and version id, in order, several at a time; None if the object does not exist."""

    def foreign_region(self, uri: str) -> str:
        """The region of a URI's bucket if it is not this store's own; "" if it is, or if that cannot be known."""

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """An object's bytes, or a range; ObjectChangedError if it has another ETag than ``etag``."""

    def get_all(self, uris: Iterable[str]) -> Iterator[bytes]:
        """The bytes of each object, in order, several at a time; each URI is taken when its request begins."""

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Write an object; return its ETag. With ``create_only`` ObjectChangedError if the object exists."""

    def download(self, uri: str, path: Path, etag: str = "", version_id: str = "") -> None:
        """Write an object to a file; the file appears whole or not at all."""

    def upload(self, path: Path, uri: str) -> None:
        """Write a file to an object, in parts if it is large."""

    def copy_all(
        self, pairs: Iterable[tuple[ObjectInfo, str]], owner: str = "", replaces: Callable[[str], bool] | None = None
    ) -> None:
        """Copy each pair's object to its URI, several at a time; each pair is taken when its copy begins.

        With an ``owner`` the copies have in their metadata this owner and the content type that belongs to their names.
        They replace only copies of this owner, or of an owner that ``replaces`` allows; ObjectChangedError if another
        object has the URI.
        """

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        """Delete objects below the prefix ``within``, 1,000 a request; objects that do not exist are ignored.

        ValueError at the first object that is not below ``within``, or if ``within`` is a whole bucket, in which others
        have objects, too.
        """


def only_within(uris: Iterable[str], within: str) -> Iterator[str]:
    """The URIs of objects to delete, each checked to be below ``within``; see ``ObjectStore.delete_all``."""
    if not within.partition("://")[2].partition("/")[2]:
        raise ValueError(f"{within!r} is not a prefix in a bucket")
    for uri in uris:
        if not uri.startswith(within):
            raise ValueError(f"{uri} is not below {within}, and is not deleted")
        yield uri


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the dead-letter queue."""

    message_id: str
    body: str
    sent_s: float = 0.0  # when it was sent, by the queue's clock; 0: not known


class TaskQueue(Protocol):
    """The queue of shard messages, which Lambda reads. Every method raises QueueError."""

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send every body, in batches, and again what a batch reports as failed; return how many were sent."""

    def set_visibility(self, receipt: str, visibility_s: int) -> None:
        """Make a received message visible again in ``visibility_s`` seconds (at most 12 hours)."""


class WorkerLogs(Protocol):
    """The workers' logs, one stream for each execution environment. Every method raises LogsError."""

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        """Streams that mention a run (and a shard), oldest first, each with the time of the first mention.

        Streams that do not mention it may be among them. ``since_s`` is when the run was created, or 0.
        """

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        """A stream's lines after the position ``after`` ("": from ``since_s`` on), and the position behind them.

        There are no lines if none was written yet.
        """


class Engine(Protocol):
    """A platform beside Lambda that starts workers for single shards. Every method raises RemoteTaskError.

    It only starts processes: a worker claims its shard in the ledger and renews its lease like any other.
    """

    at_once: int = 0  # how many workers a run may have at once; 0: until ``start`` finds no capacity
    traces_inputs: bool = False  # rows are traced to their inputs as in functions: so each input can have an output

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker with the command ``shard …``, once for each token; return its id.

        The reason of the error is ``throttled`` if there is no capacity now.
        """

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Which of these workers have stopped, and why; empty if the platform does not tell."""
        return {}

    def begun_s(self, task_id: str) -> float:
        """When a worker got its capacity; 0 if it did at once, infinity if it is still waiting."""
        return 0.0

    def stop(self, task_id: str) -> None:
        """Stop a worker, which releases its shard first."""

    def unfit(self, table_format: str) -> str:
        """Why shards that write to a table of this format ("": to no table) cannot run here; "" if they can."""
        return ""

    def spark(self) -> str:
        """The engine's line of Spark; "" if it is the functions' line, or not known."""
        return ""


class Compute(Protocol):
    """Deployed functions."""

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Invoke synchronously; return the decoded answer. RemoteTaskError if the function failed."""


class Orchestrator(Protocol):
    """Deployed state machines. Every method raises OrchestrationError."""

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        """Start an execution; return its id. While it runs, the same name and input give the same execution.

        ExecutionExistsError if an execution of that name has ended or has another input.
        """

    def status(self, execution: str) -> ExecutionStatus:
        """An execution's status."""

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution that was started under this name; None if there was none, or it is no longer known."""

    def stop(self, execution: str, cause: str = "") -> None:
        """Stop an execution; nothing happens if it has ended. Its run goes on, until it is cancelled in the ledger."""


class Notifier(Protocol):
    """Sends notices that something has ended. Every method raises NoticeError."""

    def notify(self, notice: Notice) -> None:
        """Send a notice once; if the answer is lost, it may be sent twice."""
