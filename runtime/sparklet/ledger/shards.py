"""Shards: entered, read, counted; and what attempts change of a shard: transitions, swapped in the store.

A first claim, and an attempt's changes of its own shard, read nothing: the transition is applied to a *presumed* shard,
of which only the fields it looks at are known, and the swap depends on exactly those.
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
    """A run's shards in bulk. Every method raises LedgerError; RunNotFoundError or ShardNotFoundError."""

    def __init__(self, store: Store, clock: Clock, runs: Runs) -> None:
        self._store, self._clock, self._runs = store, clock, runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter planned shards, which wait from now on; one that is there already stays as it is. How many were new."""
        return self._store.add(items.shard_item(replace(shard, changed_s=self._clock.now_s())) for shard in shards)

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard (strongly consistent)."""
        return items.shard_record(self._store.get(items.shard_key(run_id, number)), run_id, number)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number, from the base table (strongly consistent)."""
        yield from map(items.shard_record, self._store.items(self._partitions(run_id), items.SHARD_PREFIX, state))

    def count(self, run_id: str) -> Counts:
        """Shards by state, from the base table (strongly consistent): what ends a run."""
        count_by_state = self._store.count(self._partitions(run_id))
        return Counts(*(count_by_state.get(state, 0) for state in COUNTED))

    def glance(self, run_id: str) -> Counts:
        """Shards by state, from the index: cheap, a moment old, for progress; no SUCCEEDED until the plan is sealed."""
        run = self._runs.get(run_id)
        indexed = (ShardState.PENDING, ShardState.RUNNING, ShardState.FAILED)
        count_by_state = self._store.glance(self._runs.partitions(run), indexed)
        pending, running, failed = (count_by_state.get(state, 0) for state in indexed)
        # While the index lags, a shard may be counted in a state that it has left, and the rest be less than nothing.
        succeeded = max(0, (run.shard_count or 0) - pending - running - failed)
        return Counts(pending, running, succeeded, failed)

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """Shards RUNNING with a lease that ends before ``before_s``, or PENDING and unchanged since before it.

        Found by the index (it may lag), each then read from the base table. A renewal does not move a shard in the
        index: after one by a clock that is behind, the shard is found when the lease that its claim gave is over.
        """
        if state not in (ShardState.RUNNING, ShardState.PENDING):
            raise ValueError(f"a {state} shard does not expire")
        for record in self._between(run_id, f"{state}#", open_value(state, before_s)):
            since_s = record.lease_end_s if state is ShardState.RUNNING else record.changed_s
            # The index only proposes: the shard may have moved on, and a renewal has not moved it there.
            if record.state is state and since_s < before_s:
                yield record

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards PENDING (for functions), RUNNING or FAILED that have changed since; found by the index likewise.

        A lease ends later than its shard has changed.
        """
        records = self._between(run_id, open_value(state, since_s), open_value(state, MAX_TIME_S))
        return (record for record in records if record.state is state and record.changed_s >= since_s)

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards of engines, those that have waited longest first in each bucket; found likewise."""
        return (record for record in self._first(run_id, FOR_ENGINE) if record.engine and not record.split)

    def to_split(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards that a check is to split; found likewise."""
        return (record for record in self._first(run_id, TO_SPLIT) if record.split)

    def _first(self, run_id: str, first: str) -> Iterator[ShardRecord]:
        places = (open_value(ShardState.PENDING, since_s, first) for since_s in (0.0, MAX_TIME_S))
        return (record for record in self._between(run_id, *places) if record.state is ShardState.PENDING)

    def _between(self, run_id: str, first: str, last: str) -> Iterator[ShardRecord]:
        """Shards that the index has between two places, as the base table has them: page by page, the oldest first."""
        for partition in self._partitions(run_id):
            for keys in self._store.keys(partition, (first, last), index=True):
                yield from map(items.shard_record, list(self._store.get_many(keys)))

    def _partitions(self, run_id: str) -> Sequence[str]:
        return self._runs.partitions(self._runs.get(run_id))


