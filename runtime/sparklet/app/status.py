"""A run at one moment, for an operator: pace, cost, slow shards, what drives it and what follows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sparklet.app.costs import COST_EXCLUDES, COST_INCLUDES, Prices, costs_so_far
from sparklet.app.documents import result_document, shard_document
from sparklet.app.explain import FailureGroup, explain
from sparklet.app.progress import Observation, observe, seconds_of
from sparklet.app.reporter import time_text
from sparklet.app.stack import OpenStack
from sparklet.app.state_machines import driver_of, recorded_failures
from sparklet.errors import OrchestrationError
from sparklet.model import ExecutionStatus, Run, ShardRecord
from sparklet.planning.follow_up_ids import follow_up_id
from sparklet.runs.drift import drift_of
from sparklet.runs.follow_ups import FollowUp, as_follow_up, follow_ups

MAX_FAILED_EXECUTIONS = 5


@dataclass(frozen=True)
class RunView:
    """A run, and what was found about it."""

    run: Run
    found: Observation
    costs: Mapping[str, float]  # so far, US dollars
    local: bool  # whether these are what AWS would charge
    driver: ExecutionStatus | None  # its newest execution from a command line, if known
    failed_executions: tuple[Mapping[str, Any], ...]  # as the state machines recorded them
    follow_ups: tuple[Mapping[str, str], ...]  # check, commit and next run

    def document(self, stack: OpenStack) -> dict[str, Any]:
        """As ``sparklet status RUN --json``."""
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
            "follow_ups": self.follow_ups,
            "parent": self.run.parent or None,
        }


def view_run(
    stack: OpenStack, run: Run, prices: Prices, each: Callable[[ShardRecord], None] = lambda record: None
) -> RunView:
    """Read a run's view: one pass over its shards, of which ``each`` is told, and a few more reads."""
    found = observe(run, stack.at.ledger.shards.list(run.run_id), stack.at.clock.now_s(), each)
    found.summary.drift = drift_of(stack.at, run) if run.state.ended else ""
    try:
        driver = driver_of(stack, run)
    except OrchestrationError:  # show the rest
        driver = None
    return RunView(
        run=run,
        found=found,
        costs=costs_so_far(found, run, stack.size, prices),
        local=stack.state is not None,
        driver=driver,
        failed_executions=tuple(islice(recorded_failures(stack, run), MAX_FAILED_EXECUTIONS)),
        follow_ups=tuple(follow_up_documents(stack, run)),
    )


def explain_run(stack: OpenStack, run: Run) -> tuple[tuple[FailureGroup, ...], Observation]:
    """The causes of a run's failures, and all that was found on the way."""
    found = observe(run, stack.at.ledger.shards.list(run.run_id), stack.at.clock.now_s())
    return explain(stack.at, run, found.failures.values(), found.summary.counts.succeeded), found


def follow_up_documents(stack: OpenStack, run: Run) -> Iterator[Mapping[str, str]]:
    """The runs that do a task of this one, and its next run: their scripts and states, and why they failed."""
    scripts = {"check": run.check, "next": run.next and run.next.script}
    for what, entered in follow_ups(stack.at, run).items():
        if script := scripts.get(what) or (entered.scripts[-1] if entered else None):
            not_begun = FollowUp(follow_up_id(run.run_id, what, run.generation), "not begun")
            found = as_follow_up(stack.at, entered) or not_begun
            yield {"what": what, "script": script.source_uri, **asdict(found)}


def _slow_document(record: ShardRecord, now_s: float) -> dict[str, Any]:
    return {**shard_document(record), "seconds": round(seconds_of(record, now_s), 3)}
