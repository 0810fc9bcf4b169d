"""What all shards of a run share."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sparklet.errors import ScriptNotAllowedError
from sparklet.model.options import Access, RunOptions
from sparklet.model.shards import ANSWERS, EVENTS, RUN_ID, SCHEMAS, WRITES

_SHARD = rf"(?P<identity>(?P<run_id>{RUN_ID.pattern})_(?P<created_ms>[0-9a-f]+))_(?P<shard>\d{{6,}})"
PUBLISHED = re.compile(f"shard={_SHARD}")
"""The name of a folder that a run published, and nobody else's; see ``Run.shard_output``."""
NAMES = ".sparklet/"
OWNER = re.compile(rf"{_SHARD}-.+")
"""What a file that has its input's name keeps of who published it: the shard, and the attempt that won."""
NAMES_FILE = re.compile(rf"\.sparklet/{OWNER.pattern}\.json")
"""The list of such files of one owner; see ``planning.outputs.Owners``."""


def published_by(path: str) -> re.Match[str] | None:
    """The run and shard that published a file, by its path below an output: run_id, created_ms, identity, shard.

    None also of a file that was given its input's name: see ``planning.outputs.Owners``.
    """
    return PUBLISHED.fullmatch(path.partition("/")[0]) or NAMES_FILE.fullmatch(path)


INPUT, OUTPUT = "{input}", "{output}"
"""Stand in a run's arguments for the address of its input, and for that of the shard's output."""


class RunState(StrEnum):
    """A run's status."""

    PLANNING = "PLANNING"  # shards are still being added
    RUNNING = "RUNNING"  # the plan is sealed
    SUCCEEDED = "SUCCEEDED"
    SUCCEEDED_WITH_FAILURES = "SUCCEEDED_WITH_FAILURES"  # within what the run tolerates
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"  # a user stopped it; what was PENDING has FAILED as cancelled

    @property
    def ended(self) -> bool:
        """Whether nothing but a redrive changes this state."""
        return self not in (RunState.PLANNING, RunState.RUNNING)


class RunKind(StrEnum):
    """What a run does: shards of an input, or a phase of its parent (see ``runs.phases``)."""

    SHARDS = "shards"  # what a user requested
    SCHEMA = "schema"  # infers the schema of its parent before that is planned
    CHECK = "check"  # judges its parent before that ends
    COMMIT = "commit"  # writes to tables what shards of its parent have declared
    NEXT = "next"  # processes what its parent has written

    @property
    def of_generation(self) -> bool:
        """Whether each generation of its parent has its own run of this kind."""
        return self in (RunKind.CHECK, RunKind.NEXT)


MAX_ID = 63  # see RUN_ID
DIGEST_CHARACTERS = 8
FOLLOWER_ID = re.compile(rf"-({'|'.join(kind for kind in RunKind if kind is not RunKind.SHARDS)})-\d{{1,6}}$")
"""The end of an id that derives from a parent's; a user's run has no such id."""


