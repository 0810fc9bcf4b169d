"""What an operator sees of a run beyond its counts: pace, end, cost, slow shards, what drives it, what follows."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.cli.choosing import costs_text, rounded, worker_of
from sparklet.cli.environment import Environment
from sparklet.cli.machines import Driver, broken_off_text, driver_of, recorded_failures
from sparklet.cli.sizes import duration_text, time_text, usd_text
from sparklet.errors import OrchestrationError
from sparklet.fanout.checking.follow_ups import FollowUp, checked, followed
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.spent import EXCLUDED, INCLUDED, Spent, spent
from sparklet.fanout.choosing.ways import Way
from sparklet.fanout.planning.follow_up_ids import check_id, next_id
from sparklet.fanout.reporting.observed import Observation, observe, seconds_of
from sparklet.fanout.reporting.summary import Summary
from sparklet.model import Dispatch, Run, RunState, ShardRecord

MOST_FAILED_EXECUTIONS = 5
MOST_CAUSES_WATCHED = 3
UNDER_WAY = tuple(state for state in RunState if not state.ended)


@dataclass(frozen=True)
class Follower:
    """What judges a run, or works on what it wrote."""

    what: str  # check or next
    script: str
    run_id: str
    state: str
    error_class: str = ""  # why it failed
    message: str = ""

    @property
    def standing(self) -> str:
        """Where it stands, in words."""
        cause = f": {self.error_class}: {self.message}" if self.error_class else ""
        more = f"; sparklet watch {self.run_id} shows it" if self.state in UNDER_WAY else ""
        return f"{self.run_id} {self.state}{cause}{more}"


@dataclass(frozen=True)
class OperatorView:
    """A run, looked at once."""

    run: Run
    found: Observation
    spent: Spent
    local: bool
    driver: Driver | None = None  # what was started from a command line to drive it, if that can be known
    failed_executions: tuple[Mapping[str, Any], ...] = ()  # of any starter, as they were recorded
    follow_ups: tuple[Follower, ...] = ()

    @property
    def summary(self) -> Summary:
        """What the run has to show."""
        return self.found.summary


def look(env: Environment, run: Run, prices: Prices) -> OperatorView:
    """Look at a run: one pass over its shards, and a few more reads."""
    found = observe(run, env.at.ledger.shards.list(run.run_id), env.at.clock.now_s())
    driver = _driver(env, run)
    way = Way.MAP if run.dispatch is Dispatch.MAP else Way.LOOP if driver else None
    return OperatorView(
        run=run,
        found=found,
        spent=spent(found, way, worker_of(env.size, local=env.local), prices),
        local=env.local,
        driver=driver,
        failed_executions=tuple(islice(recorded_failures(env, run), MOST_FAILED_EXECUTIONS)),
        follow_ups=tuple(follow_ups(env, run)),
    )


def view_document(view: OperatorView) -> dict[str, Any]:
    """For --json, beside the summary."""
    pace, now_s = view.found.pace, view.found.now_s
    end_s = None if pace.remaining_s is None else now_s + pace.remaining_s
    return {
        "shards_per_min": round(pace.now, 3),
        "average_shards_per_min": round(pace.average, 3),
        "remaining_s": None if pace.remaining_s is None else round(pace.remaining_s, 1),
        "estimated_end": None if end_s is None else time_text(end_s),
        "slowest": [_slow_document(record, now_s) for record in view.found.slowest],
        "longest_running": [_slow_document(record, now_s) for record in view.found.longest],
        "lost_workers": [{"shard": number, "since": since} for number, since in view.found.lost],
        "cost_usd": rounded(view.spent.cost),
        "costs_usd": {what: rounded(cost) for what, cost in view.spent.costs.items()},
        "cost_is_of": INCLUDED,
        "cost_is_not_of": EXCLUDED,
        "dispatch": str(view.run.dispatch),
        "execution": view.driver and _driver_document(view.driver),
        "failed_executions": list(view.failed_executions),
        "follow_ups": [asdict(each) for each in view.follow_ups],
        "parent": view.run.parent or None,
    }


def add_rows(facts: Table, view: OperatorView, *, brief: bool = False) -> None:
    """The same for people, below the summary's facts; ``brief``: without what a display shows itself."""
    pace = view.found.pace
    if pace.average and not brief:
        now = f"{_rate(pace.now)} now, " if view.summary.counts.open else ""
        facts.add_row("pace", f"{now}{_rate(pace.average)} shards/min on average{_end(view)}")
    would = " (on AWS)" if view.local else ""
    facts.add_row("cost so far", f"about {usd_text(view.spent.cost)}{would}: {costs_text(view.spent.costs)}")
    if not brief:
        facts.add_row("", Text(f"of {INCLUDED}; not of {EXCLUDED}", style="dim"))
    for number, since in view.found.lost:
        facts.add_row("lost worker", Text(lost_text(number, since), style="yellow"))
    if view.run.parent:
        facts.add_row("follows", Text(view.run.parent))
    if driver := view.driver:
        broken = driver.broken_off and not view.summary.state.ended
        text = broken_off_text(view.run, driver) if broken else f"{driver.name}: {driver.status.state}"
        facts.add_row("driven by", Text(text, style="red" if broken else ""))
    elif view.run.dispatch is Dispatch.MAP:
        facts.add_row("driven by", "a state machine that was not started from here")
    for each in view.failed_executions:
        facts.add_row("broke off", Text(f"{each['execution']} in {each['where']}: {each['error']}: {each['cause']}"))
    for follower in view.follow_ups:
        facts.add_row(follower.what, Text(f"{follower.script} → {follower.standing}"))


