"""Commands that change what there is: redrive, cancel, throttle, clean, stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from sparklet.app.costs import load_prices
from sparklet.app.local_files import output_files
from sparklet.app.redrive import redrive_run, refuse_other_size, resized, selected
from sparklet.app.stack import Environment, StackSelection, environment
from sparklet.app.start import finish
from sparklet.app.state_machines import end_waiting
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, confirm, count_text, size_text
from sparklet.cli.options import Prices
from sparklet.errors import PlanError
from sparklet.job.table import Table
from sparklet.model import Counts, Run, ShardState
from sparklet.model.quantities import parse_duration_s
from sparklet.runs.cancel import cancel as cancel_run
from sparklet.runs.clean import RunFiles, ended_runs, files_of, folders_of, named_run
from sparklet.runs.clean import clean as clean_run
from sparklet.runs.concurrency_cap import throttle as throttle_run
from sparklet.runs.redrive import redrivable
from sparklet.tables.orphans import MIN_AGE_S, files_at
from sparklet.tables.orphans import orphans as find_orphans


@dataclass(frozen=True)
class _RedriveSelection(StackSelection):
    """The same, with the size of the workers for the shards that are redriven."""

    PANEL: ClassVar[str] = "Options"

    memory_mb: Annotated[
        int | None,
        typer.Option("--memory", min=512, max=10240, metavar="MB", help="More for workers; restarts the local stack."),
    ] = None
    timeout_s: Annotated[
        int | None,
        typer.Option("--timeout", min=1, metavar="SECONDS", help="More for each shard; restarts the local stack."),
    ] = None


def redrive(
    run_id: opt.RunId,
    selection: _RedriveSelection,
    shards: opt.Shards = "",
    cause: opt.Cause = "",
    script: Annotated[str, typer.Option("--script", metavar="FILE", help="A repaired script for these shards.")] = "",
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="Do them there: fargate, emr, glue, … (locally: process).")
    ] = "",
    dry_run: opt.DryRun = False,
    prices: Prices = None,
) -> None:
    """Redrive failed shards of a run, all or chosen ones, and no other.

    Repaired local inputs are copied to the bucket first. A cancelled run is reopened. A run that a state machine drove
    is driven by it again; so is an open one whose execution failed.
    """
    screen, figures = Screen(selection.as_json), load_prices(prices)
    wanted = opt.parse_shards(shards)
    with environment(selection if dry_run else resized(selection), screen, reading=dry_run) as env:
        if not (dry_run and env.local):  # a dry run changes no local stack
            refuse_other_size(env, selection.memory_mb, selection.timeout_s)
        numbers = selected(env.at, run_id, wanted, cause)
        if dry_run:
            redrivable(env.at, run_id)
            would = [record.number for record in env.at.ledger.shards.list(run_id, ShardState.FAILED)]
            shown = list(numbers) or would
            document = {"dry_run": True, "run_id": run_id, "redriven": shown}
            screen.result(document, f"run id: {run_id}, redriven: {shown} (shards would be redriven)")
            return
        redrive_run(env, run_id, numbers, script, screen, engine)
        finish(env, run_id, screen, figures)


def cancel(run_id: opt.RunId, selection: StackSelection, dry_run: opt.DryRun = False) -> None:
    """End a run early: pending shards are given up, running ones may end.

    A state machine that a command line started for it is stopped. `sparklet watch RUN` waits until the run has ended;
    `sparklet redrive RUN` reopens it.
    """
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        if dry_run:
            _show_cancel(screen, run_id, env.at.ledger.shards.count(run_id), _refuse_ended(env, run_id))
            return
        done = cancel_run(env.at, run_id)
        _show_cancel(screen, run_id, done.counts, done.abandoned)
        end_waiting(env, done.run, screen)


def throttle(
    run_id: opt.RunId,
    selection: StackSelection,
    max_concurrency: Annotated[
        int, typer.Option("--max-concurrency", min=1, metavar="N", help="Shards of the run in work at once.")
    ],
) -> None:
    """Change how many shards of an open run, which was started with --max-concurrency, may be in work at once.

    It is in effect within a minute, in a map from the next map batch on. Shards that have begun, or have a message
    already, are not stopped.
    """
    screen = Screen(selection.as_json)
    with environment(selection, screen, reading=True) as env:
        throttle_run(env.at, run_id, max_concurrency)
    document = {"run_id": run_id, "max_concurrency": max_concurrency}
    screen.result(document, f"run {run_id}: from its next check on {max_concurrency} shards at once")


def clean(
    selection: StackSelection,
    run_ids: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="This run; may be repeated.")
    ] = None,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="All that ended longer ago: 36h, 30d.")
    ] = "",
    keep: Annotated[int | None, typer.Option("--keep", min=0, metavar="N", help="All but the N newest.")] = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="No runs, but files that killed attempts staged and nothing refers to.")
    ] = False,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="FORMAT:PLACE", help="Of --orphans: in this table's folder too; repeatable."),
    ] = None,
    dry_run: opt.DryRun = False,
    yes: opt.Yes = False,
) -> None:
    """Delete ended runs: plans, scripts, manifests, inputs that were copied to the bucket, and the ledger's items.

    Output is kept; only the bucket's copy of an output that is complete in a local --output is deleted. --incremental
    processes again what only a deleted run has processed. --orphans deletes what killed attempts have staged, in
    Sparklet's bucket and in the folders of Delta and Iceberg tables. What a table refers to, and what a run may still
    commit or publish, is kept.
    """
    screen, older_than_s = Screen(selection.as_json), parse_duration_s(older_than) if older_than else 0.0
    if (orphans or tables) and (not orphans or run_ids or keep is not None or older_than_s < MIN_AGE_S):
        raise PlanError("--orphans takes an --older-than of at least 1d, any number of --table, and not --run, --keep")
    if not (orphans or run_ids or older_than or keep is not None):
        raise PlanError("name what to clean: --run RUN, --older-than 30d, --keep 10 or --orphans")
    places = [None, *map(Table.parse, tables or ())]
    with environment(selection, screen, reading=True) as env:
        if orphans:
            _sweep(env, places, older_than_s, screen, dry_run=dry_run, yes=yes)
            return
        ended = ended_runs(env.at, older_than_s=older_than_s, keep=keep or 0)
        chosen = [named_run(env.at, run_id) for run_id in run_ids] if run_ids else list(ended)
        _warn_of_increments(env, chosen, screen)
        folders = [_folders(env, run, screen) for run in chosen]
        found = [files_of(env.at, run, own) for run, own in zip(chosen, folders, strict=True)]
        _show_found(screen, found, dry_run)
        if dry_run or not found:
            return
        confirm(screen, f"Delete {count_text(len(found), 'run')} for good?", yes=yes)
        for run, own in zip(chosen, folders, strict=True):
            clean_run(env.at, run, own)
            if env.local:
                (env.paths_dir / f"{run.run_id}.json").unlink(missing_ok=True)
        screen.say(f"{count_text(len(found), 'run')} deleted")


def _sweep(
    env: Environment, places: Sequence[Table | None], older_than_s: float, screen: Screen, *, dry_run: bool, yes: bool
) -> None:
    """Show and delete what killed attempts have staged, in Sparklet's bucket (None) and for tables."""
    found = [each for place in places for each in find_orphans(env.at, place, older_than_s)]
    documents = [{"folder": each.folder, "files": len(each.files), "bytes": each.size_bytes} for each in found]
    lines = [f"{each.folder}: {count_text(len(each.files), 'file')}, {size_text(each.size_bytes)}" for each in found]
    screen.result({"dry_run": dry_run, "orphans": documents}, *(lines or ["no orphans"]))
    if dry_run or not found:
        return
    files = count_text(sum(len(each.files) for each in found), "file")
    confirm(screen, f"Delete {files} for good?", yes=yes)
    for each in found:
        files_at(env.at, each.folder).delete_all(each.files)
    screen.say(f"{files} deleted")


