"""Derives advice for the next run from a run's measurements, by named rules.

Each rule gives its figures, or why it knows nothing. The names follow those that Spark users know from DataFlint's
alerts (small tasks, skew, wasted memory); the thresholds are the constants below. Figures of shards come from all
shards, or in a large run from a fair sample.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import StatisticsError, correlation, linear_regression, median
from typing import Any

from sparklet.app.costs import Load, Prices, WorkerSize, work_costs
from sparklet.app.estimates import PACKED, default_shard_count
from sparklet.app.reporter import count_text, duration_text, size_text
from sparklet.app.stack import OpenStack
from sparklet.app.status import RunView
from sparklet.model import Run, ShardState
from sparklet.planning.routes import FOR_ROOM
from sparklet.runs.manifest import fair_values
from sparklet.spark.spark_options import MB_PER_CORE

MIN_SHARDS = 20  # with fewer, rules about distributions know nothing
# Shards are small if their fixed part is at least this share of cost or time. There must be enough of the larger shards
# that remain for each worker to get so many.
OVERHEAD, SHARDS_A_WORKER = 0.25, 4
# A run is skewed if the last 5 % of the shards take at least this share of its time, and the slowest shard takes at
# least so many times the median.
TAIL, SLOW = 0.25, 3.0
# Shares of the function's memory below which it is wasted, and above which it is tight; the factor over the peak.
ROOMY, TIGHT, HEADROOM = 0.5, 0.85, 1.3
LATE = 0.7  # share of the function's timeout
REPEATED = 0.05  # share of attempts beyond the first
LEAST_USD, LEAST_S = 0.01, 10.0  # a remedy that saves less than both is not worth the effort
# A shard with little data that takes less than so many times a task's fixed time is assumed to spend most of its time
# on the fixed part.
SHORT = 5


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule."""

    rule: str
    verdict: str  # act, fine, unknown
    finding: str  # with the figures that led to the verdict
    remedy: str = ""
    saves_usd: float | None = None
    saves_s: float | None = None


