"""Runs: what all shards of a run share."""

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
"""The name of a folder that a run has published; no other folder has such a name. See ``Run.shard_output``."""
NAMES = ".sparklet/"  # the folder of the lists of such files, below the output
OWNER = re.compile(rf"{_SHARD}-.+")
"""The owner that is stored with an output file named after its input: the shard, and the attempt that won."""
NAMES_FILE = re.compile(rf"\.sparklet/{OWNER.pattern}\.json")
"""The path of an owner's list of such files, below the output; see ``planning.outputs.Owners``."""


def published_by(path: str) -> re.Match[str] | None:
    """The run and shard that published a file, by its path below an output: run_id, created_ms, identity, shard.

    None if the path does not tell: also for a file named after its input, see ``planning.outputs.Owners``.
    """
    return PUBLISHED.fullmatch(path.partition("/")[0]) or NAMES_FILE.fullmatch(path)


INPUT, OUTPUT = "{input}", "{output}"
"""In a run's arguments these stand for the addresses of the run's input and of the shard's output."""


class RunState(StrEnum):
    """A run's status."""

    PLANNING = "PLANNING"  # shards are still being added
    RUNNING = "RUNNING"  # the plan is sealed
    SUCCEEDED = "SUCCEEDED"
    SUCCEEDED_WITH_FAILURES = "SUCCEEDED_WITH_FAILURES"  # within what the run tolerates
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"  # a user stopped it; shards that were PENDING have FAILED

    @property
    def ended(self) -> bool:
        """Whether nothing but a redrive changes this state."""
        return self not in (RunState.PLANNING, RunState.RUNNING)


class RunKind(StrEnum):
    """What a run does: shards of an input, or a phase of its parent (see ``runs.phases``)."""

    SHARDS = "shards"  # what a user requested
    SCHEMA = "schema"  # infers the schema of its parent before the parent is planned
    CHECK = "check"  # checks its parent before the parent ends
    COMMIT = "commit"  # makes the writes to tables that its parent's shards have declared
    NEXT = "next"  # processes what its parent has written

    @property
    def of_generation(self) -> bool:
        """Whether each generation of its parent has its own run of this kind."""
        return self in (RunKind.CHECK, RunKind.NEXT)


MAX_ID = 63  # see RUN_ID
DIGEST_CHARACTERS = 8
FOLLOWER_ID = re.compile(rf"-({'|'.join(kind for kind in RunKind if kind is not RunKind.SHARDS)})-\d{{1,6}}$")
"""The end of the id of a run that follows a parent; a user's run cannot have such an id."""


def follower_id(parent_id: str, kind: RunKind, number: int = 0) -> str:
    """The id of the run that does a phase of its parent: every process that enters this run gets the same id.

    If the id would be too long, the parent's id in it is cut, and ends with a digest.
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
    MAP = "map"  # a Map state over the sealed plan's index; messages for shards that it leaves, and for later attempts


PY_FILE_SUFFIXES = (".py", ".zip", ".whl", ".egg")
"""Suffixes of files that Python imports; other files are for ``SparkFiles`` and the script's folder."""
LIBRARIES = "libraries.zip"  # a py-file: the packages that --requirements names
MODULES = "modules-beside.zip"  # a py-file: the modules that a script imports from its own folder
CONF_FILE = "spark-conf.json"
"""The file beside a script that holds the options of ``--conf``."""


@dataclass(frozen=True, slots=True)
class ScriptRef:
    """A script of a run, copied at planning time; the copy at ``uri`` has the digest ``sha256``."""

    uri: str
    sha256: str
    source_uri: str = field(compare=False)  # the user's own script
    py_files: tuple[str, ...] = ()  # copies of the files that come with it, in the user's order


WRITTEN_BY_WORKERS = re.compile(rf"s3://[^/]+/runs/.*/({ANSWERS}|{WRITES}|{EVENTS}|{SCHEMAS})")
"""Files below ``runs/`` that workers, and so the scripts in them, can write: a script could put another one there."""


def check_script(uri: str, prefixes: tuple[str, ...]) -> None:
    """ScriptNotAllowedError unless an event is allowed to choose this script.

    Its address must begin with one of ``prefixes`` and have no ``/../``, and workers must not be able to write it (see
    WRITTEN_BY_WORKERS).
    """
    if WRITTEN_BY_WORKERS.match(uri):
        raise ScriptNotAllowedError(f"{uri} is a file that workers write, and so it is not run as a script")
    if not uri.startswith(prefixes) or "/../" in uri:
        allowed = ", ".join(prefixes) or "none is set"
        raise ScriptNotAllowedError(f"{uri} is outside the prefixes that SPARKLET_SCRIPT_PREFIXES allows: {allowed}")


