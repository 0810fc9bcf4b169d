"""Which way a plan would go: the three with their cost and end, for people and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.cli.environment import MIB, WorkerSize
from sparklet.cli.sizes import duration_text, usd_text
from sparklet.fanout.choosing.measured import ShardTime, assumed, shard_time
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import Comparison, Estimate, PlanFigures, Worker, compare, scaled_shard_s
from sparklet.model import RunOptions
from sparklet.ports import Ledger

MIN_DEARER, MIN_SAVED_USD = 3.0, 1.0  # than packed shards: what is worth a warning
FILE_S = 0.04  # one more file in a shard: 365 of them in one spark-submit took 15 s
NOT_IN_IT = "Not in it: failed attempts, planner and checker, storage, transfer, logs, what is there when idle."


@dataclass(frozen=True)
class Explanation:
    """The ways a plan could go, and what their estimates rest on."""

    comparison: Comparison
    time: ShardTime
    prices: Prices
    dear: str  # a warning where packing would cost a fraction; empty where it would not

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
    objects: int,
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
    comparison = compare(figures, prices)
    dear = "" if options.group_by else _dear(comparison, objects, size_bytes, prices)
    return Explanation(comparison, time, prices, dear)


def _dear(planned: Comparison, objects: int, size_bytes: int, prices: Prices) -> str:
    """What packing as usual would save, where it is much: what every shard asks of S3 and takes to begin."""
    figures, usual = planned.figures, RunOptions()
    fewest = max(1, math.ceil(size_bytes / usual.target_bytes), math.ceil(objects / usual.max_objects))
    alone_s = scaled_shard_s(figures.shard_s, size_bytes / max(1, figures.shards), size_bytes / fewest, prices)
    packed = compare(replace(figures, shards=fewest, shard_s=alone_s + FILE_S * objects / fewest), prices)
    cost, packed_cost = (each.of(each.chosen).cost for each in (planned, packed))
    if cost < MIN_DEARER * packed_cost or cost - packed_cost < MIN_SAVED_USD:
        return ""
    return (
        f"{figures.shards:,} shards for {objects:,} files cost about {usd_text(cost)} on AWS, packed into {fewest:,} "
        f"about {usd_text(packed_cost)}: --max-objects {usual.max_objects} --shard-size {usual.target_bytes // MIB}MiB "
        f"save {usd_text(cost - packed_cost)}"
    )


def ways_document(found: Explanation) -> dict[str, Any]:
    """For --json."""
    comparison, prices = found.comparison, found.prices
    return {
        "chosen": str(comparison.chosen),
        "reason": comparison.reason,
        "warning": found.too_slow or found.dear or None,
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
