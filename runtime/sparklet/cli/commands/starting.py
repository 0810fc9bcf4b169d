"""Commands that start work: run, plan, resume, invoke."""

import json
import shlex
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sparklet.app.costs import Prices, WorkerSize, load_prices
from sparklet.app.documents import preview_document, run_document
from sparklet.app.estimates import PlanEstimate, estimate_run, preview_request
from sparklet.app.explain import advice_outside_of_runs
from sparklet.app.logs import INVOCATION, line_writer, shown_logs
from sparklet.app.project import packed_requirements, write_starter
from sparklet.app.stack import open_stack
from sparklet.app.start import begin, continue_run, invoke_script, parse_pairs, run_request
from sparklet.app.state_machines import was_driven
from sparklet.cli import options as opt
from sparklet.cli.app import JOB
from sparklet.cli.console import Screen, finish
from sparklet.cli.render import estimate_table, preview_table
from sparklet.errors import NothingNewError, PlanError, RemoteFailureError
from sparklet.model.options import ORCHESTRATION
from sparklet.planning import routes
from sparklet.planning.new_run import script_body
from sparklet.planning.request import RunRequest
from sparklet.settings import BatchHandling, script_environment


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder; it may exist.")] = Path(),
    as_json: opt.AsJson = False,
) -> None:
    """Begin a project: a script, ten lines of data, a test, a job in sparklet.toml and a workflow for GitHub.

    Files that are there stay as they are.
    """
    screen, is_new_by_name = Screen(as_json), dict(write_starter(folder))
    if as_json:
        screen.document({"folder": str(folder), "written": [name for name, is_new in is_new_by_name.items() if is_new]})
        return
    for name, is_new in is_new_by_name.items():
        screen.say(f"{'wrote' if is_new else 'kept '} {folder / name}")
    prefix = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    screen.say(f"next: {prefix}sparklet run sales; and its test: {prefix}pytest")


