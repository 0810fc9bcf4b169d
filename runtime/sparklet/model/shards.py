"""Input objects, shards and their states, and the records and messages about them."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

from sparklet.errors import EventError, ObjectNotFoundError, PlanError

SCHEME = "s3://"
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SHARDS_PER_BUCKET, MAX_BUCKETS = 10_000, 256
OF_SPLIT = "split-"  # begins the names of plan parts whose shards were split off, ``split-<planned shard>-…``
HALVES, APART = "halves", "apart"  # how a shard is split: into halves, or each input into a shard of its own
WITH_MEMBERS = "members "  # put before these if the inputs are archives' files, see ``ShardRecord.members_file``
PASSED_ON = ("generation", "error_class", "error_message", "engine", "isolate")  # from a split shard to its pieces
MAX_NAMED = 90  # inputs to which one split gives shards of their own: a DynamoDB transaction has up to 100 writes
ANSWERS, WRITES, EVENTS, SCHEMAS = "answers/", "writes/", "events/", "schemas/"  # in a run's folder
SHOWN_ITEM = 100  # characters of an item in messages
FIRST_BYTES = 512  # of a file, enough to know its format
MAX_SENT_BYTES = 16 * 1024  # of a line in a message: a batch of ten messages stays below 256 KiB
MAX_CONFLICTS = 20  # of one shard that do not count as attempts; with their pauses they last more than an hour
COMPRESSION_FACTOR = 4  # decompressed bytes for a stored byte, estimated
COMPRESSED = (".gz", ".bz2", ".zst", ".snappy", ".lz4", ".xz", ".deflate")
"""Names of objects that are compressed as a whole. Parquet, ORC and Avro compress inside: their stored size counts."""
PACKED = re.compile(
    r"(?i)\.(gzip|bz(ip2)?|xz|lzma|zstd?|lz4|zip|tar|tar\.[a-z0-9]+|tgz|tbz2?|txz|tzst|7z|rar|z|br|lzo|lz)$"
    r"|\.(?!(?-i:gz|bz2)$)(gz|bz2)$"
)
"""Names of compressed files that Spark cannot read as such; .gz and .bz2 only if they are not in small letters."""
MISNAMED = (
    r"[^\x00]*(?:\.gz\x00(?!\x1f\x8b).|\.bz2\x00(?!BZh).|\.(?:snappy|lz4)\x00(?![\x00-\x07])."
    r"|(?<!\.gz)(?<!\.bz2)(?<!\.snappy)(?<!\.lz4)\x00(?:\x1f[\x8b\x9d]|BZh[1-9](?:1AY&SY|\x17rE8P\x90)"
    r"|\xfd7zXZ\x00|\x5d\x00\x00|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|\x02\x21\x4c\x18|[\x50-\x5f]\x2a\x4d\x18"
    r"|PK(?:\x03\x04|\x05\x06|\x07\x08|00PK)|7z\xbc\xaf|Rar!\x1a|LZIP\x01|\xff\xfe|\xfe\xff|\x00\x00\xfe\xff"
    r"|PAR1\x15|Obj\x01|.{257}ustar(?:\x00|  \x00)|.{100}(?:[ 0-7]{7}\x00){3}))"
)
"""Matches, in Python and Java, the name, a zero and the first bytes of a file that Spark misreads or finds empty."""


class ShardState(StrEnum):
    """A shard's status; the sum over all states but SPLIT is the number of shards at every moment."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SPLIT = "SPLIT"  # other shards have its inputs: it no longer counts

    @property
    def ended(self) -> bool:
        """Whether no attempt changes this state."""
        return self not in (ShardState.PENDING, ShardState.RUNNING)


COUNTED = (ShardState.PENDING, ShardState.RUNNING, ShardState.SUCCEEDED, ShardState.FAILED)
"""The states that ``Counts`` counts, in the order of its fields."""


