"""The same script on another engine: commands prints what to type, and starts nothing."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import typer

from sparklet.cli import options as opt
from sparklet.cli.environment import environment
from sparklet.cli.redriving import selected
from sparklet.errors import PlanError
from sparklet.fanout.choosing.elsewhere import (
    ENGINES,
    FARGATE,
    Command,
    ElsewhereJob,
    Places,
    fargate,
    job_of_run,
    job_of_shard,
)
from sparklet.fanout.choosing.elsewhere import commands as commands_for
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.plan_parts import planned_shard
from sparklet.model import Run, ShardState

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
    """Which engine, and where it is; what is not named stands in capitals."""

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
        """Those that are asked for, and know nothing of runs."""
        return ENGINES if self.engine == "all" else () if self.engine == FARGATE else (self.engine,)

    def places(self) -> Places:
        """Where they are."""
        return Places(self.staging, self.master, self.cluster_id, self.application_id, self.role_arn)


def commands(
    job: _Job,
    engine: _Engine,
    where: opt.Where,
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

    Nothing is started; what you have not named stands there in capitals. For shards that FAILED also the command that
    has Sparklet's own image do them on ECS Fargate, without Lambda's 15 minutes and into the same ledger.
    """
    screen = where.screen()
    if bool(script) is bool(run_id):
        raise PlanError("name either a SCRIPT or a run (--run RUN)")
    tasks: list[list[Command | str]] = []
    if script:
        if engine.engine == FARGATE:
            raise PlanError("Fargate does shards of a run: name the run (--run RUN) and --shards or --cause")
        params = opt.parse_pairs("--param", job.params)
        files = tuple(job.py_files or ())
        jobs = [ElsewhereJob(script, tuple(job.inputs or ()), job.output, params, tuple(arguments or ()), files)]
    else:
        with environment(where.choice(reading=True), screen) as env:
            run = env.at.ledger.runs.get(run_id)
            numbers = selected(env.at, run_id, opt.parse_shards(shards), cause)
            if engine.engine == FARGATE or (engine.engine == "all" and numbers):
                tasks = [_tasks(env.at, run_id, numbers, engine.places())]
            jobs = list(_jobs(env.at, run, numbers)) if engine.engines() else []
    told = {name: [_commands(each, name, engine.places()) for each in jobs] for name in engine.engines()}
    told.update({FARGATE: tasks} if tasks else {})
    if where.as_json:
        screen.document({name: [command for each in answers for command in each] for name, answers in told.items()})
        return
    for name, answers in told.items():
        typer.echo(f"# {name}")
        for command in dict.fromkeys(command for each in answers for command in each):
            typer.echo(command if isinstance(command, str) else shlex.join(command))


def _tasks(at: Deployment, run_id: str, numbers: tuple[int, ...], places: Places) -> list[Command | str]:
    """A task of ECS for each of these shards that has FAILED; of all, if none is named."""
    failed = [record.number for record in at.ledger.shards.list(run_id, ShardState.FAILED)]
    tasks: list[Command | str] = [fargate(run_id, n, places) for n in failed if not numbers or n in numbers]
    return tasks or ["# none of these shards has FAILED"]


def _jobs(at: Deployment, run: Run, numbers: tuple[int, ...]) -> Iterator[ElsewhereJob]:
    """The shards, or the whole run if none is named."""
    if not numbers:
        yield job_of_run(run)
    for number in numbers:
        yield job_of_shard(run, planned_shard(at, at.ledger.shards.get(run.run_id, number)))


def _commands(job: ElsewhereJob, engine: str, places: Places) -> list[Command | str]:
    """The commands, or why there are none, as a comment."""
    try:
        return list(commands_for(job, engine, places))
    except PlanError as error:
        return [f"# not possible: {error}"]
