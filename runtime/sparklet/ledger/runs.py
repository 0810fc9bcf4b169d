"""Runs and their plans, from the first entry to the deletion."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from sparklet.errors import CheckpointConflictError, LedgerError, RunExistsError
from sparklet.ledger import items, rules, transitions
from sparklet.ledger.clock import Clock
from sparklet.ledger.store import ABSENT, Change, Delete, New, Store, Swaps, Update
from sparklet.model import PartRecord, Run, RunKind, RunState, ScriptRef, ledger_bucket_count


class Runs(Swaps[Run]):
    """Runs and their plans. Every method raises LedgerError, and RunNotFoundError where it names a run."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock, items.run_change, lambda item, run: items.run_value(item, run.run_id))

    def create(self, run: Run) -> None:
        """Enter a run; RunExistsError if the ledger has a run with this id, or had one that was deleted."""
        written = self._store.write(*_new_run(run))
        if not written.applied:
            # A refused write returns the item of its first change, the run: if there is none, the tombstone exists.
            problem = "was deleted, and its id cannot be used again" if written.item is None else "is in the ledger"
            raise RunExistsError(f"a run {run.run_id} {problem}; choose another id")

    def follow(self, parent: Run, run: Run) -> Run:
        """Enter a run that follows its parent's generation; return the run in the ledger, perhaps another caller's.

        One transaction enters it and names it in the parent's record, so it exists exactly if the parent names it.
        CheckpointConflictError if the parent was cancelled, has ended or has another generation.
        """

        def enter(current_parent: Run) -> tuple[Run, *tuple[Change, ...]]:
            return transitions.follow(current_parent, run, parent.generation), *_new_run(run)

        self._change(enter, parent)
        return self.get(run.run_id)

    def followers(self, run: Run) -> dict[RunKind, Run]:
        """The runs that follow ``run`` as it was read, by kind (check, commit, …), in the order of their phases."""
        existing_items = self._store.get_many(items.run_key(run_id) for run_id in run.follower_ids.values())
        followers = {follower.kind: follower for follower in map(items.run_value, existing_items)}
        return {kind: followers[kind] for kind in run.follower_ids if kind in followers}

    def get(self, run_id: str) -> Run:
        """The run (strongly consistent)."""
        return items.run_value(self._store.get(items.run_key(run_id)), run_id)

    def list(self) -> Iterator[Run]:
        """All runs, newest first."""
        return self._newest_first()

    def unfinalized(self) -> Iterator[Run]:
        """Runs that may still need work, newest first: new runs, open runs, runs with a new generation.

        They are found by the index (it may lag), and read from the base table: so the cost grows with their number, not
        with that of all runs.
        """
        return self._newest_first(index=True)

    def _newest_first(self, *, index: bool = False) -> Iterator[Run]:
        for keys in self._store.keys(items.RUNS_PARTITION, index=index, backwards=True):
            ids = [items.run_id_of(key) for key in keys]
            existing_runs = map(items.run_value, self._store.get_many(items.run_key(run_id) for run_id in ids))
            runs = {run.run_id: run for run in existing_runs}
            # Items come in any order, and a run may have been deleted since its pointer was read.
            yield from (runs[run_id] for run_id in ids if run_id in runs)

    # --- the plan ---

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part: the planner's checkpoint.

        CheckpointConflictError if another planner has sealed this part, or the plan, or the run was cancelled.
        """
        # The condition on the run is in one transaction with the part: a slow planner that sealed a part after the plan
        # was sealed, or after a cancel, would add shards that are in no count.
        open_plan = Update(items.run_key(run_id), {"state": RunState.PLANNING, "cancelled_s": None})
        written = self._store.write(New(items.part_item(run_id, part)), open_plan)
        if written.applied:
            return
        if written.item is not None:
            raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
        raise CheckpointConflictError(
            f"the plan of run {run_id} takes no more parts: it is {rules.status_of(self.get(run_id))}"
        )

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order (strongly consistent)."""
        self.get(run_id)
        return map(items.part_value, self._store.items([items.run_partition(run_id)], items.PART_PREFIX))

    def _last_part(self, run_id: str) -> PartRecord | None:
        last = self._store.last(items.run_partition(run_id), items.PART_PREFIX)
        return items.part_value(last) if last else None

    def partitions(self, run: Run) -> Sequence[str]:
        """The partitions in which a run's shards can be, as far as the run is planned."""
        # By the numbers in use, not the number of shards: a shard that was split no longer counts, but its item stays.
        number_count = run.numbers
        if not run.sealed:
            last = self._last_part(run.run_id)
            number_count = last.next_shard if last else 0
        return [items.bucket_partition(run.run_id, bucket) for bucket in range(ledger_bucket_count(number_count))]

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that all shards of a part are in the ledger and their messages sent."""
        key = items.part_key(run_id, index)
        part = self._store.get(key)
        # Without the condition DynamoDB's update would create the item again if the run was deleted meanwhile.
        if part is None or not self._store.write(Update(key, {"part": part["part"]}, {"dispatched": True})).applied:
            self.get(run_id)
            raise LedgerError(f"run {run_id} has no sealed part {index}")

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),  # objects left out, by reason
    ) -> None:
        """Seal the plan, to which no shard is added any more: PLANNING → RUNNING. A second call does nothing.

        CheckpointConflictError if the plan has another number of shards.
        """

        def seal(run: Run) -> tuple[Run, Change]:
            last = self._last_part(run_id)
            # Another planner may seal a part between this read and the write, and the plan would lack it.
            no_further_part = Update(items.part_key(run_id, last.index + 1 if last else 0), ABSENT)
            return transitions.seal(run, last, shard_count, object_count, size_bytes, skipped), no_further_part

        self._change(seal, self.get(run_id))

    def set_schema(self, run_id: str, schema: str) -> Run:
        """Set the run's schema, unless the run has one or its plan is sealed; return the run as it is then."""
        return self._change(lambda run: (transitions.set_schema(run, schema),), self.get(run_id))

    # --- generations and ends ---

    def start_generation(
        self, run_id: str, generation: int, script: ScriptRef, *, stays_cancelled: bool = False
    ) -> Run:
        """Open generation ``generation`` (the next one) with its script: the run is RUNNING again.

        A cancelled run is open again, unless it ``stays_cancelled``: then the next check ends it again. LedgerError if
        the run is not at ``generation - 1``, not sealed, or is being cancelled or deleted.
        """

        def start(run: Run) -> tuple[Run, Change]:
            # In the same transaction the pointer comes into the index: else no check would find the open run.
            pointer = Update(items.pointer_key(run), {"run_id": run_id}, {"open": items.unfinalized_value(run)})
            return transitions.start_generation(run, generation, script, stays_cancelled=stays_cancelled), pointer

        return self._change(start, self.get(run_id))

    def finish(self, run_id: str, generation: int, state: RunState, counted_shards: int | None = None) -> Run:
        """Record how a run ended; return the run as it is then.

        Nothing happens if the run has ended or a later generation is open; if ``state`` is CANCELLED and the run was
        not cancelled, or the reverse; or if the run now has another number of shards than ``counted_shards``.
        """
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        now_s = self._clock.now_s()
        return self._change(
            lambda run: (transitions.finish(run, generation, state, now_s, counted_shards),), self.get(run_id)
        )

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of a generation's end was sent, unless the run is open or at a later generation."""
        self._change(lambda run: (transitions.notify(run, generation, self._clock.now_s()),), self.get(run_id))

    def cancel(self, run_id: str) -> Run:
        """Note that the run is to end (``cancelled_s``); return the run as it is then. It gets no more plan parts.

        Nothing happens if it was cancelled before or has ended.
        """
        return self._change(lambda run: (transitions.cancel(run, self._clock.now_s()),), self.get(run_id))

    def finalize(self, run: Run) -> bool:
        """Note that an ended run needs no more work; False if a later generation was opened since.

        The run's pointer leaves the index, if the run is still as it was read. Only a new generation brings it back.
        """
        if not run.state.ended:
            return False
        index_removal = Update(items.pointer_key(run), {"open": items.unfinalized_value(run)}, {"open": None})
        # If a redrive has opened the run since it was read, it must stay in the index.
        unchanged_run = Update(items.run_key(run.run_id), {"state": run.state, "generation": run.generation})
        written = self._store.write(index_removal, unchanged_run)
        # True also if another check was faster, or the run was deleted.
        return written.applied or written.item is None or "open" not in written.item

    # --- deletion: a run is first retired, so that it cannot be opened again; its own item is deleted last ---

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good, before its files and items are deleted; LedgerError if it has not ended."""
        return self._change(lambda run: (transitions.retire(run, self._clock.now_s()),), self.get(run_id))

    def delete(self, run_id: str) -> int:
        """Delete a retired run's shards, its parts, and last the run; return the number of items.

        After a crash another call deletes the rest. ``create`` never accepts the id again. LedgerError if the run is
        not retired.
        """
        run, key = self.get(run_id), items.run_key(run_id)
        if run.retired_s is None:
            status = rules.status_of(run)
            raise LedgerError(f"the run {run_id} is {status} and was not retired; nothing is deleted")
        # Shards go first: only the parts and the run show in which partitions they are, also after a crash.
        deleted = self._store.empty(self.partitions(run))
        deleted += self._store.empty([items.run_partition(run_id)], spared=key)
        pk, sk = items.tombstone_key(run_id)
        tombstone = New({"pk": pk, "sk": sk, "deleted_s": int(self._clock.now_s())})
        # One transaction, so that the id is never free, and the pointer never without its run.
        self._store.write(tombstone, Delete(key), Delete(items.pointer_key(run)))
        return deleted + 1


def _new_run(run: Run) -> tuple[Change, ...]:
    """The changes that enter a run; they are refused if another run has its id, or had it."""
    # The condition on the tombstone is in the same transaction: a run that is deleted meanwhile must not free its id.
    return New(items.run_item(run)), New(items.pointer_item(run)), Update(items.tombstone_key(run.run_id), ABSENT)
