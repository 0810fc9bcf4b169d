"""Runs and their plans in dictionaries, changed under one lock."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from sparklet.clock import SystemClock
from sparklet.errors import CheckpointConflictError, LedgerError, RunNotFoundError
from sparklet.ledger_rules import RUNS_A_TURN, id_taken, no_generation, not_ended, not_retired, standing
from sparklet.model import PartRecord, Run, RunState, ScriptRef, ShardRecord
from sparklet.ports import Clock


class MemoryRuns:
    """The part of ``MemoryLedger`` that knows runs and plans."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._runs: dict[str, Run] = {}
        self._parts: dict[str, dict[int, PartRecord]] = {}
        self._shards: dict[str, dict[int, ShardRecord]] = {}
        self._retired: set[str] = set()
        self._deleted: set[str] = set()
        self._unsettled: set[str] = set()
        self._looked_at: list[str] = []  # settled runs of this turn
        self._lock = threading.RLock()

    def create_run(self, run: Run) -> None:
        """Enter a run."""
        with self._lock:
            if run.run_id in self._runs or run.run_id in self._deleted:
                raise id_taken(run.run_id, run.run_id in self._deleted)
            self._runs[run.run_id] = run
            self._parts[run.run_id] = {}
            self._unsettled.add(run.run_id)

    def get_run(self, run_id: str) -> Run:
        """The run."""
        with self._lock:
            if run_id not in self._runs:
                raise RunNotFoundError(f"there is no run {run_id}; `sparklet runs` lists those there are")
            return self._runs[run_id]

    def list_runs(self) -> Iterator[Run]:
        """All runs, newest first."""
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda r: (r.created_s, r.run_id), reverse=True)
        return iter(runs)

    def unsettled_runs(self) -> Iterator[Run]:
        """Runs about which something may still have to be done, newest first."""
        return (run for run in self.list_runs() if run.run_id in self._unsettled)

    def settle_run(self, run: Run) -> bool:
        """Note that nothing is left to be done about an ended run."""
        with self._lock:
            stands = self._runs.get(run.run_id)
            if stands and stands.state.ended and stands.generation == run.generation:
                self._unsettled.discard(run.run_id)
            return run.run_id not in self._unsettled

    def unsettle_run(self, run: Run) -> None:
        """Note that something is left to be done about a run."""
        with self._lock:
            if run.run_id in self._runs:
                self._unsettled.add(run.run_id)

    def settled_in_turn(self) -> Iterator[Run]:
        """The next few of the settled runs."""
        with self._lock:
            settled = [run for run in self.list_runs() if run.run_id not in self._unsettled]
            page = [run for run in settled if run.run_id not in self._looked_at][:RUNS_A_TURN]
        yield from page
        with self._lock:
            self._looked_at = [*self._looked_at, *(run.run_id for run in page)] if len(page) == RUNS_A_TURN else []

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part."""
        with self._lock:
            run = self.get_run(run_id)
            if run.state is not RunState.PLANNING or run.cancelled_s is not None:
                raise CheckpointConflictError(f"the plan of run {run_id} takes no more parts: it is {standing(run)}")
            if part.index in self._parts[run_id]:
                raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
            self._parts[run_id][part.index] = part

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order."""
        with self._lock:
            self.get_run(run_id)
            parts = sorted(self._parts[run_id].values(), key=lambda p: p.index)
        return iter(parts)

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that a part's shards are entered and their messages sent."""
        with self._lock:
            self.get_run(run_id)
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
            run = self.get_run(run_id)
            if run.sealed and run.shard_count == shard_count:
                return
            planned = max((p.next_shard for p in self._parts[run_id].values()), default=shard_count)
            if run.state is not RunState.PLANNING or planned != shard_count:
                raise CheckpointConflictError(
                    f"the plan of run {run_id} cannot be sealed with {shard_count} shards: "
                    f"it is {run.state} with {run.shard_count}, its parts hold {planned}"
                )
            self._runs[run_id] = replace(
                run,
                state=RunState.RUNNING,
                shard_count=shard_count,
                object_count=object_count,
                size_bytes=size_bytes,
                skipped=dict(skipped),
            )

    def start_generation(self, run_id: str, generation: int, script: ScriptRef) -> Run:
        """Open the next generation."""
        with self._lock:
            run = self.get_run(run_id)
            cancelling = run.cancelled_s is not None and not run.state.ended
            if run.generation != generation - 1 or not run.sealed or cancelling or run_id in self._retired:
                raise no_generation(run, generation, run_id in self._retired)
            self._runs[run_id] = replace(
                run,
                scripts=(*run.scripts, script),
                state=RunState.RUNNING,
                ended_s=None,
                cancelled_s=None,
                notified_s=None,
            )
            self._unsettled.add(run_id)
            return self._runs[run_id]

    def finish_run(self, run_id: str, generation: int, state: RunState) -> Run:
        """Record how a run ended."""
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        with self._lock:
            run = self.get_run(run_id)
            fits = (run.cancelled_s is not None) is (state is RunState.CANCELLED)
            if run.generation == generation and not run.state.ended and fits:
                self._runs[run_id] = replace(run, state=state, ended_s=self._clock.now_s())
            return self._runs[run_id]

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the end of a generation was told."""
        with self._lock:
            run = self.get_run(run_id)
            if run.generation == generation and run.state.ended:
                self._runs[run_id] = replace(run, notified_s=self._clock.now_s())

    def cancel_run(self, run_id: str) -> Run:
        """Note that somebody wants the run's end."""
        with self._lock:
            run = self.get_run(run_id)
            if run.cancelled_s is None and not run.state.ended:
                self._runs[run_id] = replace(run, cancelled_s=self._clock.now_s())
            return self._runs[run_id]

    def retire_run(self, run_id: str) -> Run:
        """Close an ended run for good."""
        with self._lock:
            run = self.get_run(run_id)
            if not run.state.ended:
                raise not_ended(run)
            self._retired.add(run_id)
            return run

    def delete_run(self, run_id: str) -> int:
        """Forget a retired run."""
        with self._lock:
            if run_id not in self._retired:
                raise not_retired(self.get_run(run_id))
            self._retired.remove(run_id)
            self._deleted.add(run_id)
            self._unsettled.discard(run_id)
            del self._runs[run_id]
            return len(self._shards.pop(run_id, {})) + len(self._parts.pop(run_id, {})) + 1
