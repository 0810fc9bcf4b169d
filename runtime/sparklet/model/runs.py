"""What all shards of a run share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sparklet.errors import ScriptNotAllowedError, SettingsError


class RunState(StrEnum):
    """Where a run stands."""

    PLANNING = "PLANNING"  # shards are still being added
    RUNNING = "RUNNING"  # the plan is sealed
    SUCCEEDED = "SUCCEEDED"
    SUCCEEDED_WITH_FAILURES = "SUCCEEDED_WITH_FAILURES"  # within what the run tolerates
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"  # somebody stopped it; what was PENDING has FAILED as cancelled

    @property
    def ended(self) -> bool:
        """Whether nothing but a redrive changes this state."""
        return self not in (RunState.PLANNING, RunState.RUNNING)


class Dispatch(StrEnum):
    """Who hands a run's shards to the workers."""

    QUEUE = "queue"  # a message for each shard
    MAP = "map"  # a Map state, wave by wave, those that are PENDING in the ledger; no message is ever sent


@dataclass(frozen=True, slots=True)
class ScriptRef:
    """A script of a run, copied at planning time: ``uri`` holds exactly the bytes of ``sha256``."""

    uri: str
    sha256: str
    source_uri: str  # where the user has it
    py_files: tuple[str, ...] = ()  # copies, in the order given


def check_script(uri: str, prefixes: tuple[str, ...]) -> None:
    """Refuse a script, with ScriptNotAllowedError, that an event may not choose: it lies under none of ``prefixes``."""
    if not uri.startswith(prefixes) or "/../" in uri:
        allowed = ", ".join(prefixes) or "none is set"
        raise ScriptNotAllowedError(f"{uri} is outside the prefixes that SPARKLET_SCRIPT_PREFIXES allows: {allowed}")


@dataclass(frozen=True, slots=True)
class ListSource:
    """An object that lists the input: a table of keys, an S3 Inventory's manifest, or a table of plain items."""

    uri: str  # a list from the command line or standard input is copied below runs/<run_id>/lists/ first
    format: str  # lines | csv | json | jsonl | parquet | s3-inventory
    path: str = ""  # where addresses or items are: a column, or a path within a JSON document; "": see the guide
    etag: str = ""  # of the list when the run was entered: a list that changes is refused
    items: bool = False  # its rows name no objects: each is an item of the input itself


