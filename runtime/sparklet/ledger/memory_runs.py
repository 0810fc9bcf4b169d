"""Runs and their plans in dictionaries, changed under one lock."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from sparklet.errors import CheckpointConflictError, LedgerError
from sparklet.ledger.rules import RUNS_A_PAGE, id_taken, no_generation, no_run, not_ended, not_retired, status_of
from sparklet.model import PartRecord, Run, RunState, ScriptRef, ShardRecord
from sparklet.ports import Clock


class MemoryRuns:
    """``Runs`` in dictionaries."""

    def __init__(self, clock: Clock, lock: threading.RLock, shards: dict[str, dict[int, ShardRecord]]) -> None:
        self._clock, self._lock, self._shards = clock, lock, shards
        self._runs: dict[str, Run] = {}
        self._parts: dict[str, dict[int, PartRecord]] = {}
        self._retired: set[str] = set()
        self._deleted: set[str] = set()
        self._unfinalized: set[str] = set()
        self._looked_at: tuple[str, ...] = ()  # finalized runs of this pass

    def create(self, run: Run) -> None:
        """Enter a run."""
        with self._lock:
            if run.run_id in self._runs or run.run_id in self._deleted:
                raise id_taken(run.run_id, run.run_id in self._deleted)
            self._runs[run.run_id] = run
            self._parts[run.run_id] = {}
            self._unfinalized.add(run.run_id)

    def get(self, run_id: str) -> Run:
        """The run."""
        with self._lock:
            if run_id not in self._runs:
                raise no_run(run_id)
            return self._runs[run_id]

    def list(self) -> Iterator[Run]:
        """All runs, newest first."""
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda r: (r.created_s, r.run_id), reverse=True)
        return iter(runs)

    def unfinalized(self) -> Iterator[Run]:
        """Runs about which something may still have to be done, newest first."""
        return (run for run in self.list() if run.run_id in self._unfinalized)

    def finalize(self, run: Run) -> bool:
        """Note that nothing is left to be done about an ended run."""
        with self._lock:
            stands = self._runs.get(run.run_id)
            if stands and stands.state.ended and stands.generation == run.generation:
                self._unfinalized.discard(run.run_id)
            return run.run_id not in self._unfinalized

    def unfinalize(self, run: Run) -> None:
        """Note that something is left to be done about a run."""
        with self._lock:
            if run.run_id in self._runs:
                self._unfinalized.add(run.run_id)

    def next_finalized(self) -> Iterator[Run]:
        """The next few of the finalized runs."""
        with self._lock:
            finalized = [run for run in self.list() if run.run_id not in self._unfinalized]
            page = [run for run in finalized if run.run_id not in self._looked_at][:RUNS_A_PAGE]
        yield from page
        with self._lock:
            seen = (*self._looked_at, *(run.run_id for run in page))
            self._looked_at = seen if len(page) == RUNS_A_PAGE else ()

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part."""
        with self._lock:
            run = self.get(run_id)
            if run.state is not RunState.PLANNING or run.cancelled_s is not None:
                raise CheckpointConflictError(f"the plan of run {run_id} takes no more parts: it is {status_of(run)}")
            if part.index in self._parts[run_id]:
                raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
            self._parts[run_id][part.index] = part

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order."""
        with self._lock:
            self.get(run_id)
            parts = sorted(self._parts[run_id].values(), key=lambda p: p.index)
        return iter(parts)

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that a part's shards are entered and their messages sent."""
        with self._lock:
            self.get(run_id)
            if index not in self._parts[run_id]:
                raise LedgerError(f"run {run_id} has no sealed part {index}")
            self._parts[run_id][index] = replace(self._parts[run_id][index], dispatched=True)

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """No shard will be added any more."""
        with self._lock:
            run = self.get(run_id)
            if run.sealed and run.shard_count == shard_count:
                return
            planned = max((p.next_shard for p in self._parts[run_id].values()), default=shard_count)
            if run.state is not RunState.PLANNING or planned != shard_count:
                raise CheckpointConflictError(
                    f"the plan of run {run_id} cannot be sealed with {shard_count} shards: "
                    f"it is {run.state} with {run.shard_count}, its parts hold {planned}"
                )
            sealed = replace(run, state=RunState.RUNNING, shard_count=shard_count, skipped=dict(skipped))
            self._runs[run_id] = replace(sealed, object_count=object_count, size_bytes=size_bytes)

    def start_generation(self, run_id: str, generation: int, script: ScriptRef) -> Run:
        """Open the next generation."""
        with self._lock:
            run = self.get(run_id)
            cancelling = run.cancelled_s is not None and not run.state.ended
            if run.generation != generation - 1 or not run.sealed or cancelling or run_id in self._retired:
                raise no_generation(run, generation, run_id in self._retired)
            opened = replace(run, scripts=(*run.scripts, script), state=RunState.RUNNING)
            self._runs[run_id] = replace(opened, ended_s=None, cancelled_s=None, notified_s=None)
            self._unfinalized.add(run_id)
            return self._runs[run_id]

    def finish(self, run_id: str, generation: int, state: RunState) -> Run:
        """Record how a run ended."""
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        with self._lock:
            run = self.get(run_id)
            fits = (run.cancelled_s is not None) is (state is RunState.CANCELLED)
            if run.generation == generation and not run.state.ended and fits:
                self._runs[run_id] = replace(run, state=state, ended_s=self._clock.now_s())
            return self._runs[run_id]

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of a generation's end was sent."""
        with self._lock:
            run = self.get(run_id)
            if run.generation == generation and run.state.ended:
                self._runs[run_id] = replace(run, notified_s=self._clock.now_s())

    def cancel(self, run_id: str) -> Run:
        """Note that the run is to end."""
        with self._lock:
            run = self.get(run_id)
            if run.cancelled_s is None and not run.state.ended:
                self._runs[run_id] = replace(run, cancelled_s=self._clock.now_s())
            return self._runs[run_id]

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good."""
        with self._lock:
            run = self.get(run_id)
            if not run.state.ended:
                raise not_ended(run)
            self._retired.add(run_id)
            return run

    def delete(self, run_id: str) -> int:
        """Forget a retired run."""
        with self._lock:
            if run_id not in self._retired:
                raise not_retired(self.get(run_id))
            self._retired.remove(run_id)
            self._deleted.add(run_id)
            self._unfinalized.discard(run_id)
            del self._runs[run_id]
            return len(self._shards.pop(run_id, {})) + len(self._parts.pop(run_id, {})) + 1
