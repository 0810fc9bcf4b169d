"""Renders runs, shards, inputs, causes and plans as tables for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from sparklet.app.costs import COST_EXCLUDES, COST_INCLUDES
from sparklet.app.documents import (
    ObjectStatus,
    local_file,
    object_state,
    on_disk,
    places_of,
    redrive_command,
    shard_document,
)
from sparklet.app.estimates import PlanEstimate
from sparklet.app.explain import FailureGroup, first_object
from sparklet.app.local_files import with_local_paths
from sparklet.app.opening import how_to_open, table_text, uncommitted_text
from sparklet.app.reporter import count_text, duration_text, size_text, time_text, usd_text
from sparklet.app.stack import OpenStack
from sparklet.app.state_machines import driver_text
from sparklet.app.status import RunView, seconds_of
from sparklet.model import Dispatch, InputObject, Run, RunState, ShardRecord, ShardState
from sparklet.planning.packing import PlanPreview
from sparklet.runs.summary import Summary

EXCLUDED = "run: its machine, planner, checks. Not included: failed attempts, storage, transfer, logs, idle resources."
MIN_WIDTH = 20  # prose is wrapped to no less
WIDE = 120  # a screen of this width shows all columns
DASH = "–"  # for an unknown figure
OPEN_STATES = tuple(state for state in RunState if not state.ended)
STYLES: Mapping[str, str] = {
    RunState.SUCCEEDED: "green",
    RunState.SUCCEEDED_WITH_FAILURES: "yellow",
    RunState.FAILED: "red",
    RunState.CANCELLED: "magenta",
    ShardState.RUNNING: "cyan",  # other states of shards have the same names as states of runs
}


class Facts:
    """Names and values in lines: prose is wrapped between words, texts to copy (an id, a path, a command) are not."""

    def __init__(self, text: Text | None = None) -> None:
        self._rows = [("", text)] if text else []

    def add_row(self, name: str, value: str | Text) -> None:
        """Add a name and a value; a text with ``no_wrap`` is not wrapped, nor is any indented line."""
        self._rows.append((name, Text(value) if isinstance(value, str) else value))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        longest_name = max((len(name) for name, _ in self._rows), default=0)
        indent = longest_name + 2 if longest_name else 0
        for name, value in self._rows:
            label, value.overflow = name, "ignore"  # the terminal breaks a word that is longer than a line
            for line in value.split("\n", allow_blank=True):
                stays_whole = value.no_wrap or line.plain.startswith(" ")
                width = max(MIN_WIDTH, options.max_width - indent)
                for part in [line] if stays_whole else line.wrap(console, width):
                    yield Text.assemble(label.ljust(indent), part, no_wrap=True, overflow="ignore")
                    label = ""  # only the first line of a value has the name


def add_skipped(facts: Facts, skipped: Mapping[str, int]) -> None:
    """Add the objects left out, by reason; a count of 0 means that the number is not known, and is not shown."""
    for reason, count in sorted(skipped.items()):
        facts.add_row("left out", Text(f"{count} {reason}" if count else reason))


def preview_table(preview: PlanPreview) -> RenderableType:
    """Return the table of a plan's preview."""
    facts = Facts()
    facts.add_row("shards", str(preview.shards))
    slices_text = f", {preview.slices} of them slices of larger ones" if preview.slices else ""
    facts.add_row("objects", f"{preview.objects}{slices_text}, {size_text(preview.size_bytes)}")
    sizes = f"{size_text(preview.smallest_shard_bytes)} to {size_text(preview.largest_shard_bytes)}"
    facts.add_row("a shard", f"{sizes}, at most {count_text(preview.most_objects_in_a_shard, 'object')}")
    facts.add_row("the largest", Text(f"shard {preview.largest_shard}, from {preview.largest_object} on"))
    if preview.too_large:
        facts.add_row("too large", f"{count_text(preview.too_large, 'shard')} for one function (--too-large)")
    add_skipped(facts, preview.skipped)
    return facts


