"""What a plan's shards would cost with each way of starting workers; ``docs/guide/costs.md`` compares the ways."""

from dataclasses import replace
from typing import NamedTuple

from rich.console import RenderableType
from rich.table import Table

from sparklet.app.costs import Estimate, Prices, WorkerSize, estimate_engine
from sparklet.cli.console import duration_text, usd_text

IN_A_FUNCTION = "15 min, 10 GB"
IN_A_TASK = "120 GB"


class Choice(NamedTuple):
    """A way of starting workers."""

    name: str
    first_s: float  # before the first shard begins
    cost_usd: float  # of the plan's shards
    kept_usd_hour: float  # for as long as it is deployed
    limits: str  # of a shard


def choices(on_demand: Estimate, shards: int, shard_s: float, size: WorkerSize, prices: Prices) -> list[Choice]:
    """The ways, for shards that take as long in each of them, in functions of this size."""
    workers, gb = on_demand.workers, size.memory_mb / 1024
    gb_s, cold_s = prices[f"prices.lambda_gb_s_{size.architecture}"], prices["assumptions.cold_start_s"]
    restore_s = prices["assumptions.restore_s"]
    warm = on_demand.cost - workers * cold_s * gb * gb_s
    restored = warm + workers * (restore_s * gb_s + prices["prices.snapstart_restored_gb"]) * gb
    provisioned = warm - shards * shard_s * gb * gb_s * (1 - prices["prices.provisioned_run_share"])
    cached = (gb + size.unused_snapshots_mb / 1024) * prices["prices.snapstart_cached_gb_s"]
    kept = workers * gb * gb_s * prices["prices.provisioned_share"]
    start_s = prices["assumptions.engine_start_s"]
    in_tasks = estimate_engine("fargate", shards, shard_s, replace(size, is_local=False), prices).cost
    return [
        Choice("on demand", cold_s, on_demand.cost, 0.0, IN_A_FUNCTION),
        Choice("snapstart", restore_s, restored, cached * 3600, f"{IN_A_FUNCTION}, /tmp 512 MB"),
        Choice("provisioned", 0.0, provisioned, kept * 3600, IN_A_FUNCTION),
        Choice("fargate", start_s, in_tasks, 0.0, IN_A_TASK),
    ]


def choices_table(found: list[Choice]) -> RenderableType:
    """For people."""
    table = Table("workers", "start in", "these shards", "kept, an hour", "a shard has at most", box=None)
    for each in found:
        costs = usd_text(each.cost_usd), usd_text(each.kept_usd_hour) if each.kept_usd_hour else "–"
        table.add_row(each.name, duration_text(each.first_s), *costs, each.limits)
    return table
