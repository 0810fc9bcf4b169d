"""The options that several commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

from sparklet.cli.sizes import parse_size_bytes
from sparklet.errors import SettingsError
from sparklet.model import RunOptions

State = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="SPARKLET_STATE_DIR",
        help="Folder of the local stack (default: the user's state folder).",
        show_default=False,
    ),
]
Stack = Annotated[
    str,
    typer.Option(
        "--stack",
        envvar="SPARKLET_STACK",
        help="A deployed CloudFormation stack instead of the local one.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress goes to standard error.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Local worker processes (default: one a core).", show_default=False),
]
Timeout = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        help="Seconds one shard may take (default: 900).",
        show_default=False,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option("--memory", min=512, max=10240, help="MB of a local worker (default: 3008).", show_default=False),
]
RunnerChoice = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="warm (one JVM, kept) or submit (one spark-submit a shard) (default: warm).",
        show_default=False,
    ),
]
Keep = Annotated[bool, typer.Option("--keep", help="Leave the local stack running until `sparklet stop`.")]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id; `sparklet runs` lists them.", show_default=False)
]
Input = Annotated[
    list[str],
    typer.Option("--input", "-i", help="s3:// folder or object, or a local path; may be repeated.", show_default=False),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", help="Only keys below the input that match this glob; may be repeated.", show_default=False
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="No keys that match this glob; may be repeated.", show_default=False),
]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Stored bytes a shard is packed up to.")]
MaxObjects = Annotated[int, typer.Option("--max-objects", min=1, help="Objects a shard may hold; 1: one file a shard.")]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="key=value for the script (job.params); may be repeated.", show_default=False),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        help="key=path: a local file that every shard needs; the parameter of that key is its address.",
        show_default=False,
    ),
]


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


def run_options(
    shard_size: str,
    max_objects: int,
    include: list[str] | None,
    exclude: list[str] | None,
    max_attempts: int = 3,
    tolerate: str = "0",
    rate_per_s: float = 0.0,
) -> RunOptions:
    """How the run packs its shards and what it puts up with, as the options say."""
    count, percentage = parse_tolerance(tolerate)
    return RunOptions(
        target_bytes=parse_size_bytes(shard_size),
        max_objects=max_objects,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        max_attempts=max_attempts,
        tolerated_failure_count=count,
        tolerated_failure_percentage=percentage,
        rate_per_s=rate_per_s,
    )


def parse_tolerance(text: str) -> tuple[int, float]:
    """``5`` shards or ``2.5%`` of them, as count and percentage.

    Raises
    ------
    SettingsError
        If it is neither.
    """
    try:
        return (0, float(text.removesuffix("%"))) if text.endswith("%") else (int(text), 0.0)
    except ValueError:
        raise SettingsError(f"--tolerate {text!r} must be a number of shards, or a percentage like 2.5%") from None


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
