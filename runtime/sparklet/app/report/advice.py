"""What a run's own measurements suggest for the next one: named rules, each with its figures, or why it cannot tell.

The names follow those that Spark users know from DataFlint's alerts (small tasks, skew, wasted memory); thresholds are
the constants below. Figures of shards come from the fair sample of a large run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import StatisticsError, correlation, linear_regression, median
from typing import Any

from sparklet.app.costs import Load, Prices, WorkerSize, work_costs
from sparklet.app.estimates import PACKED, fewest
from sparklet.app.reporter import count_text, duration_text, size_text
from sparklet.app.stack import OpenStack
from sparklet.app.status import RunView
from sparklet.model import Run, ShardState
from sparklet.planning.routes import FOR_ROOM
from sparklet.runs.manifest import fair_values
from sparklet.spark.spark_options import MB_PER_CORE

MIN_SHARDS = 20  # with fewer no rule about distributions can tell
OVERHEAD, SHARDS_A_WORKER = 0.25, 4  # share of cost or time for small shards; larger ones still occupy all workers
TAIL, SLOW = 0.25, 3.0  # of the run's time for its last 5 % of shards; times the median
ROOMY, TIGHT, HEADROOM = 0.5, 0.85, 1.3  # of the function's memory; over the measured peak
LATE = 0.7  # of the function's timeout
REPEATED = 0.05  # attempts beyond the first
LEAST_USD, LEAST_S = 0.01, 10.0  # less than a cent, and than this, is nothing to act on
SHORT = 5  # times what a task takes whatever it reads: in a shorter shard without data that is most of it


@dataclass(frozen=True)
class Advised:
    """What one rule says."""

    rule: str
    verdict: str  # act, fine, unknown
    finding: str  # with the figures that led to it
    remedy: str = ""
    saves_usd: float | None = None
    saves_s: float | None = None


@dataclass(frozen=True)
class Measured:
    """What the rules know of a run."""

    run: Run
    view: RunView
    table: Mapping[str, Any]
    size: WorkerSize
    prices: Prices

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        """The fair sample's values by column, of those succeeded shards that have all of them."""
        rows = fair_values(self.table, "state", *names)
        return [tuple(values) for state, *values in rows if state == ShardState.SUCCEEDED]

    @property
    def ended(self) -> int:
        """Shards that ended after an attempt."""
        return self.view.found.finished

    def cost(self, shards: int, shard_s: float) -> Mapping[str, float]:
        """US dollars, by item, for that many shards if they are dispatched as in this run, without cold starts."""
        files = self.view.found.summary.objects
        load = Load(shards, files, outputs=files if self.run.options.output_per else 0)
        return work_costs(self.run.dispatch, shards * shard_s, load, self.size, self.prices)


def advise(run: Run, view: RunView, table: Mapping[str, Any], stack: OpenStack, prices: Prices) -> list[dict[str, Any]]:
    """What each rule says; what to act on first, what is fine last."""
    measured = Measured(run, view, table, stack.size, prices)
    nothing = Advised("All rules", "unknown", "no shard has succeeded")
    said = [rule(measured) for rule in RULES] if view.found.summary.counts.succeeded else [nothing]
    return [
        asdict(advised)
        for advised in sorted(said, key=lambda advised: ("act", "unknown", "fine").index(advised.verdict))
    ]


