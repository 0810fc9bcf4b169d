"""The ledger: what is known of runs, of their shards and of task requests, and who may change it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from sparklet.model import (
    Claim,
    Counts,
    Failure,
    Isolation,
    PartRecord,
    Run,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
    TaskRecord,
)


class TaskStore(Protocol):
    """Tasks of the asynchronous API; writes are conditional, as in a ``Ledger``. Every method raises LedgerError."""

    def get_task(self, task_id: str) -> TaskRecord | None:
        """A task (strongly consistent); None if no attempt at one of that id was ever recorded."""

    def replace_task(self, record: TaskRecord, was: TaskRecord | None) -> bool:
        """Put ``record`` in the place of ``was`` (None: nothing yet); False if that has changed since."""


class Runs(Protocol):
    """Runs and their plans. Every write is conditional; after one with an unknown result an adapter reads again.

    Every method raises LedgerError, and RunNotFoundError where it names a run.
    """

    def create(self, run: Run) -> None:
        """Enter a run; RunExistsError if there is one of that id, or was one that is deleted."""

    def get(self, run_id: str) -> Run:
        """The run (strongly consistent)."""

    def list(self) -> Iterator[Run]:
        """All runs, newest first."""

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part: the planner's checkpoint.

        CheckpointConflictError if the part or the sealed plan is there (another planner), or the run was cancelled.
        """

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order (strongly consistent)."""

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that all shards of a part are in the ledger and their messages sent."""

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),  # objects left out, by reason
    ) -> None:
        """No shard will be added any more: PLANNING → RUNNING. Sealing again with the same count does nothing."""

    def set_schema(self, run_id: str, schema: str) -> Run:
        """Keep a schema, unless the run has one or its plan is sealed; the run as it is then."""

    def start_generation(
        self, run_id: str, generation: int, script: ScriptRef, *, stays_cancelled: bool = False
    ) -> Run:
        """Open generation ``generation`` (the next one) with its script: the run is RUNNING again.

        If it was cancelled, it is so no more, unless it ``stays_cancelled``: then the next check ends it again.
        LedgerError if the run is not at ``generation - 1``, not sealed, or is being cancelled or deleted.
        """

    def finish(self, run_id: str, generation: int, state: RunState, counted: int | None = None) -> Run:
        """Record how a run ended; the run as it is then.

        Nothing happens if it has ended or a later generation is open, or unless ``state`` is CANCELLED exactly if the
        run was cancelled; nor if its plan is sealed with another number of shards than was ``counted``.
        """

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of this end was sent; nothing happens if the run is open, or at a later generation."""

    def cancel(self, run_id: str) -> Run:
        """Note that the run is to end (``cancelled_s``), and so takes no part and no generation; the run as it is then.

        Nothing happens if it was cancelled before or has ended.
        """

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good, before what belongs to it is deleted; LedgerError if it has not ended."""

    def delete(self, run_id: str) -> int:
        """Delete a retired run's shards, parts, and last the run; how many items. Another call deletes what is left.

        ``create`` refuses its id for ever. LedgerError if it is not retired.
        """

    def unfinalized(self) -> Iterator[Run]:
        """Runs that may still need work, newest first: new ones, open ones, those with a new generation.

        Found by an index (it may lag), then read from the base table: the cost follows their number, not all runs'.
        """

    def finalize(self, run: Run) -> bool:
        """Note that an ended run needs no more work; False if a later generation was opened since."""


