"""A run's options: its input, the packing of its shards, the failures it tolerates; and how users write each of them.

A field that users set has a ``Key``: its name in a document (the planner function's event), its option on the command
line, its unit, its bounds and its help. ``planning.request`` reads documents and command lines by these alone.
"""

import re
from dataclasses import dataclass
from typing import Annotated

from sparklet.errors import SettingsError

RUN, INPUT, SHARDS, FAILURES, ORCHESTRATION = "The run", "Input", "Shards", "Failures and pace", "Orchestration"
MIB = 1024 * 1024
REFUSE, FAIL, ENGINE = "refuse", "fail", "engine"  # values of ``too_large``
AUTO = "auto"  # a value of ``engine``
PROCESS = "process"  # the engine of the local stack
LARGE, LARGE_MB = "lambda-large", 10_240  # a second worker function, with the most memory and /tmp that Lambda has
LARGE_BYTES = LARGE_MB * MIB // 3  # the largest shard that this function takes, by the rule of RunRequest.fitted
NO_LIMIT_BYTES = 1 << 62
INPUTS_NAME, NAME_FIELDS = "{folder}/{stem}{suffix}", frozenset({"folder", "stem", "name", "run", "suffix"})


@dataclass(frozen=True, slots=True)
class Key:
    """How users write one value of a run's request."""

    name: str  # in a document; with dashes the option of the command line
    panel: str  # the group in which help shows it
    help: str
    kind: str = ""  # see request.KINDS; "": as the field's type says
    options: tuple[str, ...] = ()  # if the option has another name, or a short one, too
    metavar: str = ""  # "": as the kind says
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    shown: str = ""  # the default as help shows it, if it has a unit
    value: str = ""  # if set, the option is a flag, which sets the field to this value
    argument: bool = False  # an argument of the command, not an option
    document: bool = True  # False: only the command line has it
    command: bool = True  # False: only documents have it


