"""Shards: ``Shards`` enters, reads and counts them; ``Attempts`` changes the state of one by a transition.

The result is written by a conditional update (``store.Swaps``). A first claim, and an attempt's changes of its own
shard, read nothing: the transition is applied to a *presumed* shard, in which only the fields that the transition uses
have values. The update is conditional on exactly these values.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from sparklet.ledger import items, transitions
from sparklet.ledger.clock import Clock
from sparklet.ledger.items import FOR_ENGINE, MAX_TIME_S, TO_SPLIT, open_value
from sparklet.ledger.rules import is_conflict
from sparklet.ledger.runs import Runs
from sparklet.ledger.store import New, Store, Swaps, Update
from sparklet.model import (
    COUNTED,
    Claim,
    Counts,
    Failure,
    PartRecord,
    Run,
    RunState,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
)


class Shards:
    """A run's shards in bulk. Every method raises LedgerError, RunNotFoundError or ShardNotFoundError."""

    def __init__(self, store: Store, clock: Clock, runs: Runs) -> None:
        self._store, self._clock, self._runs = store, clock, runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter planned shards, PENDING from now on, unless the ledger has them already; return how many were new."""
        return self._store.add(items.shard_item(replace(shard, changed_s=self._clock.now_s())) for shard in shards)

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard (strongly consistent)."""
        return items.shard_record(self._store.get(items.shard_key(run_id, number)), run_id, number)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or the shards in ``state``, in order of number, from the base table (strongly consistent)."""
        yield from map(items.shard_record, self._store.items(self._partitions(run_id), items.SHARD_PREFIX, state))

    def count(self, run_id: str) -> Counts:
        """Shards by state, from the base table (strongly consistent), so that a run can be ended by these counts."""
        count_by_state = self._store.count(self._partitions(run_id))
        return Counts(*(count_by_state.get(state, 0) for state in COUNTED))

    def glance(self, run_id: str) -> Counts:
        """Shards by state, from the index (it may lag), for progress; no SUCCEEDED ones until the plan is sealed."""
        run = self._runs.get(run_id)
        indexed = (ShardState.PENDING, ShardState.RUNNING, ShardState.FAILED)
        count_by_state = self._store.glance(self._runs.partitions(run), indexed)
        pending, running, failed = (count_by_state.get(state, 0) for state in indexed)
        # While the index lags, a shard may be counted twice, in its old and its new state: the rest would be negative.
        succeeded = max(0, (run.shard_count or 0) - pending - running - failed)
        return Counts(pending, running, succeeded, failed)

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """RUNNING shards whose leases end before ``before_s``, or PENDING shards that have not changed since then.

        They are found by the index (it may lag), and read from the base table. A renewal does not move a shard in the
        index: a shard is found once the lease that its claim gave is over, and skipped if the lease was renewed.
        """
        if state not in (ShardState.RUNNING, ShardState.PENDING):
            raise ValueError(f"a {state} shard does not expire")
        for record in self._between(run_id, f"{state}#", open_value(state, before_s)):
            since_s = record.lease_end_s if state is ShardState.RUNNING else record.changed_s
            # The base table decides: the shard may have changed since, and a renewal does not change the index.
            if record.state is state and since_s < before_s:
                yield record

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards in ``state``, PENDING (for functions), RUNNING or FAILED, that have changed since ``since_s``.

        They are found by the index, as in ``expired``. It has RUNNING shards by the end of the lease, which is later
        than the change.
        """
        records = self._between(run_id, open_value(state, since_s), open_value(state, MAX_TIME_S))
        return (record for record in records if record.state is state and record.changed_s >= since_s)

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards of engines, found as in ``expired``; in each bucket those that wait longest come first."""
        return (record for record in self._marked_pending(run_id, FOR_ENGINE) if record.engine and not record.split)

    def to_split(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards that a check is to split, found as in ``expired``."""
        return (record for record in self._marked_pending(run_id, TO_SPLIT) if record.split)

    def _marked_pending(self, run_id: str, mark: str) -> Iterator[ShardRecord]:
        sort_keys = (open_value(ShardState.PENDING, since_s, mark) for since_s in (0.0, MAX_TIME_S))
        return (record for record in self._between(run_id, *sort_keys) if record.state is ShardState.PENDING)

    def _between(self, run_id: str, first: str, last: str) -> Iterator[ShardRecord]:
        """Shards between two sort keys of the index, read by pages from the base table, a partition's oldest first."""
        for partition in self._partitions(run_id):
            for keys in self._store.keys(partition, (first, last), index=True):
                yield from map(items.shard_record, list(self._store.get_many(keys)))

    def _partitions(self, run_id: str) -> Sequence[str]:
        return self._runs.partitions(self._runs.get(run_id))


