"""What a run takes in, how it is cut into shards and what it puts up with: the options of ``run`` and ``plan``."""

import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

from sparklet.errors import PlanError, SettingsError
from sparklet.fanout.planning.list_requests import ListRequest
from sparklet.model import Access, RunOptions
from sparklet.quantities import parse_duration_s, parse_size_bytes, parse_time_s, parse_tolerance

INPUT, SHARDS, ENDS = "Input", "Shards", "Failures and pace"
STANDARD_INPUT = "-"

ListFormat = Literal["lines", "csv", "json", "jsonl", "parquet", "s3-inventory"]


@dataclass(frozen=True)
class InputOptions:
    """Which objects are input."""

    PANEL: ClassVar[str] = INPUT

    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FOLDER|OBJECT",
            help="s3:// folder or object, or a local path; may be repeated. -: a list of addresses on standard input.",
        ),
    ] = None
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="A list of objects: a local file, s3://, or - for standard input; also an S3 Inventory's "
            "manifest.json; may be repeated.",
        ),
    ] = None
    items: Annotated[
        list[str] | None,
        typer.Option(
            "--items",
            metavar="FILE",
            help="A list of plain items, which the script finds in job.items: rows of CSV, JSON, JSON Lines or "
            "Parquet, or lines of text; a local file, s3://, or -; may be repeated.",
        ),
    ] = None
    list_format: Annotated[
        ListFormat | None, typer.Option("--list-format", help="Of the lists (default: by their names).")
    ] = None
    list_path: Annotated[
        str,
        typer.Option(
            "--list-path",
            metavar="PATH",
            help="Where the addresses are: a column, or a path within JSON such as data.files[*].uri.",
        ),
    ] = ""
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Only keys below the input that match this; may be repeated."),
    ] = None
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No keys that match this; may be repeated.")
    ] = None
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only objects written since: 2026-11-20, 2026-11-20T08:30 (UTC), or 36h, 7d ago.",
        ),
    ] = ""
    incremental: Annotated[
        bool,
        typer.Option("--incremental", help="Not what a succeeded shard of an earlier run of the same --name has done."),
    ] = False
    versions: Annotated[bool, typer.Option("--versions", help="Every version of each object, not the current one.")] = (
        False
    )
    keep_empty: Annotated[bool, typer.Option("--keep-empty", help="Plan objects of 0 bytes too.")] = False
    archived: Annotated[
        Literal["refuse", "skip"],
        typer.Option("--archived", help="What to do about objects in Glacier that are not restored."),
    ] = "refuse"
    requester_pays: Annotated[bool, typer.Option("--requester-pays", help="You pay for reading the input.")] = False
    role: Annotated[
        str,
        typer.Option("--role", metavar="ARN", help="Role that is assumed to read the input, as in another account."),
    ] = ""
    other_region: Annotated[
        bool, typer.Option("--other-region", help="Allow buckets of another region: slower, and transfer costs.")
    ] = False

    def named(self) -> tuple[str, ...]:
        """Folders and objects, without standard input."""
        return tuple(given for given in self.inputs or () if given != STANDARD_INPUT)

    def list_requests(self) -> tuple[ListRequest, ...]:
        """The lists, those of this machine read.

        Raises
        ------
        PlanError
            If a list is not there, standard input is named twice, or there is no input at all.
        """
        objects = [*(self.lists or ()), *[each for each in self.inputs or () if each == STANDARD_INPUT]]
        given = [*objects, *(self.items or ())]
        if not given and not self.named():
            raise PlanError("no input was given; name a folder or an object (--input), or a list (--list, --items)")
        if given.count(STANDARD_INPUT) > 1:
            raise PlanError("standard input (-) can be read once only; name it once")
        if not given and (self.list_format or self.list_path):
            raise PlanError("--list-format and --list-path say how a list is read, but there is none: add --list FILE")
        return tuple(
            ListRequest(
                each,
                _body(each),
                self.list_format or _default_format(each),
                self.list_path,
                items=place >= len(objects),
            )
            for place, each in enumerate(given)
        )

    def access(self) -> Access:
        """How the input is read."""
        if self.role and not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/.+", self.role):
            raise SettingsError(f"--role {self.role!r} must look like arn:aws:iam::123456789012:role/name")
        return Access(self.requester_pays, self.role)