@dataclass(frozen=True, slots=True)
class Access:
    """How the input is read, where it is not simply the function's own."""

    requester_pays: bool = False
    role_arn: str = ""  # assumed for every read of the input


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run takes in, how it packs its shards and how much failure it puts up with."""

    target_bytes: int = 128 * 1024 * 1024  # of stored bytes, compressed ones weighed
    max_objects: int = 1000
    include: tuple[str, ...] = ()  # globs on the key below the prefix; none = everything
    exclude: tuple[str, ...] = ()
    modified_since_s: float = 0.0  # only objects written at or after; 0 = all
    incremental: bool = False  # not what a SUCCEEDED shard of an earlier run of the same name has done
    all_versions: bool = False  # every version of each object below the inputs, not the current one alone
    keep_empty: bool = False  # plan objects of 0 bytes too
    archived: str = "refuse"  # refuse | skip: objects that must be restored before they can be read
    other_region: bool = False  # read from buckets of another region too, instead of refusing them
    group_by: str = ""  # "prefix", or a pattern such as dt=*: objects of different groups share no shard
    compression_factor: float = 4.0  # what a stored byte of a compressed object (.gz, .bz2, .zst, …) weighs
    split: str = ""  # "" | auto | csv | lines | parquet: cut objects above target_bytes
    max_shard_bytes: int = 0  # of weighed bytes: what one function can take on; 0 = no limit
    oversize: str = "refuse"  # refuse | mark: a shard above that; marked ones are FAILED at once, for another engine
    max_attempts: int = 3
    tolerated_failure_count: int = 0
    tolerated_failure_percentage: float = 0.0
    time_limit_s: float = 3 * 24 * 3600  # below the queue's retention of 4 days
    rate_per_s: float = 0.0  # messages sent per second; 0 = as fast as they can be sent
    existing: str = "refuse"  # refuse | append | overwrite: what an output holds already; an incremental run appends

    def __post_init__(self) -> None:
        if self.target_bytes < 1 or self.max_objects < 1 or self.max_attempts < 1:
            raise SettingsError("target bytes, objects per shard and attempts must each be at least 1")
        for name, value, allowed in (
            ("archived", self.archived, ("refuse", "skip")),
            ("split", self.split, ("", "auto", "csv", "lines", "parquet")),
            ("oversize", self.oversize, ("refuse", "mark")),
            ("existing", self.existing, ("refuse", "append", "overwrite")),
        ):
            if value not in allowed:
                raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(filter(None, allowed))}")
        if self.incremental and self.existing == "refuse":
            object.__setattr__(self, "existing", "append")
        if self.incremental and self.existing == "overwrite":
            raise SettingsError(
                "an incremental run cannot overwrite: what it deletes would never be planned again; leave out one"
            )
        if self.compression_factor < 1:
            raise SettingsError(f"a compressed byte must weigh at least 1, not {self.compression_factor}")
        if not 0 <= self.tolerated_failure_percentage <= 100 or self.tolerated_failure_count < 0:
            raise SettingsError("tolerated failures must be a count from 0 or a percentage from 0 to 100")


def existing_of(*, append: bool, overwrite: bool) -> str:
    """``RunOptions.existing`` as two flags say it; SettingsError if both are set."""
    if append and overwrite:
        raise SettingsError("append and overwrite exclude each other; give one of them")
    return "append" if append else "overwrite" if overwrite else "refuse"


@dataclass(frozen=True, slots=True)
class NextRun:
    """What follows a run that ended well: a run of its own over what the first one wrote."""

    script: ScriptRef
    output_uri: str


@dataclass(frozen=True, slots=True)
class Run:
    """One script over one set of input objects.

    ``scripts`` holds the script of each generation, by its number: every shard of a
    generation runs that one. ``shard_count`` is None until the plan is sealed.
    """

    run_id: str
    inputs: tuple[str, ...]
    output_uri: str
    scripts: tuple[ScriptRef, ...]
    args: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = RunOptions()
    name: str = ""  # runs of one name belong together, see RunOptions.incremental
    lists: tuple[ListSource, ...] = ()
    access: Access = Access()
    dispatch: Dispatch = Dispatch.QUEUE
    check: ScriptRef | None = None  # a run of it judges this one before it ends; if that fails, this one has FAILED
    next: NextRun | None = None
    parent: str = ""  # the run whose check or next one this is
    state: RunState = RunState.PLANNING
    shard_count: int | None = None
    object_count: int = 0
    size_bytes: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out, by reason; known once sealed
    created_s: float = 0.0
    ended_s: float | None = None
    cancelled_s: float | None = None  # when somebody asked for its end
    notified_s: float | None = None  # when the end of its last generation was told
    env: Mapping[str, str] = field(default_factory=dict)  # what the script finds in its environment

    @property
    def generation(self) -> int:
        """How often the run was redriven."""
        return len(self.scripts) - 1

    @property
    def sealed(self) -> bool:
        """Whether no shard will be added any more."""
        return self.shard_count is not None

    @property
    def shard_prefix(self) -> str:
        """What the name of every output folder of this run begins with, and of no other run.

        A ledger never has two runs of one id; the time, in milliseconds, tells runs of different ledgers apart.
        """
        return f"shard={self.run_id}_{int(self.created_s * 1000):x}_"

    def shard_output(self, number: int) -> str:
        """Where readers find what shard ``number`` has written: published there once an attempt has won."""
        return f"{self.output_uri.rstrip('/')}/{self.shard_prefix}{number:06d}"