class Attempts(Swaps[ShardRecord]):
    """Changes of a shard's state. Every method raises LedgerError, and ShardNotFoundError.

    Attempts end with LeaseLostError if the shard is not theirs; a repeated change does no harm.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(
            store, clock, items.shard_change, lambda item, was: items.shard_record(item, was.run_id, was.number)
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
        """Take the shard for ``lease_s`` seconds and count the attempt; HELD if it is another ``engine``'s.

        A lease that ended more than 5 s ago (clocks differ) is taken over. The same attempt id is GRANTED again without
        counting; LedgerError if its attempt has ended. Without an attempt left the shard becomes FAILED, its last cause
        kept, and the answer is EXHAUSTED; HELD if it moves to ``escalate`` or is to be split, see ``expire``.
        """

        def answer(record: ShardRecord) -> Claim[ShardRecord]:
            terms = attempt_id, self._clock.now_s(), lease_s, max_attempts, log_stream, engine, escalate
            return transitions.claim(record, ref, *terms)

        return self._answer(answer, *self._first(ref, engine))

    def _first(self, ref: ShardRef, engine: str) -> tuple[ShardRecord, *tuple[str, ...]]:
        """The record that a claim presumes: for a function's first claim, by far the most frequent, the planned shard.

        It has the first revision, so it was never claimed. The revisions of redriven and engines' shards are not known.
        """
        if engine or ref.generation:
            return (self._read(ref.run_id, ref.shard),)
        # State, generation and engine are conditions of their own: a shard that was planned for an engine has revision
        # 1, too. One that is to be split also has, but gets no message (``is_for_functions``).
        planned = {"state": ShardState.PENDING, "generation": 0, "engine": ""}
        fresh = {"revision": 1, "attempts": 0, "attempt_id": "", "split": "", "started_s": 0.0, "conflicts": 0}
        return items.presumed_shard(ref.run_id, ref.shard, **planned, **fresh), *planned

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now.

        With ``staged``, its script's result, this attempt also becomes the shard's ``winner``: any later attempt only
        publishes the staged files. LeaseLostError if another attempt has won.
        """
        presumed_fields = {} if staged is None else {"winner": ""}
        self._own(run_id, number, attempt_id, transitions.renew, lease_s, staged, **presumed_fields)

    def succeed(
        self, run_id: str, number: int, attempt_id: str, result: ShardResult, *, inherited: bool = False
    ) -> None:
        """RUNNING → SUCCEEDED; a cause ``inherited`` from the shard that it was split off is forgotten."""
        self._own(run_id, number, attempt_id, transitions.succeed, result, inherited)

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED."""
        self._own(run_id, number, attempt_id, transitions.fail, failure)

    def release(
        self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "", split: str = ""
    ) -> None:
        """RUNNING → PENDING; the cause is kept. ``engine`` is the shard's own; ``split``: how a check splits it."""
        # Only a conflict is counted, and only for that the shard is read; the write then depends on this count.
        presumed_fields = {"conflicts": self._read(run_id, number).conflicts} if is_conflict(failure) else {}
        self._own(run_id, number, attempt_id, transitions.release, failure, split, engine=engine, **presumed_fields)

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        """RUNNING → PENDING for ``engine``; nothing counted yet, and no function claims it again."""
        self._own(run_id, number, attempt_id, transitions.escalate, failure, engine)

    def _own(
        self,
        run_id: str,
        number: int,
        attempt_id: str,
        said: Callable[..., ShardRecord],
        *what: object,
        **presumed_fields: object,
    ) -> None:
        """Make an attempt's transition of its own shard: one write, if it is the owner and ``presumed_fields`` hold."""
        # Not the revision: a script's end and a renewal, by two threads of one attempt, would refuse each other
        # (docs/decisions/0079).
        presumed_fields = {"state": ShardState.RUNNING, "attempt_id": attempt_id, **presumed_fields}
        mine = items.presumed_shard(run_id, number, **presumed_fields)
        self._change(lambda record: (said(record, attempt_id, self._clock.now_s(), *what),), mine, *presumed_fields)

    # --- transitions that others request of a record that they have read ---

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over: PENDING, or FAILED if no attempt is left; return the shard as it is then.

        Without an attempt left, a function's shard is PENDING for the engine ``escalate``, if one is named, and a shard
        that is to be split is PENDING for its split. None if the shard has moved on or its lease was renewed since
        ``record`` was read, or the lease still runs.
        """
        return self._swap(record, transitions.expire, max_attempts, escalate)

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        """Count a message sent again for a PENDING shard, whose waiting (``changed_s``) begins anew.

        ``unrun``: the last one became a dead-letter message without an attempt. ``task_id``: instead of a message the
        shard's engine has started this worker. None if the shard has moved on since ``record`` was read.
        """
        return self._swap(record, transitions.count_requeue, unrun, task_id)

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that will not be claimed; False if it has moved on since ``record`` was read."""
        return self._swap(record, transitions.abandon, failure) is not None

    def redrive(
        self, run_id: str, number: int, generation: int, engine: str = "", isolate: int = 0
    ) -> ShardRecord | None:
        """FAILED or SUCCEEDED → PENDING in ``generation``, for ``engine`` ("": the same).

        None if it has not ended, or not in an older generation.
        """
        return self._swap(self._read(run_id, number), transitions.redrive, generation, engine, isolate)

    def _swap(self, was: ShardRecord, said: Callable[..., ShardRecord | None], *what: object) -> ShardRecord | None:
        """The shard after a transition; None if its state allows no such transition, or the write was refused."""
        if (after := said(was, self._clock.now_s(), *what)) is None:
            return None
        # Tried once: the decision rests on the record that was read, and a refusal means that its reason may be gone.
        written = self._store.write(items.shard_change(was, after))
        record = self._value(written.item, was)
        return record if written.applied else None

    def split(self, record: ShardRecord, run: Run, part: PartRecord, into: Sequence[ShardRecord]) -> bool:
        """A PENDING shard → SPLIT, and those of the plan's next ``part`` in its place, in one transaction.

        False if the shard, the plan, or the ``run``'s number of shards has moved on since they were read.
        """
        return self._store.write(
            # Two checks that split at once name the same next part, so one of them is refused.
            New(items.part_item(run.run_id, part)),
            items.shard_change(record, transitions.split(record)),
            _counting(run, len(into) - 1, 1),
            *(New(items.shard_item(shard)) for shard in into),
        ).applied

    def join(self, record: ShardRecord, run: Run, parts: Sequence[ShardRecord], failure: Failure) -> bool:
        """A SPLIT shard → FAILED, and those in its place → SPLIT, in one transaction; False likewise."""
        return self._store.write(
            items.shard_change(record, transitions.join(record, failure)),
            _counting(run, 1 - len(parts), len(parts) - 1),
            *(items.shard_change(shard, transitions.split(shard)) for shard in parts),
        ).applied

    def _read(self, run_id: str, number: int) -> ShardRecord:
        return items.shard_record(self._store.get(items.shard_key(run_id, number)), run_id, number)


def _counting(run: Run, shards: int, split: int) -> Update:
    """Add to an open run's number of shards, and to the number of those that were split and no longer count."""
    assert run.shard_count is not None
    # The state excludes a run that has ended since: no check would look at its new shards. The counts exclude another
    # split: this one would overwrite its counts.
    expected_values = {
        "state": RunState.RUNNING,
        "shard_count": run.shard_count,
        "split_count": run.split_count or None,
    }
    counts = {"shard_count": run.shard_count + shards, "split_count": run.split_count + split}
    return Update(items.run_key(run.run_id), expected_values, counts)
