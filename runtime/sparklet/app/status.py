"""Shows an operator a run as it is now: summary, pace, cost, slow shards, causes, its execution and follow-up runs.

One pass over the ledger, in constant memory, reads all shards. For 100,000 shards of 0.6 KB that is some 60 MB of
strongly consistent reads: 60 pages, 15,000 read units, 0.002 USD.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from sparklet.app.costs import COST_EXCLUDES, COST_INCLUDES, Load, Prices, WorkerSize, sum_by_item, work_costs
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
# The current pace is measured over the last minute, or over the time that three shards take if that is longer.
PACE_S = 60.0
PACE_SHARDS = 3
MAX_PACE_S = 3600.0
MAX_FAILED_EXECUTIONS = 5


@dataclass(frozen=True, slots=True)
class Pace:
    """How many shards end in a minute."""

    now: float
    average: float  # since the generation's first shard began
    remaining_s: float | None  # time for the open shards at the current pace; None if unknown


@dataclass(slots=True)
class Observation:
    """Figures of a run, to which its shards are added one by one."""

    summary: Summary
    now_s: float
    failures: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)  # by class and pattern
    lost: list[tuple[int, str]] = field(default_factory=list)  # open shards of lost workers: number, since when
    succeeded: Counter[int] = field(default_factory=Counter)  # number of succeeded shards by generation
    finished: int = 0  # shards that ended after an attempt, so without shards that were cancelled before one
    _slowest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # a heap of ended shards
    _longest: list[tuple[float, int, ShardRecord]] = field(default_factory=list)  # a heap of RUNNING shards
    _ended: Counter[int] = field(default_factory=Counter)  # shards of the last hour, by the minutes since they ended

    def add(self, record: ShardRecord) -> None:
        """Add one shard to all figures."""
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
            # Sixty counters need less memory than the times of 100,000 shards.
            self._ended[max(0, int(ago_s // PACE_S))] += 1

    @property
    def slowest(self) -> list[ShardRecord]:
        """Return the ended shards that took longest, the slowest first."""
        return [record for _, _, record in sorted(self._slowest, reverse=True)]

    @property
    def longest(self) -> list[ShardRecord]:
        """Return the RUNNING shards that have taken longest until now, the slowest first."""
        return [record for _, _, record in sorted(self._longest, reverse=True)]

    @property
    def pace(self) -> Pace:
        """Return how fast shards end, now and on average."""
        if not self.finished:
            return Pace(0.0, 0.0, None)
        open_shards = self.summary.counts.open
        end_s = self.now_s if open_shards else self.summary.changed_s
        whole_s = max(1.0, end_s - self.summary.first_s)
        average = self.finished / whole_s * 60
        if not open_shards:
            return Pace(0.0, average, None)
        mean_s = self.summary.task_s / self.finished
        minutes = min(MAX_PACE_S, max(PACE_S, PACE_SHARDS * mean_s)) // PACE_S
        ended_lately = sum(count for minutes_ago, count in self._ended.items() if minutes_ago < minutes)
        now = ended_lately / min(minutes * PACE_S, whole_s) * 60
        return Pace(now, average, open_shards / (now or average) * 60)


def observe(
    run: Run,
    shards: Iterable[ShardRecord],
    now_s: float,
    on_record: Callable[[ShardRecord], None] = lambda record: None,
) -> Observation:
    """Add up a run's shards as they are now; call ``on_record`` with each."""
    observation = Observation(Summary.of(run), now_s)
    for record in shards:
        observation.add(record)
        on_record(record)
    return observation


def seconds_of(record: ShardRecord, now_s: float) -> float:
    """Return how long a shard's last attempt took, or has taken so far if the shard is RUNNING."""
    if record.state is ShardState.RUNNING:
        return max(0.0, now_s - record.started_s)
    return record.took_s


def _keep_slowest(heap: list[tuple[float, int, ShardRecord]], took_s: float, record: ShardRecord) -> None:
    # Records cannot be compared, so the number decides between equal times.
    heapq.heappush(heap, (took_s, -record.number, record))
    if len(heap) > SLOWEST:
        heapq.heappop(heap)


# --- the run with its costs, executions and follow-up runs ---


@dataclass(frozen=True)
class RunView:
    """A run with all that ``sparklet status`` shows of it."""

    run: Run
    found: Observation
    costs: Mapping[str, float]  # US dollars so far, by item
    local: bool  # whether the run is local, so that the costs are what AWS would charge
    driver: ExecutionStatus | None  # the newest execution that a command line started, if known
    failed_executions: tuple[Mapping[str, Any], ...]  # as the state machines recorded them
    phases: tuple[Mapping[str, str], ...]  # phases that are runs of their own, see ``phase_documents``

    def document(self, stack: OpenStack) -> dict[str, Any]:
        """Return the view as ``sparklet status RUN --json`` prints it."""
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
            "costs_usd": {item: round(cost, 6) for item, cost in self.costs.items()},
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
    """Read a run's view: one pass over its shards, with a call of ``on_record`` for each, and a few more reads."""
    observation = observe(
        run, stack.deployment.ledger.shards.list(run.run_id), stack.deployment.clock.now_s(), on_record
    )
    observation.summary.drift = drift_of(stack.deployment, run) if run.state.ended else Drift()
    try:
        driver = driver_of(stack, run)
    except OrchestrationError:  # the rest of the view is shown without the execution
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
    """Return the causes of a run's failures, the causes of its failed tasks last, and the figures of the run."""
    observation = observe(run, stack.deployment.ledger.shards.list(run.run_id), stack.deployment.clock.now_s())
    groups = explain(stack.deployment, run, observation.failures.values(), observation.succeeded)
    return (*groups, *task_failures(stack, run)), observation


def task_failures(stack: OpenStack, run: Run) -> Iterator[FailureGroup]:
    """Yield why tasks of a run (schema, check, commit) failed, except tasks that were cancelled with the run."""
    for task in stack.deployment.ledger.runs.followers(run).values():
        if task.is_task and not (run.cancelled_s and task.cancelled_s):
            failed_shards = stack.deployment.ledger.shards.list(task.run_id, ShardState.FAILED)
            yield from explain(stack.deployment, task, observe(task, failed_shards, 0.0).failures.values(), {})


def phase_documents(stack: OpenStack, run: Run) -> Iterator[Mapping[str, str]]:
    """Yield the phases of a run that are runs of their own, such as its check: their scripts, states and errors."""
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
    """Return US dollars by item that a run's attempts have cost so far; ``work`` is by engine, see ``Summary``."""
    costs = []
    for engine, engine_work in work.items():
        load = Load(engine_work.attempts, engine_work.files, outputs=engine_work.files if run.options.output_per else 0)
        costs.append(work_costs(run.dispatch, engine_work.known_s, load, size, prices, engine))
    return sum_by_item(costs)