def lost_text(number: int, since: str) -> str:
    """What is said of an open shard whose worker was lost."""
    return f"shard {number}: {since}; the shard is done again"


def view_details(view: OperatorView) -> RenderableType:
    """What stands below the counts while a run is watched."""
    facts = Table.grid(padding=(0, 2))
    add_rows(facts, view, brief=True)
    for cause in view.summary.causes[:MOST_CAUSES_WATCHED]:
        example = f"{cause.count} × {cause.error_class}: shard {cause.example_shard}: {cause.example_message}"
        facts.add_row("failed", Text(example, style="red"))
    slow = slow_table(view)
    return Group(facts, *([Text(""), slow] if slow else []))


def slow_table(view: OperatorView) -> RenderableType | None:
    """The shards that take longest, those still running first; None if none was begun."""
    now_s = view.found.now_s
    shown = [*view.found.longest, *view.found.slowest]
    if not shown:
        return None
    table = Table("shard", "took", "state", "attempts", "log stream", show_edge=False, title_justify="left")
    table.title = "slowest shards"
    for record in shown:
        stream = Text(record.log_stream or "–", overflow="fold")
        took = duration_text(seconds_of(record, now_s))
        table.add_row(str(record.number), took, str(record.state), str(record.attempts), stream)
    return table


def _end(view: OperatorView) -> str:
    remaining_s = view.found.pace.remaining_s
    if remaining_s is None:
        return ""
    return f"; about {duration_text(remaining_s)} left, until {time_text(view.found.now_s + remaining_s)} UTC"


def _rate(per_min: float) -> str:
    return f"{per_min:,.0f}" if per_min >= 10 else f"{per_min:.2g}"


def _slow_document(record: ShardRecord, now_s: float) -> dict[str, Any]:
    return {
        "shard": record.number,
        "state": str(record.state),
        "seconds": round(seconds_of(record, now_s), 3),
        "attempts": record.attempts,
        "log_stream": record.log_stream or None,
    }


def _driver_document(driver: Driver) -> dict[str, Any]:
    status = driver.status
    return {
        "name": driver.name,
        "id": status.execution,
        "state": str(status.state),
        "started": time_text(status.started_s),
        "error": status.error or None,
        "cause": status.cause or None,
    }


def _driver(env: Environment, run: Run) -> Driver | None:
    try:
        return driver_of(env, run)
    except OrchestrationError:  # a view without it is better than none; the ledger has the rest
        return None


def follow_ups(env: Environment, run: Run) -> Iterator[Follower]:
    """What judges the run and what comes after it, as far as they have come."""
    if run.check:
        run_id = check_id(run.run_id, run.generation)
        yield _follower("check", run.check.source_uri, run_id, checked(env.at, run))
    if run.next:
        run_id = next_id(run.run_id, run.generation)
        yield _follower("next", run.next.script.source_uri, run_id, followed(env.at, run))


def _follower(what: str, script: str, run_id: str, found: FollowUp | None) -> Follower:
    if found is None:
        return Follower(what, script, run_id, "not begun")
    return Follower(what, script, run_id, str(found.state), found.error_class, found.message)
