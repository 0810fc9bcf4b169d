"""The preview of a plan, and the estimate of its cost and end; nothing is written."""

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
    added,
    estimate,
    estimate_route,
    routes_of,
    run_cost,
    shard_time,
)
from sparklet.app.reporter import duration_text, usd_text
from sparklet.app.stack import OpenStack
from sparklet.model import Dispatch, Run, RunOptions
from sparklet.model.options import MIB, NO_LIMIT_BYTES
from sparklet.planning import routes
from sparklet.planning.packing import PlanPreview, preview
from sparklet.planning.request import MEMORY_SHARE, RunRequest

MIN_TIMES_DEARER, MIN_SAVED_USD, MIN_SAVED_S = 3.0, 1.0, 300.0  # than packed shards: worth a warning
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
    routes: tuple[Route, ...] = ()  # if functions do not do all shards
    sizes: tuple[MemorySize, ...] = ()  # in which a shard ends in time, the cheapest first
    bad_input: str = ""  # what one costs at most, with --isolate
    alone: str = ""  # a line if the run itself costs more than its work

    def document(self) -> dict[str, Any]:
        """The estimate as --json prints it."""
        return {
            "dispatch_mode": str(Dispatch.QUEUE),
            "warning": self.too_slow or self.dear or None,
            "end_s": round(self.estimate.end_s, 1),
            "workers": self.estimate.workers,
            "cost_usd": round(self.estimate.cost, 6),
            "costs_usd": {what: round(cost, 6) for what, cost in self.estimate.costs.items()},
            "shard_s": round(self.time.seconds, 3),
            "shard_s_origin": self.time.origin,
            "bad_input": self.bad_input or None,
            "run_itself": self.alone or None,
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
    options = routes.chosen(deployment, request.options, request.table)
    plan_preview = preview(deployment, replace(request, options=options))
    if prices is None:
        return plan_preview, None
    counts = plan_preview.shards, plan_preview.objects, plan_preview.size_bytes
    routed = [Route(name, *totals) for name, totals in plan_preview.by_engine.items()]
    return plan_preview, estimate_plan(size, options, *counts, prices, routed)


def estimate_run(stack: OpenStack, run: Run, prices: Prices) -> PlanEstimate:
    """Estimate a planned run that was sent to the queue."""
    counts = run.shard_count or 0, run.object_count, run.size_bytes
    leaves = routes.leaves_functions(run.options)
    routed = routes_of(stack.deployment.ledger.shards.list(run.run_id)) if leaves else []
    return estimate_plan(stack.size, run.options, *counts, prices, routed)


def estimate_plan(
    size: WorkerSize,
    options: RunOptions,
    shards: int,
    objects: int,
    size_bytes: int,
    prices: Prices,
    routed: Sequence[Route] = (),
) -> PlanEstimate:
    """Estimate a plan whose shards the queue dispatches (the default), except those that are ``routed`` to engines."""
    if cap := options.max_concurrency:
        size = replace(size, concurrency=min(size.concurrency, cap), map_concurrency=min(size.map_concurrency, cap))
    apart, apart_bytes = sum(route.shards for route in routed), sum(route.size_bytes for route in routed)
    files = max(0, objects - apart)
    load = Load(shards - apart, files, size_bytes - apart_bytes, files if options.output_per else 0)
    time = shard_time(load, prices, size.memory_mb)
    total = estimate(Dispatch.QUEUE, load, time.seconds, size, prices)
    too_slow = ""
    if time.seconds >= size.timeout_s:
        too_slow = (
            f"a shard would take {duration_text(time.seconds)}, but the workers have "
            f"{duration_text(size.timeout_s)}: make shards smaller (--shard-size), or workers larger"
        )
    packed = replace(load, shards=fewest(load.size_bytes, load.files))
    packed_s = shard_time(packed, prices, size.memory_mb).seconds
    saved_s = load.shards * time.seconds - packed.shards * packed_s
    costs_usd = total.cost, estimate(Dispatch.QUEUE, packed, packed_s, size, prices).cost
    dear = "" if options.group_by else _dear(objects, (load.shards, packed.shards), costs_usd, saved_s)
    own_usd = run_cost(shards, total.end_s, size.architecture, prices)
    sizes = _memory_sizes(load, own_usd, size, prices)
    bad_input = _bad_input(load, size, prices) if options.isolate else ""
    parts: tuple[Route, ...] = ()
    if routed:
        parts = (Route("", load.shards, load.size_bytes, total.cost, total.end_s if load.shards else 0.0),)
    for part in routed:
        part_s = shard_time(Load(part.shards, size_bytes=part.size_bytes), prices).seconds
        of_part = estimate_route(part, part_s, size, prices)
        parts += (part._replace(cost_usd=of_part.cost, end_s=of_part.end_s),)
        costs, workers = added((total.costs, of_part.costs)), total.workers + of_part.workers
        total = Estimate(max(route.end_s for route in parts), costs, workers)
    own_usd = run_cost(shards, total.end_s, size.architecture, prices)  # also with what functions do not do
    alone = _overhead_advice(own_usd, total.cost) if shards else ""
    total = replace(total, costs={**total.costs, "run": own_usd})
    return PlanEstimate(total, time, prices, too_slow, dear, parts, sizes, bad_input, alone)


def _overhead_advice(own_usd: float, work_usd: float) -> str:
    if own_usd < work_usd:
        return ""
    return (
        f"its state machine, planner and checks cost {usd_text(own_usd)}, its work {usd_text(work_usd)}: many objects "
        "cost less in one run, by a schedule with incremental, than in a run for each"
    )


def _dear(objects: int, shards: tuple[int, int], costs_usd: tuple[float, float], saved_s: float) -> str:
    """A warning if the plan costs a multiple of the packed one, which comes second in each pair."""
    saved_usd = costs_usd[0] - costs_usd[1]
    if costs_usd[0] < MIN_TIMES_DEARER * costs_usd[1] or (saved_usd < MIN_SAVED_USD and saved_s < MIN_SAVED_S):
        return ""
    return (
        f"{shards[0]:,} shards for {objects:,} files cost about {usd_text(costs_usd[0])} on AWS, packed into "
        f"{shards[1]:,} about {usd_text(costs_usd[1])}: --max-objects {PACKED.max_objects} --shard-size "
        f"{PACKED.target_bytes // MIB}MiB save {usd_text(saved_usd)} and {duration_text(saved_s)} of work"
    )


def fewest(size_bytes: int, files: int) -> int:
    """The number of shards of so many files with the default options."""
    return max(1, math.ceil(size_bytes / PACKED.target_bytes), math.ceil(files / PACKED.max_objects))


def _bad_input(load: Load, size: WorkerSize, prices: Prices) -> str:
    """What one bad input of a shard costs, which is split until it is alone; "" if it is (docs/decisions/0055)."""
    files = load.files / max(1, load.shards)
    if files <= 1:
        return ""
    attempts = 2 * math.ceil(math.log2(files)) + 2
    tries = Load(attempts, round(2 * files), 2 * load.size_bytes // load.shards)
    cost_usd = estimate(Dispatch.QUEUE, tries, shard_time(tries, prices, size.memory_mb).seconds, size, prices).cost
    return f"{attempts} attempts more at most, {usd_text(cost_usd)}"


def _memory_sizes(load: Load, own_usd: float, size: WorkerSize, prices: Prices) -> tuple[MemorySize, ...]:
    """The plan by each size of functions that are measured, and take shards as large as these."""
    sizes = []
    for memory_mb in MEMORY_MB if load.shards else ():
        shard_s = shard_time(load, prices, memory_mb).seconds
        if shard_s < size.timeout_s and load.size_bytes / load.shards <= memory_mb * MIB / MEMORY_SHARE:
            total = estimate(Dispatch.QUEUE, load, shard_s, replace(size, memory_mb=memory_mb), prices)
            sizes.append(MemorySize(memory_mb, shard_s, total.cost + own_usd, total.end_s))
    return tuple(sorted(sizes, key=lambda memory_size: memory_size.cost_usd))