def runs_table(runs: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """Return the table of ``run_history``; on a narrow screen a run's state and trend are below the id."""
    is_wide, numbers = width >= WIDE, ("took", "inputs", "rows", "USD")
    table = Table(show_edge=False, pad_edge=False)
    longest_id = max(len(run["run_id"]) for run in runs)
    table.add_column("run", no_wrap=True, min_width=longest_id)  # so wide that an id can be copied
    for column in ("state", *numbers, "created (UTC)") if is_wide else numbers:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column != "state")
    for run in runs:
        failed_text = f"{run['failed']:,} of " if run["failed"] else ""
        shards = "" if run["shards"] is None else f", {failed_text}{count_text(run['shards'], 'shard')}"
        state = Text(run["state"].replace("_", " ") + shards, style=STYLES.get(run["state"], "cyan"))
        state.append(Text("\n" + ", ".join(run["marks"]), style="yellow") if run["marks"] else "")
        duration = DASH if run["duration_s"] is None else duration_text(run["duration_s"])
        cost = DASH if run["cost_usd"] is None else usd_text(run["cost_usd"]).removesuffix(" USD")
        cells = duration, f"{run['objects']:,}", DASH if run["rows"] is None else f"{run['rows']:,}", cost
        if is_wide:
            table.add_row(Text(run["run_id"]), state, *cells, run["created"][:16])
        else:
            table.add_row(Text.assemble(run["run_id"], "\n", state), *cells)
    return table


def shards_table(records: Iterable[ShardRecord]) -> RenderableType:
    """Return the table of a list of shards."""
    table = Table("shard", "state", "attempts", "rows", Column("cause", overflow="fold"), show_edge=False)
    for record in records:
        rows, state = "" if record.rows is None else str(record.rows), _state_text(record)
        table.add_row(str(record.number), state, str(record.attempts), rows, _cause_text(record))
    return table


def object_table(stack: OpenStack, run: Run, status: ObjectStatus) -> RenderableType:
    """Return the table of an input object: all facts of its shard if it is in one, else a line for each shard."""
    if len(status.shards) == 1 and status.shards[0].record:
        return _shard_facts(status.shards[0].record, run.output_uri.rstrip("/"), places_of(stack, run)[0].rstrip("/"))
    table = Table("shard", "holds", "state", "attempts", Column("cause", overflow="fold"), show_edge=False)
    for holding in status.shards:
        state, attempts, cause = Text("not in the ledger yet"), 0, Text()
        if holding.record:
            state, attempts, cause = _state_text(holding.record), holding.record.attempts, _cause_text(holding.record)
        parts_text = ", ".join(_part_text(item) for item in holding.items)
        table.add_row(str(holding.shard.number), Text(parts_text), state, str(attempts), cause)
    return Group(Text(f"{status.uri} lies in {len(status.shards)} shards, as a whole {object_state(status)}"), table)


def _state_text(record: ShardRecord) -> Text:
    return Text(record.state_text, style=STYLES.get(record.state, ""))


def _cause_text(record: ShardRecord) -> Text:
    return Text(f"{record.error_class}: {record.error_message}" if record.error_class else "")


def _part_text(item: InputObject) -> str:
    version = f" of version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"{item.member or 'all'}{version}"
    return f"bytes {item.slice.start} to {item.slice.end}{version}"


def _shard_facts(record: ShardRecord, output: str, shown_output: str) -> RenderableType:
    facts = Facts()
    for name, value in shard_document(record).items():
        if value not in (None, []):
            style = STYLES.get(record.state, "") if name == "state" else ""
            # The record of a succeeded shard keeps the error of the last failed attempt.
            is_earlier = name.startswith("error") and record.state is ShardState.SUCCEEDED
            label = ("earlier " if is_earlier else "") + name.replace("_", " ")
            text = ", ".join(value).replace(output, shown_output) if isinstance(value, list) else str(value)
            facts.add_row(label, Text(text, style=style))
    return facts


