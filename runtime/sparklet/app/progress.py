"""What ``status``, ``watch`` and ``explain`` show: summary, pace, slow shards, lost workers, causes, worker seconds.

Everything comes from one pass over the ledger in constant memory. For 100,000 shards of 0.6 KB that is some 60 MB of
strongly consistent reads: 60 pages, 15,000 read units, 0.002 USD.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sparklet.app.explain import FailureGroup, count_failure
from sparklet.ledger.rules import lost_worker
from sparklet.model import Run, ShardRecord, ShardState
from sparklet.runs.summary import Summary

SLOWEST = 5
PACE_S = 60.0  # the current pace is that of the last minute, or of the time of three shards
PACE_SHARDS = 3
MAX_PACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Shards that ended a minute."""

    now: float
    average: float  # since the generation's first shard began
    remaining_s: float | None  # for what is open, at the current pace; None: unknown


@dataclass(slots=True)
class Work:
    """What one kind of worker has done in this generation."""

    known_s: float = 0.0  # of all attempts, also those that run
    attempts: int = 0
    files: int = 0  # that these were given


@dataclass(slots=True)
class Observation:
    """A run as an operator sees it; shards are added one by one."""

    summary: Summary
    now_s: float
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)  # by class and pattern
    lost: list[tuple[int, str]] = field(default_factory=list)  # open shards of lost workers: number, and since when
    work: dict[str, Work] = field(default_factory=lambda: {"": Work()})  # by engine; "": the functions
    finished: int = 0  # shards that ended after an attempt; cancelled ones had none
    _slowest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # a heap
    _longest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # another
    _ended: Counter[int] = field(default_factory=Counter)  # shards by the minutes ago when they ended, the last hour

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        self.summary.add(record)
        if record.state is ShardState.FAILED:
            count_failure(self.failures, record)
        if len(self.lost) < SLOWEST and (since := lost_worker(record, self.now_s)):
            self.lost.append((record.number, since))
        work = self.work.setdefault(record.engine, Work())
        work.attempts += record.attempts
        work.files += record.attempts * record.object_count
        earlier = work if record.attempts > 1 else self.work[""]  # it came from a function
        earlier.known_s += record.worked_s
        took_s = seconds_of(record, self.now_s)
        work.known_s += took_s
        if record.state in (ShardState.PENDING, ShardState.SPLIT) or not record.attempts:
            return
        if record.state is ShardState.RUNNING:
            _keep(self._longest, took_s, record)
            return
        self.finished += 1
        _keep(self._slowest, took_s, record)
        ago_s = self.now_s - record.changed_s
        if ago_s < MAX_PACE_S:
            self._ended[max(0, int(ago_s // PACE_S))] += 1

    @property
    def slowest(self) -> list[ShardRecord]:
        """The ended shards that took longest, the slowest first."""
        return [record for _, _, record in sorted(self._slowest, reverse=True)]

    @property
    def longest(self) -> list[ShardRecord]:
        """The RUNNING shards that have taken longest until now, the slowest first."""
        return [record for _, _, record in sorted(self._longest, reverse=True)]

    @property
    def pace(self) -> Pace:
        """How fast shards end. The current pace is that of the last minute, or of as long as three shards take."""
        if not self.finished:
            return Pace(0.0, 0.0, None)
        still_open = self.summary.counts.open
        whole_s = max(1.0, (self.now_s if still_open else self.summary.changed_s) - self.summary.first_s)
        average = self.finished / whole_s * 60
        if not still_open:
            return Pace(0.0, average, None)
        mean_s = self.summary.task_s / self.finished
        minutes = min(MAX_PACE_S, max(PACE_S, PACE_SHARDS * mean_s)) // PACE_S
        lately = sum(count for ago, count in self._ended.items() if ago < minutes)
        now = lately / min(minutes * PACE_S, whole_s) * 60
        return Pace(now, average, still_open / (now or average) * 60)


def observe(
    run: Run, shards: Iterable[ShardRecord], now_s: float, each: Callable[[ShardRecord], None] = lambda record: None
) -> Observation:
    """Add up a run's shards as they are now."""
    found = Observation(Summary.of(run), now_s)
    for record in shards:
        found.add(record)
        each(record)
    return found


def seconds_of(record: ShardRecord, now_s: float) -> float:
    """What a shard's last attempt took, or has taken so far."""
    return max(0.0, now_s - record.started_s) if record.state is ShardState.RUNNING else record.took_s


def _keep(heap: list[tuple[float, int, ShardRecord]], took_s: float, record: ShardRecord) -> None:
    heapq.heappush(heap, (took_s, -record.number, record))
    if len(heap) > SLOWEST:
        heapq.heappop(heap)
