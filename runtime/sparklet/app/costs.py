"""Computes what a run costs and when it ends, from the figures in ``prices.toml``."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sparklet.ledger.rules import LEASE_S
from sparklet.model import Dispatch, ShardRecord
from sparklet.model.options import LARGE, MIB
from sparklet.model.quantities import Figure
from sparklet.runs.state_machine_steps import checks_until

# Lambda's price includes this much of /tmp.
FREE_SCRATCH_BYTES = 512 * MIB
# Memory sizes of functions whose speed was measured: assumptions.times_at_MB.
MEMORY_MB = (1024, 1769, 3008)
# Memory of the functions that plan and check a run: sam/template.yaml.
PLANNER_GB = 1769 / 1024
COST_INCLUDES = "the seconds of all attempts in Lambda and in engines, requests, messages or states, ledger and S3"
COST_EXCLUDES = (
    "cold starts, planner, checker and state machine, starts of engines' workers, clusters, requests of attempts "
    "before a move to an engine and in earlier generations, storage, transfer, logs"
)
_SHIPPED = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, slots=True)
class Prices:
    """All figures, by name."""

    figures: Mapping[str, Figure]

    def __getitem__(self, name: str) -> float:
        """The value of a figure such as ``prices.transition``."""
        return self.figures[name].value

    def hour_of(self, engine: str, architecture: str) -> float:
        """Return US dollars for an hour of an engine's worker: Fargate's price if the engine has no price of its own.

        A worker runs the functions' image, and so has their architecture.
        """
        suffixes = (f"_{architecture}", "")
        names = (f"prices.{name}_hour{suffix}" for name in (engine, "fargate") for suffix in suffixes)
        return self[next(name for name in names if name in self.figures)]

    @property
    def dates(self) -> tuple[str, str]:
        """The oldest and the newest date of a price."""
        dates = sorted(figure.date for name, figure in self.figures.items() if name.startswith("prices."))
        return dates[0], dates[-1]


def load_prices() -> Prices:
    """Read all figures: those of ``prices.toml``, and the engines' prices."""
    import tomllib  # imported here, since only estimates need it

    from sparklet.engines.create import KINDS

    document = tomllib.loads(_SHIPPED.read_text(encoding="utf-8"))
    shipped = {
        f"{table}.{name}": Figure(float(figure["value"]), figure["date"], figure["source"])
        for table, figures in document.items()
        for name, figure in figures.items()
    }
    hours = {
        f"prices.{name}_hour{suffix}": price for name, kind in KINDS.items() for suffix, price in kind.hours.items()
    }
    return Prices({**shipped, **hours})


@dataclass(frozen=True, kw_only=True)
class WorkerSize:
    """The resources of one worker, and how many workers run at once; the defaults are the template's."""

    memory_mb: int = 3008
    timeout_s: int = 900
    scratch_bytes: int = 4096 * MIB
    concurrency: int = 50  # workers at once for a queue
    map_concurrency: int = 100  # workers at once for a Map
    architecture: str = "x86_64"
    is_local: bool = False  # whether workers run on this machine, whose disk costs nothing


@dataclass(frozen=True, slots=True)
class ShardTime:
    """The time that one shard takes."""

    seconds: float
    origin: str  # a text that explains how the time was computed


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's estimated cost and end."""

    end_s: float  # from now
    costs: Mapping[str, float]  # US dollars, by item
    workers: int  # at once, at most

    @property
    def cost(self) -> float:
        """US dollars in total."""
        return sum(self.costs.values())


@dataclass(frozen=True, slots=True)
class Load:
    """The total work of some shards, from which their cost and time are computed."""

    shards: int
    files: int = 0  # files that the shards read; 0 means one for each shard
    size_bytes: int = 0  # total size of the files that the shards read
    outputs: int = 0  # files that the shards publish; 0 means one for each shard

    def files_s(self, prices: Prices) -> float:
        """Return the seconds that a shard needs for files beyond the first one that it reads, and publishes."""
        shards = max(1, self.shards)
        more_files, more_outputs = max(0.0, self.files / shards - 1), max(0.0, self.outputs / shards - 1)
        return more_files * prices["assumptions.task_file_s"] + more_outputs * prices["assumptions.task_output_s"]


class Route(NamedTuple):
    """The part of a plan that functions, or an engine's workers, run."""

    engine: str  # "" for functions
    shards: int
    size_bytes: int
    cost_usd: float = 0.0
    end_s: float = 0.0

    @property
    def name(self) -> str:
        """The name as people read it."""
        return self.engine or "functions"


def estimate(dispatch: Dispatch, load: Load, shard_s: float, size: WorkerSize, prices: Prices) -> Estimate:
    """Estimate a run whose shards take ``shard_s`` each, on workers of this size.

    A queue's workers begin once the first part of the plan is written, a Map's workers after the last part.
    """
    shards = load.shards
    workers = min(shards, size.map_concurrency if dispatch is Dispatch.MAP else size.concurrency)
    cold_start_s, planned_a_s = prices["assumptions.cold_start_s"], prices["assumptions.planned_a_s"]
    work_s = shard_s * math.ceil(shards / workers) if workers else 0.0
    if dispatch is Dispatch.MAP:
        end_s = shards / planned_a_s + work_s
    else:
        end_s = max(work_s, max(0, shards - 1) / planned_a_s + shard_s)
    costs = work_costs(dispatch, shards * shard_s + workers * cold_start_s, load, size, prices)
    return Estimate(cold_start_s + end_s, costs, workers)


def routes_of(records: Iterable[ShardRecord]) -> list[Route]:
    """Return one route for each engine that runs some of the shards; shards that functions run are left out."""
    sizes_by_engine: dict[str, list[int]] = {}
    for record in records:
        sizes_by_engine.setdefault(record.engine, []).append(record.size_bytes)
    return [Route(engine, len(sizes), sum(sizes)) for engine, sizes in sizes_by_engine.items() if engine]