@dataclass(frozen=True)
class ShardOptions:
    """How objects become shards."""

    PANEL: ClassVar[str] = SHARDS

    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Stored bytes a shard is packed up to.")
    ] = "128MiB"
    max_objects: Annotated[
        int, typer.Option("--max-objects", min=1, metavar="N", help="Objects a shard may hold; 1: one file a shard.")
    ] = 1000
    group_by: Annotated[
        str,
        typer.Option(
            "--group-by",
            metavar="prefix|PATTERN",
            help="Objects of different folders, or of different matches of a pattern such as 'dt=*', share no shard.",
        ),
    ] = ""
    compression_factor: Annotated[
        float,
        typer.Option(
            "--compression-factor",
            min=1,
            metavar="X",
            help="What a stored byte of a compressed object (.gz, .zst, …) weighs in --shard-size.",
        ),
    ] = 4.0
    split: Annotated[
        Literal["auto", "csv", "lines", "parquet"] | None,
        typer.Option(
            "--split",
            help="Cut objects above --shard-size: csv at lines (no line breaks within quotes), lines, parquet at row "
            "groups; auto: by their names.",
        ),
    ] = None
    max_shard_size: Annotated[
        str,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="The largest shard one function takes on; 0: no limit (default: by its memory and /tmp).",
        ),
    ] = ""
    oversize: Annotated[
        Literal["refuse", "mark"],
        typer.Option(
            "--oversize", help="A shard above that: refuse the plan, or mark the shard FAILED for another engine."
        ),
    ] = "refuse"


@dataclass(frozen=True)
class EndOptions:
    """What a run puts up with, and how fast it is sent."""

    PANEL: ClassVar[str] = ENDS

    max_attempts: Annotated[
        int, typer.Option("--max-attempts", min=1, metavar="N", help="Attempts a shard has before it is FAILED.")
    ] = 3
    tolerate: Annotated[
        str,
        typer.Option("--tolerate", metavar="N|P%", help="Failed shards that still let the run succeed: 5, or 2.5%."),
    ] = "0"
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            min=0,
            metavar="N",
            help="Messages sent a second, so that a run does not starve others; 0: no limit.",
        ),
    ] = 0.0


def run_options(given: InputOptions, shards: ShardOptions, ends: EndOptions, existing: str = "refuse") -> RunOptions:
    """The run's options; a shard may be of any size where the user names none."""
    count, percentage = parse_tolerance(ends.tolerate, "--tolerate")
    return RunOptions(
        target_bytes=parse_size_bytes(shards.shard_size),
        max_objects=shards.max_objects,
        include=tuple(given.include or ()),
        exclude=tuple(given.exclude or ()),
        modified_since_s=parse_since_s(given.since, datetime.now(UTC)) if given.since else 0.0,
        incremental=given.incremental,
        all_versions=given.versions,
        keep_empty=given.keep_empty,
        archived=given.archived,
        other_region=given.other_region,
        group_by=shards.group_by,
        compression_factor=shards.compression_factor,
        split=shards.split or "",
        max_shard_bytes=parse_size_bytes(shards.max_shard_size) if shards.max_shard_size else 0,
        oversize=shards.oversize,
        max_attempts=ends.max_attempts,
        tolerated_failure_count=count,
        tolerated_failure_percentage=percentage,
        rate_per_s=ends.rate,
        existing=existing,
    )


def parse_since_s(text: str, now: datetime) -> float:
    """A day or a time (UTC unless it says otherwise), or how long ago, as seconds since the epoch.

    Raises
    ------
    SettingsError
        If it is neither.
    """
    try:
        return (now - timedelta(seconds=parse_duration_s(text))).timestamp()
    except SettingsError:
        pass  # then it is a time
    try:
        return parse_time_s(text)
    except ValueError:
        raise SettingsError(
            f"--since {text!r} must be a time like 2026-11-20 or 2026-11-20T08:30 (UTC), or how long ago: 36h, 7d"
        ) from None


def _body(source: str) -> bytes | None:
    """A list that lies on this machine; None for one in S3."""
    if "://" in source:
        return None
    try:
        return sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()
    except OSError as error:
        raise PlanError(f"the list {source} cannot be read: {error.strerror}") from error


def _default_format(source: str) -> str:
    return "lines" if source == STANDARD_INPUT else ""
