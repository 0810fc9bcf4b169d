"""Previews a plan, and estimates its cost and end; nothing is written."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sparklet.app.costs import (
    MEMORY_MB,
    Estimate,
    Load,
    Prices,
    Route,
    ShardTime,
    WorkerSize,
    estimate,
    estimate_route,
    routes_of,
    run_cost,
    shard_time,
    sum_by_item,
)
from sparklet.app.reporter import duration_text, usd_text
from sparklet.app.stack import OpenStack
from sparklet.model import Dispatch, Run, RunOptions
from sparklet.model.options import MIB, NO_LIMIT_BYTES
from sparklet.planning import routes
from sparklet.planning.packing import PlanPreview, preview
from sparklet.planning.request import MEMORY_SHARE, RunRequest

# A plan gets a warning if it costs this many times as much as with packed shards, and packing saves at least so many
# dollars or seconds.
MIN_TIMES_DEARER, MIN_SAVED_USD, MIN_SAVED_S = 3.0, 1.0, 300.0
PACKED = RunOptions()  # shards as they are packed by default


class MemorySize(NamedTuple):
    """The plan's estimate for functions with another memory size, and so with other vCPUs."""

    memory_mb: int
    shard_s: float
    cost_usd: float
    end_s: float


@dataclass(frozen=True)
class PlanEstimate:
    """A plan's cost and end if the queue dispatches it, and the basis of the estimate."""

    estimate: Estimate
    time: ShardTime
    prices: Prices
    too_slow: str  # a warning if shards would exceed the timeout
    dear: str  # a warning if packing the files would save much
    routes: tuple[Route, ...] = ()  # parts of the plan; empty if functions run all shards
    sizes: tuple[MemorySize, ...] = ()  # memory sizes with which a shard ends in time, the cheapest first
    bad_input: str = ""  # with --isolate, a text on what one bad input costs at most
    overhead: str = ""  # a text if the run itself costs more than its work

    def document(self) -> dict[str, Any]:
        """Return the estimate as --json prints it."""
        return {
            "dispatch_mode": str(Dispatch.QUEUE),
            "warning": self.too_slow or self.dear or None,
            "end_s": round(self.estimate.end_s, 1),
            "workers": self.estimate.workers,
            "cost_usd": round(self.estimate.cost, 6),
            "costs_usd": {item: round(cost, 6) for item, cost in self.estimate.costs.items()},
            "shard_s": round(self.time.seconds, 3),
            "shard_s_origin": self.time.origin,
            "bad_input": self.bad_input or None,
            "run_itself": self.overhead or None,
            "routes": [route._asdict() for route in self.routes],
            "memory_sizes": [
                {
                    "memory_mb": size.memory_mb,
                    "shard_s": round(size.shard_s, 3),
                    "cost_usd": round(size.cost_usd, 6),
                    "end_s": round(size.end_s, 1),
                }
                for size in self.sizes
            ],
            "prices": {"from": self.prices.dates[0], "to": self.prices.dates[1]},
        }


def preview_request(
    stack: OpenStack | None, request: RunRequest, prices: Prices | None
) -> tuple[PlanPreview, PlanEstimate | None]:
    """Preview the plan of a request, and with ``prices`` estimate it; without a stack all inputs are local."""
    cores = os.cpu_count() or 1
    local_size = WorkerSize(concurrency=cores, map_concurrency=cores, scratch_bytes=NO_LIMIT_BYTES, is_local=True)
    size = stack.size if stack else local_size
    request = request.fitted(size.memory_mb, size.scratch_bytes)
    deployment = stack.deployment if stack else None
    options = routes.with_chosen_engines(deployment, request.options, request.table)
    plan_preview = preview(deployment, replace(request, options=options))
    if prices is None:
        return plan_preview, None
    counts = plan_preview.shards, plan_preview.objects, plan_preview.size_bytes
    engine_routes = [Route(name, *totals) for name, totals in plan_preview.by_engine.items()]
    return plan_preview, estimate_plan(size, options, *counts, prices, engine_routes)


def estimate_run(stack: OpenStack, run: Run, prices: Prices) -> PlanEstimate:
    """Estimate a planned run that was sent to the queue."""
    counts = run.shard_count or 0, run.object_count, run.size_bytes
    uses_engines = routes.leaves_functions(run.options)
    engine_routes = routes_of(stack.deployment.ledger.shards.list(run.run_id)) if uses_engines else []
    return estimate_plan(stack.size, run.options, *counts, prices, engine_routes)