class ClaimStatus(StrEnum):
    """The ledger's answer to a worker that claims a shard or a task."""

    GRANTED = "GRANTED"  # the attempt owns it until the lease ends; only leases of shards are renewed
    # Another attempt has it. A shard's message is acknowledged: if that attempt is lost, the checker sends another one.
    HELD = "HELD"
    DONE = "DONE"  # it has ended: acknowledge the message
    STALE = "STALE"  # the message is of an older generation: acknowledge the message
    EXHAUSTED = "EXHAUSTED"  # no attempt is left, and it is FAILED now: acknowledge the message


class SliceKind(StrEnum):
    """The kinds of slices into which an object is cut."""

    LINES = "lines"  # CSV, JSON Lines, text: ``start`` and ``end`` are bytes, at the beginnings of lines
    ROW_GROUPS = "row-groups"  # Parquet: those row groups whose middles lie between ``start`` and ``end``


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of one object that is an input of its own: every row of the object is in exactly one slice."""

    kind: SliceKind
    start: int
    end: int  # the first that is not in the slice
    header_bytes: int = 0  # LINES: the object's first bytes (header line, byte order mark) that every slice has


@dataclass(frozen=True, slots=True)
class InputObject:
    """An object of the input as the inventory found it, or a slice of an object, or a plain item of a list."""

    uri: str  # "" for an item
    size_bytes: int  # stored bytes of the object or slice; for an item the bytes of its JSON
    etag: str = ""
    version_id: str = ""  # "": whatever is current
    slice: Slice | None = None
    item: str = ""  # an item's value as JSON: the item itself is the input
    partition: tuple[str, ...] = ()  # of an object of the catalog's table: the values of its partition
    modified_s: float = 0.0  # when it was written; 0: not known
    member: str = ""  # for a file of an archive its name there, which ``uri`` has after a #; the size is the file's

    @classmethod
    def of_item(cls, value: Any) -> Self:
        """An item of a list; ValueError or TypeError if its value is not JSON in UTF-8."""
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return cls("", len(text.encode()), item=text)

    @property
    def name(self) -> str:
        """The name of the object or item in messages."""
        if self.uri:
            return self.uri
        return f"item {self.item}" if len(self.item) <= SHOWN_ITEM else f"item {self.item[:SHOWN_ITEM]}…"

    @property
    def object_uri(self) -> str:
        """The address of the object; for a file of an archive that of the archive."""
        return self.uri.removesuffix(f"#{self.member}") if self.member else self.uri

    @property
    def is_compressed(self) -> bool:
        """Whether, by its name, it is compressed as a whole."""
        return self.uri.lower().endswith(COMPRESSED) or PACKED.search(self.uri) is not None

    @property
    def is_packed(self) -> bool:
        """Whether, by its name, a worker unpacks it for Spark."""
        return bool(self.member) or (not (self.item or self.slice) and PACKED.search(self.uri) is not None)

    @property
    def estimated_bytes(self) -> int:
        """The estimated size of the decompressed content, by which packing, fitting and Spark's settings go."""
        return self.size_bytes * COMPRESSION_FACTOR if self.is_compressed else self.size_bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """The input objects, or the items, that one Spark-local job handles: one line of a plan part."""

    number: int
    objects: tuple[InputObject, ...]

    @property
    def inputs(self) -> list[str]:
        """The addresses of the objects; empty for a shard of items."""
        return [item.uri for item in self.objects if not item.item]

    @property
    def items(self) -> list[Any]:
        """The values of the items; empty for a shard of objects."""
        return [json.loads(item.item) for item in self.objects if item.item]

    @property
    def size_bytes(self) -> int:
        """Stored bytes of all objects."""
        return sum(o.size_bytes for o in self.objects)

    @property
    def estimated_bytes(self) -> int:
        """The estimated size of all objects together."""
        return sum(o.estimated_bytes for o in self.objects)

    def to_line(self) -> bytes:
        """This shard as one line of a plan part, newline included."""
        objects = [_object_document(o) for o in self.objects]
        return json.dumps({"shard": self.number, "objects": objects}, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The shard of a line of a plan part; EventError if the line is damaged."""
        try:
            document = json.loads(line)
            objects = tuple(
                InputObject.of_item(entry["item"]) if isinstance(entry, dict) else _stored_object(*entry)
                for entry in document["objects"]
            )
            return cls(int(document["shard"]), objects)
        # A damaged line may hold any JSON: Infinity is no int, and deep lists use up the stack.
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise EventError(f"a plan part holds a line that is no shard: {line[:40]!r} ({error})") from error


def _object_document(item: InputObject) -> list[Any] | dict[str, Any]:
    """``[uri, size, etag]``, followed by time, version, slice, partition and member up to the last that is set.

    An item is ``{"item": value}`` instead.
    """
    if item.item:
        return {"item": json.loads(item.item)}
    part = item.slice and [item.slice.kind, item.slice.start, item.slice.end, item.slice.header_bytes]
    document = [item.uri, item.size_bytes, item.etag, item.modified_s, item.version_id]
    document += [part, item.partition, item.member]
    # Most objects have no field after the time, and objects that a list names have no time either. A plan may have
    # millions of objects, so these fields are left out.
    while len(document) > 3 and not document[-1]:
        document.pop()
    return document


def _stored_object(
    uri: str,
    size: int,
    etag: str,
    modified_s: float = 0.0,
    version_id: str = "",
    part: list[Any] | None = None,
    values: Sequence[str] = (),
    member: str = "",
) -> InputObject:
    slice_ = Slice(SliceKind(part[0]), int(part[1]), int(part[2]), int(part[3])) if part else None
    identity = str(uri), int(size), str(etag), str(version_id)
    return InputObject(*identity, slice_, "", tuple(values), float(modified_s), str(member))


@dataclass(frozen=True, slots=True)
class ShardRef:
    """Names a shard and the place where its objects are listed: the body of a message.

    ``part`` is the plan part's file name; ``offset`` and ``length`` (bytes) are the shard's line within the part. A
    first message also has the line itself, up to MAX_SENT_BYTES, so that the worker need not fetch it.
    """

    run_id: str
    shard: int
    generation: int
    part: str
    offset: int
    length: int
    line: str = ""

    def to_document(self) -> dict[str, Any]:
        """The reference as JSON, without an empty line."""
        return {name: value for name, value in asdict(self).items() if name != "line" or value}

    def to_body(self) -> str:
        """The reference as a message body: a few hundred bytes, and the line."""
        return json.dumps(self.to_document(), separators=(",", ":"))

    @classmethod
    def from_document(cls, document: object) -> Self | None:
        """The reference in a decoded message body; None if the body is not a shard reference at all.

        EventError if the body is meant to be one (it has ``run_id`` and ``shard``) but a field is missing or wrong.
        """
        if not isinstance(document, dict) or not {"run_id", "shard"} <= document.keys():
            return None
        try:
            values = {attribute.name: document[attribute.name] for attribute in fields(cls) if attribute.name != "line"}
        except KeyError as error:
            raise EventError(f"a shard message lacks {error}") from error
        # Errors name fields and types, never contents: the sender is not known.
        if not (isinstance(run_id := values["run_id"], str) and RUN_ID.fullmatch(run_id)):
            raise EventError(f"a shard message has a wrong run_id, a {type(run_id).__name__}")
        # Parts are directly in the plan's folder: no planner has written a file at a name with a slash.
        if not isinstance(part := values["part"], str) or "/" in part:
            raise EventError(f"a shard message has a wrong part, a {type(part).__name__}: it must be a file's name")
        for name in ("shard", "generation", "offset", "length"):
            # isinstance would accept true as a number.
            if type(number := values[name]) is not int or number < 0:
                raise EventError(f"a shard message has a wrong {name}, a {type(number).__name__}: it must be a count")
        if not isinstance(line := document.get("line", ""), str):
            raise EventError(f"a shard message has a wrong line, a {type(line).__name__}")
        return cls(**values, line=line)


@dataclass(frozen=True, slots=True)
class Position:
    """How far planning has come: everything up to ``after`` in ``source`` is in a shard."""

    source: int = 0  # index into Run.inputs, then into Run.lists
    after: str = ""  # the last object that is in a shard, as its source names it (a key, a row); "" = nothing yet
    slices: int = 0  # how many of that object's slices are in shards if others are still to come; 0: all of it is
    etag: str = ""  # of that object if slices are still to come: its content must not have changed


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A sealed plan part, as the ledger knows it. The last one is the planner's checkpoint."""

    index: int
    part: str  # file name under runs/<run_id>/plan/
    first_shard: int
    shard_count: int
    object_count: int
    size_bytes: int
    position: Position  # after the last object of this part
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out since the part before, by reason
    dispatched: bool = False  # its shards are in the ledger and their messages are sent

    @property
    def next_shard(self) -> int:
        """Number of the first shard after this part."""
        return self.first_shard + self.shard_count


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not succeed."""

    error_class: str
    message: str
    retryable: bool = True
    files: tuple[str, ...] = ()  # addresses of inputs that the cause names as bad
    by_input: bool = False  # an input might be at fault
    direct: bool = False  # the script might have committed under the shard's own id


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What a script has reported by ``sparklet.job``."""

    rows: int | None = None
    output_bytes: int | None = None
    outputs: tuple[str, ...] = ()
    answer: tuple[Any, ...] = ()  # one value, if the script gave one
    state: Mapping[str, Any] | None = None  # of a stream's window, for the call after this one
    failed: Mapping[str, str] = field(default_factory=dict)  # messages of a batch, and causes
    committed: tuple[str, ...] = ()  # messages of a batch that a table has, see ``ScriptFailedError``
    writes: tuple[Mapping[str, Any], ...] = ()  # declared writes to tables
    quality: tuple[Any, ...] = ()  # outcomes of rules of data quality

    @property
    def is_empty(self) -> bool:
        """Whether the script has reported no work; outcomes of rules are not work."""
        return replace(self, quality=()) == JobOutcome()


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """The result of a script that has succeeded: its outcome, and what was found out about its work."""

    outcome: JobOutcome = JobOutcome()
    warning: str = ""  # why work might be lost, or be another shard's, and which rules of data failed; "": no warning
    uncommitted: tuple[str, ...] = ()  # ids of Spark's write jobs whose files do not count
    schema_reports: Mapping[str, str] = field(default_factory=dict)  # of ``InferredTypes``, by ids of reads and writes
    objects: Mapping[str, str] = field(
        default_factory=dict
    )  # addresses of inputs, by the bucket and key under which Spark reads them
    origins: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # see worker.origins


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The part of a successful attempt's result that the ledger keeps."""

    rows: int | None = None  # None: not reported by the script
    output_bytes: int | None = None
    outputs: tuple[str, ...] = ()
    answer: tuple[Any, ...] = ()  # of a task; a shard's answer is in a file, see ``answer_file``
    schemas: Mapping[str, str] = field(default_factory=dict)  # see ShardRecord
    memory_mb: int | None = None  # the worker's peak until the success
    warning: str = ""  # see ExecutionResult


NOTHING = (
    "nothing was written, as far as Sparklet sees, no file in S3, no table, no report and no answer: write to "
    "job.output, OUTPUT_PATH or {output}, to a table by job.append, or answer by job.answer"
)
"""The warning about a script that has succeeded without any output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fields that all records of work have: shards, tasks of the API, calls of ``functions``."""

    state: ShardState = ShardState.PENDING
    attempts: int = 0  # for a shard those in this generation
    attempt_id: str = ""  # of the last attempt
    lease_end_s: float = 0.0
    changed_s: float = 0.0  # when the state last changed, or a message was last sent again
    started_s: float = 0.0  # when the last attempt was claimed; 0: there is none, or ``worked_s`` has its time
    error_class: str = ""  # of the last attempt that did not succeed
    error_message: str = ""
    rows: int | None = None
    output_bytes: int | None = None
    outputs: tuple[str, ...] = ()
    log_stream: str = ""
    revision: int = field(default=0, compare=False)  # how often it was changed; updates are conditional on it


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ShardRecord(Record):
    """A shard as the ledger holds it; under 1 KB."""

    run_id: str
    number: int
    part: str
    offset: int
    length: int
    object_count: int
    size_bytes: int
    generation: int = 0
    requeues: int = 0  # messages sent again in this generation, as none was left; for an engine the workers started
    unrun: int = 0  # how many of these replaced dead-letter messages that had led to no attempt
    conflicts: int = 0  # attempts in this generation that ended by a conflict with another writer of a table
    taken_from: str = ""  # its state before the last claim: RUNNING if the attempt before was lost
    winner: str = ""  # the attempt whose staged output is published; set once, and again only if the shard is redone
    worked_s: float = 0.0  # the time of all attempts before the last one, of all generations and engines
    memory_mb: int | None = None  # the worker's peak from its start until the shard had succeeded
    schemas: Mapping[str, str] = field(default_factory=dict)  # of outputs and readers, each with a file or an input
    warning: str = ""  # see ExecutionResult
    engine: str = ""  # the engine whose workers do it; "": functions do it
    task_id: str = ""  # the worker that the engine started last, by its id; it has claimed if attempts = requeues
    isolate: int = 0  # 1: it is split if an input might make the script fail; 2: also for lack of memory or time
    split: str = ""  # how a check is to split it: HALVES, APART, or numbers of inputs ("3 17"); after WITH_MEMBERS
    redone: int = 0  # the generation since which it is done again, though it had SUCCEEDED

    @property
    def took_s(self) -> float:
        """How long the last attempt took, once it has ended; 0 if there is none, or ``worked_s`` has its time."""
        return max(0.0, self.changed_s - self.started_s) if self.started_s else 0.0

    @property
    def has_output(self) -> bool:
        """Whether its published output counts: it has SUCCEEDED, or is being redone while its earlier output stays."""
        return self.state is ShardState.SUCCEEDED or bool(self.redone and not self.winner)

    @property
    def used_attempts(self) -> int:
        """The attempts that count against the limit: those that ended by a conflict do not, up to MAX_CONFLICTS."""
        return self.attempts - min(self.conflicts, MAX_CONFLICTS)

    @property
    def is_for_functions(self) -> bool:
        """Whether it is PENDING for functions: it is not for an engine, nor to be split by a check."""
        return self.state is ShardState.PENDING and self.by_function and not self.split

    @property
    def by_function(self) -> bool:
        """Whether functions do it, in whatever state it is; else an engine does."""
        return not self.engine

    @property
    def state_text(self) -> str:
        """For people: the state, with the engine if an engine does the shard."""
        return f"{self.state} in {self.engine}" if self.engine else str(self.state)

    @property
    def unclaimed(self) -> int:
        """How many workers its engine has started since the last one that claimed it."""
        return max(0, self.requeues - self.attempts)

    @property
    def answer_file(self) -> str:
        """The file in the run's folder with the script's answer, if any, by the winner or else by the last attempt."""
        return f"{ANSWERS}{self.number:09d}-{self.winner or self.attempt_id}.json"

    @property
    def inputs_file(self) -> str:
        """The file beside ``answer_file`` with each input's outcome, if each has an output; see ``worker.origins``."""
        return f"{self.answer_file.removesuffix('.json')}.inputs"

    @property
    def members_file(self) -> str:
        """The file beside ``answer_file`` with the shard's line, files in place of their archives; see WITH_MEMBERS."""
        return f"{self.answer_file.removesuffix('.json')}.members"

    @property
    def writes_file(self) -> str:
        """The file in the run's folder with the writes to tables that the script declared, if it declared any."""
        return f"{WRITES}{self.answer_file.removeprefix(ANSWERS)}"

    @property
    def ref(self) -> ShardRef:
        """The message for this shard."""
        return ShardRef(self.run_id, self.number, self.generation, self.part, self.offset, self.length)

    def planned(self, line: bytes, part_uri: str) -> Shard:
        """This shard, from its line of the plan part; PlanError if the line is damaged, or another shard's."""
        planned_figures = (self.number, self.object_count, self.size_bytes)
        try:
            shard = Shard.from_line(line)
            if (figures := (shard.number, len(shard.objects), shard.size_bytes)) != planned_figures:
                raise EventError(f"(shard, objects, bytes) are {figures}, but {planned_figures} was planned")
        except EventError as error:  # a PlanError, since a retry does not help
            raise PlanError(f"the plan part {part_uri} is damaged at byte {self.offset}: {error}") from error
        return shard


@dataclass(frozen=True, slots=True)
class Claim(Generic[R]):
    """The ledger's answer to a worker's claim, with the shard or task as it is then."""

    status: ClaimStatus
    record: R


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of shards by state, without split shards."""

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0

    def to_document(self) -> dict[str, int]:
        """The four counts, and their total."""
        return {"total": self.total, **asdict(self)}

    @property
    def total(self) -> int:
        """The number of all shards."""
        return self.pending + self.running + self.succeeded + self.failed

    @property
    def open(self) -> int:
        """The number of shards that have not ended."""
        return self.pending + self.running


def ledger_bucket(number: int) -> int:
    """The bucket of shard ``number``, from the number alone.

    The first 10,000 shards share bucket 0. With each doubling of the run, new shards spread over twice as many buckets,
    up to 256. So there is a bucket for about 10,000 shards, though their number is not known while they are planned.
    """
    # Only the shard's own number counts, so that it stays in its bucket however large the run becomes. The factor is a
    # prime near 2^32 over the golden ratio: shards that are entered together spread over all buckets there are so far.
    buckets = ledger_bucket_count(number + 1)
    return (number * 0x9E3779B1 & 0xFFFFFFFF) * buckets >> 32


def ledger_bucket_count(shard_count: int) -> int:
    """How many buckets the shards 0 to ``shard_count - 1`` lie in, at most; a power of two."""
    full = max(0, shard_count - 1) // SHARDS_PER_BUCKET
    return min(MAX_BUCKETS, 1 << full.bit_length())


def is_misnamed(name: str, head: bytes) -> bool:
    """Whether Spark would read a file of this name and first bytes as nonsense, or find it empty; see ``TaskS3A``."""
    # Spark's readers of Parquet and Avro can read these files. Whether they are read as text is checked in Java.
    if head.startswith((b"PAR1", b"Obj\x01")):
        return False
    # In latin-1 each byte is one character, as in the pattern.
    if re.match(MISNAMED, f"{name}\0{head.decode('latin-1')}", re.DOTALL):
        return True
    try:
        # Spark decompresses by the name, so the content inside counts.
        inner = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, FIRST_BYTES) if name.endswith(".gz") else b""
    except zlib.error:
        return False
    return bool(inner) and is_misnamed(name.removesuffix(".gz"), inner)


def s3_address(address: str) -> str:
    """``s3://…`` of an address with the scheme s3, s3a or s3n; "" if it has none of them, or no bucket."""
    scheme, _, rest = address.partition("://")
    return f"{SCHEME}{rest}" if scheme in ("s3", "s3a", "s3n") and rest.partition("/")[0] else ""


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key, which may be empty, of a URI; ObjectNotFoundError if it has no bucket or is not UTF-8."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not bucket or uri.encode(errors="ignore").decode() != uri:  # a lone surrogate
        raise ObjectNotFoundError(f"{uri!r} is not an object's address; it must look like s3://bucket/key, in UTF-8")
    return bucket, key