@dataclass(frozen=True)
class Measured:
    """The measurements of a run that the rules use."""

    run: Run
    view: RunView
    table: Mapping[str, Any]
    size: WorkerSize
    prices: Prices

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the values of these columns for each succeeded shard of the fair sample that has all of them."""
        rows = fair_values(self.table, "state", *names)
        return [tuple(values) for state, *values in rows if state == ShardState.SUCCEEDED]

    @property
    def ended(self) -> int:
        """How many shards ended after an attempt."""
        return self.view.found.finished

    def cost(self, shards: int, shard_s: float) -> Mapping[str, float]:
        """Return US dollars by item for so many shards, dispatched as in this run, without cold starts."""
        files = self.view.found.summary.objects
        load = Load(shards, files, outputs=files if self.run.options.output_per else 0)
        return work_costs(self.run.dispatch, shards * shard_s, load, self.size, self.prices)


def advise(run: Run, view: RunView, table: Mapping[str, Any], stack: OpenStack, prices: Prices) -> list[dict[str, Any]]:
    """Return the results of all rules: those with verdict act first, then unknown, then fine."""
    measured = Measured(run, view, table, stack.size, prices)
    nothing = RuleResult("All rules", "unknown", "no shard has succeeded")
    results = [rule(measured) for rule in RULES] if view.found.summary.counts.succeeded else [nothing]
    results.sort(key=lambda result: ("act", "unknown", "fine").index(result.verdict))
    return [asdict(result) for result in results]


def small_shards(measured: Measured) -> RuleResult:
    """SmallShards: requests and the fixed time of a shard, whatever it holds, are a large share of its cost or time."""
    rows = measured.values("input_bytes", "took_s")
    if len(rows) < MIN_SHARDS:
        return _too_few("SmallShards", rows)
    summary, prices = measured.view.found.summary, measured.prices
    sizes, times = zip(*rows, strict=True)
    typical_s, mean_s, mean_bytes = median(times), sum(times) / len(times), sum(sizes) / len(sizes)
    costs, count = measured.cost(measured.ended, mean_s), max(1, measured.ended)
    requests = (sum(costs.values()) - costs["lambda"]) / sum(costs.values())
    fixed_s, condition, default_factor = _fixed_s(sizes, times), "", _factor_of_default(measured)
    text = f"the median shard of {size_text(median(sizes))} took {duration_text(typical_s)}"
    text += f", {duration_text(fixed_s)} of it whatever it holds" if fixed_s else ""
    text += f"; requests are {requests:.0%} of its cost"
    has_little_data = mean_bytes / prices["assumptions.task_bytes_a_s"] < OVERHEAD * typical_s
    is_short = typical_s < SHORT * prices["assumptions.task_fixed_s"]
    if default_factor >= 2 and not fixed_s and has_little_data and is_short:
        fixed_s, condition = mean_s, ", if most of a shard's time is Spark's own and not its rows'"
    share = max(requests, fixed_s / typical_s if typical_s else 0.0)
    factor: float = min(math.ceil(share / (OVERHEAD / 2)), count // (SHARDS_A_WORKER * measured.size.concurrency))
    remedy = f"shards {factor} times as large: --shard-size {max(1, round(factor * mean_bytes / 2**20))}MiB"
    if default_factor >= 2:
        factor, remedy = default_factor, f"what is the default: --shard-size {PACKED.target_bytes >> 20}MiB"
    if share < OVERHEAD or factor < 2:
        return RuleResult("SmallShards", "fine", text)
    larger_count = math.ceil(count / factor)
    files_s = prices["assumptions.task_file_s"] * summary.objects * (1 / larger_count - 1 / count)
    larger_s = factor * mean_s - (factor - 1) * fixed_s + files_s
    text += f"; {count_text(larger_count, 'shard')} of all would take {duration_text(larger_s)} each{condition}"
    remedy += f" --max-objects {PACKED.max_objects}" if default_factor >= 2 else ", and --max-objects to match"
    saved_usd = sum(costs.values()) - sum(measured.cost(larger_count, larger_s).values())
    workers = measured.size.concurrency
    saved_s = math.ceil(count / workers) * mean_s - math.ceil(larger_count / workers) * larger_s
    return _result_by_savings("SmallShards", text, remedy, saved_usd, saved_s)


def _factor_of_default(measured: Measured) -> float:
    """Return how many times larger shards would be by default; 1 if they are as large already, or cannot be packed."""
    options, summary = measured.run.options, measured.view.found.summary
    is_packed = options.max_objects >= PACKED.max_objects and options.target_bytes >= PACKED.target_bytes
    if is_packed or options.group_by or any(source.items for source in measured.run.lists):
        return 1.0
    return summary.counts.total / default_shard_count(summary.input_bytes, summary.objects)


def _fixed_s(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the seconds that an empty shard would take, by linear regression; 0 if time hardly depends on size."""
    try:
        if correlation(sizes, times) < 0.5:
            return 0.0
        return min(max(0.0, linear_regression(sizes, times).intercept), median(times))
    except StatisticsError:  # all shards have one size
        return 0.0


def skew(measured: Measured) -> RuleResult:
    """Skew: a few shards delay the run's end."""
    rows = measured.values("started_s", "took_s", "input_bytes", "shard")
    if not measured.run.state.ended:
        return RuleResult("Skew", "unknown", "the run has not ended")
    if len(rows) < MIN_SHARDS:
        return _too_few("Skew", rows)
    ends = sorted(started_s + took_s for started_s, took_s, *_ in rows)
    tail_s = ends[-1] - ends[math.ceil(0.95 * len(ends)) - 1]
    typical_s = median(took_s for _, took_s, *_ in rows)
    typical_bytes = median(input_bytes for _, _, input_bytes, _ in rows)
    _, slowest_s, slowest_bytes, number = max(rows, key=lambda row: row[1])
    text = (
        f"the slowest shard, {number}, took {duration_text(slowest_s)} at a median of {duration_text(typical_s)}; "
        f"the last 5 % of the shards took {duration_text(tail_s)} of the run's {duration_text(ends[-1])}"
    )
    if slowest_s < SLOW * typical_s or tail_s < TAIL * ends[-1]:
        return RuleResult("Skew", "fine", text)
    if slowest_bytes > 2 * typical_bytes:
        remedy = (
            f"it is large ({size_text(slowest_bytes)} at a median of {size_text(typical_bytes)}): cut it with --split"
        )
    else:
        remedy = f"it is no larger than others: its log shows why, sparklet logs {measured.run.run_id} {number}"
    return RuleResult("Skew", "act", text, remedy, saves_s=round(tail_s, 1))