def summary_table(stack: OpenStack, run: Run, summary: Summary, view: RunView | None = None) -> RenderableType:
    """Return the table of a run's result; with ``view`` also pace, cost, slow shards, execution and phases."""
    counts, (_, manifest) = summary.counts, places_of(stack, run)
    facts = Facts()
    facts.add_row("run", Text(run.run_id, style="bold"))
    states = f"{counts.succeeded} succeeded, {counts.failed} failed"
    states += f", {counts.running} running, {counts.pending} pending" if counts.open else ""
    facts.add_row("shards", f"{counts.total}: {states}")
    facts.add_row("input", f"{count_text(summary.objects, 'object')}, {size_text(summary.input_bytes)}")
    add_skipped(facts, run.skipped)
    if summary.unrun:
        messages = count_text(summary.unrun, "message")
        facts.add_row("redelivered", f"{messages} without an attempt, from the dead-letter queue; each was sent again")
    if summary.conflicts:
        attempts = count_text(summary.conflicts, "attempt")
        facts.add_row(
            "conflicts", f"{attempts} met another writer of a table and did not count; job.append commits once"
        )
    waiting_text = f"{duration_text(summary.waited_s)} until the first shard began"
    work_text = f"the shards worked {duration_text(summary.task_s)} in all"
    work_text += f", {duration_text(summary.repeated_s)} of it in vain" if summary.repeated_s else ""
    facts.add_row("time", f"{duration_text(summary.duration_s)}, of which {waiting_text}; {work_text}")
    if summary.state.ended:
        facts.add_row("manifest", Text(on_disk(stack, manifest), no_wrap=True))
    if view:
        _add_pace(facts, view)
        _add_cost(facts, view)
        facts.add_row("", Text(f"of {COST_INCLUDES}; not of {COST_EXCLUDES}", style="dim"))
        _add_surroundings(facts, view)
    if stack.state and summary.causes:
        facts.add_row("logs", Text(f"{stack.state / 'log'} (status {run.run_id} --shards --json names each shard's)"))
    _add_result(facts, stack, run, summary)
    return Group(facts, *(_slow_shards(view) if view else ()), *_causes(stack, run, summary))


def _add_result(facts: Facts, stack: OpenStack, run: Run, summary: Summary) -> None:
    """Add the result; as the last lines, since these are what a user looks for first."""
    output, _ = places_of(stack, run)
    state = f"{summary.state} (being cancelled)" if run.cancelled_s and not summary.state.ended else str(summary.state)
    facts.add_row("state", Text(state, style=STYLES.get(summary.state, "cyan")))
    uncommitted = uncommitted_text(stack.deployment, run)
    if summary.rows is not None:
        facts.add_row("rows", f"{summary.rows:,}" + (f" of succeeded shards; {uncommitted}" if uncommitted else ""))
    for warning, shards in summary.warnings.items():
        facts.add_row("warning", Text(f"{count_text(shards, 'shard')}: {warning}", style="yellow"))
    if summary.drift.text:
        facts.add_row("drift", Text(summary.drift.text, style="red" if summary.drift.fails else "yellow"))
    if run.table:
        facts.add_row("table", Text(f"{table_text(run)}: {uncommitted}" if uncommitted else table_text(run)))
    if summary.has_output or not summary.state.ended:
        facts.add_row("output", Text(output, no_wrap=True))
    if command := how_to_open(stack.deployment, run, on_disk(stack, output)):
        facts.add_row("to see it", Text(command, style="cyan", no_wrap=True))


def run_details(view: RunView) -> RenderableType:
    """Return the details that are shown below the counts while a run is watched."""
    facts = Facts()
    _add_cost(facts, view)
    _add_surroundings(facts, view)
    return Group(facts, *_slow_shards(view))


