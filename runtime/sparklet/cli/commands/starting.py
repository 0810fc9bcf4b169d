"""One event for one script, in a worker."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparklet.cli import doctor as doctoring
from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.costs import Prices as Figures
from sparklet.cli.costs import load_prices
from sparklet.cli.dispatch_modes import chosen_mode, was_driven
from sparklet.cli.environment import Environment, environment
from sparklet.cli.estimates import explain_preview, explain_run, local_size, preview_in, previewed
from sparklet.cli.render import preview_document, preview_table, run_document
from sparklet.cli.runs import finish, go_on, start
from sparklet.errors import NothingNewError, PlanError
from sparklet.model.options import ORCHESTRATION
from sparklet.planning.dispatch_modes import DispatchMode
from sparklet.planning.new_run import refuse_bad_syntax
from sparklet.planning.request import RunRequest
from sparklet.settings import script_environment


def invoke_script(
    env: Environment, script: str, event: Any, arguments: tuple[str, ...], variables: Mapping[str, str]
) -> Mapping[str, Any]:
    """Hand ``event`` over to the worker function, to be done by ``script`` whatever its source; the worker's answer.

    A local script, and what it is to find in its environment, are put into ``scripts/`` of the bucket first: the
    invocation only names them.

    Raises
    ------
    PlanError
        If the script is not there or cannot be compiled.
    RemoteFailureError
        If the script failed.
    """
    wish: dict[str, Any] = {"script": _script_uri(env, script), "args": list(arguments), "event": event}
    if variables:
        wish["env"] = _kept(env, "env.json", json.dumps(dict(variables)).encode())
    answer: Mapping[str, Any] = env.compute.invoke(env.worker_function, {"sparklet": wish})
    return answer


def _script_uri(env: Environment, script: str) -> str:
    if "://" in script:
        return script
    path = Path(script)
    try:
        body = path.read_bytes()
    except OSError as error:
        raise PlanError(f"the script {script} cannot be read: {error.strerror}") from error
    refuse_bad_syntax(script, body)
    return _kept(env, path.name, body)


def _kept(env: Environment, name: str, body: bytes) -> str:
    """Where a file lies in the bucket, under its digest."""
    uri = f"s3://{env.at.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name}"
    env.at.store.put(uri, body)
    return uri


UNLIMITED_BYTES = 1 << 62  # of scratch, where no worker is asked


def run(
    words: opt.RequestWords,
    lists: opt.ListOptions,
    workers: opt.LocalWorkers,
    where: opt.Where,
    context: typer.Context,
    dispatch_mode: opt.DispatchModeOption = "queue",
    prices: opt.Prices = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan a run, dispatch it, watch it to its end and bring its output home.

    Local inputs are put into the bucket first; a local --output is filled at the end. With another --dispatch-mode
    than queue a state machine plans and drives the run, and goes on whatever becomes of this terminal; with auto the
    run is planned here first.
    """
    screen, request = Screen(where.as_json), opt.asked(words, lists, dry_run=dry_run)
    if prices:
        load_prices(prices)  # what is wrong with them is reported before anything is started
    if dry_run:
        _show_preview(request, where, screen, None)
        return
    with environment(workers.choice(where), screen) as env, nothing_new_is_well(screen):
        request = request.fitted(env.size.memory_mb, env.size.scratch_bytes)
        with env.at.listing_once() as at:
            once, mode = replace(env, at=at), DispatchMode.QUEUE
            if dispatch_mode != mode:
                mode = chosen_mode(once, request, dispatch_mode, screen)
            started = start(once, request, screen, mode=mode, here=dispatch_mode == "auto", words=context.obj)
        figures = load_prices(prices)
        if dear := explain_run(env, started, figures).dear:
            screen.warn(dear)
        finish(env, started.run_id, screen, figures)


def plan(
    words: opt.RequestWords,
    lists: opt.ListOptions,
    where: opt.Where,
    context: typer.Context,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            rich_help_panel=ORCHESTRATION,
            help="Say which dispatch mode suits the plan, what the run would cost and when it would end.",
        ),
    ] = False,
    prices: opt.Prices = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan and dispatch a run without waiting for it; with --dry-run only say what the plan would be."""
    screen, request = Screen(where.as_json), opt.asked(words, lists, dry_run=dry_run)
    figures = load_prices(prices)
    if dry_run:
        _show_preview(request, where, screen, figures if explain else None)
        return
    with environment(where.choice(keep=True), screen) as env, nothing_new_is_well(screen):
        request = request.fitted(env.size.memory_mb, env.size.scratch_bytes)
        with env.at.listing_once() as at:
            planned = start(replace(env, at=at), request, screen, words=context.obj)
        screen.say(f"the run goes on by itself; sparklet watch {planned.run_id} shows it")
        found = explain_run(env, planned, figures, env.at.ledger) if explain and planned.shard_count else None
        if where.as_json:
            screen.document({**run_document(planned), **({"estimate": found.document()} if found else {})})
        elif found:
            found.show(screen)


def resume(run_id: opt.RunId, workers: opt.LocalWorkers, where: opt.Where, prices: opt.Prices = None) -> None:
    """Go on with a run whose command was broken off: plan the rest, watch it to its end, bring its output home.

    Whatever was broken off prints this command, with the options that lead to the same stack.
    """
    screen, figures = Screen(where.as_json), load_prices(prices)
    with environment(workers.choice(where), screen) as env:
        run = env.at.ledger.runs.get(run_id)
        go_on(env, run, screen, by_machine=was_driven(env, run))
        finish(env, run_id, screen, figures)


def invoke(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file: local, or s3://.", show_default=False)],
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

    An event of records is cut into tasks as a function does it. If the script fails, its cause is shown: exit code 2.
    """
    screen = Screen(as_json=True)  # the answer is
    try:
        document: Any = json.loads(event.read_text())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{event} is not JSON: {error}") from error
    variables = script_environment(opt.parse_pairs("--env", env_pairs), "--env")
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


def _show_preview(request: RunRequest, where: opt.Where, screen: Screen, figures: Figures | None) -> None:
    """Say what the plan would be; nothing is written, and where all is local nothing is started."""
    with nothing_new_is_well(screen):
        if not request.lists and all("://" not in each for each in request.inputs):
            size = local_size()
            found = previewed(request.fitted(size.memory_mb, UNLIMITED_BYTES), doctoring.no_store(), None)
            cost = figures and explain_preview(size, None, request, found, figures, local=not where.stack)
        else:
            with environment(where.choice(reading=True), screen) as env:
                found = preview_in(env, request.fitted(env.size.memory_mb, env.size.scratch_bytes))
                ledger = env.at.ledger
                cost = figures and explain_preview(env.size, ledger, request, found, figures, local=env.local)
        if screen.as_json:
            screen.document({**preview_document(found), **({"estimate": cost.document()} if cost else {})})
            return
        screen.out.print(preview_table(found))
        if cost:
            screen.out.print()
            cost.show(screen)