def stop(selection: StackSelection) -> None:
    """Stop the local stack and everything it started; its runs are kept."""
    from sparklet.local.stack import stop as stop_stack

    screen = Screen(selection.as_json)
    if selection.stack:
        raise PlanError(f"the stack {selection.stack} is deployed; `stop` ends the local one only")
    stopped = stop_stack(selection.state)
    screen.result({"stopped": stopped}, "the local stack has ended" if stopped else "no local stack was running")


def _refuse_ended(env: Environment, run_id: str) -> int:
    """How many shards a cancel would give up; PlanError if the run has ended."""
    run = env.at.ledger.runs.get(run_id)
    if run.state.ended:
        raise PlanError(f"the run {run_id} has ended already, it is {run.state}; there is nothing to cancel")
    return env.at.ledger.shards.count(run_id).pending


def _show_cancel(screen: Screen, run_id: str, counts: Counts, abandoned: int) -> None:
    left = f", {counts.running} still running end by themselves" if counts.running else ""
    screen.result(
        {"run_id": run_id, "given_up": abandoned, "shards": counts.to_document()},
        f"run {run_id}: {abandoned} shards given up, {counts.succeeded} had succeeded{left}",
        f"sparklet watch {run_id} waits for its end; sparklet redrive {run_id} reopens it",
    )


def _warn_of_increments(env: Environment, runs: Sequence[Run], screen: Screen) -> None:
    """Warn that incremental runs will process again what only deleted runs have processed."""
    incremental = {run.name for run in env.at.ledger.runs.list() if run.options.incremental}
    for name in sorted({run.name for run in runs} & incremental):
        screen.warn(f"--incremental runs of the name {name} will process again what only deleted runs have processed")


def _folders(env: Environment, run: Run, screen: Screen) -> tuple[str, ...]:
    """The folders to delete with a run: its own, and the bucket's copy of its output if the local one is complete."""
    own = folders_of(env.at, run.run_id)
    output = env.local_paths(run.run_id).output
    if not output:
        return own
    if _is_whole(env, run, Path(output)):
        return *own, run.output_uri
    screen.warn(f"the output of {run.run_id} is not complete in {output}; the bucket's copy is kept")
    return own


def _is_whole(env: Environment, run: Run, folder: Path) -> bool:
    """Whether a local folder has every file that succeeded shards wrote, by name and size."""
    succeeded = [record.number for record in env.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)]
    files = {folder / name: info.size_bytes for name, info in output_files(env.at.store, run, succeeded).items()}
    return all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in files.items())


def _show_found(screen: Screen, found: list[RunFiles], dry_run: bool) -> None:
    runs = [{"run_id": each.run.run_id, "files": each.files, "bytes": each.size_bytes} for each in found]
    lines = [
        f"{each.run.run_id}: {each.run.state}, {count_text(each.files, 'file')}, {size_text(each.size_bytes)}"
        for each in found
    ]
    if not found:
        lines = ["no such run has ended"]
    elif dry_run:
        lines.append(f"{count_text(len(found), 'run')} would be deleted")
    screen.result({"dry_run": dry_run, "runs": runs}, *lines)
