"""Turns a shard's planned inputs into ``SparkInput``s, and describes these to Sparklet's S3A.

Sparklet's S3A ("our S3A", ``TaskS3A.java``) is the class of Spark's file system for ``s3://``, derived from Hadoop's.
With it Spark reads most inputs, also slices, directly at their addresses. Inputs that it cannot read in this way are
first fetched into the task's folder: old versions, objects that need another role or payer, packed objects, and names
that Hadoop or Spark misread. Our S3A presents the copies under the objects' addresses, so a script needs neither
changes nor an import of Sparklet. For a Spark with another S3A, see ``worker.without_view``.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar
from urllib.parse import quote

from sparklet.errors import (
    DeadlineExceededError,
    ObjectChangedError,
    ObjectStoreError,
    PlanError,
    ScratchFullError,
    SparkletError,
    TooLargeError,
)
from sparklet.job.event_objects import misread
from sparklet.model import (
    FIRST_BYTES,
    MIB,
    MISNAMED,
    PACKED,
    SCHEME,
    Access,
    InputObject,
    SliceKind,
    is_misnamed,
    split_uri,
)
from sparklet.planning.routes import FOR_ROOM
from sparklet.ports import ObjectStore
from sparklet.spark.runner import Deadline
from sparklet.spark.script import Script
from sparklet.worker.attempt import Attempt

FOLDER, LOCAL = "copies", "file://"
CHUNK_BYTES = 8 * MIB
AT_A_TIME = 4
MAX_STEM = 80

Read = tuple[InputObject, InputObject, Path | None]
"""The object or file that is read, the input that it belongs to (see ``SparkInput``), and its local copy, if any."""

_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,12}){1,3}$")
_MISREAD = re.compile(r"[\x00-\x1f\x7f-\x9f\\{}\[\]*?]")


def staged_name(number: int, uri: str) -> str:
    """A plain, unique file name that begins and ends like the object's name, since readers filter by both."""
    name = uri.rstrip("/").rpartition("/")[2]
    match = _SUFFIX.search(name)
    suffix = match[0] if match and match.start() else ""
    stem = re.sub(r"[^A-Za-z0-9=._-]+", "-", name.removesuffix(suffix))[:MAX_STEM].lstrip("._-").rstrip("-")
    return f"{stem}-{number:05d}{suffix}" if stem else f"{number:05d}{suffix}"


@dataclass(frozen=True, slots=True)
class ShardInputs:
    """A shard's inputs, as they are planned."""

    items: tuple[InputObject, ...] = ()
    access: Access = field(default_factory=Access)
    open_store: Callable[[], ObjectStore] | None = None  # opens a store that reads with this access
    params: str = ""  # the run's parameters as JSON: they may name options of readers
    folders: tuple[str, ...] = ()  # the run's input folders
    partitions: Mapping[str, str] = field(default_factory=dict)  # by input or folder: where its partitions begin
    apart: bool = False  # whether the output files of each input must be distinguished
    max_bytes: int = 0  # how large all inputs may be if some are packed and have been unpacked; 0 if there is no limit
    on_unpacked: Callable[[Sequence[InputObject]], None] = lambda _: None  # called with the inputs after unpacking
    checks_first_bytes: bool = False  # whether Spark has found inputs whose first bytes are not what the name says

    @property
    def store(self) -> ObjectStore:
        """The store that reads with this access, opened when an input must be fetched."""
        assert self.open_store is not None
        return self.open_store()


@dataclass(frozen=True, slots=True)
class SparkInput:
    """An input as Spark is to read it."""

    item: InputObject  # what is read: an input of the plan, or a file of a packed input
    origin: InputObject  # the input it belongs to: itself, the packed input, or the file, if its archive has several
    key: str  # bucket and key of the address at which Spark finds it
    path: str  # the script's path for reading it: this address, or ``file://`` and the path of its copy
    partitions: str = ""  # the folder below which its partitions begin; "" if it is in no partition
    copy: Path | None = None  # the local copy of its bytes

    def to_document(self) -> dict[str, Any]:
        """The document that ``SparkInput.java`` reads; fields without a value are left out."""
        item, own_key = self.item, self.item.uri.partition("://")[2]
        document = {
            "input": self.key,
            "object": own_key if own_key != self.key else "",
            "etag": item.etag.strip('"'),
            "bytes": item.size_bytes,
            "modified_ms": int(item.modified_s * 1000),
            "partitions": self.partitions and f"/{split_uri(self.partitions)[1]}",
            "copy": self.copy and str(self.copy),
            "slice": item.slice and asdict(item.slice),
        }
        return {name: value for name, value in document.items() if value}


