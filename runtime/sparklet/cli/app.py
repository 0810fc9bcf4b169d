"""Defines the command line: its commands with their examples, and ``main``. A command is imported when it is called."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import CompletionItem, TyperCommand, TyperGroup  # type: ignore[attr-defined]  # has no public place

from sparklet import __version__
from sparklet.cli.exit_codes import EXIT_CODES, FAILURES, INTERRUPTED, USAGE
from sparklet.errors import RemoteFailureError, SparkletError

_COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {}
"""Panel, function and examples of every command, by the command's name, in the order that help shows."""


@cache
def command(name: str) -> Any:
    """Import and make a command, once."""
    from sparklet.cli.options import with_single_options

    panel, path, examples = _COMMANDS[name]
    module, _, function_name = path.partition(".")
    typer_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    epilog = "\n\n".join(("Examples:", *examples, EXIT_CODES))  # an epilog joins lines without a blank line between
    function = getattr(import_module(f"sparklet.cli.commands.{module}"), function_name)
    # Each paragraph becomes one line, since typer would show the docstring's line breaks.
    help_text = "\n\n".join(" ".join(paragraph.split()) for paragraph in function.__doc__.split("\n\n"))
    add = typer_app.command(cls=Command, rich_help_panel=panel, epilog=epilog, help=help_text)
    add(with_single_options(function))
    return typer.main.get_command(typer_app)


# Keys in a command's context: the options of the job that the command runs, and whether its help shows all options.
JOB, SHOWS_ALL = "sparklet.job", "sparklet.help_all"


class Command(TyperCommand):
    """A command. If it has the options of a request, its help shows the usual options, and ``--help-all`` all of them.

    SCRIPT of such a command can also be a job of ``sparklet.toml``, whose values are the defaults of the options.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line. A job's values are used as defaults; ``--help-all`` prints the full help and exits."""
        if not any(parameter.name == "help_all" for parameter in self.params):
            return super().parse_args(ctx, args)
        # Parsed twice: only the parser knows which word is SCRIPT, and a job's values must be defaults before parsing.
        value_by_name, *_ = self.make_parser(ctx).parse_args(args=list(args))
        # While a shell completes a line, no help is printed.
        if value_by_name.get("help_all") and not ctx.resilient_parsing:
            ctx.meta[SHOWS_ALL] = True
            ctx.get_help()  # typer prints the help in this call
            raise typer.Exit
        if not (name := value_by_name.get("script")) or "://" in name or Path(name).exists():
            return super().parse_args(ctx, args)
        from sparklet.app.project import job_options

        parameter_by_option = {
            option.lstrip("-"): parameter.name or "" for parameter in self.params for option in parameter.opts
        }
        job = job_options(Path.cwd(), name, parameter_by_option)
        ctx.default_map = ctx.meta[JOB] = job
        remaining_args = super().parse_args(ctx, args)
        ctx.params |= {"script": job["script"]} if job else {}
        return remaining_args

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with only the arguments and the usual options unless ``--help-all`` was given."""
        from sparklet.cli.options import USUAL

        # Copies, since a command is made once for the process, and its full help needs the parameters unchanged.
        copy_by_name: dict[str | None, Any] = {parameter.name: copy(parameter) for parameter in self.params}
        if SHOWS_ALL in ctx.meta or "help_all" not in copy_by_name:
            return super().format_help(ctx, formatter)
        usual_options = [copy_by_name[name] for name in (*USUAL, "help_all") if name in copy_by_name]
        for option in usual_options:
            option.rich_help_panel = None
        arguments = [parameter for parameter in self.params if parameter.param_type_name == "argument"]
        short_command = copy(self)
        short_command.params = arguments + usual_options
        return TyperCommand.format_help(short_command, ctx, formatter)


class Commands(Mapping[str, Any]):
    """The commands by name; each is imported and made at its first use."""

    def __getitem__(self, name: str) -> Any:
        return command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class Group(TyperGroup):
    """The command ``sparklet``. It completes commands' names in a shell without importing a command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings | {"commands": Commands()})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands' names, in the order of help."""
        return list(self.commands)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands and options that begin with ``incomplete``."""
        # The method of TyperGroup would make each command for its help text.
        names = [CompletionItem(name) for name in self.commands if name.startswith(incomplete)]
        return names + super(TyperGroup, self).shell_complete(ctx, incomplete)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, each with a default: for a flag without a default typer would import pydantic."""
        params = super().get_params(ctx)
        for param in params:
            if param.default is None:
                param.default = False
        return params


app = typer.Typer(
    cls=Group,
    invoke_without_command=True,  # for --version
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)


@app.callback()
def sparklet(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Run PySpark scripts over many files, one Spark-local job for each shard, every failure accounted for."""
    if version:
        typer.echo(f"sparklet {__version__}")
        raise typer.Exit


