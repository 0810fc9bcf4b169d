"""Commands that change what there is: redrive, cancel, clean, stop, env."""

import os
import shlex
from dataclasses import replace
from typing import Annotated, Any

import typer

from sparklet.app.clean import RunFiles, delete_run, runs_to_clean
from sparklet.app.costs import load_prices
from sparklet.app.explain import ShardRanges
from sparklet.app.redrive import Selection, again_with_size, preview, redrive_run, selected_shards, selection_with_size
from sparklet.app.reporter import count_text, size_text, usd_text
from sparklet.app.stack import open_stack
from sparklet.app.state_machines import stop_execution
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, confirm, finish
from sparklet.errors import PlanError
from sparklet.model.quantities import parse_duration_s
from sparklet.model.redaction import printable
from sparklet.runs.cancel import Cancelled
from sparklet.runs.cancel import cancel as cancel_run
from sparklet.runs.redrive import Again


def redrive(
    run_id: opt.RunId,
    selection: opt.RedriveOptions,
    shards: opt.Shards = "",
    cause: opt.Cause = "",
    objects: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="URI", help="Shards of this input, or of a folder/; may be repeated."),
    ] = None,
    first: Annotated[
        str,
        typer.Option(
            "--from", metavar="PLACE", help="Shards of inputs from this partition (day=2026-01-31) or time on."
        ),
    ] = "",
    last: Annotated[
        str, typer.Option("--to", metavar="PLACE", help="Up to this partition or time; a day's end for a day.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="All shards, also those that have succeeded.")] = False,
    script: Annotated[str, typer.Option("--script", metavar="FILE", help="A repaired script for these shards.")] = "",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="The engine: fargate, emr, glue, … (locally: process).")
    ] = "",
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="As for run, and also after a lack of memory or time."),
    ] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Redrive failed shards of a run; those that are named also if they have succeeded.

    What has succeeded keeps its output until the new one replaces it. Repaired local inputs are copied to the bucket
    first. A cancelled run is reopened. A run that a state machine drove is driven by it again; so is an open one whose
    execution failed.
    """
    screen, prices = Screen(selection.as_json), load_prices()
    again = Again(engine, isolate)
    shard_selection = Selection(opt.parse_shards(shards), cause, tuple(objects or ()), first, last, everything)
    with open_stack(selection if dry_run else selection_with_size(selection), screen, reading=dry_run) as stack:
        if not (dry_run and stack.state):  # a dry run changes no local stack
            again = again_with_size(stack, again, selection.memory_mb, selection.timeout_s)
        numbers = selected_shards(stack, run_id, shard_selection)
        if dry_run:
            _show_preview(screen, preview(stack, run_id, numbers, prices))
            return
        redrive_run(stack, run_id, numbers, script, screen, again)
        finish(stack, run_id, screen, prices)


def cancel(run_id: opt.RunId, selection: opt.StackOptions, dry_run: opt.DryRun = False) -> None:
    """End a run early: pending shards are given up, running ones may end.

    A state machine that a command line started for it is stopped. `sparklet watch RUN` waits until the run has ended;
    `sparklet redrive RUN` reopens it.
    """
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, reading=True) as stack:
        if dry_run:
            run, counts = stack.deployment.ledger.runs.get(run_id), stack.deployment.ledger.shards.count(run_id)
            if run.state.ended:
                raise PlanError(f"the run {run_id} has ended already, it is {run.state}; there is nothing to cancel")
            cancelled = Cancelled(run, counts.pending, counts)
        else:
            cancelled = cancel_run(stack.deployment, run_id)
        counts, given_up_text = cancelled.counts, count_text(cancelled.abandoned, "shard")
        running_text = f", {counts.running} still running end by themselves" if counts.running else ""
        screen.result(
            {"run_id": run_id, "given_up": cancelled.abandoned, "shards": counts.to_document()},
            f"run {run_id}: {given_up_text} given up, {counts.succeeded} had succeeded{running_text}",
            f"sparklet watch {run_id} waits for its end; sparklet redrive {run_id} reopens it",
        )
        if not dry_run:
            stop_execution(stack, cancelled.run, screen)


def clean(
    selection: opt.StackOptions,
    run_ids: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="This run; may be repeated.")
    ] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="All runs that ended longer ago: 36h, 30d.")
    ] = "",
    keep: Annotated[int | None, typer.Option("--keep", min=0, metavar="N", help="All runs but the N newest.")] = None,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
) -> None:
    """Delete ended runs: plans, scripts, manifests, inputs that were copied to the bucket, and the ledger's items.

    Output is kept, but for files of shards that failed while these were published, and the bucket's copy of an output
    that is complete in a local --output. --incremental processes again what only a deleted run has processed.
    """
    screen, older_than_s = Screen(selection.as_json), parse_duration_s(older_than) if older_than else 0.0
    if not (run_ids or older_than or keep is not None):
        raise PlanError("name what to clean: --run RUN, --older-than 30d or --keep 10")
    with open_stack(selection, screen, reading=True) as stack:
        ended_runs = list(runs_to_clean(stack, run_ids or (), older_than_s, keep or 0, screen))
        _show_ended_runs(screen, ended_runs, dry_run)
        if dry_run or not ended_runs:
            return
        confirm(screen, f"Delete {count_text(len(ended_runs), 'run')} for good?", yes=yes)
        for run_files in ended_runs:
            delete_run(stack, run_files.run, run_files.folders)
        screen.say(f"{count_text(len(ended_runs), 'run')} deleted")


def stop(selection: opt.StackOptions) -> None:
    """Stop the local stack and everything it started; its runs are kept."""
    from sparklet.local.stack import stop as stop_stack

    screen = Screen(selection.as_json)
    if selection.stack:
        raise PlanError(f"the stack {selection.stack} is deployed; `stop` ends the local one only")
    has_stopped = stop_stack(selection.state)
    screen.result(
        {"stopped": has_stopped}, "the local stack has ended" if has_stopped else "no local stack was running"
    )


def env(selection: opt.WorkerOptions) -> None:
    """Print how other tools reach the local stack's S3, Glue and queues, as lines for a shell; it stays until `stop`.

    After `eval "$(sparklet env)"` the aws command, boto3 and scripts of one's own use the local stack, not AWS.
    """
    from sparklet.local.environment import client_env

    screen = Screen(as_json=True)  # progress goes to standard error
    if selection.stack:
        raise PlanError(f"the stack {selection.stack} is deployed; `env` is for the local one")
    with open_stack(replace(selection, keep=True), screen) as stack:
        variables = {name: os.environ[name] for name in client_env("", "")} | {
            "SPARKLET_BUCKET": stack.deployment.bucket
        }
    if selection.as_json:
        screen.document(variables)
    else:
        for name, value in variables.items():
            typer.echo(printable(f"export {name}={shlex.quote(value)}"))


def _show_preview(screen: Screen, document: dict[str, Any]) -> None:
    """Show the preview of a redrive: shards, input, cost, and how many outputs are replaced."""
    ranges = ShardRanges()
    for number in sorted(document["redriven"]):
        ranges.add(number)
    numbers_text = ranges.text() + ("" if ranges.whole else ", …")
    shards_text = (
        f"{count_text(len(document['redriven']), 'shard')} of {document['run_id']} would be redriven: {numbers_text}"
    )
    work_text = (
        f"{count_text(document['files'], 'file')}, {size_text(document['bytes'])}, "
        f"about {usd_text(document['cost_usd'])}"
    )
    succeeded_text = (
        f"{count_text(document['succeeded'], 'shard')} had succeeded: the output stays until the new one replaces it"
    )
    screen.result(document, shards_text, work_text, *([succeeded_text] if document["succeeded"] else []))


def _show_ended_runs(screen: Screen, ended_runs: list[RunFiles], dry_run: bool) -> None:
    runs = [{"run_id": entry.run.run_id, "files": entry.files, "bytes": entry.size_bytes} for entry in ended_runs]
    lines = [
        f"{entry.run.run_id}: {entry.run.state}, {count_text(entry.files, 'file')}, {size_text(entry.size_bytes)}"
        for entry in ended_runs
    ]
    if not ended_runs:
        lines = ["no such run has ended"]
    elif dry_run:
        lines.append(f"{count_text(len(ended_runs), 'run')} would be deleted")
    screen.result({"dry_run": dry_run, "runs": runs}, *lines)