@dataclass(frozen=True)
class View:
    """Makes the inputs for a Spark with our S3A, which presents each under its object's address, as it was planned."""

    planned: ShardInputs
    script: Script
    reads_folder: bool = False  # whether the script is given the folder of its inputs

    patterns: ClassVar[str] = ""  # characters that make a name a pattern; none, since our S3A takes a name as it is
    has_our_s3a: ClassVar[bool] = True  # our S3A knows the inputs, presents slices, and reports what the script does

    @contextmanager
    def provide(self, attempt: Attempt, folder: Path, min_free_bytes: int) -> Iterator[tuple[SparkInput, ...]]:
        """Yield the inputs, which can be read in the block; those that Spark cannot read are fetched into ``folder``.

        Raises ScratchFullError, before anything is fetched, if less than ``min_free_bytes`` would stay free; the
        store's errors if an object is not the planned one; PlanError if Spark cannot read an input as it is planned.
        """
        parts = [item for item in self.planned.items if item.slice and item.slice.kind is SliceKind.ROW_GROUPS]
        if parts and self.script.numbers_rows(self.planned.params):
            raise PlanError(
                "the script has row_index, the number of a row in its file, and a part of a Parquet file counts from"
                " its own first one: plan without --split"
            )
        reads: list[Read] = [(item, item, None) for item in self.planned.items]
        if self.planned.checks_first_bytes or any(map(self.is_fetched, self.planned.items)):
            started_s = monotonic()
            reads = self.fetch(folder, attempt.deadline, min_free_bytes)
            fetched_count, duration_s = sum(copy is not None for _, _, copy in reads), round(monotonic() - started_s, 3)
            attempt.log.info("inputs fetched", inputs=fetched_count, duration_s=duration_s)
        yield self.spark_inputs(reads)

    def sees_options(self, inputs: Sequence[SparkInput]) -> bool:
        """Whether our S3A must know the readers' options: they decide on a slice's header, or a copy's encoding."""
        if any(each.copy or is_cut(each.item) for each in inputs):
            return True
        return bool(self.planned.partitions) and self.script.may_set_base_path(self.planned.params)

    def lines(self, inputs: Sequence[SparkInput]) -> str:
        """The lines of JSON of the file ``inputs``, which our Java reads: inputs, folders, a rule for misnamed inputs.

        The folders are the run's input folders, and folders of other shards' inputs with other values of partitions.
        """
        own_uris, roots = {item.uri for item in self.planned.items}, self.planned.partitions
        documents: list[dict[str, Any]] = [each.to_document() for each in inputs if each.item.uri]
        documents += (
            {"others": folder.partition("://")[2], "partitions": f"/{split_uri(root)[1]}"}
            for folder, root in roots.items()
            if folder not in own_uris
        )
        documents += ({"folder": folder.partition("://")[2]} for folder in self.planned.folders)
        if self.script.unpacks:  # else the script reads packed inputs as they are
            documents.append({"misnamed": MISNAMED})
        return "".join(f"{json.dumps(document)}\n" for document in documents)

    def is_fetched(self, item: InputObject) -> bool:
        """Whether the input must be fetched, since Spark cannot read exactly this input by its object's name."""
        if item.item:
            return False
        access = self.planned.access
        # Spark reads with the worker's own role and pays for no request; the store uses the run's access.
        is_special = item.member or item.version_id or access.requester_pays or access.role_arn
        is_readable = self.has_our_s3a or not (item.slice and is_cut(item))
        if is_special or not is_readable or misread(item.uri, self.patterns) or PACKED.search(item.uri):
            return True
        if not self.planned.checks_first_bytes:
            return False
        return is_misnamed(item.uri, self.planned.store.get(item.uri, 0, FIRST_BYTES))

    def check_rows(self, item: InputObject, rows: Iterator[bytes]) -> Iterator[bytes]:
        """Return the bytes of a slice; PlanError if a reader could find other rows in them than in the whole object.

        Nothing is checked here: our S3A refuses the slice to such readers.
        """
        return rows

    def spark_inputs(self, reads: "Sequence[Read]") -> tuple[SparkInput, ...]:
        """Give each input its address, which is its object's.

        Copies with names that Spark misreads, and further slices of one object, get a unique name in the same folder.
        """
        inputs, used_addresses, roots = list[SparkInput](), set[str](), self.planned.partitions
        for number, (item, origin, copy) in enumerate(reads):
            address = item.uri
            is_taken = item.uri in used_addresses and (copy or is_cut(item))
            if is_taken or (copy and misread(item.uri, self.patterns)):
                folders = [_plain(part) for part in item.uri.removeprefix(SCHEME).split("/")[:-1]]
                folder = "/".join(part for part in folders if part not in ("", ".", ".."))
                address = f"{SCHEME}{folder}/{staged_name(number, item.uri)}"
            used_addresses.add(address)
            root = roots.get(item.uri if origin is item else origin.object_uri, "") or roots.get(item.uri, "")
            spark_input = SparkInput(item, origin, address.partition("://")[2], address, root, copy)
            inputs.append(self.with_script_path(spark_input) if copy else spark_input)
        return tuple(inputs)

    def with_script_path(self, fetched: SparkInput) -> SparkInput:
        """Return a fetched input with its path for the script: a local file if the object's name could not be kept.

        The path stays an address if a partition's values are in it, or if only our S3A knows what a reader must get.
        """
        item, copy = fetched.item, fetched.copy
        if fetched.path == item.uri or item.slice or fetched.partitions:
            return fetched
        # With a ``.raw`` file beside the copy only our S3A can choose: the text, or the raw file for binary readers.
        if self.planned.apart or self.script.filters_names(self.planned.params) or Path(f"{copy}.raw").exists():
            return fetched
        return replace(fetched, path=f"{LOCAL}{copy}")

    def fetch(self, folder: Path, deadline: Deadline, min_free_bytes: int) -> "list[Read]":
        """Fetch inputs, several at a time. Return what is to be read: the files of packed inputs in place of these."""
        from concurrent.futures import ThreadPoolExecutor  # here, to keep cold starts fast

        planned = self.planned
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            numbered_items = compress(enumerate(planned.items), pool.map(self.is_fetched, planned.items))
            groups = self._archive_groups()
            paths = {
                number: folder / FOLDER / staged_name(number, item.object_uri)
                for number, item in numbered_items
                if groups[number][0] is item
            }
        items = [planned.items[number] for number in paths]
        needed_bytes = sum(item.size_bytes + (item.slice.header_bytes if item.slice else 0) for item in items)
        _check_space(folder, needed_bytes, min_free_bytes)
        (folder / FOLDER).mkdir()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            futures = [
                pool.submit(self._fetch_one, item, path, deadline)
                for item, path in zip(items, paths.values(), strict=True)
            ]
            try:
                for number, future in zip(paths, futures, strict=True):
                    try:
                        future.result()
                    except SparkletError as error:
                        error.files = tuple(map(description_of, groups[number]))
                        raise
            finally:
                # Otherwise the block would wait after an error until the pool has fetched all other inputs.
                pool.shutdown(cancel_futures=True)
        # Our S3A compares the first bytes of inputs with their names, except inputs that are read by ``file://``: these
        # are compared here.
        local_uris = {item.uri for item in items if misread(item.object_uri, self.patterns)} if self.has_our_s3a else ()
        has_members = any(item.member for item in items)
        is_unpacked = self.script.unpacks and (local_uris or any(item.is_packed for item in items))
        reads: list[Read] = [(item, item, paths.get(number)) for number, item in enumerate(planned.items)]
        if planned.checks_first_bytes or has_members or is_unpacked:
            reads = self._unpack(paths, groups, min_free_bytes, local_uris)
        for item, _, copy in reads:
            if copy and item.modified_s:  # readers may filter by this time
                os.utime(copy, (item.modified_s, item.modified_s))
        return reads

    def _fetch_one(self, item: InputObject, path: Path, deadline: Deadline) -> None:
        store = self.planned.store
        try:
            if item.slice is None:
                _check_time(item, deadline)
                store.download(item.object_uri, path, item.etag, item.version_id)
                return
            with path.open("xb") as file:
                file.writelines(_chunks(store, item, deadline, 0, item.slice.header_bytes))
                rows = _chunks(store, item, deadline, item.slice.start, item.slice.end)
                file.writelines(self.check_rows(item, rows))
        except ObjectChangedError as error:
            raise ObjectChangedError(
                f"{description_of(item)} was replaced after it was planned; start a new run for its new content"
            ) from error
        except OSError as error:
            raise ObjectStoreError(f"{item.uri} could not be written to {path}: {error}") from error

    def _archive_groups(self) -> list[list[InputObject]]:
        """For each input, the inputs that are fetched with it: the planned files of its archive, or only itself."""
        archives, groups = dict[tuple[str, str], list[InputObject]](), list[list[InputObject]]()
        for item in self.planned.items:
            groups.append(archives.setdefault((item.object_uri, item.version_id), []) if item.member else [])
            groups[-1].append(item)
        return groups

    def _unpack(
        self,
        paths: Mapping[int, Path],
        groups: Sequence[Sequence[InputObject]],
        min_free_bytes: int,
        local_uris: Collection[str],
    ) -> "list[Read]":
        """Unpack the fetched files at ``paths``; return what is to be read. ``local_uris``: see ``fetch``."""
        from sparklet.worker.unpacking import Member, unpack  # imported only if there are packed inputs

        planned, reads = self.planned, list[Read]()
        inputs, error_by_name = list[InputObject](), dict[str, SparkletError]()
        for number, (item, group) in enumerate(zip(planned.items, groups, strict=True)):
            path, members = paths.get(number), list[Member]()
            checks_first_bytes = not item.slice and (planned.checks_first_bytes or item.uri in local_uris)
            if path and (item.is_packed or checks_first_bytes):
                name, only = item.object_uri.rpartition("/")[2], {entry.member for entry in group if entry.member}
                try:
                    members = unpack(path, name, min_free_bytes, checks_first_bytes=checks_first_bytes, only=only)
                except SparkletError as error:
                    reported_input = item if len(group) == 1 else replace(item, uri=item.object_uri)
                    error.args, error.files = (
                        (f"{description_of(reported_input)}: {error}",),
                        tuple(map(description_of, group)),
                    )
                    raise
            for name, file in members:
                size_bytes = file.stat().st_size if isinstance(file, Path) else 0
                member = replace(item, uri=f"{item.object_uri}#{name}", size_bytes=size_bytes, member="")
                inputs.append(replace(member, member=name) if item.member or len(members) > 1 else item)
                if isinstance(file, Path):
                    reads.append((member, inputs[-1], file))
                else:
                    error_by_name[description_of(inputs[-1])] = file
            if not members and group[0] is item:
                reads.append((item, item, path))
                inputs.append(item)
        # Called before an error is raised: the shard may then be split by the files of its archives, which
        # ``ClaimedShard`` must know for that.
        planned.on_unpacked(inputs)
        for input_name, cause in error_by_name.items():
            # The first error names all bad files, so that one split removes them all.
            cause.args, cause.files = (f"{input_name}: {cause}",), tuple(error_by_name)
            raise cause
        needed_bytes = sum(item.estimated_bytes for item, _, _ in reads)
        is_unpacked = any(origin is not item for item, origin, _ in reads)
        if is_unpacked and 0 < planned.max_bytes < needed_bytes:
            raise TooLargeError(
                f"unpacked, the shard's inputs have {needed_bytes / MIB:,.0f} MiB, and a function takes at most "
                f"{planned.max_bytes / MIB:,.0f} MiB: make shards smaller, "
                f"{FOR_ROOM}, or have a function try it (--too-large fail)"
            )
        return reads