def _add(panel: str, path: str, *examples: str) -> None:
    """Add a command; ``path`` is the module and name of its function below ``sparklet.cli.commands``."""
    _COMMANDS[path.partition(".")[2]] = panel, path, examples


_add("Start", "starting.init", "sparklet init sales")
_add(
    "Start",
    "starting.run",
    "sparklet run job.py --input ./in --output ./out",
    "sparklet run job.py -i s3://bucket/raw/2024/ -o s3://bucket/clean/ --stack sparklet --tolerate 2.5%",
    "sparklet run job.py -i big.csv -o ./out --split csv --shard-size 64MiB",
    "sparklet run job.py --list s3://inv/all/2026-11-19T01-00Z/manifest.json -o s3://bucket/clean/ --stack sparklet",
    "sparklet run job.py --items cities.csv --max-objects 1 -o ./out",
    "sparklet run sales  # a job of sparklet.toml",
    "aws s3 ls … | awk … | sparklet run job.py --list - -o s3://bucket/clean/ --stack sparklet",
)
_add(
    "Start",
    "starting.plan",
    "sparklet plan job.py -i s3://bucket/raw/ --stack sparklet --dry-run",
    "sparklet plan job.py -i s3://bucket/raw/ -o s3://bucket/clean/ --stack sparklet --max-concurrency 50",
)
_add("Start", "starting.resume", "sparklet resume flights-20261120t113000-3f9a1c")
_add(
    "Start",
    "starting.invoke",
    "sparklet invoke job.py --event event.json --env output_path=s3://bucket/out/ -- --day 2013-01-01",
)
_add(
    "Look",
    "looking.status",
    "sparklet status flights-20261120t113000-3f9a1c --shards",
    "sparklet status RUN --object s3://bucket/raw/2013-01-01.csv",
)
_add("Look", "looking.watch", "sparklet watch flights-20261120t113000-3f9a1c")
_add("Look", "reporting.report", "sparklet report RUN", "sparklet report RUN --stack sparklet --output /tmp/run.html")
_add("Look", "reporting.ui", "sparklet ui", "sparklet ui RUN --stack sparklet")
_add("Look", "reporting.history", "sparklet run job.py -i in -o out --event-log --run-id RUN", "sparklet history RUN")
_add("Look", "looking.runs", "sparklet runs", "sparklet runs --json | jq -r '.[0].run_id'")
_add("Look", "looking.results", "sparklet results RUN", "sparklet results RUN --json | jq .answer")
_add("Look", "looking.ddl", "sparklet ddl RUN", "sparklet ddl RUN --name lake.flights")
_add("Look", "looking.explain", "sparklet explain RUN", "sparklet explain RUN --json | jq -r '.[].redrive'")
_add(
    "Look",
    "looking.logs",
    "sparklet logs RUN 17",
    "sparklet logs RUN --follow",
    "sparklet logs RUN 17 --attempt 3f9a --json | jq -r .line",
)
_add(
    "Change",
    "changing.redrive",
    "sparklet redrive RUN",
    "sparklet redrive RUN --shards 3,17,20-25 --script repaired.py",
    "sparklet redrive RUN --cause OutOfMemoryError --memory 6016",
)
_add("Change", "changing.cancel", "sparklet cancel RUN", "sparklet cancel RUN --dry-run")
_add(
    "Change",
    "changing.clean",
    "sparklet clean --older-than 30d --keep 10 --dry-run",
    "sparklet clean --run RUN --yes",
)
_add("Change", "changing.stop", "sparklet stop")
_add("Change", "changing.env", "sparklet env", "sparklet env --json")
_add(
    "Functions",
    "deploying.package",
    "sparklet package src/ -r requirements.txt",
    "sparklet package shop/ -r requirements.txt --as layer --architecture arm64 --json | jq -r .next",
)
_add(
    "This machine",
    "deploying.deploy",
    "sparklet deploy --image 123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet:1",
    "sparklet deploy -p MaximumConcurrency=100 --dry-run",
)
_add("This machine", "looking.doctor", "sparklet doctor")