def run(
    options: opt.RequestOptions,
    selection: opt.WorkerOptions,
    context: typer.Context,
    dispatch_mode: opt.DispatchModeOption = "queue",
    requirements: opt.Requirements = None,
    report: opt.Report = True,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan a run, dispatch it, watch it until it ends and download its output.

    Local inputs are copied to the bucket first; a local --output is filled at the end. With a --dispatch-mode other
    than queue a state machine plans and drives the run, and continues even if this terminal is closed; with auto the
    run is planned here first.
    """
    screen, request = Screen(selection.as_json), run_request(options, selection, dry_run=dry_run)
    if dry_run:
        _show_job(context, screen)
        _show_preview(request, selection, screen, None)
        return
    with (
        open_stack(selection, screen) as stack,
        nothing_new_as_success(screen),
        with_libraries(request, requirements, stack.size) as request,
    ):
        started_run = begin(stack, request, dispatch_mode, screen, context.obj)
        prices = load_prices()
        if cost_warning := estimate_run(stack, started_run, prices).dear:
            screen.warn(cost_warning)
        finish(stack, started_run.run_id, screen, prices, report=report)


def plan(
    options: opt.RequestOptions,
    selection: opt.StackOptions,
    context: typer.Context,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            rich_help_panel=ORCHESTRATION,
            help="Show which dispatch mode suits the plan, what the run would cost and when it would end.",
        ),
    ] = False,
    requirements: opt.Requirements = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan and dispatch a run without waiting for it; with --dry-run only show what the plan would be."""
    screen, request = Screen(selection.as_json), run_request(options, selection, dry_run=dry_run)
    prices = load_prices()
    if dry_run:
        _show_job(context, screen)
        _show_preview(request, selection, screen, prices if explain else None)
        return
    with (
        # Nobody watches this run: without ``keep`` the local stack would end with this command.
        open_stack(replace(selection, keep=True), screen) as stack,
        nothing_new_as_success(screen),
        with_libraries(request, requirements, stack.size) as request,
    ):
        planned_run = begin(stack, request, "queue", screen, context.obj)
        screen.say(f"the run continues by itself; to watch it: sparklet watch {planned_run.run_id}")
        estimate = estimate_run(stack, planned_run, prices) if explain and planned_run.shard_count else None
        if selection.as_json:
            screen.document({**run_document(planned_run), **({"estimate": estimate.document()} if estimate else {})})
        elif estimate:
            _show_estimate(estimate, screen)


def resume(run_id: opt.RunId, selection: opt.WorkerOptions, report: opt.Report = True) -> None:
    """Continue a run whose command was interrupted: plan the rest, watch it until it ends, download its output.

    An interrupted command prints this command, with the options that select the same stack.
    """
    screen, prices = Screen(selection.as_json), load_prices()
    with open_stack(selection, screen) as stack:
        run = stack.deployment.ledger.runs.get(run_id)
        continue_run(stack, run, screen, by_machine=was_driven(stack, run))
        finish(stack, run_id, screen, prices, report=report)


def invoke(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file: local, or s3://.")],
    event: Annotated[Path, typer.Option("--event", help="File with the event as JSON.", exists=True, dir_okay=False)],
    selection: opt.WorkerOptions,
    arguments: Annotated[list[str] | None, opt.key_option("args")] = None,
    env_pairs: Annotated[list[str] | None, opt.key_option("env")] = None,
    py_files: Annotated[list[str] | None, opt.key_option("py_files")] = None,
    files: Annotated[list[str] | None, opt.key_option("spark_files")] = None,
    conf_pairs: Annotated[list[str] | None, opt.key_option("conf")] = None,
    batch_handling: Annotated[
        BatchHandling | None,
        typer.Option(help="Whether the script runs for each message of SQS or once for all; default: as the function."),
    ] = None,
) -> None:
    """Run a script on one event of any source, in a worker: show what it prints, and its answer as JSON.

    The script's output goes to standard output, the answer after it; with --json standard output has the answer alone.
    An event of records is split into tasks as in the function. If the script fails, the cause is shown: exit code 2.
    """
    screen = Screen(as_json=True)  # progress goes to standard error
    try:
        document: Any = json.loads(event.read_text())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{event} is not JSON: {error}") from error
    variables = script_environment(parse_pairs("--env", env_pairs), "--env")
    # A mistake in a local script is reported before a stack is started.
    if "://" not in script:
        script_body(script)
    invocation = f"{INVOCATION}{uuid.uuid4().hex[:12]}"
    with open_stack(replace(selection, workers=selection.workers or 1), screen) as stack:
        screen.say(f"invocation {invocation}: its log is shown again by `sparklet logs {invocation}`")
        file = sys.stderr if selection.as_json else sys.stdout
        with failures_with_advice(), shown_logs(stack, invocation, line_writer(file), screen):
            answer = invoke_script(
                stack,
                script,
                document,
                tuple(arguments or ()),
                variables,
                py_files=py_files or (),
                files=files or (),
                conf=parse_pairs("--conf", conf_pairs),
                batch_handling=batch_handling or "",
                invocation=invocation,
                on_busy=lambda: screen.say("all workers are busy; waiting"),
            )
        for warning in dict.fromkeys(task["warning"] for task in answer.get("tasks", [answer]) if "warning" in task):
            screen.warn(warning)
        screen.document(answer)


@contextmanager
def failures_with_advice() -> Iterator[None]:
    """Add reason and remedy, as ``explain`` shows them, to the error of a failed script."""
    try:
        yield
    except RemoteFailureError as error:
        if not (advice := advice_outside_of_runs(str(error))):
            raise
        raise RemoteFailureError(f"{error}\n{advice}", error.reason) from error


@contextmanager
def with_libraries(request: RunRequest, requirements: Path | None, size: WorkerSize) -> Iterator[RunRequest]:
    """Yield the request, with the libraries of the requirements file for its script if there is such a file."""
    if requirements is None:
        yield request
        return
    with packed_requirements(requirements, size) as libraries:
        yield replace(request, py_files=(*request.py_files, str(libraries)))


def _show_job(context: typer.Context, screen: Screen) -> None:
    """Show the values of the options that a job of ``sparklet.toml`` sets."""
    for name in context.meta.get(JOB, {}):
        screen.say(f"{name} = {json.dumps(context.params[name])}")


def _show_estimate(estimate: PlanEstimate, screen: Screen) -> None:
    screen.out.print(estimate_table(estimate))
    for warning in filter(None, (estimate.too_slow, estimate.dear)):
        screen.warn(warning)


@contextmanager
def nothing_new_as_success(screen: Screen) -> Iterator[None]:
    """End an incremental run that finds nothing new with exit code 0, so that a schedule can start it."""
    try:
        yield
    except NothingNewError as reason:
        screen.say(str(reason))
        if screen.as_json:
            screen.document({"run_id": None, "state": "NOTHING_NEW", "reason": str(reason)})


def _show_preview(request: RunRequest, selection: opt.StackOptions, screen: Screen, prices: Prices | None) -> None:
    """Show what the plan would be, and with ``prices`` its cost; local inputs alone need no stack."""
    is_local = not request.lists and all("://" not in source for source in request.inputs)
    stack_context = nullcontext() if is_local else open_stack(selection, screen, reading=True)
    with nothing_new_as_success(screen), stack_context as stack:
        plan_preview, estimate = preview_request(stack, request, prices)
        if stack or "://" not in request.script:
            script = script_body(request.script, stack.deployment.store if stack else None)
            for warning in routes.warnings(stack.deployment if stack else None, request.options, script):
                screen.warn(warning)
        if screen.as_json:
            screen.document(
                {**preview_document(plan_preview), **({"estimate": estimate.document()} if estimate else {})}
            )
            return
        screen.out.print(preview_table(plan_preview))
        if estimate:
            screen.out.print()
            _show_estimate(estimate, screen)