def follower_id(parent_id: str, kind: RunKind, number: int = 0) -> str:
    """The id of the run that does a phase of another, so that whoever enters it enters the same.

    An id that would be too long is cut and ends with its digest.
    """
    ending = f"-{kind}-{number}"
    room = MAX_ID - len(ending)
    if len(parent_id) > room:
        digest = hashlib.sha256(parent_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        parent_id = f"{parent_id[: room - DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"
    return parent_id + ending


class Dispatch(StrEnum):
    """A run's dispatch mode: how its shards reach the workers."""

    QUEUE = "queue"  # a message for each shard
    MAP = "map"  # a Map state over the sealed plan's index; a message for what that leaves, and for each later attempt


PY_FILE_SUFFIXES = (".py", ".zip", ".whl", ".egg")
LIBRARIES = "libraries.zip"  # a py-file: what --requirements names
MODULES = "modules-beside.zip"  # a py-file: what a script imports from its own folder
"""Suffixes of files that Python imports; other files are for ``SparkFiles`` and the script's folder."""
CONF_FILE = "spark-conf.json"
"""Beside a script: what ``--conf`` sets."""


@dataclass(frozen=True, slots=True)
class ScriptRef:
    """A script of a run, copied at planning time: ``uri`` holds exactly the bytes of ``sha256``."""

    uri: str
    sha256: str
    source_uri: str = field(compare=False)  # where the user has it
    py_files: tuple[str, ...] = ()  # copies of what comes with it, in the order given; see ``PY_FILE_SUFFIXES``


BY_WORKERS = re.compile(rf"s3://[^/]+/runs/.*/({ANSWERS}|{WRITES}|{EVENTS}|{SCHEMAS})")
"""What workers may write below ``runs/``: a script could plant another one there."""


def check_script(uri: str, prefixes: tuple[str, ...]) -> None:
    """Refuse a script, with ScriptNotAllowedError, that an event may not choose: it lies under none of ``prefixes``."""
    if not uri.startswith(prefixes) or "/../" in uri or BY_WORKERS.match(uri):
        allowed = ", ".join(prefixes) or "none is set"
        raise ScriptNotAllowedError(f"{uri} is outside the prefixes that SPARKLET_SCRIPT_PREFIXES allows: {allowed}")


@dataclass(frozen=True, slots=True)
class ListSource:
    """An object that lists the input: a table of keys, an S3 Inventory's manifest, or a table of plain items."""

    uri: str  # a list from the command line or standard input is copied below runs/<run_id>/lists/ first
    format: str  # lines | csv | json | jsonl | parquet | s3-inventory
    etag: str = ""  # of the list when the run was entered: a list that changes is refused
    items: bool = False  # its rows name no objects: each is an item of the input itself
    table: Mapping[str, Any] = field(default_factory=dict)  # the catalog's entry of a table, whose objects these are


@dataclass(frozen=True, slots=True)
class NextRun:
    """The run that is entered after a successful one, to process its output."""

    script: ScriptRef
    output_uri: str
    shards: int = 0  # 1: all that the first one wrote is one shard's; 0: packed as any input
    items: bool = False  # its input is the answers of the first one's shards, as items


@dataclass(frozen=True, slots=True)
class Run:
    """One script over one set of input objects.

    ``scripts`` holds the script of each generation, by its number: every shard of a
    generation runs that one. ``shard_count`` is None until the plan is sealed. A split adds to it the shards that
    are split off less the one that is split.
    """

    run_id: str
    inputs: tuple[str, ...]
    output_uri: str
    scripts: tuple[ScriptRef, ...]
    args: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    name: str = ""  # runs of one name belong together, see RunOptions.incremental
    lists: tuple[ListSource, ...] = ()
    access: Access = field(default_factory=Access)
    dispatch: Dispatch = Dispatch.QUEUE
    check: ScriptRef | None = None  # a run of it checks this one before it ends; if that fails, this one has FAILED
    next: NextRun | None = None
    parent: str = ""  # the run of which this one does a phase
    kind: RunKind = RunKind.SHARDS
    number: int = 0  # among its parent's runs of this kind: the generation, or the commit, that it is for
    followers: Mapping[str, int] = field(default_factory=dict)  # the last number that was entered, by kind
    state: RunState = RunState.PLANNING
    shard_count: int | None = None
    split_count: int = 0  # shards that count no more, since others have their inputs
    object_count: int = 0
    size_bytes: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out, by reason; known once sealed
    created_s: float = 0.0
    ended_s: float | None = None
    cancelled_s: float | None = None  # when its end was requested
    notified_s: float | None = None  # when the end of its last generation was notified
    env: Mapping[str, str] = field(default_factory=dict)  # variables of the script's environment
    table: str = ""  # FORMAT:PLACE, where ``job.append`` writes to if the script names no table
    schema: str | None = (
        None  # DDL, once it was inferred for a run that asks for that; of the run that infers it: infer
    )
    partitions: tuple[str, ...] = ()  # folders of its input, with values that decide on types: see inputs.partitions
    retired_s: float | None = field(default=None, compare=False)  # when it was closed for good, to be deleted
    revision: int = field(default=0, compare=False)  # how often it has changed; by it a swap knows what was read
    local_output: str = ""  # file:///…/: the folder of the local stack's user, who gets a copy of the output there

    @property
    def generation(self) -> int:
        """How often the run was redriven."""
        return len(self.scripts) - 1

    @property
    def is_task(self) -> bool:
        """Whether its parent waits for it, and repeats it if need be."""
        return self.kind not in (RunKind.SHARDS, RunKind.NEXT)

    @property
    def follower_ids(self) -> dict[RunKind, str]:
        """The runs that follow this generation, in the order of their phases; of the commits the last one."""
        named = {kind: self.followers[kind] for kind in RunKind if kind in self.followers}
        return {
            kind: follower_id(self.run_id, kind, number)
            for kind, number in named.items()
            if number == self.generation or not kind.of_generation
        }

    @property
    def next_run_id(self) -> str:
        """The run that processes what this generation has written; "" if none was entered."""
        return self.follower_ids.get(RunKind.NEXT, "")

    @property
    def has_map(self) -> bool:
        """Whether a Map state dispatches the shards first; those that are redriven have messages."""
        return self.dispatch is Dispatch.MAP and not self.generation

    @property
    def sealed(self) -> bool:
        """Whether no shard will be added any more."""
        return self.shard_count is not None

    @property
    def numbers(self) -> int:
        """How many shard numbers are in use, those of split shards included; 0 until the plan is sealed."""
        return (self.shard_count or 0) + self.split_count

    @property
    def identity(self) -> str:
        """A name that no other run in any ledger has: it identifies the run's commits to tables and its output folders.

        A ledger never has two runs of one id; the time, in milliseconds, distinguishes runs of different ledgers.
        """
        return f"{self.run_id}_{int(self.created_s * 1000):x}"

    @property
    def shard_prefix(self) -> str:
        """The beginning of the names of this run's output folders, and of no other run's."""
        return f"shard={self.identity}_"

    def shard_output(self, number: int) -> str:
        """The folder of shard ``number``'s output for readers, once it has a winner; by inputs: the run's output."""
        output = self.output_uri.rstrip("/")
        return output if self.options.output_per else f"{output}/shard={self.identity}_{number:06d}"

    def owner(self, number: int) -> str:
        """The name by which a file shows that this run's shard ``number`` published it."""
        return f"{self.identity}_{number:06d}"

    def patterns(self, number: int | None = None) -> str:
        """The pattern that matches this run's folders, or one shard's: see ``inputs.selection.Filter``."""
        return f"{self.shard_prefix}{'*' if number is None else f'{number:06d}'}/**"


def next_of(route: str, worker: str) -> str:
    """The worker after this one ("": a function) in a route such as "lambda-large,fargate"; "" after the last."""
    names = ["", *route.split(","), ""]
    return names[names.index(worker) + 1] if worker in names else ""