def estimate_route(route: Route, shard_s: float, size: WorkerSize, prices: Prices) -> Estimate:
    """Estimate the shards that an engine runs, each in its own worker: locally one after the other, else all at once.

    A shard takes as long as in a function; before it, the worker has to start.
    """
    shards, is_function = route.shards, route.engine == LARGE  # lambda-large is a function that is used as an engine
    workers = min(shards, 1) if size.is_local else shards
    start_and_shard_s = prices["assumptions.cold_start_s" if is_function else "assumptions.engine_start_s"] + shard_s
    load = Load(shards, size_bytes=route.size_bytes)
    costs = work_costs(Dispatch.QUEUE, shards * start_and_shard_s, load, size, prices, route.engine)
    return Estimate(start_and_shard_s * math.ceil(shards / max(1, workers)), costs, workers)


def sum_by_item(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up costs, item by item."""
    total: dict[str, float] = {}
    for cost_by_item in costs:
        total.update({item: total.get(item, 0.0) + cost for item, cost in cost_by_item.items()})
    return total


def work_costs(
    dispatch: Dispatch, task_s: float, load: Load, size: WorkerSize, prices: Prices, engine: str = ""
) -> dict[str, float]:
    """Return US dollars by item for ``task_s`` seconds of functions, or of ``engine``; each shard is one task."""
    tasks = load.shards
    scratch_gb = 0.0 if size.is_local else max(0, size.scratch_bytes - FREE_SCRATCH_BYTES) / 2**30
    memory_a_s = size.memory_mb / 1024 * prices[f"prices.lambda_gb_s_{size.architecture}"]
    function_a_s = memory_a_s + scratch_gb * prices["prices.scratch_gb_s"]
    if dispatch is Dispatch.MAP:
        dispatch_a_task = prices["assumptions.states_a_map_shard"] * prices["prices.transition"]
    else:
        dispatch_a_task = prices["assumptions.sqs_requests_a_shard"] * prices["prices.sqs_request"]
    # A lease is renewed at half of its time, and each renewal is a write.
    ledger_writes = tasks * prices["assumptions.ledger_writes_a_shard"] + task_s / (LEASE_S / 2)
    ledger_reads = tasks * prices["assumptions.ledger_reads_a_shard"]
    files, outputs = max(tasks, load.files), max(tasks, load.outputs)
    s3_puts = tasks * prices["assumptions.s3_puts_a_shard"] + outputs * prices["assumptions.s3_puts_an_output"]
    s3_gets = tasks * prices["assumptions.s3_gets_a_shard"] + files * prices["assumptions.s3_gets_a_file"]
    lambda_usd = task_s * function_a_s + tasks * prices["prices.lambda_request"]
    if engine:
        compute_costs = {engine: task_s * prices.hour_of(engine, size.architecture) / 3600}
    else:
        compute_costs = {"dispatch": tasks * dispatch_a_task, "lambda": lambda_usd}
    return {
        **compute_costs,
        "ledger": ledger_writes * prices["prices.ledger_write"] + ledger_reads * prices["prices.ledger_read"],
        "s3": s3_puts * prices["prices.s3_put"] + s3_gets * prices["prices.s3_get"],
    }


def run_cost(shards: int, end_s: float, architecture: str, prices: Prices) -> float:
    """Return US dollars for what a run by a queue needs besides its shards: state machine, planner, and checks."""
    checks = checks_until(end_s, shards)
    # No wait follows the last check.
    states = prices["assumptions.states_a_run"] + checks * prices["assumptions.states_a_check"] - 1
    planner_s = prices["assumptions.planner_s"] + shards / prices["assumptions.planned_a_s"]
    gb_s = (planner_s + checks * prices["assumptions.check_s"]) * PLANNER_GB
    ledger_reads = checks * prices["assumptions.ledger_reads_a_check"]
    return (
        states * prices["prices.transition"]
        + gb_s * prices[f"prices.lambda_gb_s_{architecture}"]
        + (1 + checks) * prices["prices.lambda_request"]
        + prices["assumptions.s3_puts_a_run"] * prices["prices.s3_put"]
        + prices["assumptions.s3_gets_a_run"] * prices["prices.s3_get"]
        + prices["assumptions.ledger_writes_a_run"] * prices["prices.ledger_write"]
        + ledger_reads * prices["prices.ledger_read"]
    )


def shard_time(load: Load, prices: Prices, memory_mb: int = MEMORY_MB[-1]) -> ShardTime:
    """Return the time that one shard of the load is assumed to take in a function with ``memory_mb``.

    Memory brings vCPUs: a shard's fixed time hardly uses a second vCPU; its reading time depends on the vCPUs.
    """
    measured_mb = max((size_mb for size_mb in MEMORY_MB if size_mb <= memory_mb), default=MEMORY_MB[0])
    factor, shards = prices[f"assumptions.times_at_{measured_mb}"], max(1, load.shards)
    fixed_s, bytes_a_s = prices["assumptions.task_fixed_s"], prices["assumptions.task_bytes_a_s"]
    files_s, files, size_bytes = load.files_s(prices), load.files / shards, load.size_bytes / shards
    files_text = f", {files_s:,.1f} s for {files:,.0f} files" if files_s else ""
    origin = f"assumed: {fixed_s:g} s{files_text}, and {size_bytes / MIB:,.1f} MiB at {bytes_a_s / 1e6:g} MB/s"
    return ShardTime(factor * (fixed_s + files_s) + size_bytes / bytes_a_s * MEMORY_MB[-1] / memory_mb, origin)
