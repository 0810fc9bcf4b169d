"""The same script on another engine: the ``commands`` command, which starts nothing."""

import shlex
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import typer

from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.engines import ENGINES, ElsewhereJob, Places
from sparklet.cli.engines import commands as commands_for
from sparklet.errors import PlanError


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
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file.")],
    arguments: opt.Arguments = None,
    engine: Annotated[
        Literal["all", "spark-submit", "emr", "emr-serverless", "glue"],
        typer.Option("--engine", rich_help_panel=Places.PANEL, help="For which engine."),
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Print the exact commands that run a script as one job on EMR, EMR Serverless, Glue or spark-submit.

    Nothing is started; what you have not named is in capitals. For shards of a run there, with the ledger, see
    ``run --route``, ``--engine`` and ``redrive --engine``.
    """
    params, files = opt.parse_pairs("--param", job.params), tuple(job.py_files or ())
    given = ElsewhereJob(script, tuple(job.inputs or ()), job.output, params, tuple(arguments or ()), files)
    found: dict[str, list[str | tuple[str, ...]]] = {}
    for name in ENGINES if engine == "all" else (engine,):
        try:
            found[name] = list(commands_for(given, name, places))
        except PlanError as error:
            found[name] = [f"# not possible: {error}"]
    if as_json:
        Screen(as_json).document(found)
        return
    for name, answers in found.items():
        typer.echo(f"# {name}")
        for command in answers:
            typer.echo(command if isinstance(command, str) else shlex.join(command))