_NO_CLUSTER = "A shard is one Spark in local mode, which has all of its function's memory and cores: --memory MB"
_BY_CONF = "Write --conf spark.{}=… (docs/guide/image.md has what needs an image)"
OF_SPARK_SUBMIT = {
    **dict.fromkeys(("--driver-memory", "--executor-memory", "--executor-cores", "--driver-cores"), _NO_CLUSTER),
    **dict.fromkeys(("--num-executors", "--total-executor-cores", "--master", "--deploy-mode"), _NO_CLUSTER),
    "--packages": _BY_CONF.format("jars.packages"),
    "--exclude-packages": _BY_CONF.format("jars.excludes"),
    "--repositories": _BY_CONF.format("jars.repositories"),
    "--jars": _BY_CONF.format("jars"),
    "--driver-class-path": _BY_CONF.format("driver.extraClassPath"),
    "--driver-java-options": _BY_CONF.format("driver.extraJavaOptions"),
    "--driver-library-path": _BY_CONF.format("driver.extraLibraryPath"),
    "--properties-file": "Write its lines as --conf KEY=VALUE",
    "--archives": "Bring files by --files, modules by --py-files",
    "--class": "Scripts are in Python; name jars that they call by --conf spark.jars=…",
}
"""Options of spark-submit that ``run`` and ``invoke`` do not have, and what to write instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (``exit_codes``). ``--debug`` also shows tracebacks of Sparklet's errors.

    Without ``argv`` the process itself is the command: the arguments are the process's, and the text encoding and the
    hook for unexpected exceptions are set for all of it.
    """
    if argv is None and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # The command starts again with UTF-8: in another encoding names and arguments would become other keys in S3.
        utf8_env = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], utf8_env)  # noqa: S606 - the same command
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        sys.excepthook = lambda *exception: _screen().show_bug(*exception)
    try:
        with _interruptible():
            return int(app(arguments, prog_name="sparklet", standalone_mode=False, obj=arguments) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        if message := _usage_message(error):
            _screen().fail(message)
        return USAGE
    # Commands import the packages of the extra for local runs only when they need them, so these can be missing here.
    except (SparkletError, ModuleNotFoundError) as error:
        from sparklet.local.spark_installation import missing_package_message

        screen = _screen()
        if "--debug" in arguments:
            screen.err.print_exception()
        screen.fail(missing_package_message(error.name or "") if isinstance(error, ModuleNotFoundError) else str(error))
        return FAILURES if isinstance(error, RemoteFailureError) else USAGE


def _screen() -> Any:
    """Return a screen for an error; it is imported only now, since most commands have no error."""
    from sparklet.cli.console import Screen

    return Screen()


def _usage_message(error: Any) -> str:
    """Return the mistake in a command line, with the option to use instead and the command for help."""
    message = error.format_message()
    if alternative := OF_SPARK_SUBMIT.get(getattr(error, "option_name", "")):
        message = f"{error.message}. {alternative}."
    elif possibilities := getattr(error, "possibilities", None):  # the nearest option is the first
        message = f"{error.message}. Did you mean {possibilities[0]}?"
    path = getattr(getattr(error, "ctx", None), "command_path", "") or "sparklet"
    return f"{message} Try: {path} --help" if message else ""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Stop a command on SIGTERM and SIGHUP as on Ctrl-C: cleanly, with exit code 130."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous_handlers = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous_handlers, strict=True):
            signal.signal(number, handler)