def memory(measured: Measured) -> RuleResult:
    """WastedMemory and TightMemory: the workers' peaks are far below the function's memory, or near it."""
    peaks, function_mb = [peak_mb for (peak_mb,) in measured.values("memory_mb")], measured.size.memory_mb
    if len(peaks) < MIN_SHARDS:
        return _too_few("Memory", peaks)
    peak_mb = max(peaks)
    text = f"workers used up to {peak_mb:,} MB of {function_mb:,} MB"
    text += " (measured on this machine, whose workers have no limit)" if measured.view.local else ""
    lost_workers = sum(lost for (lost,) in measured.values("lost"))
    suggested_mb = _rounded_mb(peak_mb * HEADROOM)
    if peak_mb > TIGHT * function_mb:
        text += f", and {lost_workers} shards had lost their worker" if lost_workers else ""
        return RuleResult("TightMemory", "act", text, f"--memory {suggested_mb}, or smaller shards")
    if peak_mb > ROOMY * function_mb:
        return RuleResult("Memory", "fine", text)
    saved_usd = measured.view.costs.get("lambda", 0.0) * (1 - suggested_mb / function_mb)
    remedy = (
        f"--memory {suggested_mb} saves this if shards take no longer; memory brings CPU, one at {MB_PER_CORE:,} MB, "
        "and whether the script needs it was not measured: try it with few shards"
    )
    return _result_by_savings("WastedMemory", text, remedy, saved_usd)


def near_timeout(measured: Measured) -> RuleResult:
    """NearTimeout: the slowest shard is near the function's timeout, so that a larger one, or a slow day, fails."""
    slowest = measured.view.found.slowest[0]
    limit = duration_text(measured.size.timeout_s)
    text = f"the slowest shard, {slowest.number}, took {duration_text(slowest.took_s)} of the {limit} it may take"
    if slowest.took_s < LATE * measured.size.timeout_s:
        return RuleResult("NearTimeout", "fine", text)
    return RuleResult("NearTimeout", "act", text, f"smaller shards (--shard-size, --split), or {FOR_ROOM}")


def retries(measured: Measured) -> RuleResult:
    """Retries: many shards needed more than one attempt."""
    summary, ended_count = measured.view.found.summary, measured.ended
    attempts = sum(work.attempts for work in summary.work.values())
    repeated_attempts = attempts - ended_count - summary.counts.running
    text = f"{repeated_attempts} of {attempts} attempts were repeated ones"
    if repeated_attempts <= REPEATED * ended_count:
        return RuleResult("Retries", "fine", text)
    text += f", and {duration_text(summary.repeated_s)} were in vain"
    remedy = f"see why: sparklet explain {measured.run.run_id}, and the causes of retried shards in the table below"
    if conflicts := summary.conflicts:
        text += f"; {conflicts} met another writer of a table that shards write by themselves"
        remedy = f"job.append writes the rows of all shards by one commit (docs/guide/tables.md); {remedy}"
    return RuleResult("Retries", "act", text, remedy)


RULES: Sequence[Callable[[Measured], RuleResult]] = (small_shards, skew, memory, near_timeout, retries)


def _too_few(rule: str, rows: Sequence[Any]) -> RuleResult:
    return RuleResult(rule, "unknown", f"{len(rows)} shards were measured; the rule needs at least {MIN_SHARDS}")


def _result_by_savings(rule: str, finding: str, remedy: str, saved_usd: float, saved_s: float = 0.0) -> RuleResult:
    """Return the verdict act if the remedy saves enough money or time, else fine."""
    usd, seconds = round(saved_usd, 6), round(saved_s, 1)
    if usd < LEAST_USD and seconds < LEAST_S:
        return RuleResult(rule, "fine", f"{finding}; another choice would save next to nothing")
    return RuleResult(rule, "act", finding, remedy, max(0.0, usd) or None, max(0.0, seconds) or None)


def _rounded_mb(memory_mb: float) -> int:
    return math.ceil(memory_mb / 64) * 64
