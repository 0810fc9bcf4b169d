"""Which way a plan would go: the three with their cost and end, for people and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.cli.environment import MIB, WorkerSize
from sparklet.cli.sizes import duration_text, usd_text
from sparklet.fanout.choosing.measured import ShardTime, assumed, shard_time
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import Comparison, Estimate, PlanFigures, Worker, compare
from sparklet.model import RunOptions
from sparklet.ports import Ledger

NOT_IN_IT = "Not in it: failed attempts, planner and checker, storage, transfer, logs, what is there when idle."


@dataclass(frozen=True)
class Explanation:
    """The ways a plan could go, and what their estimates rest on."""

    comparison: Comparison
    time: ShardTime
    prices: Prices

    @property
    def too_slow(self) -> str:
        """A warning where shards would not be done in time; empty where they would."""
        figures = self.comparison.figures
        if figures.shard_s < figures.worker.timeout_s:
            return ""
        return (
            f"a shard would take {duration_text(figures.shard_s)}, but the workers have "
            f"{duration_text(figures.worker.timeout_s)}: make shards smaller (--shard-size), or workers larger"
        )


def worker_of(size: WorkerSize, *, local: bool) -> Worker:
    """A worker as prices know it; the local stack's /tmp is the machine's own and free."""
    scratch_mb = 0 if local else size.scratch_bytes // MIB
    return Worker(size.memory_mb, scratch_mb, size.timeout_s, size.architecture)


def explained(
    size: WorkerSize,
    ledger: Ledger | None,
    name: str,
    options: RunOptions,
    shards: int,
    size_bytes: int,
    prices: Prices,
    *,
    local: bool,
) -> Explanation:
    """Compare the ways of a plan of so many shards; without a ledger nothing was measured."""
    bytes_a_shard = size_bytes / shards if shards else 0.0
    time = assumed(bytes_a_shard, prices) if ledger is None else shard_time(ledger, name, bytes_a_shard, prices)
    figures = PlanFigures(
        shards=shards,
        shard_s=time.seconds,
        worker=worker_of(size, local=local),
        concurrency=size.concurrency,
        map_concurrency=size.map_concurrency,
        rate_per_s=options.rate_per_s,
    )
    return Explanation(compare(figures, prices), time, prices)


def ways_document(found: Explanation) -> dict[str, Any]:
    """For --json."""
    comparison, prices = found.comparison, found.prices
    return {
        "chosen": str(comparison.chosen),
        "reason": comparison.reason,
        "warning": found.too_slow or None,
        "shard_s": round(found.time.seconds, 3),
        "shard_s_origin": found.time.origin,
        "measured_in": found.time.run_id or None,
        "prices": {"from": prices.dates[0], "to": prices.dates[1], "corrected": list(prices.corrected)},
        **{str(each.way): _estimate_document(each) for each in comparison.estimates},
    }


def _estimate_document(each: Estimate) -> dict[str, Any]:
    return {
        "possible": not each.refused,
        "refused": each.refused or None,
        "end_s": round(each.end_s, 1),
        "workers": each.workers,
        "cost_usd": rounded(each.cost),
        "costs_usd": {what: rounded(cost) for what, cost in each.costs.items()},
    }


def ways_table(found: Explanation) -> RenderableType:
    """For people."""
    comparison, prices = found.comparison, found.prices
    table = Table("way", "ends after", "workers", "cost on AWS", "of that handing out", show_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for each in comparison.estimates:
        style = "bold green" if each.way is comparison.chosen else "" if not each.refused else "dim"
        shown = ("–",) * 4 if each.refused else _estimate_cells(each)
        table.add_row(Text(str(each.way), style=style), *shown)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("chosen", Text(f"{comparison.chosen}: {comparison.reason}", style="bold"))
    for each in comparison.estimates:
        if each.refused:
            facts.add_row(f"not {each.way}", Text(each.refused))
    facts.add_row("a shard", Text(f"{duration_text(found.time.seconds)}; {found.time.origin}"))
    corrected = f"; your own: {', '.join(prices.corrected)}" if prices.corrected else ""
    dates = " to ".join(dict.fromkeys(prices.dates))
    facts.add_row("prices", Text(f"us-east-1, of {dates}{corrected}. {NOT_IN_IT}", style="dim"))
    return Group(table, Text(""), facts)


def _estimate_cells(each: Estimate) -> tuple[str, str, str, str]:
    return duration_text(each.end_s), f"{each.workers:,}", usd_text(each.cost), usd_text(each.costs["dispatch"])


def costs_text(costs: Mapping[str, float]) -> str:
    """What was paid for, in a line."""
    return ", ".join(f"{what} {usd_text(cost)}" for what, cost in costs.items())


def rounded(cost: float) -> float:
    """US dollars to a millionth."""
    return round(cost, 6)