@dataclass(frozen=True, slots=True)
class ListSource:
    """An object that lists the input: a table of keys, an S3 Inventory's manifest, or a table of plain items."""

    uri: str  # a list from the command line or standard input is copied below runs/<run_id>/lists/ first
    format: str  # lines | csv | json | jsonl | parquet | s3-inventory
    etag: str = ""  # of the list when the run was entered; a list that has changed since is refused
    items: bool = False  # its rows do not name objects: each row is an item of the input
    table: Mapping[str, Any] = field(
        default_factory=dict
    )  # if it lists the objects of a table: the catalog's entry of this table


@dataclass(frozen=True, slots=True)
class NextRun:
    """The run that is entered after a successful one, to process its output."""

    script: ScriptRef
    output_uri: str
    shards: int = 0  # 1: one shard has all files of the first run; 0: they are packed like any input
    items: bool = False  # its input is the answers of the first run's shards, as items


@dataclass(frozen=True, slots=True)
class Run:
    """One script over one set of input objects.

    ``scripts`` holds the script of each generation, by its number: every shard of a generation runs that script.
    ``shard_count`` is None until the plan is sealed. A split adds to it the shards that are split off, less the shard
    that is split.
    """

    run_id: str
    inputs: tuple[str, ...]
    output_uri: str
    scripts: tuple[ScriptRef, ...]
    args: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    name: str = ""  # runs with the same name belong together, see RunOptions.incremental
    lists: tuple[ListSource, ...] = ()
    access: Access = field(default_factory=Access)
    dispatch: Dispatch = Dispatch.QUEUE
    check: ScriptRef | None = (
        None  # a run of this script checks this run before it ends; if the check fails, this run FAILED
    )
    next: NextRun | None = None
    parent: str = ""  # the run of which this run does a phase
    kind: RunKind = RunKind.SHARDS
    number: int = 0  # its number among its parent's runs of this kind: that of the generation, or of the commit
    followers: Mapping[str, int] = field(default_factory=dict)  # the last number that was entered, by kind
    state: RunState = RunState.PLANNING
    shard_count: int | None = None
    split_count: int = 0  # shards that no longer count, since other shards have their inputs
    object_count: int = 0
    size_bytes: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out, by reason; known once sealed
    created_s: float = 0.0
    ended_s: float | None = None
    cancelled_s: float | None = None  # when a user asked to end it
    notified_s: float | None = None  # when the end of its last generation was notified
    env: Mapping[str, str] = field(default_factory=dict)  # variables of the script's environment
    table: str = ""  # FORMAT:PLACE, where ``job.append`` writes if the script names no table
    # DDL, once it was inferred for a run that asks for that; "infer" in the run that infers it
    schema: str | None = None
    partitions: tuple[str, ...] = ()  # folders of its input whose values decide on types, see inputs.partitions
    retired_s: float | None = field(default=None, compare=False)  # when it was closed for good, to be deleted
    revision: int = field(default=0, compare=False)  # how often it was changed; updates are conditional on it
    local_output: str = ""  # file:///…/: the user's folder to which the local stack copies the output

    @property
    def generation(self) -> int:
        """How often the run was redriven."""
        return len(self.scripts) - 1

    @property
    def is_task(self) -> bool:
        """Whether its parent waits for its result, and repeats it if need be."""
        return self.kind not in (RunKind.SHARDS, RunKind.NEXT)

    @property
    def follower_ids(self) -> dict[RunKind, str]:
        """The ids of the runs that follow this generation, in the order of their phases; only the last commit run."""
        last_numbers = {kind: self.followers[kind] for kind in RunKind if kind in self.followers}
        return {
            kind: follower_id(self.run_id, kind, number)
            for kind, number in last_numbers.items()
            if number == self.generation or not kind.of_generation
        }

    @property
    def next_run_id(self) -> str:
        """The id of the run that processes what this generation has written; "" if none was entered."""
        return self.follower_ids.get(RunKind.NEXT, "")

    @property
    def has_map(self) -> bool:
        """Whether a Map state dispatches the shards first; shards that are redriven always have messages."""
        return self.dispatch is Dispatch.MAP and not self.generation

    @property
    def sealed(self) -> bool:
        """Whether the plan is complete."""
        return self.shard_count is not None

    @property
    def numbers(self) -> int:
        """How many shard numbers are in use, with the numbers of split shards; 0 until the plan is sealed."""
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
        """The folder in which readers find shard ``number``'s output; with ``output_per`` the run's output folder."""
        output = self.output_uri.rstrip("/")
        return output if self.options.output_per else f"{output}/shard={self.identity}_{number:06d}"

    def owner_prefix(self, number: int) -> str:
        """The prefix of the owner (see OWNER) of files that shard ``number`` published; the attempt follows it."""
        return f"{self.identity}_{number:06d}"

    def patterns(self, number: int | None = None) -> str:
        """The pattern that matches this run's folders, or one shard's: see ``inputs.selection.Filter``."""
        return f"{self.shard_prefix}{'*' if number is None else f'{number:06d}'}/**"


def next_of(route: str, worker: str) -> str:
    """The engine after this one ("" is a function) in a route such as "lambda-large,fargate"; "" if there is none."""
    names = ["", *route.split(","), ""]
    return names[names.index(worker) + 1] if worker in names else ""
