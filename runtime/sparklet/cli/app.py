"""The commands; each opens the stack, calls one function of ``runs`` or ``fanout``, and shows the result."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sparklet import __version__
from sparklet.cli import doctor as doctoring
from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.environment import Choice, Environment, environment
from sparklet.cli.exits import ALL_WELL, USAGE, exit_code
from sparklet.cli.invoke import invoke_script
from sparklet.cli.render import (
    preview_document,
    preview_table,
    run_document,
    runs_table,
    shard_document,
    shard_table,
    shards_table,
    summary_document,
    summary_table,
)
from sparklet.cli.runs import redrive_run, start, watch
from sparklet.cli.transfer import LocalPaths
from sparklet.errors import PlanError
from sparklet.fanout.fate import ObjectFate, object_fate
from sparklet.fanout.new_run import RunRequest
from sparklet.fanout.preview import preview
from sparklet.fanout.summary import Summary, summarize
from sparklet.model import ShardRecord

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 all succeeded or within tolerance, 1 usage or set-up, 2 failures beyond tolerance, "
    "3 incomplete, 130 interrupted.",
)

Script = Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file: local, or s3://.", show_default=False)]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", help="s3:// folder or local folder; each shard writes below shard=N.", show_default=False
    ),
]
PyFiles = Annotated[
    list[str] | None,
    typer.Option("--py-files", help=".py, .zip, .whl or .egg for the script; may be repeated.", show_default=False),
]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Arguments for the script.", show_default=False)
]
Name = Annotated[
    str, typer.Option("--name", help="The run's id begins with it (default: the script's name).", show_default=False)
]
Id = Annotated[
    str,
    typer.Option("--run-id", help="The whole run id; the same command again continues that run.", show_default=False),
]
MaxAttempts = Annotated[int, typer.Option("--max-attempts", min=1, help="Attempts a shard has before it is FAILED.")]
Tolerate = Annotated[str, typer.Option("--tolerate", help="Failed shards that still let the run succeed: 5, or 2.5%.")]
Rate = Annotated[
    float,
    typer.Option("--rate", min=0, help="Messages sent a second, so that a run does not starve others; 0: no limit."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote to a local --output.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparklet {__version__}")
        raise typer.Exit


@app.callback()
def sparklet(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Run PySpark scripts over many files, one Spark-local job for each shard, every failure accounted for."""


