"""A run as ``status`` shows it: its summary; for an operator also pace, cost, slow shards, driver and follow-ups."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sparklet.app.costs import COST_EXCLUDES, COST_INCLUDES, Prices, costs_so_far
from sparklet.app.estimates import costs_text
from sparklet.app.progress import Observation, observe, seconds_of
from sparklet.app.stack import Environment
from sparklet.app.state_machines import driver_of, driver_text, recorded_failures
from sparklet.cli.console import Screen, count_text, duration_text, size_text, time_text, usd_text
from sparklet.cli.render import STYLES, add_skipped, shard_document, shards_table
from sparklet.errors import OrchestrationError
from sparklet.model import Dispatch, ExecutionStatus, Run, RunState, ShardRecord
from sparklet.planning.follow_up_ids import check_id, next_id
from sparklet.runs.follow_ups import FollowUp, as_follow_up, check_run, last_commit_run, next_run
from sparklet.runs.summary import Summary
from sparklet.runs.verification import Difference

MAX_FAILED_EXECUTIONS = 5
MAX_CAUSES_WATCHED = 3
OPEN_STATES = tuple(state for state in RunState if not state.ended)


@dataclass(frozen=True)
class RunView:
    """A run at one moment, for an operator."""

    run: Run
    found: Observation
    costs: Mapping[str, float]  # so far, US dollars
    local: bool
    driver: ExecutionStatus | None  # its newest execution from a command line, if known
    failed_executions: tuple[Mapping[str, Any], ...]  # as the state machines recorded them
    follow_ups: tuple[Mapping[str, str], ...]  # check, commit and next run

    def document(self) -> dict[str, Any]:
        """For --json, in addition to the summary."""
        pace, now_s = self.found.pace, self.found.now_s
        left_s = pace.remaining_s
        return {
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

    def add_rows(self, facts: Table, *, brief: bool = False) -> None:
        """The same for people, below the summary; ``brief`` leaves out what the live display shows itself."""
        pace = self.found.pace
        if pace.average and not brief:
            now = f"{_rate(pace.now)} now, " if self.found.summary.counts.open else ""
            facts.add_row("pace", f"{now}{_rate(pace.average)} shards/min on average{self._end_text()}")
        where = " (on AWS)" if self.local else ""
        facts.add_row("cost so far", f"about {usd_text(sum(self.costs.values()))}{where}: {costs_text(self.costs)}")
        if not brief:
            facts.add_row("", Text(f"of {COST_INCLUDES}; not of {COST_EXCLUDES}", style="dim"))
        for number, since in self.found.lost:
            facts.add_row("lost worker", Text(lost_text(number, since), style="yellow"))
        if self.run.parent:
            facts.add_row("follows", Text(self.run.parent))
        if driver := self.driver:
            broken = driver.ended_early and not self.run.state.ended
            facts.add_row("driven by", Text(driver_text(self.run, driver), style="red" if broken else ""))
        elif self.run.dispatch is Dispatch.MAP:
            facts.add_row("driven by", "a state machine that was not started from here")
        for each in self.failed_executions:
            text = f"{each['execution']} in {each['where']}: {each['error']}: {each['cause']}"
            facts.add_row("failed execution", Text(text))
        for follower in self.follow_ups:
            facts.add_row(follower["what"], Text(f"{follower['script']} → {follow_up_text(follower)}"))

    def details(self) -> RenderableType:
        """The details below the counts while a run is watched."""
        facts = Table.grid(padding=(0, 2))
        self.add_rows(facts, brief=True)
        for cause in self.found.summary.causes[:MAX_CAUSES_WATCHED]:
            example = f"{cause.count} × {cause.error_class}: shard {cause.example_shard}: {cause.example_message}"
            facts.add_row("failed", Text(example, style="red"))
        return Group(facts, *self.slow_shards())

    def slow_shards(self) -> Iterator[RenderableType]:
        """A table of the slowest shards, running ones first; nothing if none has begun."""
        shown = [*self.found.longest, *self.found.slowest]
        if not shown:
            return
        table = Table("shard", "took", "state", "attempts", "log stream", show_edge=False, title_justify="left")
        table.title = "slowest shards"
        for record in shown:
            stream = Text(record.log_stream or "–", overflow="fold")
            took = duration_text(seconds_of(record, self.found.now_s))
            state = f"{record.state} in {record.engine}" if record.engine else str(record.state)
            table.add_row(str(record.number), took, state, str(record.attempts), stream)
        yield from (Text(""), table)

    def _end_text(self) -> str:
        remaining_s = self.found.pace.remaining_s
        if remaining_s is None:
            return ""
        return f"; about {duration_text(remaining_s)} left, until {time_text(self.found.now_s + remaining_s)} UTC"


def look(env: Environment, run: Run, prices: Prices) -> RunView:
    """Read a run's view: one pass over its shards, and a few more reads."""
    found = observe(run, env.at.ledger.shards.list(run.run_id), env.at.clock.now_s())
    try:
        driver = driver_of(env, run)
    except OrchestrationError:  # show the rest
        driver = None
    return RunView(
        run=run,
        found=found,
        costs=costs_so_far(found, run.dispatch, env.size, prices),
        local=env.local,
        driver=driver,
        failed_executions=tuple(islice(recorded_failures(env, run), MAX_FAILED_EXECUTIONS)),
        follow_ups=tuple(follow_ups(env, run)),
    )


def lost_text(number: int, since: str) -> str:
    """An open shard whose worker was lost, for people."""
    return f"shard {number}: {since}; the shard is retried"


