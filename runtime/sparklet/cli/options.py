"""The options that several commands share, in the groups in which help shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from sparklet.cli.console import Screen
from sparklet.cli.environment import LOCAL_PATHS, Choice
from sparklet.errors import SettingsError
from sparklet.local.state import default_state_dir
from sparklet.settings import script_environment

WHERE, WORKERS = "Where and how", "Local workers"


def known_runs(incomplete: str) -> list[str]:
    """Runs for shell completion: those started from here, by the files they left; no stack is asked."""
    folder = default_state_dir() / LOCAL_PATHS
    try:
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [path.stem for path in files if path.stem.startswith(incomplete)]


Script = Annotated[str, typer.Argument(metavar="SCRIPT", help="A .py file: local, or s3://.", show_default=False)]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's id; `sparklet runs` lists them.",
        show_default=False,
        autocompletion=known_runs,
    ),
]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="-- ARGS", help="Arguments for the script.", show_default=False)
]
Shards = Annotated[
    str, typer.Option("--shards", metavar="NUMBERS", help="Only these, as in 3,17,20-25.", show_default=False)
]
Cause = Annotated[
    str,
    typer.Option(
        "--cause",
        metavar="CLASS|TEXT",
        help="Only shards that failed so: a class, or words of the message; `sparklet explain RUN` names them.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing: only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")]


@dataclass(frozen=True)
class Where:
    """Which stack, and how a command speaks."""

    PANEL: ClassVar[str] = WHERE

    stack: Annotated[
        str,
        typer.Option(
            "--stack",
            envvar="SPARKLET_STACK",
            metavar="NAME",
            help="A deployed CloudFormation stack instead of the local one.",
        ),
    ] = ""
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar="SPARKLET_STATE_DIR",
            metavar="FOLDER",
            help="Folder of the local stack (default: the user's state folder).",
        ),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output; progress goes to standard error.")
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def screen(self) -> Screen:
        """Where the command writes."""
        return Screen(self.as_json)

    def choice(
        self, *, reading: bool = False, keep: bool = False, memory_mb: int | None = None, timeout_s: int | None = None
    ) -> Choice:
        """The stack, with workers as they are by default but for these."""
        return Choice(self.stack, self.state_dir, timeout_s=timeout_s, memory_mb=memory_mb, keep=keep, reading=reading)


@dataclass(frozen=True)
class LocalWorkers:
    """How the local stack's workers are, if it is not running yet or nobody else uses it."""

    PANEL: ClassVar[str] = WORKERS

    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Worker processes (default: one a core).")
    ] = None
    timeout: Annotated[
        int | None, typer.Option("--timeout", min=1, metavar="SECONDS", help="What one shard may take (default: 900).")
    ] = None
    memory: Annotated[
        int | None, typer.Option("--memory", min=512, max=10240, metavar="MB", help="Of one worker (default: 3008).")
    ] = None
    runner: Annotated[
        Literal["warm", "submit"] | None,
        typer.Option("--runner", help="warm: one JVM, kept (default); submit: one spark-submit a shard."),
    ] = None
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local stack running until `sparklet stop`.")] = False

    def choice(self, where: Where, workers: int | None = None) -> Choice:
        """The stack, with these workers."""
        return Choice(
            where.stack, where.state_dir, workers or self.workers, self.timeout, self.memory, self.runner, self.keep
        )


Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="For the script's environment, no secrets; may be repeated."),
]


def parse_env(given: list[str] | None) -> Mapping[str, str]:
    """Variables for the script's environment; SettingsError if one may not be set so."""
    return script_environment(parse_pairs("--env", given), "--env")


def parse_pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """``key=value`` pairs; values stay text.

    Raises
    ------
    SettingsError
        If a pair has no ``=``, or a key comes twice.
    """
    pairs: dict[str, str] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option} {pair!r} must look like key=value")
        if key in pairs:
            raise SettingsError(f"{option} {key} is given twice")
        pairs[key] = value
    return pairs


def parse_shards(text: str) -> tuple[int, ...]:
    """``3,17,20-25`` as numbers.

    Raises
    ------
    SettingsError
        If it is no such list.
    """
    numbers: list[int] = []
    for item in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise SettingsError(f"--shards {item!r} must be a number or a range, as in 3,17,20-25")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))
