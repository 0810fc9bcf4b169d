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

JOB, PLACES = "The job", "Where it runs"
_UNNAMED = Places()


@dataclass(frozen=True)
class _Job:
    """What is to be run: a script on inputs of its own."""

    PANEL: ClassVar[str] = JOB

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


@dataclass(frozen=True)
class _Engine:
    """Which engine, and where it is; what is not named is in capitals."""

    PANEL: ClassVar[str] = PLACES

    engine: Annotated[
        Literal["all", "spark-submit", "emr", "emr-serverless", "glue", "fargate"],
        typer.Option("--engine", help="For which engine."),
    ] = "all"
    staging: Annotated[str, typer.Option("--staging", metavar="S3-FOLDER", help="Where local files are copied to.")] = (
        _UNNAMED.staging
    )
    master: Annotated[str, typer.Option("--master", metavar="URL", help="For spark-submit.")] = _UNNAMED.master
    cluster_id: Annotated[str, typer.Option("--cluster-id", metavar="ID", help="For EMR.")] = _UNNAMED.cluster_id
    application_id: Annotated[str, typer.Option("--application-id", metavar="ID", help="For EMR Serverless.")] = (
        _UNNAMED.application_id
    )
    role_arn: Annotated[str, typer.Option("--role-arn", metavar="ARN", help="For EMR Serverless and Glue.")] = (
        _UNNAMED.role_arn
    )

    def engines(self) -> tuple[str, ...]:
        """The chosen engines but Fargate, which does shards of a run only."""
        return ENGINES if self.engine == "all" else () if self.engine == FARGATE else (self.engine,)

    def places(self) -> Places:
        """Where they are."""
        return Places(self.staging, self.master, self.cluster_id, self.application_id, self.role_arn)


def commands(
    job: _Job,
    engine: _Engine,
    selection: StackSelection,
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A .py file; or name a run with --run.", show_default=False)
    ] = "",
    arguments: opt.Arguments = None,
    run_id: Annotated[
        str, typer.Option("--run", metavar="RUN", help="A run as one job, or shards of it.", show_default=False)
    ] = "",
    shards: opt.Shards = "",
    cause: opt.Cause = "",
) -> None:
    """Print the exact commands that run a script, or shards of a run, on EMR, EMR Serverless, Glue or spark-submit.

    Nothing is started; what you have not named is in capitals. For FAILED shards also the command that does them in
    Sparklet's own image on ECS Fargate, without Lambda's 15 minutes and into the same ledger.
    """
    screen, places = Screen(selection.as_json), engine.places()
    if bool(script) is bool(run_id):
        raise PlanError("name either a SCRIPT or a run (--run RUN)")
    if script and engine.engine == FARGATE:
        raise PlanError("Fargate does shards of a run: name the run (--run RUN) and --shards or --cause")
    tasks: list[Command | str] = []
    if script:
        params, files = opt.parse_pairs("--param", job.params), tuple(job.py_files or ())
        jobs = [ElsewhereJob(script, tuple(job.inputs or ()), job.output, params, tuple(arguments or ()), files)]
    else:
        with environment(selection, screen, reading=True) as env:
            numbers = selected(env.at, run_id, opt.parse_shards(shards), cause)
            if engine.engine == FARGATE or (engine.engine == "all" and numbers):
                tasks = _fargate_tasks(env.at, run_id, numbers, places)
            jobs = _jobs(env.at, env.at.ledger.runs.get(run_id), numbers) if engine.engines() else []
    found = {name: [command for each in jobs for command in _commands(each, name, places)] for name in engine.engines()}
    if tasks:
        found[FARGATE] = tasks
    if selection.as_json:
        screen.document(found)
        return
    for name, answers in found.items():
        typer.echo(f"# {name}")
        for command in dict.fromkeys(answers):
            typer.echo(command if isinstance(command, str) else shlex.join(command))


def _fargate_tasks(at: Deployment, run_id: str, numbers: tuple[int, ...], places: Places) -> list[Command | str]:
    """A task of ECS for each of these shards that has FAILED; of all, if none is named."""
    failed = [record.number for record in at.ledger.shards.list(run_id, ShardState.FAILED)]
    tasks: list[Command | str] = [fargate(run_id, n, places) for n in failed if not numbers or n in numbers]
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