def _add_pace(facts: Facts, view: RunView) -> None:
    pace, counts = view.found.pace, view.found.summary.counts
    if not pace.average:
        return
    current_text = f"{_rate_text(pace.now)} now, " if counts.open else ""
    remaining_text = ""
    if pace.remaining_s is not None:
        end = time_text(view.found.now_s + pace.remaining_s)
        remaining_text = f"; about {duration_text(pace.remaining_s)} left, until {end} UTC"
    facts.add_row("pace", f"{current_text}{_rate_text(pace.average)} shards/min on average{remaining_text}")


def _add_cost(facts: Facts, view: RunView) -> None:
    on_aws = " (on AWS)" if view.local else ""
    total = usd_text(sum(view.costs.values()))
    facts.add_row("cost so far", f"about {total}{on_aws}: {_costs_text(view.costs)}")


def _add_surroundings(facts: Facts, view: RunView) -> None:
    """Add lost workers, executions of the state machine, and the runs before and after this one."""
    for number, since in view.found.lost:
        facts.add_row("lost worker", Text(lost_text(number, since), style="yellow"))
    if view.run.parent:
        facts.add_row("follows", Text(view.run.parent))
    if driver := view.driver:
        is_broken = driver.ended_early and not view.run.state.ended
        facts.add_row("driven by", Text(driver_text(view.run, driver), style="red" if is_broken else ""))
    elif view.run.dispatch is Dispatch.MAP:
        facts.add_row("driven by", "a state machine that was not started from here")
    for failure in view.failed_executions:
        text = f"{failure['execution']} in {failure['where']}: {failure['error']}: {failure['cause']}"
        facts.add_row("failed execution", Text(text))
    for phase in view.phases:
        facts.add_row(phase["what"], Text(f"{phase['script']} → {phase_text(phase)}"))


def lost_text(number: int, since: str) -> str:
    """Return a text on an open shard whose worker was lost."""
    return f"shard {number}: {since}; the shard is retried"


def phase_text(phase: Mapping[str, str]) -> str:
    """Return the run that does a phase, with its state, and the next command if the run is open or has failed."""
    text = f"{phase['run_id']} {phase['state']}"
    if phase["error_class"]:
        cause = f"{phase['error_class']}: {phase['message']}"
        return f"{text}: {cause}; what to do: sparklet explain {phase['run_id']}"
    if phase["state"] in OPEN_STATES:
        return f"{text}; to watch it: sparklet watch {phase['run_id']}"
    return text


def _slow_shards(view: RunView) -> Iterator[RenderableType]:
    """Yield the table of the slowest shards, running shards first; nothing if no shard has begun."""
    records = [*view.found.longest, *view.found.slowest]
    if not records:
        return
    table = Table("shard", "last attempt", "state", "attempts", show_edge=False, title_justify="left")
    table.title, longest_stream = "slowest shards", max(len(record.log_stream) for record in records)
    table.add_column("log stream", no_wrap=True, min_width=longest_stream)
    for record in records:
        stream = Text(record.log_stream or DASH)
        duration = duration_text(seconds_of(record, view.found.now_s))
        table.add_row(str(record.number), duration, record.state_text, str(record.attempts), stream)
    yield from (Text(""), table)


def _causes(stack: OpenStack, run: Run, summary: Summary) -> Iterator[RenderableType]:
    """Yield why shards failed, and the next command; nothing if no shard has failed."""
    if not summary.causes:
        return
    causes = Facts()
    for cause in summary.causes:
        message = with_local_paths(stack, run.run_id, cause.example_message)
        file = first_object(stack.deployment, stack.deployment.ledger.shards.get(run.run_id, cause.example_shard))
        place = ", ".join(filter(None, (f"shard {cause.example_shard}", with_local_paths(stack, run.run_id, file))))
        example = Text.assemble((cause.error_class, "bold"), f": {message} ({place})")
        causes.add_row(count_text(cause.count, "shard"), example)
    next_step = f"what is at fault, and what to do: sparklet explain {run.run_id}"
    yield from (Text("\nfailures", style="italic"), causes, Text(next_step, style="dim"))


