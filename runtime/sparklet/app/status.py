"""A run at one moment, for an operator: summary, pace, cost, slow shards, causes, what drives it and what follows.

What is known of its shards comes from one pass over the ledger in constant memory. For 100,000 shards of 0.6 KB that is
some 60 MB of strongly consistent reads: 60 pages, 15,000 read units, 0.002 USD.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from sparklet.app.costs import COST_EXCLUDES, COST_INCLUDES, Load, Prices, WorkerSize, added, work_costs
from sparklet.app.documents import result_document, shard_document
from sparklet.app.explain import FailureGroup, count_failure, explain
from sparklet.app.reporter import time_text
from sparklet.app.stack import OpenStack
from sparklet.app.state_machines import driver_of, recorded_failures
from sparklet.errors import OrchestrationError
from sparklet.ledger.rules import lost_worker
from sparklet.model import ExecutionStatus, Run, ShardRecord, ShardState, follower_id
from sparklet.runs.phases import PHASES, PhaseStatus
from sparklet.runs.summary import Drift, Summary, Work, drift_of

SLOWEST = 5
PACE_S = 60.0  # the current pace is that of the last minute, or of the time of three shards
PACE_SHARDS = 3
MAX_PACE_S = 3600.0
MAX_FAILED_EXECUTIONS = 5


@dataclass(frozen=True, slots=True)
class Pace:
    """Shards that ended a minute."""

    now: float
    average: float  # since the generation's first shard began
    remaining_s: float | None  # for what is open, at the current pace; None: unknown


@dataclass(slots=True)
class Observation:
    """A run as an operator sees it; shards are added one by one."""

    summary: Summary
    now_s: float
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)  # by class and pattern
    lost: list[tuple[int, str]] = field(default_factory=list)  # open shards of lost workers: number, and since when
    succeeded: Counter[int] = field(default_factory=Counter)  # shards by their generation
    finished: int = 0  # shards that ended after an attempt; cancelled ones had none
    _slowest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # a heap
    _longest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # another
    _ended: Counter[int] = field(default_factory=Counter)  # shards by the minutes ago when they ended, the last hour

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        self.summary.add(record)
        if record.state is ShardState.FAILED:
            count_failure(self.failures, record)
        self.succeeded[record.generation] += record.state is ShardState.SUCCEEDED
        if len(self.lost) < SLOWEST and (since := lost_worker(record, self.now_s)):
            self.lost.append((record.number, since))
        took_s = seconds_of(record, self.now_s)
        if record.state in (ShardState.PENDING, ShardState.SPLIT) or not record.attempts:
            return
        if record.state is ShardState.RUNNING:
            self.summary.add_running(record, took_s)
            _keep_slowest(self._longest, took_s, record)
            return
        self.finished += 1
        _keep_slowest(self._slowest, took_s, record)
        ago_s = self.now_s - record.changed_s
        if ago_s < MAX_PACE_S:
            # Sixty counters instead of a time for each of 100,000 shards.
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
    run: Run,
    shards: Iterable[ShardRecord],
    now_s: float,
    on_record: Callable[[ShardRecord], None] = lambda record: None,
) -> Observation:
    """Add up a run's shards as they are now."""
    observation = Observation(Summary.of(run), now_s)
    for record in shards:
        observation.add(record)
        on_record(record)
    return observation


def seconds_of(record: ShardRecord, now_s: float) -> float:
    """What a shard's last attempt took, or has taken so far."""
    return max(0.0, now_s - record.started_s) if record.state is ShardState.RUNNING else record.took_s


def _keep_slowest(heap: list[tuple[float, int, ShardRecord]], took_s: float, record: ShardRecord) -> None:
    # Records have no order; of equal times the number decides.
    heapq.heappush(heap, (took_s, -record.number, record))
    if len(heap) > SLOWEST:
        heapq.heappop(heap)


# --- with what is around it ---


