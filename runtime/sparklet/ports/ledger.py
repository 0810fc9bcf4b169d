"""The ledger: what is known of runs, of their shards and of task requests, and who may change it."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

from sparklet.model import (
    Claim,
    Counts,
    Failure,
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
    """Runs and their plans. Every write is conditional.

    After a write whose result is unknown an adapter reads again; it knows its own write by a sign in the item.
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

        CheckpointConflictError if that part is there already or the plan is sealed (another planner is at work), or
        if the run was cancelled.
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

    def start_generation(self, run_id: str, generation: int, script: ScriptRef) -> Run:
        """Open generation ``generation`` (the next one) with its script; the run is RUNNING again, not cancelled.

        LedgerError if the run is not at ``generation - 1``, not sealed, or is being cancelled or deleted.
        """

    def finish(self, run_id: str, generation: int, state: RunState) -> Run:
        """Record how a run ended; the run as it is then.

        Nothing happens if it has ended, if a later generation is open, or with another state than CANCELLED where the
        run was cancelled, or with CANCELLED where it was not.
        """

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of the end of ``generation`` was sent; that of a later one is still to be sent.

        Nothing happens if the run has not ended, or a later generation is open.
        """

    def cancel(self, run_id: str) -> Run:
        """Note that the run is to end (``cancelled_s``); the run as it is then.

        From now on it takes no part and no generation. Nothing happens if it was cancelled before or has ended.
        """

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good, before what belongs to it is deleted; LedgerError if it has not ended."""

    def delete(self, run_id: str) -> int:
        """Forget a retired run, itself last: its shards, its parts; how many items there were.

        ``create`` refuses its id for ever. LedgerError if it is not retired. The next call deletes what is left.
        """

    def unfinalized(self) -> Iterator[Run]:
        """Runs that may still need work, newest first; every run that has not ended is one.

        A new run is one, and each generation makes its run one again. Found by an index (it may lag), then read
        from the base table: the cost follows the number of these runs, not of all.
        """

    def finalize(self, run: Run) -> bool:
        """Note that an ended run needs no more work; False if a later generation was opened since."""


class Attempts(Protocol):
    """Changes of a shard's state. Every write is conditional.

    After a write whose result is unknown an adapter reads again: an attempt id of mine means done.
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

        A lease that ended more than 5 s ago (clocks differ) is taken over. Claiming again with the same attempt id is
        GRANTED again without counting; an id whose attempt has ended is refused with a LedgerError: one id, one
        attempt. Where no attempt is left the shard becomes FAILED, its last cause kept, and the answer is EXHAUSTED;
        HELD if it goes on in ``escalate``, see ``expire``.
        """

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now; LeaseLostError if this attempt does not own the shard.

        With ``staged``, the result of its script, this attempt also becomes the shard's ``winner``: what it has staged
        is published, by whichever attempt owns the shard, and no later one runs the script again. LeaseLostError if
        another attempt has won.
        """

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        """RUNNING → SUCCEEDED; LeaseLostError if this attempt does not own the shard. Twice does no harm."""

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED, fenced in the same way."""

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "") -> None:
        """RUNNING → PENDING, fenced in the same way; the cause is kept. ``engine`` is the shard's own."""

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        """RUNNING → PENDING for ``engine``, fenced likewise; nothing counted yet, and no function claims it again."""

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over: PENDING, or FAILED if no attempt is left; the shard as it is then.

        A function's shard without an attempt left is PENDING for the engine ``escalate``, if one is named.
        None if the shard has moved on or its lease was renewed since ``record`` was read, or the lease still runs.
        """

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        """Count a message sent again for a PENDING shard, whose waiting (``changed_s``) begins anew.

        ``unrun``: because the last one became a dead-letter message before any attempt. ``task_id``: no message, but
        the shard's engine has started this worker.
        None if it has moved on since ``record`` was read.
        """

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that will not be claimed; False if it has moved on since ``record`` was read."""

    def redrive(self, run_id: str, number: int, generation: int, engine: str = "") -> ShardRecord | None:
        """FAILED → PENDING in ``generation``, nothing counted yet; None if it is not FAILED in an older one.

        From now on ``engine`` does it; "": the one that did it before.
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
        """Shards by state, from the index: cheap, a moment old, for progress only.

        SUCCEEDED is 0 until the plan is sealed.
        """

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """Shards RUNNING with a lease end, or PENDING unchanged since, before ``before_s``.

        Found by the index (it may lag), each then read from the base table.
        """

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