@app.command()
def run(
    script: Script,
    inputs: opt.Input,
    output: Output,
    arguments: Arguments = None,
    name: Name = "",
    run_id: Id = "",
    params: opt.Params = None,
    files: opt.Files = None,
    py_files: PyFiles = None,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    shard_size: opt.ShardSize = "128MiB",
    max_objects: opt.MaxObjects = 1000,
    max_attempts: MaxAttempts = 3,
    tolerate: Tolerate = "0",
    rate: Rate = 0.0,
    overwrite: Overwrite = False,
    workers: opt.Workers = None,
    timeout: opt.Timeout = None,
    memory: opt.Memory = None,
    runner: opt.RunnerChoice = None,
    keep: opt.Keep = False,
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Plan a run, dispatch it, watch it to its end and bring its output home."""
    screen = Screen(as_json)
    options = opt.run_options(shard_size, max_objects, include, exclude, max_attempts, tolerate, rate)
    request = RunRequest(
        script,
        tuple(inputs),
        output,
        run_id,
        name,
        tuple(py_files or ()),
        tuple(arguments or ()),
        opt.parse_pairs("--param", params),
        options,
    )
    with environment(Choice(stack, state_dir, workers, timeout, memory, runner, keep), screen) as env:
        started = start(env, request, screen, files=opt.parse_pairs("--file", files), overwrite=overwrite)
        _finish(env, started.run_id, screen)


@app.command()
def plan(
    script: Script,
    inputs: opt.Input,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    shard_size: opt.ShardSize = "128MiB",
    max_objects: opt.MaxObjects = 1000,
    output: Annotated[str, typer.Option("--output", "-o", help="Needed unless --dry-run.", show_default=False)] = "",
    name: Name = "",
    run_id: Id = "",
    params: opt.Params = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing: only say what the plan would be.")] = False,
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Plan and dispatch a run without waiting for it; with --dry-run only say how many shards it would have."""
    screen = Screen(as_json)
    options = opt.run_options(shard_size, max_objects, include, exclude)
    if not dry_run and not output:
        raise PlanError("--output is missing; name where the run writes, or add --dry-run")
    if dry_run and all("://" not in given for given in inputs):
        _show_preview(screen, preview(options, inputs, doctoring.no_store()))
        return
    with environment(Choice(stack, state_dir, keep=not dry_run, reading=dry_run), screen) as env:
        if dry_run:
            _show_preview(screen, preview(options, inputs, env.at.store))
            return
        request = RunRequest(
            script, tuple(inputs), output, run_id, name, params=opt.parse_pairs("--param", params), options=options
        )
        planned = start(env, request, screen)
        screen.say(f"the run goes on by itself; sparklet watch {planned.run_id} shows it")
        if as_json:
            screen.document(run_document(planned))


@app.command()
def status(
    run_id: opt.RunId,
    object_uri: Annotated[
        str, typer.Option("--object", help="Tell the fate of this input object.", show_default=False)
    ] = "",
    shards: Annotated[bool, typer.Option("--shards", help="List every shard too.")] = False,
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Say where a run stands, or one of its input objects."""
    screen = Screen(as_json)
    with environment(Choice(stack, state_dir, reading=True), screen) as env:
        if object_uri:
            _show_fate(screen, run_id, object_fate(env.at, run_id, object_uri))
            return
        found = env.at.ledger.get_run(run_id)
        summary = summarize(found, env.at.ledger)
        records = list(env.at.ledger.shards(run_id)) if shards else None
        _show_summary(env, screen, run_id, summary, records)
    raise typer.Exit(exit_code(summary.state))


@app.command("watch")
def watch_run(
    run_id: opt.RunId,
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Watch a run to its end, continuing it where it was interrupted."""
    screen = Screen(as_json)
    with environment(Choice(stack, state_dir), screen) as env:
        _finish(env, run_id, screen)


@app.command()
def redrive(
    run_id: opt.RunId,
    shards: Annotated[
        str,
        typer.Option("--shards", help="Only these, as in 3,17,20-25 (default: all that failed).", show_default=False),
    ] = "",
    script: Annotated[
        str, typer.Option("--script", help="A repaired script for these shards.", show_default=False)
    ] = "",
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """Do failed shards of a run again, and no other; repaired local inputs are put into the bucket first."""
    screen = Screen(as_json)
    with environment(Choice(stack, state_dir), screen) as env:
        redrive_run(env, run_id, opt.parse_shards(shards), script, screen)
        _finish(env, run_id, screen)


@app.command()
def runs(
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = False,
    debug: opt.Debug = False,
) -> None:
    """List all runs, newest first."""
    screen = Screen(as_json)
    with environment(Choice(stack, state_dir, reading=True), screen) as env:
        found = list(env.at.ledger.list_runs())
    if as_json:
        screen.document([run_document(each) for each in found])
    elif found:
        screen.out.print(runs_table(found))
    else:
        screen.say("no runs yet; sparklet run SCRIPT --input … --output … starts one")


@app.command()
def invoke(
    script: Script,
    event: Annotated[
        Path,
        typer.Option("--event", help="File with the event as JSON.", exists=True, dir_okay=False, show_default=False),
    ],
    arguments: Arguments = None,
    timeout: opt.Timeout = None,
    memory: opt.Memory = None,
    runner: opt.RunnerChoice = None,
    keep: opt.Keep = False,
    stack: opt.Stack = "",
    state_dir: opt.State = None,
    as_json: opt.AsJson = True,
    debug: opt.Debug = False,
) -> None:
    """Run a script once on one event, in a worker, and show its answer."""
    screen = Screen(as_json)  # JSON in any case: the answer is
    try:
        document: Any = json.loads(event.read_text())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{event} is not JSON: {error}") from error
    with environment(Choice(stack, state_dir, 1, timeout, memory, runner, keep), screen) as env:
        screen.document(invoke_script(env, script, document, tuple(arguments or ())))


@app.command()
def stop(state_dir: opt.State = None, as_json: opt.AsJson = False, debug: opt.Debug = False) -> None:
    """End the local stack and everything it started; its runs are kept."""
    from sparklet.local.stack import stop as stop_stack

    screen = Screen(as_json)
    stopped = stop_stack(Choice(state_dir=state_dir).state)
    if as_json:
        screen.document({"stopped": stopped})
    else:
        screen.say("the local stack has ended" if stopped else "no local stack was running")


@app.command()
def doctor(state_dir: opt.State = None, as_json: opt.AsJson = False, debug: opt.Debug = False) -> None:
    """Check what this machine has and what Sparklet needs."""
    screen = Screen(as_json)
    findings = doctoring.examine(Choice(state_dir=state_dir))
    if as_json:
        screen.document([finding.document() for finding in findings])
    else:
        screen.out.print(doctoring.table(findings))
    raise typer.Exit(ALL_WELL if all(finding.good for finding in findings) else USAGE)


def _finish(env: Environment, run_id: str, screen: Screen) -> None:
    """Watch a run to its end, show what came of it, and exit with its code."""
    try:
        summary = watch(env, run_id, screen)
    except KeyboardInterrupt:
        screen.warn(f"interrupted; nothing is lost: sparklet watch {run_id} continues it")
        raise
    _show_summary(env, screen, run_id, summary)
    raise typer.Exit(exit_code(summary.state))


def _show_summary(
    env: Environment, screen: Screen, run_id: str, summary: Summary, records: list[ShardRecord] | None = None
) -> None:
    found = env.at.ledger.get_run(run_id)
    output = (LocalPaths.load(env.paths_dir, run_id).output if env.local else "") or found.output_uri
    manifest = env.at.run_uri(run_id, "manifest.json")
    if screen.as_json:
        listed = {} if records is None else {"shard_list": [shard_document(record) for record in records]}
        screen.document({**summary_document(found, summary, output, manifest), **listed})
        return
    logs = str(env.state / "log") if env.state else ""
    screen.out.print(summary_table(found, summary, output, manifest, logs))
    if records is not None:
        screen.out.print(shards_table(records))


def _show_fate(screen: Screen, run_id: str, fate: ObjectFate) -> None:
    if not fate.shards:
        raise PlanError(
            f"{fate.uri} is in no shard of {run_id}; it was not there, or left out, when the run was planned"
        )
    for each in fate.shards:
        if each.record is None:
            raise PlanError(
                f"{fate.uri} is in shard {each.shard.number} of {run_id}, which is not in the ledger yet; ask again"
            )
        if screen.as_json:
            screen.document(shard_document(each.record))
        else:
            screen.out.print(shard_table(each.record))


def _show_preview(screen: Screen, found: Any) -> None:
    if screen.as_json:
        screen.document(preview_document(found))
    else:
        screen.out.print(preview_table(found))