class Attempts(Protocol):
    """Changes of a shard's state. Every write is conditional; after one with an unknown result an adapter reads again.

    Every method raises LedgerError, and ShardNotFoundError.
    """

    def claim(
        self,
        ref: ShardRef,
        attempt_id: str,
        lease_s: float,
        max_attempts: int,
        log_stream: str = "",
        *,
        engine: str = "",
        escalate: str = "",
    ) -> Claim:
        """Take the shard for ``lease_s`` seconds and count the attempt; HELD if it is another ``engine``'s.

        A lease that ended more than 5 s ago (clocks differ) is taken over. The same attempt id is GRANTED again without
        counting; LedgerError if its attempt has ended. Without an attempt left the shard becomes FAILED, its last cause
        kept, and the answer is EXHAUSTED; HELD if it moves to ``escalate``, see ``expire``.
        """

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now; LeaseLostError if this attempt does not own the shard.

        With ``staged``, its script's result, this attempt also becomes the shard's ``winner``: any later attempt only
        publishes the staged files. LeaseLostError if another attempt has won.
        """

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        """RUNNING → SUCCEEDED; LeaseLostError if this attempt does not own the shard. Twice does no harm."""

    def settle(self, record: ShardRecord, result: ShardResult) -> None:
        """The attempt that claimed ``record`` has left out bad objects: RUNNING, its lease over, until ``split``."""

    def split(self, rest: ShardRecord, part: PartRecord, bad: Sequence[ShardRecord]) -> bool:
        """A settled shard → SUCCEEDED, and its ``bad`` objects FAILED, in one transaction.

        ``rest`` is the shard with its new line, and ``part`` the plan's next part, of the bad objects' shards. False if
        the shard or the plan has moved on.
        """

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED, fenced in the same way."""

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "") -> None:
        """RUNNING → PENDING, fenced in the same way; the cause is kept. ``engine`` is the shard's own."""

    def isolate(self, record: ShardRecord, failure: Failure, found: Isolation) -> None:
        """RUNNING → PENDING by the attempt that claimed ``record``; nothing counted yet, the next goes by ``found``."""

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        """RUNNING → PENDING for ``engine``, fenced likewise; nothing counted yet, and no function claims it again."""

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over: PENDING, or FAILED if no attempt is left; the shard as it is then.

        A function's shard without an attempt left is PENDING for the engine ``escalate``, if one is named, and any is
        if its bad objects are looked for (``ledger.isolation``).
        None if the shard has moved on or its lease was renewed since ``record`` was read, or the lease still runs.
        """

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        """Count a message sent again for a PENDING shard, whose waiting (``changed_s``) begins anew.

        ``unrun``: the last one became a dead-letter message without an attempt. ``task_id``: instead of a message the
        shard's engine has started this worker. None if the shard has moved on since ``record`` was read.
        """

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that will not be claimed; False if it has moved on since ``record`` was read."""

    def redrive(
        self, run_id: str, number: int, generation: int, engine: str = "", isolate: int = 0
    ) -> ShardRecord | None:
        """FAILED → PENDING in ``generation``, for ``engine`` ("": the same); None if not FAILED in an older one.

        Which objects are bad is forgotten, unless an attempt without them has won.
        """


class Shards(Protocol):
    """A run's shards in bulk. Every method raises LedgerError; RunNotFoundError or ShardNotFoundError."""

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter shards as PENDING; one that is there already stays as it is. How many were new."""

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard (strongly consistent)."""

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number, from the base table (strongly consistent)."""

    def count(self, run_id: str) -> Counts:
        """Shards by state, from the base table (strongly consistent): what ends a run."""

    def glance(self, run_id: str) -> Counts:
        """Shards by state, from the index: cheap, a moment old, for progress; no SUCCEEDED until the plan is sealed."""

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """Shards RUNNING with a lease that ends before ``before_s``, or PENDING and unchanged since before it.

        Found by the index (it may lag), each then read from the base table. A renewal does not move a shard in the
        index: after one by a clock that is behind, the shard is found when the lease that its claim gave is over.
        """

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards PENDING (for functions), RUNNING or FAILED that have changed since; found by the index likewise."""

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards of engines, those that have waited longest first in each bucket; found likewise."""


class Ledger(Protocol):
    """The only truth about runs and shards, in three ports; ``sparklet.ledger.rules`` holds what adapters share."""

    @property
    def runs(self) -> Runs:
        """Runs and their plans."""

    @property
    def attempts(self) -> Attempts:
        """Changes of one shard's state."""

    @property
    def shards(self) -> Shards:
        """Shards in bulk: entered, read, counted."""