@dataclass(frozen=True)
class RunView:
    """A run, and what was found about it."""

    run: Run
    found: Observation
    costs: Mapping[str, float]  # so far, US dollars
    local: bool  # whether these are what AWS would charge
    driver: ExecutionStatus | None  # its newest execution from a command line, if known
    failed_executions: tuple[Mapping[str, Any], ...]  # as the state machines recorded them
    phases: tuple[Mapping[str, str], ...]  # that other runs do

    def document(self, stack: OpenStack) -> dict[str, Any]:
        """The view as ``sparklet status RUN --json`` prints it."""
        pace, now_s = self.found.pace, self.found.now_s
        left_s = pace.remaining_s
        return result_document(stack, self.run, self.found.summary) | {
            "shards_per_min": round(pace.now, 3),
            "average_shards_per_min": round(pace.average, 3),
            "remaining_s": None if left_s is None else round(left_s, 1),
            "estimated_end": None if left_s is None else time_text(now_s + left_s),
            "slowest": [_slow_document(record, now_s) for record in self.found.slowest],
            "longest_running": [_slow_document(record, now_s) for record in self.found.longest],
            "lost_workers": [{"shard": number, "since": since} for number, since in self.found.lost],
            "cost_usd": round(sum(self.costs.values()), 6),
            "costs_usd": {what: round(cost, 6) for what, cost in self.costs.items()},
            "cost_includes": COST_INCLUDES,
            "cost_excludes": COST_EXCLUDES,
            "dispatch": str(self.run.dispatch),
            "execution": self.driver and {"name": self.driver.name, **asdict(self.driver)},
            "failed_executions": list(self.failed_executions),
            "follow_ups": self.phases,
            "parent": self.run.parent or None,
        }


def view_run(
    stack: OpenStack, run: Run, prices: Prices, on_record: Callable[[ShardRecord], None] = lambda record: None
) -> RunView:
    """Read a run's view: one pass over its shards, of which ``on_record`` is told, and a few more reads."""
    observation = observe(
        run, stack.deployment.ledger.shards.list(run.run_id), stack.deployment.clock.now_s(), on_record
    )
    observation.summary.drift = drift_of(stack.deployment, run) if run.state.ended else Drift()
    try:
        driver = driver_of(stack, run)
    except OrchestrationError:  # show the rest
        driver = None
    return RunView(
        run=run,
        found=observation,
        costs=costs_so_far(observation.summary.work, run, stack.size, prices),
        local=stack.state is not None,
        driver=driver,
        failed_executions=tuple(islice(recorded_failures(stack, run), MAX_FAILED_EXECUTIONS)),
        phases=tuple(phase_documents(stack, run)),
    )


def explain_run(stack: OpenStack, run: Run) -> tuple[tuple[FailureGroup, ...], Observation]:
    """The causes of a run's failures, those of its own tasks behind, and all that was found on the way."""
    observation = observe(run, stack.deployment.ledger.shards.list(run.run_id), stack.deployment.clock.now_s())
    groups = explain(stack.deployment, run, observation.failures.values(), observation.succeeded)
    return (*groups, *task_failures(stack, run)), observation


def task_failures(stack: OpenStack, run: Run) -> Iterator[FailureGroup]:
    """Why the phases that a run waits for failed, those that were cancelled with it aside."""
    for task in stack.deployment.ledger.runs.followers(run).values():
        if task.is_task and not (run.cancelled_s and task.cancelled_s):
            failed = stack.deployment.ledger.shards.list(task.run_id, ShardState.FAILED)
            yield from explain(stack.deployment, task, observe(task, failed, 0.0).failures.values(), {})


def phase_documents(stack: OpenStack, run: Run) -> Iterator[Mapping[str, str]]:
    """The phases of a run that other runs do: their scripts and states, and why they failed."""
    followers = stack.deployment.ledger.runs.followers(run)
    for phase in PHASES:
        follower = followers.get(phase.kind)
        if script := phase.script(run) or (follower.scripts[-1] if follower else None):
            status = (
                PhaseStatus.of(stack.deployment, follower)
                if follower
                else PhaseStatus(follower_id(run.run_id, phase.kind, run.generation), "not begun")
            )
            yield {"what": phase.kind, "script": script.source_uri, **asdict(status)}


def _slow_document(record: ShardRecord, now_s: float) -> dict[str, Any]:
    return {**shard_document(record), "seconds": round(seconds_of(record, now_s), 3)}


def costs_so_far(work: Mapping[str, Work], run: Run, size: WorkerSize, prices: Prices) -> dict[str, float]:
    """US dollars that a run's attempts have cost so far, by item; ``work``: see ``Summary``."""
    costs = []
    for name, w in work.items():
        load = Load(w.attempts, w.files, outputs=w.files if run.options.output_per else 0)
        costs.append(work_costs(run.dispatch, w.known_s, load, size, prices, name))
    return added(costs)