def small_shards(of: Measured) -> Advised:
    """SmallShards: what a shard costs whatever it holds, in requests and in time, is much of its cost."""
    rows = of.values("input_bytes", "took_s")
    if len(rows) < MIN_SHARDS:
        return _too_few("SmallShards", rows)
    sizes, times = zip(*rows, strict=True)
    typical_s, mean_s, mean_bytes = median(times), sum(times) / len(times), sum(sizes) / len(sizes)
    costs, count = of.cost(of.ended, mean_s), max(1, of.ended)
    requests = (sum(costs.values()) - costs["lambda"]) / sum(costs.values())
    fixed_s, most, larger = _fixed_s(sizes, times), "", _larger_by_default(of)
    text = f"the median shard of {size_text(median(sizes))} took {duration_text(typical_s)}"
    text += f", {duration_text(fixed_s)} of it whatever it holds" if fixed_s else ""
    text += f"; requests are {requests:.0%} of its cost"
    has_little = mean_bytes / of.prices["assumptions.task_bytes_a_s"] < OVERHEAD * typical_s
    if larger >= 2 and not fixed_s and has_little and typical_s < SHORT * of.prices["assumptions.task_fixed_s"]:
        fixed_s, most = mean_s, ", if most of a shard's time is Spark's own and not its rows'"
    share = max(requests, fixed_s / typical_s if typical_s else 0.0)
    factor: float = min(math.ceil(share / (OVERHEAD / 2)), count // (SHARDS_A_WORKER * of.size.concurrency))
    remedy = f"shards {factor} times as large: --shard-size {max(1, round(factor * mean_bytes / 2**20))}MiB"
    if larger >= 2:
        factor, remedy = larger, f"what is the default: --shard-size {PACKED.target_bytes >> 20}MiB"
    if share < OVERHEAD or factor < 2:
        return Advised("SmallShards", "fine", text)
    fewer, files = math.ceil(count / factor), of.view.found.summary.objects
    more_s = of.prices["assumptions.task_file_s"] * files * (1 / fewer - 1 / count)
    larger_s = factor * mean_s - (factor - 1) * fixed_s + more_s
    text += f"; {count_text(fewer, 'shard')} of all would take {duration_text(larger_s)} each{most}"
    remedy += f" --max-objects {PACKED.max_objects}" if larger >= 2 else ", and --max-objects to match"
    saved_usd = sum(costs.values()) - sum(of.cost(fewer, larger_s).values())
    of_all_s, of_fewer_s = (math.ceil(n / of.size.concurrency) * s for n, s in ((count, mean_s), (fewer, larger_s)))
    return _worth("SmallShards", text, remedy, saved_usd, of_all_s - of_fewer_s)


def _larger_by_default(of: Measured) -> float:
    """How many times larger shards would be if packed by default; 1 if they are already, or do not hold files."""
    options, summary = of.run.options, of.view.found.summary
    is_packed = options.max_objects >= PACKED.max_objects and options.target_bytes >= PACKED.target_bytes
    if is_packed or options.group_by or any(source.items for source in of.run.lists):
        return 1.0
    return summary.counts.total / fewest(summary.input_bytes, summary.objects)


def _fixed_s(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The seconds that an empty shard would take, if time depends on size at all; 0 if that is not known."""
    try:
        # Where time hardly follows size, the line's value at no bytes says nothing.
        if correlation(sizes, times) < 0.5:
            return 0.0
        return min(max(0.0, linear_regression(sizes, times).intercept), median(times))
    except StatisticsError:  # all of one size
        return 0.0


def skew(of: Measured) -> Advised:
    """Skew: a few shards delay the run's end."""
    rows = of.values("started_s", "took_s", "input_bytes", "shard")
    if len(rows) < MIN_SHARDS or not of.run.state.ended:
        return _too_few("Skew", rows) if of.run.state.ended else Advised("Skew", "unknown", "the run has not ended")
    ends = sorted(started_s + took_s for started_s, took_s, *_ in rows)
    tail_s = ends[-1] - ends[math.ceil(0.95 * len(ends)) - 1]
    typical_s, typical_bytes = median(row[1] for row in rows), median(row[2] for row in rows)
    _, slowest_s, slowest_bytes, number = max(rows, key=lambda row: row[1])
    text = (
        f"the slowest shard, {number}, took {duration_text(slowest_s)} at a median of {duration_text(typical_s)}; "
        f"the last 5 % of the shards took {duration_text(tail_s)} of the run's {duration_text(ends[-1])}"
    )
    if slowest_s < SLOW * typical_s or tail_s < TAIL * ends[-1]:
        return Advised("Skew", "fine", text)
    if slowest_bytes > 2 * typical_bytes:
        remedy = (
            f"it is large ({size_text(slowest_bytes)} at a median of {size_text(typical_bytes)}): cut it with --split"
        )
    else:
        remedy = f"it is no larger than others: its log shows why, sparklet logs {of.run.run_id} {number}"
    return Advised("Skew", "act", text, remedy, saves_s=round(tail_s, 1))


def memory(of: Measured) -> Advised:
    """WastedMemory and TightMemory: peaks of the workers beside what the function has."""
    peaks, has_mb = [row[0] for row in of.values("memory_mb")], of.size.memory_mb
    if len(peaks) < MIN_SHARDS:
        return _too_few("Memory", peaks)
    peak_mb = max(peaks)
    text = f"workers used up to {peak_mb:,} MB of {has_mb:,} MB"
    text += " (measured on this machine, whose workers have no limit)" if of.view.local else ""
    lost = sum(row[0] for row in of.values("lost"))
    if peak_mb > TIGHT * has_mb:
        text += f", and {lost} shards had lost their worker" if lost else ""
        return Advised("TightMemory", "act", text, f"--memory {_rounded_mb(peak_mb * HEADROOM)}, or smaller shards")
    if peak_mb > ROOMY * has_mb:
        return Advised("Memory", "fine", text)
    smaller_mb = _rounded_mb(peak_mb * HEADROOM)
    at_most = of.view.costs.get("lambda", 0.0) * (1 - smaller_mb / has_mb)
    remedy = (
        f"--memory {smaller_mb} saves this if shards take no longer; memory brings CPU, one at {MB_PER_CORE:,} MB, and "
        "whether the script needs it was not measured: try it with few shards"
    )
    return _worth("WastedMemory", text, remedy, at_most)


def near_timeout(of: Measured) -> Advised:
    """NearTimeout: the slowest shard is near the function's timeout, so that a larger one, or a slow day, fails."""
    slowest = of.view.found.slowest[0]
    limit = duration_text(of.size.timeout_s)
    text = f"the slowest shard, {slowest.number}, took {duration_text(slowest.took_s)} of the {limit} it may take"
    if slowest.took_s < LATE * of.size.timeout_s:
        return Advised("NearTimeout", "fine", text)
    return Advised("NearTimeout", "act", text, f"smaller shards (--shard-size, --split), or {FOR_ROOM}")


def retries(of: Measured) -> Advised:
    """Retries: attempts that were made again."""
    attempts, ended = sum(work.attempts for work in of.view.found.summary.work.values()), of.ended
    again = attempts - ended - of.view.found.summary.counts.running
    text = f"{again} of {attempts} attempts were repeated ones"
    if again <= REPEATED * ended:
        return Advised("Retries", "fine", text)
    text += f", and {duration_text(of.view.found.summary.repeated_s)} were in vain"
    remedy = f"see why: sparklet explain {of.run.run_id}, and the causes of retried shards in the table below"
    if conflicts := of.view.found.summary.conflicts:
        text += f"; {conflicts} met another writer of a table that shards write by themselves"
        remedy = f"job.append writes the rows of all shards by one commit (docs/guide/tables.md); {remedy}"
    return Advised("Retries", "act", text, remedy)


RULES: Sequence[Callable[[Measured], Advised]] = (small_shards, skew, memory, near_timeout, retries)


def _too_few(rule: str, rows: Sequence[Any]) -> Advised:
    return Advised(rule, "unknown", f"{len(rows)} shards were measured; it takes {MIN_SHARDS} to tell")


def _worth(rule: str, finding: str, remedy: str, saved_usd: float, saved_s: float = 0.0) -> Advised:
    """Advice that saves money or time; fine if both are next to nothing."""
    usd, seconds = round(saved_usd, 6), round(saved_s, 1)
    if usd < LEAST_USD and seconds < LEAST_S:
        return Advised(rule, "fine", f"{finding}; another choice would save next to nothing")
    return Advised(rule, "act", finding, remedy, max(0.0, usd) or None, max(0.0, seconds) or None)


def _rounded_mb(memory_mb: float) -> int:
    return math.ceil(memory_mb / 64) * 64
