"""What a plan would be, and which way it would go, before anything is put anywhere."""

import os
from collections.abc import Callable
from functools import partial

from sparklet.cli.choosing import Explanation, explained, ways_table
from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment, WorkerSize
from sparklet.cli.machines import dispatch_of, machine_of
from sparklet.cli.orchestration_options import Via
from sparklet.errors import PlanError
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import Way, refusal
from sparklet.fanout.inventory.digests import Digests
from sparklet.fanout.inventory.earlier import done_before
from sparklet.fanout.planning.request import RunRequest
from sparklet.fanout.planning.preview import PlanPreview, preview
from sparklet.model import Run
from sparklet.ports import Ledger, ObjectStore


def local_size() -> WorkerSize:
    """The workers that the local stack would have, where none need be started to know it."""
    cores = os.cpu_count() or 1
    return WorkerSize(concurrency=cores, map_concurrency=cores)


def previewed(request: RunRequest, store: ObjectStore, done: Callable[[], Digests] | None) -> PlanPreview:
    """What the plan of a request would be; nothing is written."""
    return preview(request.options, request.inputs, store, request.lists, done)


def preview_in(env: Environment, request: RunRequest) -> PlanPreview:
    """The same with what a stack knows."""
    done = partial(done_before, env.at, request.run_name) if request.options.incremental else None
    return previewed(request, env.at.inputs(request.access), done)


def ways_of_preview(
    size: WorkerSize,
    ledger: Ledger | None,
    request: RunRequest,
    found: PlanPreview,
    prices: Prices,
    *,
    local: bool,
) -> Explanation:
    """Which way a plan would go; without a ledger nothing was measured."""
    name, options = request.run_name, request.options
    return explained(size, ledger, name, options, found.shards, found.objects, found.size_bytes, prices, local=local)


def ways_of_run(env: Environment, run: Run, prices: Prices, ledger: Ledger | None = None) -> Explanation:
    """Which way a planned run would have gone; without a ledger nothing was measured."""
    counts = run.shard_count or 0, run.object_count, run.size_bytes
    return explained(env.size, ledger, run.name, run.options, *counts, prices, local=env.local)


def show_ways(screen: Screen, found: Explanation) -> None:
    """The three ways, for people."""
    screen.out.print(ways_table(found))
    for warning in filter(None, (found.too_slow, found.dear)):
        screen.warn(warning)


def chosen_way(env: Environment, request: RunRequest, via: Via, prices: Prices, screen: Screen) -> Way | None:
    """The way that a run goes; None: no machine. What cannot be done is refused before anything is put anywhere.

    ``auto`` and ``inline`` need to know how many shards there will be: the inputs are looked at for it.
    """
    if via == "none":
        return None
    if via == "auto":
        found = preview_in(env, request)
        ways = ways_of_preview(env.size, env.at.ledger, request, found, prices, local=env.local)
        way = ways.comparison.chosen
        screen.say(f"via {way}: {ways.comparison.reason}")
    else:
        way = Way(via)
    machine_of(env, dispatch_of(way))
    if via == "inline" and (refused := refusal(way, preview_in(env, request).shards, prices)):
        raise PlanError(f"--via inline: {refused} (--via auto chooses)")
    return way