@dataclass(frozen=True, slots=True)
class Access:
    """How the input is read if the function's own permissions do not suffice."""

    requester_pays: Annotated[bool, Key("requester_pays", INPUT, "You pay for reading the input.")] = False
    role_arn: Annotated[
        str, Key("role", INPUT, "The role to read the input with, as in another account.", kind="role")
    ] = ""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A run's input, the packing of its shards and the failures it tolerates."""

    target_bytes: Annotated[
        int, Key("shard_size", SHARDS, "Stored bytes a shard is packed up to.", kind="size", minimum=1, shown="128MiB")
    ] = 128 * MIB  # of estimated size
    max_objects: Annotated[
        int, Key("max_objects", SHARDS, "Objects a shard may hold; 1: one file a shard.", minimum=1)
    ] = 1000
    include: Annotated[
        tuple[str, ...],
        Key("include", INPUT, "Only keys below the input that match this; may be repeated.", metavar="GLOB"),
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Key("exclude", INPUT, "No keys that match this; may be repeated.", metavar="GLOB")
    ] = ()
    modified_since_s: Annotated[
        float,
        Key(
            "since",
            INPUT,
            "Only objects written since: 2026-11-20, 2026-11-20T08:30 (UTC); on the command line also 36h, 7d ago. By "
            "S3's times, in seconds: from run to run an object may be taken twice or never; --incremental takes each "
            "once.",
            kind="time",
        ),
    ] = 0.0
    where: Annotated[str, Key("where", INPUT, "Of a table, only partitions that match: \"day > '2026-06'\".")] = ""
    incremental: Annotated[
        bool, Key("incremental", INPUT, "Leave out what a succeeded shard of an earlier run of the same name has done.")
    ] = False
    hidden: Annotated[
        bool, Key("hidden", INPUT, "Plan what Spark skips too: names, also of folders, that begin with _ or a dot.")
    ] = False
    keep_empty: Annotated[bool, Key("keep_empty", INPUT, "Plan objects of 0 bytes too.")] = False
    limit: Annotated[
        int, Key("limit", INPUT, "More objects or items are refused as a mistake; 0: no limit.", minimum=0)
    ] = 1_000_000
    archived: Annotated[
        str,
        Key(
            "archived", INPUT, "What to do about objects in Glacier that are not restored.", choices=("refuse", "skip")
        ),
    ] = "refuse"
    missing: Annotated[
        str,
        Key("missing", INPUT, "What to do about objects that a list names and S3 lacks.", choices=("refuse", "skip")),
    ] = "refuse"
    group_by: Annotated[
        str,
        Key(
            "group_by",
            SHARDS,
            "Objects of different folders, or of different matches of a pattern such as 'dt=*', share no shard.",
            metavar="prefix|PATTERN",
        ),
    ] = ""
    output_per: Annotated[
        str,
        Key(
            "output_per",
            SHARDS,
            "input: a file for each input, under its name, though a shard is one job of many inputs.",
            choices=("input",),
        ),
    ] = ""
    output_name: Annotated[
        str,
        Key(
            "output_name",
            SHARDS,
            "How --output-per input names files: {stem} is sales of north/sales.csv, {name} sales.csv, {folder} north, "
            "{suffix} that of the format written, {run} the run's id.",
            metavar="PATTERN",
        ),
    ] = INPUTS_NAME
    empty_outputs: Annotated[
        str,
        Key(
            "empty_outputs",
            SHARDS,
            "What --output-per input writes for an input without rows: a file of the format, as Spark does (with a "
            "header, if there is one), or none.",
            choices=("file", "none"),
        ),
    ] = "file"
    strict: Annotated[
        bool,
        Key(
            "strict",
            SHARDS,
            "A shard that writes nothing is FAILED; with --output-per input also one whose job mixes inputs.",
        ),
    ] = False
    split: Annotated[
        str,
        Key(
            "split",
            SHARDS,
            "Cut objects above --shard-size: csv at lines (no line breaks within quotes), lines, parquet at row "
            "groups; auto: by their names.",
            choices=("auto", "csv", "lines", "parquet"),
        ),
    ] = ""
    too_large: Annotated[
        str,
        Key(
            "too_large",
            SHARDS,
            "A shard that is too much for a function's memory, /tmp or time: refuse refuses the run if that is known "
            "before it starts, fail lets a function try, engine has an engine do it.",
            choices=(REFUSE, FAIL, ENGINE),
        ),
    ] = REFUSE
    engine: Annotated[
        str,
        Key(
            "engine",
            SHARDS,
            "The engine that does what is too large, or without --too-large all; auto: lambda-large, or the cheapest.",
            metavar="NAME",
        ),
    ] = ""  # in a run a name, or lambda-large and the engine after it: "lambda-large,fargate"
    max_shard_bytes: int = 0  # the largest estimated size that a function takes, see RunRequest.fitted; 0: any size
    max_attempts: Annotated[
        int, Key("max_attempts", FAILURES, "Attempts a shard has before it is FAILED.", minimum=1)
    ] = 3
    isolate: Annotated[
        bool,
        Key(
            "isolate",
            FAILURES,
            "A shard that fails because of its inputs is split, until each bad one, of at most a tenth, is a FAILED "
            "shard of its own and the rest is done. Groups (--group-by) stay whole.",
        ),
    ] = False
    tolerated_failure_count: Annotated[
        int,
        Key(
            "tolerate",
            FAILURES,
            "Failed shards that still let the run succeed: 5, or 2.5%.",
            kind="tolerance",
            shown="0",
        ),
    ] = 0
    tolerated_failure_percentage: float = 0.0  # both are read from one value
    allow_drift: Annotated[
        bool,
        Key(
            "allow_drift",
            FAILURES,
            "Only warn if shards write other columns or types than other shards, or if inputs have columns that the "
            "schema lacks.",
        ),
    ] = False
    time_limit_s: float = 3 * 24 * 3600  # below the queue's retention of 4 days
    max_concurrency: Annotated[
        int,
        Key("max_concurrency", FAILURES, "Shards in work at once; 0: no limit.", minimum=0),
    ] = 0
    commit_every: Annotated[
        str,
        Key(
            "commit_every",
            RUN,
            "Commit to tables whenever so many shards have succeeded (500), or so much time has passed (10m), not only "
            "at the run's end.",
            kind="every",
        ),
    ] = ""
    event_log: Annotated[
        bool,
        Key(
            "event_log",
            RUN,
            "Keep Spark's event log of each attempt in a function, for sparklet history and the report.",
        ),
    ] = False
    existing: Annotated[
        str,
        Key("append", RUN, "Write beside what the output holds already; --incremental does so, too.", value="append"),
        Key("overwrite", RUN, "Replace what earlier runs wrote to the output.", value="overwrite"),
    ] = "refuse"

    def __post_init__(self) -> None:
        if self.incremental and self.existing == "overwrite":
            raise SettingsError(
                "an incremental run cannot overwrite: what it deletes would never be planned again; leave out "
                "--incremental or --overwrite"
            )
        if self.incremental and self.existing == "refuse":
            object.__setattr__(self, "existing", "append")
        if self.output_per and self.group_by:
            raise SettingsError("--output-per and --group-by exclude each other; give one of them")
        fields = set(re.findall(r"\{(.*?)\}", self.output_name))
        if fields - NAME_FIELDS or not fields & {"stem", "name"}:
            raise SettingsError(
                f"--output-name {self.output_name} must have {{stem}} or {{name}}, so that each input has an output of "
                "its own; it can also have {folder}, {suffix} and {run}"
            )
        if (self.output_name != INPUTS_NAME or self.empty_outputs != "file") and not self.output_per:
            raise SettingsError("--output-name and --empty-outputs need --output-per input")
        if self.too_large == ENGINE and not self.engine:
            object.__setattr__(self, "engine", AUTO)