class Attempts(Swaps[ShardRecord]):
    """Changes of a shard's state. Every method raises LedgerError or ShardNotFoundError.

    A change by an attempt raises LeaseLostError if the attempt does not own the shard; a repeated change does no harm.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(
            store, clock, items.shard_change, lambda item, shard: items.shard_record(item, shard.run_id, shard.number)
        )

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
    ) -> Claim[ShardRecord]:
        """Claim the shard for ``lease_s`` seconds and count the attempt; HELD if the shard is for another ``engine``.

        A lease that ended more than 5 s ago (clocks differ) is taken over. The same attempt id is GRANTED again without
        counting; LedgerError if its attempt has ended. If no attempt is left, the claim is EXHAUSTED and the shard
        becomes FAILED with its last cause; but if the shard moves to the engine ``escalate`` or is to be split (see
        ``expire``), the claim is HELD.
        """

        def decide(record: ShardRecord) -> Claim[ShardRecord]:
            terms = attempt_id, self._clock.now_s(), lease_s, max_attempts, log_stream, engine, escalate
            return transitions.claim(record, ref, *terms)

        return self._decide_claim(decide, *self._presumed_for_claim(ref, engine))

    def _presumed_for_claim(self, ref: ShardRef, engine: str) -> tuple[ShardRecord, *tuple[str, ...]]:
        """The shard as a claim presumes it, and the names of those presumed fields that are conditions of the update.

        For a function's first claim, by far the most frequent, it is the planned shard: at its first revision a shard
        was never claimed. Shards that are redriven, or for engines, are read: their revisions are not known.
        """
        if engine or ref.generation:
            return (self._read(ref.run_id, ref.shard),)
        # State, generation and engine are conditions, too, since a shard that was planned for an engine also has
        # revision 1. So has one that is to be split, but there is no message for it (``is_for_functions``).
        conditions = {"state": ShardState.PENDING, "generation": 0, "engine": ""}
        by_revision = {"revision": 1, "attempts": 0, "attempt_id": "", "split": "", "started_s": 0.0, "conflicts": 0}
        return items.presumed_shard(ref.run_id, ref.shard, **conditions, **by_revision), *conditions

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now.

        With ``staged``, the result of the script, this attempt also becomes the shard's ``winner``: later attempts only
        publish the staged files. LeaseLostError if another attempt has won.
        """
        presumed_fields = {} if staged is None else {"winner": ""}
        self._change_own(run_id, number, attempt_id, transitions.renew, lease_s, staged, **presumed_fields)

    def succeed(
        self, run_id: str, number: int, attempt_id: str, result: ShardResult, *, inherited: bool = False
    ) -> None:
        """RUNNING → SUCCEEDED. A cause that is ``inherited`` from the shard that this one was split off is removed."""
        self._change_own(run_id, number, attempt_id, transitions.succeed, result, inherited)

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED."""
        self._change_own(run_id, number, attempt_id, transitions.fail, failure)

    def release(
        self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "", split: str = ""
    ) -> None:
        """RUNNING → PENDING, with the cause. ``engine`` is the shard's engine; ``split`` is how a check splits it."""
        # The shard is read only to count a conflict; the write then depends on the count that was read.
        presumed_fields = {"conflicts": self._read(run_id, number).conflicts} if is_conflict(failure) else {}
        self._change_own(
            run_id, number, attempt_id, transitions.release, failure, split, engine=engine, **presumed_fields
        )

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        """RUNNING → PENDING for ``engine``, its attempts counted from 0; functions cannot claim the shard any more."""
        self._change_own(run_id, number, attempt_id, transitions.escalate, failure, engine)

    def _change_own(
        self,
        run_id: str,
        number: int,
        attempt_id: str,
        transition: Callable[..., ShardRecord],
        *arguments: object,
        **presumed_fields: object,
    ) -> None:
        """Make an attempt's transition of its own shard: one write, if it is the owner and ``presumed_fields`` hold."""
        # The revision is no condition: the end of a script and a renewal, by two threads of one attempt, would refuse
        # each other (docs/decisions/0079).
        presumed_fields = {"state": ShardState.RUNNING, "attempt_id": attempt_id, **presumed_fields}
        own_shard = items.presumed_shard(run_id, number, **presumed_fields)

        def change(record: ShardRecord) -> tuple[ShardRecord]:
            return (transition(record, attempt_id, self._clock.now_s(), *arguments),)

        self._change(change, own_shard, *presumed_fields)

    # --- transitions that others than the attempt request, of a record that they have read ---

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over; return the shard as it is then: PENDING, or FAILED if no attempt is left.

        Without an attempt left, the shard can also be PENDING for the engine ``escalate``, if one is named, or PENDING
        until a check splits it. None if the lease still runs, or the shard has changed since ``record`` was read.
        """
        return self._swap(record, transitions.expire, max_attempts, escalate)

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        """Count a message that was sent again for a PENDING shard, which waits anew from now on (``changed_s``).

        With ``unrun`` the last message became a dead-letter message without an attempt. With ``task_id`` there is no
        message, since the shard's engine has started this worker. None if the shard has changed since ``record`` was
        read.
        """
        return self._swap(record, transitions.count_requeue, unrun, task_id)

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that will not be claimed; False if it has changed since ``record`` was read."""
        return self._swap(record, transitions.abandon, failure) is not None

    def redrive(
        self, run_id: str, number: int, generation: int, engine: str = "", isolate: int = 0
    ) -> ShardRecord | None:
        """FAILED or SUCCEEDED → PENDING in ``generation``, for ``engine`` ("": the same); return the new record.

        None if the shard has not ended, or not in an older generation.
        """
        return self._swap(self._read(run_id, number), transitions.redrive, generation, engine, isolate)

    def _swap(
        self, before: ShardRecord, transition: Callable[..., ShardRecord | None], *arguments: object
    ) -> ShardRecord | None:
        """Write a transition; return the shard then, None if its state forbids it or the write was refused."""
        if (after := transition(before, self._clock.now_s(), *arguments)) is None:
            return None
        # There is one try: the caller decided by the record that it read, and after a refusal the reason may be gone.
        written = self._store.write(items.shard_change(before, after))
        record = self._record_of(written.item, before)
        return record if written.applied else None

    def split(self, record: ShardRecord, run: Run, part: PartRecord, pieces: Sequence[ShardRecord]) -> bool:
        """A PENDING shard → SPLIT, with the ``pieces`` from the plan's next ``part`` in its place, in one transaction.

        False if the shard, the plan, or the ``run``'s number of shards has changed since it was read.
        """
        return self._store.write(
            # Two checks that split at once name the same next part, so one of them is refused.
            New(items.part_item(run.run_id, part)),
            items.shard_change(record, transitions.split(record)),
            _add_counts(run, len(pieces) - 1, 1),
            *(New(items.shard_item(shard)) for shard in pieces),
        ).applied

    def join(self, record: ShardRecord, run: Run, pieces: Sequence[ShardRecord], failure: Failure) -> bool:
        """A SPLIT shard → FAILED, and the ``pieces`` in its place → SPLIT, in a transaction; False as for ``split``."""
        return self._store.write(
            items.shard_change(record, transitions.join(record, failure)),
            _add_counts(run, 1 - len(pieces), len(pieces) - 1),
            *(items.shard_change(shard, transitions.split(shard)) for shard in pieces),
        ).applied

    def _read(self, run_id: str, number: int) -> ShardRecord:
        return items.shard_record(self._store.get(items.shard_key(run_id, number)), run_id, number)


def _add_counts(run: Run, shards: int, split_shards: int) -> Update:
    """The update that adds to an open run's numbers of shards, and of shards that were split and no longer count."""
    assert run.shard_count is not None
    # By the condition on the state, no shards are added to a run that has ended since: no check would find them. By the
    # conditions on the counts, another split's counts are not overwritten.
    expected_values = {
        "state": RunState.RUNNING,
        "shard_count": run.shard_count,
        "split_count": run.split_count or None,
    }
    counts = {"shard_count": run.shard_count + shards, "split_count": run.split_count + split_shards}
    return Update(items.run_key(run.run_id), expected_values, counts)