def follow_ups(env: Environment, run: Run) -> Iterator[Mapping[str, str]]:
    """The run's check, its last commit and its next run, with their scripts and states, and why they failed."""
    commit = last_commit_run(env.at, run)
    check_run_id, next_run_id = check_id(run.run_id, run.generation), next_id(run.run_id, run.generation)
    for what, script, run_id, entered in (
        ("check", run.check, check_run_id, check_run(env.at, run)),
        ("commit", commit and commit.scripts[-1], commit.run_id if commit else "", commit),
        ("next", run.next and run.next.script, next_run_id, next_run(env.at, run)),
    ):
        if script:
            found = as_follow_up(env.at, entered) or FollowUp(run_id, "not begun")
            yield {"what": what, "script": script.source_uri, **asdict(found)}


def follow_up_text(follower: Mapping[str, str]) -> str:
    """A follow-up run with its state, for people."""
    cause = f": {follower['error_class']}: {follower['message']}" if follower["error_class"] else ""
    more = f"; to watch it: sparklet watch {follower['run_id']}" if follower["state"] in OPEN_STATES else ""
    return f"{follower['run_id']} {follower['state']}{cause}{more}"


def show_summary(
    env: Environment,
    screen: Screen,
    run: Run,
    summary: Summary,
    records: list[ShardRecord] | None = None,
    view: RunView | None = None,
    differences: list[Difference] | None = None,
) -> None:
    """Show a run's result; where given also all shards, an operator's view, and differences that were found."""
    if screen.as_json:
        document = result_document(env, run, summary) | (view.document() if view else {})
        if differences is not None:
            document["differences"] = [asdict(each) for each in differences]
        if records is not None:
            document["shard_list"] = [shard_document(record) for record in records]
        screen.document(document)
        return
    screen.out.print(summary_table(env, run, summary, view))
    if records is not None:
        screen.out.print(shards_table(records))
    if differences == []:
        screen.out.print("verified: ledger, manifest and output agree")
    for each in differences or ():
        screen.warn(f"{each.kind}: {each.found}")


def result_document(env: Environment, run: Run, summary: Summary) -> dict[str, Any]:
    """A run's result, with where its output and manifest are."""
    output, manifest = _places(env, run)
    return {
        "run_id": run.run_id,
        "state": str(summary.state),
        "cancelled": time_text(run.cancelled_s) if run.cancelled_s else None,
        "generation": summary.generation,
        "shards": summary.counts.to_document(),
        "objects": summary.objects,
        "input_bytes": summary.input_bytes,
        "rows": summary.rows,
        "output_bytes": summary.output_bytes,
        "inputs": list(run.inputs),
        "lists": [each.uri for each in run.lists],
        "skipped": dict(run.skipped),
        "attempts": summary.attempts,
        "came_back_unrun": summary.unrun,
        "task_s": round(summary.task_s, 3),
        "duration_s": round(summary.duration_s, 3),
        "output": output,
        "manifest": manifest,
        "failures": [asdict(cause) for cause in summary.causes],
    }


def _places(env: Environment, run: Run) -> tuple[str, str]:
    output = env.local_paths(run.run_id).output or run.output_uri
    return output, env.at.run_uri(run.run_id, "manifest.json")


def summary_table(env: Environment, run: Run, summary: Summary, view: RunView | None = None) -> RenderableType:
    """A run's result for people."""
    counts, (output, manifest) = summary.counts, _places(env, run)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", Text(run.run_id, style="bold"))
    state = f"{summary.state} (being cancelled)" if run.cancelled_s and not summary.state.ended else str(summary.state)
    facts.add_row("state", Text(state, style=STYLES.get(summary.state, "cyan")))
    states = f"{counts.succeeded} succeeded, {counts.failed} failed"
    states += f", {counts.running} running, {counts.pending} pending" if counts.open else ""
    facts.add_row("shards", f"{counts.total}: {states}")
    facts.add_row("input", f"{count_text(summary.objects, 'object')}, {size_text(summary.input_bytes)}")
    add_skipped(facts, run.skipped)
    if summary.rows is not None:
        facts.add_row("rows", f"{summary.rows:,}")
    if summary.unrun:
        messages = count_text(summary.unrun, "message")
        facts.add_row("came back unrun", f"{messages}, dead letters without an attempt; each was sent again")
    facts.add_row("time", f"{duration_text(summary.duration_s)} ({duration_text(summary.task_s)} of work)")
    facts.add_row("output", Text(output))
    if summary.state.ended:
        facts.add_row("manifest", Text(manifest))
    if view:
        view.add_rows(facts)
    if env.state and summary.causes:
        facts.add_row("logs", Text(f"{env.state / 'log'} (status {run.run_id} --shards --json names each shard's)"))
    return Group(facts, *(view.slow_shards() if view else ()), *_causes(run, summary))


def _causes(run: Run, summary: Summary) -> Iterator[RenderableType]:
    """Why shards failed, and the next command; nothing if none has."""
    if not summary.causes:
        return
    causes = Table("shards", "cause", "example", title="failures", title_justify="left", show_edge=False)
    for cause in summary.causes:
        example = f"shard {cause.example_shard}: {cause.example_message}"
        causes.add_row(str(cause.count), escape(cause.error_class), escape(example))
    next_step = f"for remedies: sparklet explain {run.run_id}; then: sparklet redrive {run.run_id}"
    yield from (Text(""), causes, Text(next_step, style="dim"))


def _rate(per_min: float) -> str:
    return f"{per_min:,.0f}" if per_min >= 10 else f"{per_min:.2g}"


def _slow_document(record: ShardRecord, now_s: float) -> dict[str, Any]:
    return {**shard_document(record), "seconds": round(seconds_of(record, now_s), 3)}
