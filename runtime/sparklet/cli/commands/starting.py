"""Commands that begin something: run, plan, invoke."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparklet.cli import doctor as doctoring
from sparklet.cli import options as opt
from sparklet.cli import planning_options as planning
from sparklet.cli.asking import Asked, RunIdentity
from sparklet.cli.choosing import ways_document
from sparklet.cli.console import Screen
from sparklet.cli.environment import environment
from sparklet.cli.invoke import invoke_script
from sparklet.cli.machines import was_driven
from sparklet.cli.orchestration_options import ORCHESTRATION, FollowUpOptions, Prices, ViaOption
from sparklet.cli.previewing import (
    chosen_way,
    local_size,
    preview_in,
    previewed,
    show_ways,
    ways_of_preview,
    ways_of_run,
)
from sparklet.cli.render import preview_document, preview_table, run_document
from sparklet.cli.runs import go_on, refuse_local_increments, start
from sparklet.cli.showing import finish
from sparklet.errors import NothingNewError, PlanError
from sparklet.fanout.choosing.prices import Prices as Figures
from sparklet.fanout.choosing.prices import load_prices

UNLIMITED_BYTES = 1 << 62  # of scratch, where no worker is asked
NO_OUTPUT = "--output is missing; name where the run writes, or add --dry-run"


def run(
    script: opt.Script,
    identity: RunIdentity,
    given: planning.InputOptions,
    shards: planning.ShardOptions,
    ends: planning.EndOptions,
    follow_ups: FollowUpOptions,
    workers: opt.LocalWorkers,
    where: opt.Where,
    context: typer.Context,
    arguments: opt.Arguments = None,
    via: ViaOption = "none",
    prices: Prices = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan a run, dispatch it, watch it to its end and bring its output home.

    Local inputs are put into the bucket first; a local --output is filled at the end. With --via a state machine plans
    the run and drives it, and goes on whatever becomes of this terminal; with --via auto the run is planned here first.
    """
    screen, figures = where.screen(), load_prices(prices)
    asked = Asked(script, identity, given, shards, ends, follow_ups, tuple(arguments or ()))
    if dry_run:
        _show_preview(asked, where, screen, None)
        return
    _refuse_without_output(identity)
    request, files = asked.request(), opt.parse_pairs("--file", identity.files)
    with environment(workers.choice(where), screen) as env:
        request = asked.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
        with nothing_new_is_well(screen):
            with env.at.listing_once() as at:
                once = replace(env, at=at)
                way = chosen_way(once, request, via, figures, screen)
                started = start(once, request, screen, way=way, here=via == "auto", files=files, words=context.obj)
            if dear := ways_of_run(env, started, figures).dear:
                screen.warn(dear)
            finish(env, started.run_id, screen, figures)


def plan(
    script: opt.Script,
    identity: RunIdentity,
    given: planning.InputOptions,
    shards: planning.ShardOptions,
    ends: planning.EndOptions,
    follow_ups: FollowUpOptions,
    where: opt.Where,
    context: typer.Context,
    arguments: opt.Arguments = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            rich_help_panel=ORCHESTRATION,
            help="Say which of loop, map and inline suits the plan, with cost and end of each.",
        ),
    ] = False,
    prices: Prices = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan and dispatch a run without waiting for it; with --dry-run only say what the plan would be."""
    screen, figures = where.screen(), load_prices(prices)
    asked = Asked(script, identity, given, shards, ends, follow_ups, tuple(arguments or ()))
    if dry_run:
        _show_preview(asked, where, screen, figures if explain else None)
        return
    _refuse_without_output(identity)
    request, files = asked.request(), opt.parse_pairs("--file", identity.files)
    with environment(where.choice(keep=True), screen) as env:
        request = asked.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
        with nothing_new_is_well(screen):
            with env.at.listing_once() as at:
                planned = start(replace(env, at=at), request, screen, files=files, words=context.obj)
            screen.say(f"the run goes on by itself; sparklet watch {planned.run_id} shows it")
            found = ways_of_run(env, planned, figures, env.at.ledger) if explain and planned.shard_count else None
            if where.as_json:
                screen.document({**run_document(planned), **({"ways": ways_document(found)} if found else {})})
            elif found:
                show_ways(screen, found)
                screen.say(
                    "a plan goes to the queue, checked by the stack; sparklet run --via auto takes the chosen way"
                )


def resume(run_id: opt.RunId, workers: opt.LocalWorkers, where: opt.Where, prices: Prices = None) -> None:
    """Go on with a run whose command was broken off: plan the rest, watch it to its end, bring its output home.

    Whatever was broken off prints this command, with the options that lead to the same stack.
    """
    screen, figures = where.screen(), load_prices(prices)
    with environment(workers.choice(where), screen) as env:
        run = env.at.ledger.runs.get(run_id)
        go_on(env, run, screen, by_machine=was_driven(env, run))
        finish(env, run_id, screen, figures)


def invoke(
    script: opt.Script,
    event: Annotated[
        Path,
        typer.Option("--event", help="File with the event as JSON.", exists=True, dir_okay=False, show_default=False),
    ],
    workers: opt.LocalWorkers,
    where: opt.Where,
    arguments: opt.Arguments = None,
    env_pairs: opt.Env = None,
) -> None:
    """Run a script on one event of any source, in a worker, and show its answer as JSON.

    An event of records is cut into tasks as a function does it. If the script fails, its cause is told: exit code 2.
    """
    screen = Screen(as_json=True)  # the answer is
    try:
        document: Any = json.loads(event.read_text())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{event} is not JSON: {error}") from error
    variables = opt.parse_env(env_pairs)
    with environment(workers.choice(where, workers=1), screen) as env:
        screen.document(invoke_script(env, script, document, tuple(arguments or ()), variables))


@contextmanager
def nothing_new_is_well(screen: Screen) -> Iterator[None]:
    """An incremental run that finds nothing new ends well, so that it can be started by a schedule."""
    try:
        yield
    except NothingNewError as reason:
        screen.say(str(reason))
        if screen.as_json:
            screen.document({"run_id": None, "state": "NOTHING_NEW", "reason": str(reason)})


def _show_preview(asked: Asked, where: opt.Where, screen: Screen, figures: Figures | None) -> None:
    """Say what the plan would be; nothing is written, and where all is local nothing is started."""
    request = asked.request()
    refuse_local_increments(request.options.incremental, request.inputs)
    with nothing_new_is_well(screen):
        if not request.lists and all("://" not in each for each in request.inputs):
            size = local_size()
            found = previewed(asked.fitted(request, size.memory_mb, UNLIMITED_BYTES), doctoring.no_store(), None)
            ways = figures and ways_of_preview(size, None, request, found, figures, local=not where.stack)
        else:
            with environment(where.choice(reading=True), screen) as env:
                fitted = asked.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
                found = preview_in(env, fitted)
                ledger = env.at.ledger
                ways = figures and ways_of_preview(env.size, ledger, request, found, figures, local=env.local)
        if screen.as_json:
            screen.document({**preview_document(found), **({"ways": ways_document(ways)} if ways else {})})
            return
        screen.out.print(preview_table(found))
        if ways:
            screen.out.print()
            show_ways(screen, ways)


def _refuse_without_output(identity: RunIdentity) -> None:
    if not identity.output:
        raise PlanError(NO_OUTPUT)
