"""What an operator wants to know of a run beyond its counts: pace, the estimated end, slow shards, seconds paid for.

Everything comes from one pass over the ledger, whose memory does not grow with the run. For 100,000 shards of 0.6 KB
that is some 60 MB of strongly consistent reads: 60 pages, 15,000 read units, 0.002 USD.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparklet.fanout.reporting.summary import Summary, Tally
from sparklet.ledger_rules import lost_worker
from sparklet.model import Run, ShardRecord, ShardState

SLOWEST = 5
PACE_S = 60.0  # the pace now is that of so long, or of three shards' time
PACE_SHARDS = 3
MOST_PACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Shards that ended a minute."""

    now: float
    average: float  # since the generation's first shard began
    remaining_s: float | None  # for what is open, at the pace of now; None: nobody can tell


@dataclass(frozen=True, slots=True)
class Observation:
    """A run as an operator looks at it."""

    summary: Summary
    pace: Pace
    slowest: tuple[ShardRecord, ...]  # ended ones, the slowest first
    longest: tuple[ShardRecord, ...]  # running ones, those longest at it first
    lost: tuple[tuple[int, str], ...]  # open shards of lost workers, the first ones: number, and since when
    running_s: float  # what the running ones have taken so far, added up
    running: int  # attempts that run
    finished: int  # shards that ended after an attempt; cancelled ones had none
    now_s: float

    @property
    def mean_s(self) -> float:
        """Of the ended shards' last attempts."""
        return self.summary.task_s / self.finished if self.finished else 0.0

    @property
    def worked_s(self) -> float:
        """Seconds of all attempts of this generation; those before a shard's last one are taken for average ones."""
        known_s, timed = self.summary.task_s + self.running_s, self.finished + self.running
        return known_s * self.summary.attempts / timed if timed else 0.0


def seconds_of(record: ShardRecord, now_s: float) -> float:
    """What a shard's last attempt took, or has taken so far."""
    return record.took_s if record.state.ended else max(0.0, now_s - record.started_s)


def observe(run: Run, shards: Iterable[ShardRecord], now_s: float) -> Observation:
    """Add up a run's shards as they stand now."""
    seen = _Seen(now_s)
    for record in shards:
        seen.add(record)
    summary = seen.tally.summary(run, run.state)
    return Observation(
        summary=summary,
        pace=seen.pace(summary),
        slowest=_first(seen.slowest),
        longest=_first(seen.longest),
        lost=tuple(seen.lost),
        running_s=seen.running_s,
        running=seen.running,
        finished=seen.finished,
        now_s=now_s,
    )


@dataclass(slots=True)
class _Seen:
    """What is kept of the shards so far."""

    now_s: float
    tally: Tally = field(default_factory=Tally)
    slowest: "_Heap" = field(default_factory=list)
    longest: "_Heap" = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)
    running_s: float = 0.0
    running: int = 0
    finished: int = 0
    first_s: float = float("inf")  # when the first attempt known began
    ended: dict[int, int] = field(default_factory=dict)  # shards by the minutes ago when they ended, the last hour

    def add(self, record: ShardRecord) -> None:
        self.tally.add(record)
        if len(self.lost) < SLOWEST and (since := lost_worker(record, self.now_s)):
            self.lost.append((record.number, since))
        if record.state is ShardState.PENDING or not record.attempts:
            return
        took_s = seconds_of(record, self.now_s)
        self.first_s = min(self.first_s, record.started_s)
        if record.state is ShardState.RUNNING:
            self.running += 1
            self.running_s += took_s
            _keep(self.longest, took_s, record)
            return
        self.finished += 1
        _keep(self.slowest, took_s, record)
        ago_s = self.now_s - record.changed_s
        if ago_s < MOST_PACE_S:
            ago = max(0, int(ago_s // PACE_S))
            self.ended[ago] = self.ended.get(ago, 0) + 1

    def pace(self, summary: Summary) -> Pace:
        """Minutes are told apart for the last hour; a run of slow shards is judged by as many as three shards take."""
        if not self.finished:
            return Pace(0.0, 0.0, None)
        still_open = summary.counts.open
        whole_s = max(1.0, (self.now_s if still_open else summary.changed_s) - self.first_s)
        average = self.finished / whole_s * 60
        if not still_open:
            return Pace(0.0, average, None)
        mean_s = summary.task_s / self.finished
        minutes = min(MOST_PACE_S, max(PACE_S, PACE_SHARDS * mean_s)) // PACE_S
        lately = sum(count for ago, count in self.ended.items() if ago < minutes)
        now = lately / min(minutes * PACE_S, whole_s) * 60
        return Pace(now, average, still_open / (now or average) * 60)


_Heap = list[tuple[float, int, ShardRecord]]


def _keep(heap: _Heap, took_s: float, record: ShardRecord) -> None:
    entry = (took_s, -record.number, record)
    if len(heap) < SLOWEST:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _first(heap: _Heap) -> tuple[ShardRecord, ...]:
    return tuple(record for _, _, record in sorted(heap, reverse=True, key=lambda entry: entry[:2]))
