"""The same script on another engine: the ``commands`` command, which starts nothing."""

import shlex
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import typer

from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.engines import ENGINES, FARGATE, Command, ElsewhereJob, Places, fargate, job_of_run, job_of_shard
from sparklet.cli.engines import commands as commands_for
from sparklet.cli.environment import StackSelection, environment
from sparklet.cli.failures import selected
from sparklet.errors import PlanError
from sparklet.model import Run, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.planning.parts import planned_shard


@dataclass(frozen=True)
class _Job:
    PANEL: ClassVar[str] = "The job"

    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="FOLDER|OBJECT", help="What it reads; may be repeated.")
    ] = None
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="What it writes.")] = ""
    params: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="KEY=VALUE", help="For the script; may be repeated.")
    ] = None
    py_files: Annotated[
        list[str] | None, typer.Option("--py-files", metavar="FILE", help="For the script; may be repeated.")
    ] = None


def commands(
    job: _Job,
    places: Places,
    selection: StackSelection,
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file; or name a run with --run.")] = "",
    arguments: opt.Arguments = None,
    run_id: Annotated[str, typer.Option("--run", metavar="RUN", help="A run as one job, or shards of it.")] = "",
    shards: opt.Shards = "",
    cause: opt.Cause = "",
    engine: Annotated[
        Literal["all", "spark-submit", "emr", "emr-serverless", "glue", "fargate"],
        typer.Option("--engine", rich_help_panel=Places.PANEL, help="For which engine."),
    ] = "all",
) -> None:
    """Print the exact commands that run a script, or shards of a run, on EMR, EMR Serverless, Glue or spark-submit.

    Nothing is started; what you have not named is in capitals. For FAILED shards also the command that runs them in
    Sparklet's own image on ECS Fargate, without Lambda's limit of 15 minutes and with the same ledger.
    """
    screen = Screen(selection.as_json)
    engines = ENGINES if engine == "all" else () if engine == FARGATE else (engine,)
    if bool(script) is bool(run_id):
        raise PlanError("name either a SCRIPT or a run (--run RUN)")
    if script and engine == FARGATE:
        raise PlanError("Fargate runs shards of a run only: name the run (--run RUN) and --shards or --cause")
    tasks: list[Command | str] = []
    if script:
        params, files = opt.parse_pairs("--param", job.params), tuple(job.py_files or ())
        jobs = [ElsewhereJob(script, tuple(job.inputs or ()), job.output, params, tuple(arguments or ()), files)]
    else:
        with environment(selection, screen, reading=True) as env:
            numbers = selected(env.at, run_id, opt.parse_shards(shards), cause)
            if engine == FARGATE or (engine == "all" and numbers):
                tasks = _fargate_tasks(env.at, run_id, numbers)
            jobs = _jobs(env.at, env.at.ledger.runs.get(run_id), numbers) if engines else []
    found = {name: [command for each in jobs for command in _commands(each, name, places)] for name in engines}
    if tasks:
        found[FARGATE] = tasks
    if selection.as_json:
        screen.document(found)
        return
    for name, answers in found.items():
        typer.echo(f"# {name}")
        for command in dict.fromkeys(answers):
            typer.echo(command if isinstance(command, str) else shlex.join(command))


def _fargate_tasks(at: Deployment, run_id: str, numbers: tuple[int, ...]) -> list[Command | str]:
    """An ECS task for each of these shards that has FAILED; of all, if none is named."""
    failed = [record.number for record in at.ledger.shards.list(run_id, ShardState.FAILED)]
    tasks: list[Command | str] = [fargate(run_id, n) for n in failed if not numbers or n in numbers]
    return tasks or ["# none of these shards has FAILED"]


def _jobs(at: Deployment, run: Run, numbers: tuple[int, ...]) -> list[ElsewhereJob]:
    """The shards, or the whole run if none is named."""
    if not numbers:
        return [job_of_run(run)]
    records = [at.ledger.shards.get(run.run_id, number) for number in numbers]
    return [job_of_shard(run, record, planned_shard(at, record)) for record in records]


def _commands(job: ElsewhereJob, engine: str, places: Places) -> list[Command | str]:
    """The commands, or why there are none, as a comment."""
    try:
        return list(commands_for(job, engine, places))
    except PlanError as error:
        return [f"# not possible: {error}"]