def estimate_plan(
    size: WorkerSize,
    options: RunOptions,
    shards: int,
    objects: int,
    size_bytes: int,
    prices: Prices,
    engine_routes: Sequence[Route] = (),
) -> PlanEstimate:
    """Estimate a plan whose shards the queue dispatches (the default), except those of ``engine_routes``."""
    if cap := options.max_concurrency:
        size = replace(size, concurrency=min(size.concurrency, cap), map_concurrency=min(size.map_concurrency, cap))
    engine_shards = sum(route.shards for route in engine_routes)
    engine_bytes = sum(route.size_bytes for route in engine_routes)
    # Each shard of an engine is assumed to have one file.
    files = max(0, objects - engine_shards)
    load = Load(shards - engine_shards, files, size_bytes - engine_bytes, files if options.output_per else 0)
    time = shard_time(load, prices, size.memory_mb)
    total = estimate(Dispatch.QUEUE, load, time.seconds, size, prices)
    too_slow = ""
    if time.seconds >= size.timeout_s:
        too_slow = (
            f"a shard would take {duration_text(time.seconds)}, but the workers have "
            f"{duration_text(size.timeout_s)}: make shards smaller (--shard-size), or workers larger"
        )
    packed = replace(load, shards=default_shard_count(load.size_bytes, load.files))
    packed_s = shard_time(packed, prices, size.memory_mb).seconds
    saved_s = load.shards * time.seconds - packed.shards * packed_s
    costs_usd = total.cost, estimate(Dispatch.QUEUE, packed, packed_s, size, prices).cost
    dear = "" if options.group_by else _packing_warning(objects, (load.shards, packed.shards), costs_usd, saved_s)
    run_usd = run_cost(shards, total.end_s, size.architecture, prices)
    sizes = _memory_sizes(load, run_usd, size, prices)
    bad_input = _bad_input_text(load, size, prices) if options.isolate else ""
    parts: tuple[Route, ...] = ()
    if engine_routes:
        parts = (Route("", load.shards, load.size_bytes, total.cost, total.end_s if load.shards else 0.0),)
    for route in engine_routes:
        shard_s = shard_time(Load(route.shards, size_bytes=route.size_bytes), prices).seconds
        route_estimate = estimate_route(route, shard_s, size, prices)
        parts += (route._replace(cost_usd=route_estimate.cost, end_s=route_estimate.end_s),)
        costs, workers = sum_by_item((total.costs, route_estimate.costs)), total.workers + route_estimate.workers
        total = Estimate(max(part.end_s for part in parts), costs, workers)
    run_usd = run_cost(shards, total.end_s, size.architecture, prices)  # until the engines' shards have ended, too
    overhead = _overhead_text(run_usd, total.cost) if shards else ""
    total = replace(total, costs={**total.costs, "run": run_usd})
    return PlanEstimate(total, time, prices, too_slow, dear, parts, sizes, bad_input, overhead)


def _overhead_text(run_usd: float, work_usd: float) -> str:
    if run_usd < work_usd:
        return ""
    return (
        f"its state machine, planner and checks cost {usd_text(run_usd)}, its work {usd_text(work_usd)}: many objects "
        "cost less in one run, by a schedule with incremental, than in a run for each"
    )


def _packing_warning(objects: int, shards: tuple[int, int], costs_usd: tuple[float, float], saved_s: float) -> str:
    """Return a warning if the plan costs much more than with packed shards, whose figures are second in each pair."""
    (plan_shards, packed_shards), (plan_usd, packed_usd) = shards, costs_usd
    saved_usd = plan_usd - packed_usd
    if plan_usd < MIN_TIMES_DEARER * packed_usd or (saved_usd < MIN_SAVED_USD and saved_s < MIN_SAVED_S):
        return ""
    return (
        f"{plan_shards:,} shards for {objects:,} files cost about {usd_text(plan_usd)} on AWS, packed into "
        f"{packed_shards:,} about {usd_text(packed_usd)}: --max-objects {PACKED.max_objects} --shard-size "
        f"{PACKED.target_bytes // MIB}MiB save {usd_text(saved_usd)} and {duration_text(saved_s)} of work"
    )


def default_shard_count(size_bytes: int, files: int) -> int:
    """Return how many shards the default options make of so many files."""
    return max(1, math.ceil(size_bytes / PACKED.target_bytes), math.ceil(files / PACKED.max_objects))


def _bad_input_text(load: Load, size: WorkerSize, prices: Prices) -> str:
    """Return what a bad input costs at most: its shard is split until the input is alone (docs/decisions/0055).

    "" if each shard has only one input.
    """
    files = load.files / max(1, load.shards)
    if files <= 1:
        return ""
    attempts = 2 * math.ceil(math.log2(files)) + 2
    repeated_load = Load(attempts, round(2 * files), 2 * load.size_bytes // load.shards)
    shard_s = shard_time(repeated_load, prices, size.memory_mb).seconds
    cost_usd = estimate(Dispatch.QUEUE, repeated_load, shard_s, size, prices).cost
    return f"{attempts} attempts more at most, {usd_text(cost_usd)}"


def _memory_sizes(load: Load, run_usd: float, size: WorkerSize, prices: Prices) -> tuple[MemorySize, ...]:
    """Estimate the plan for each measured memory size of functions that can run shards as large as the plan's."""
    sizes = []
    for memory_mb in MEMORY_MB if load.shards else ():
        shard_s = shard_time(load, prices, memory_mb).seconds
        if shard_s < size.timeout_s and load.size_bytes / load.shards <= memory_mb * MIB / MEMORY_SHARE:
            total = estimate(Dispatch.QUEUE, load, shard_s, replace(size, memory_mb=memory_mb), prices)
            sizes.append(MemorySize(memory_mb, shard_s, total.cost + run_usd, total.end_s))
    return tuple(sorted(sizes, key=lambda memory_size: memory_size.cost_usd))