def group_table(stack: OpenStack, group: FailureGroup) -> RenderableType:
    """Return the table of failed shards with one cause, or of a failed task (schema, check, commit) of the run."""
    subject = f"{group.task} run {group.example.run_id}" if group.task else count_text(group.count, "shard")
    title = Text(f"{subject}: {group.error_class or '(no cause given)'}", style="bold red")
    facts = Facts()
    example_object = local_file(stack, group) or group.example_object
    example = f"shard {group.example.number}" + (f", {example_object}" if example_object else "")
    example += "" if group.example.by_function else f", {group.example.state_text}"
    further_inputs = group.example.object_count - 1
    facts.add_row(
        "  example", Text(example + (f" and {further_inputs} more" if example_object and further_inputs > 0 else ""))
    )
    facts.add_row("  says", Text(with_local_paths(stack, group.example.run_id, group.example.error_message)))
    if group.unrun:
        facts.add_row("  redelivered", f"{count_text(group.unrun, 'message')} without an attempt")
    if group.with_output:
        facts.add_row("  earlier output", f"{count_text(group.with_output, 'shard')} had succeeded, and it stays")
    facts.add_row("  reason", Text(group.advice.reason))
    facts.add_row("  remedy", Text(group.advice.remedy))
    if command := redrive_command(stack, group):
        command_label = "once repaired" if group.advice.at_fault else "then"
        facts.add_row(f"  {command_label}", Text(command, style="cyan", no_wrap=True))
    return Group(title, facts, Text(""))


def estimate_table(plan_estimate: PlanEstimate) -> RenderableType:
    """Return the table of a plan's dispatch mode, cost and end."""
    facts = Facts()
    facts.add_row("dispatch mode", Text("queue: by default", style="bold"))
    workers = count_text(plan_estimate.estimate.workers, "worker")
    facts.add_row("ends after", f"{duration_text(plan_estimate.estimate.end_s)}, with {workers}")
    facts.add_row(
        "cost on AWS", f"{usd_text(plan_estimate.estimate.cost)}: {_costs_text(plan_estimate.estimate.costs)}"
    )
    for route in plan_estimate.routes:
        load = f"{count_text(route.shards, 'shard')}, {size_text(route.size_bytes)}"
        cost_and_end = f"{usd_text(route.cost_usd)}, ends after {duration_text(route.end_s)}"
        facts.add_row(f"in {route.name}", f"{load}: {cost_and_end}")
    for size in plan_estimate.sizes:
        cost_and_end = f"{usd_text(size.cost_usd)}, ends after {duration_text(size.end_s)}"
        cheapest = "; the cheapest (--memory, FunctionMemoryMB)" if size is plan_estimate.sizes[0] else ""
        facts.add_row(f"with {size.memory_mb:,} MB", cost_and_end + cheapest)
    facts.add_row("a shard", Text(f"{duration_text(plan_estimate.time.seconds)}; {plan_estimate.time.origin}"))
    if plan_estimate.overhead:
        facts.add_row("the run itself", plan_estimate.overhead)
    if plan_estimate.bad_input:
        facts.add_row("a bad input", plan_estimate.bad_input)
    dates = " to ".join(dict.fromkeys(plan_estimate.prices.dates))
    facts.add_row("prices", Text(f"us-east-1, of {dates}. {EXCLUDED}", style="dim"))
    return facts


def _costs_text(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{item} {usd_text(cost)}" for item, cost in costs.items())


def _rate_text(per_min: float) -> str:
    return f"{per_min:,.0f}" if per_min >= 10 else f"{per_min:.2g}"