def with_origins(text: str, inputs: Sequence[SparkInput]) -> str:
    """Return ``text``, such as an error, with each path that Spark was given replaced by the name of the object."""
    for each in inputs:
        # Only inputs that Spark reads under another name than the object's: copies, slices, and files of archives.
        if each.path != each.item.uri or each.item.slice or each.origin is not each.item:
            address = each.path.partition("://")[2]
            # In Spark's messages an address may be URL-encoded.
            path = "|".join(map(re.escape, {address, quote(address)}))
            # Not ``re.sub``, which would treat a backslash in the object's name as an escape.
            text = description_of(each.origin).join(re.split(rf"(?:file:(?://)?|s3[an]?://)(?:{path})", text))
    return text


def is_cut(item: InputObject) -> bool:
    """Whether the input is a slice of a text file, cut at line ends."""
    return item.slice is not None and item.slice.kind is SliceKind.LINES


def _plain(folder: str) -> str:
    """A folder's name without characters that Spark misreads; in partitions they are encoded, so the value stays."""
    return _MISREAD.sub(lambda match: quote(match[0]) if "=" in folder else "-", folder)


def _check_space(folder: Path, needed_bytes: int, min_free_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + min_free_bytes:
        raise ScratchFullError(
            f"{folder.parent} has {free / MIB:.0f} MiB free, the shard's inputs that must be fetched have "
            f"{needed_bytes / MIB:.0f} MiB and {min_free_bytes / MIB:.0f} MiB must stay free: "
            "give the function more ephemeral storage or make shards smaller"
        )


def description_of(item: InputObject) -> str:
    """The text that names an input in an error: the object, its version and its slice."""
    version = f" version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"{item.uri}{version}"
    return f"{item.uri}{version} (bytes {item.slice.start} to {item.slice.end - 1})"


def _check_time(item: InputObject, deadline: Deadline) -> None:
    if deadline.remaining_s() <= 0:
        raise DeadlineExceededError(
            f"the deadline passed while {description_of(item)} was fetched: make shards smaller"
        )


def _chunks(store: ObjectStore, item: InputObject, deadline: Deadline, start: int, end: int) -> Iterator[bytes]:
    """Read a range of an object in chunks; raise if the object is not the planned one, or after the deadline."""
    for offset in range(start, end, CHUNK_BYTES):
        length = min(CHUNK_BYTES, end - offset)
        _check_time(item, deadline)
        chunk = store.get(item.uri, offset, length, item.etag, item.version_id)
        # Too few bytes would cut a row off without an error.
        if len(chunk) != length:
            raise ObjectStoreError(f"{item.uri}: {length} bytes were requested at {offset}, {len(chunk)} came")
        yield chunk
