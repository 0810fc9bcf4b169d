"""Changes of one shard's state: transitions, swapped in the store.

A first claim and whatever an attempt says of its own shard read nothing: the transition is applied to a *presumed*
shard, of which only what it looks at is known, and the swap depends on exactly that.
"""

from collections.abc import Callable, Sequence

from sparklet.ledger import items, transitions
from sparklet.ledger.clock import Clock
from sparklet.ledger.rules import is_conflict
from sparklet.ledger.store import New, Store, Swaps, Update
from sparklet.model import (
    Claim,
    Failure,
    PartRecord,
    Run,
    RunState,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
)


class Attempts(Swaps[ShardRecord]):
    """Changes of a shard's state. Every method raises LedgerError, and ShardNotFoundError.

    Attempts end with LeaseLostError if the shard is not theirs; what they say twice does no harm.
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
        """What a claim begins with: a function's first one, by far the most frequent, with a shard as it was planned.

        Its revision is the first, so it was never claimed. Of redriven and engines' shards no revision is known.
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
        """RUNNING → SUCCEEDED; its cause is ``inherited`` from the shard off which it was split, and forgotten."""
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
        """Do what an attempt says of its own shard: one write, which depends on that and ``presumed_fields``."""
        # Not the revision: a script's end and a renewal, by two threads of one attempt, would refuse each other
        # (docs/decisions/0079).
        presumed_fields = {"state": ShardState.RUNNING, "attempt_id": attempt_id, **presumed_fields}
        mine = items.presumed_shard(run_id, number, **presumed_fields)
        self._change(lambda record: (said(record, attempt_id, self._clock.now_s(), *what),), mine, *presumed_fields)

    # --- what others say of a record that they have read ---

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        """End a lease that is over: PENDING, or FAILED if no attempt is left; the shard as it is then.

        A function's shard without an attempt left is PENDING for the engine ``escalate``, if one is named, and any is
        if it is to be split.
        None if the shard has moved on or its lease was renewed since ``record`` was read, or the lease still runs.
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
        """The shard after a transition; None if there is none from where it stands, or it was refused."""
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
    """So many shards more of an open run, and so many more that count no longer."""
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
