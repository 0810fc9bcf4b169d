"""A shard's inputs on their way from the plan to Spark: each becomes one ``SparkInput``, which our S3A is told.

Most inputs, slices too, Spark reads itself by their addresses. What it cannot read so is fetched into the task's folder
first: old versions, objects that need another role or payer, packed ones, and names that Hadoop or Spark misread. Our
S3A shows the copies at the objects' addresses, so a script needs no change and no Sparklet. Where Spark has another
S3A, see ``worker.without_view``.
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
"""What is read, the input that it is of (see ``SparkInput``), and its copy."""

_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,12}){1,3}$")
_MISREAD = re.compile(r"[\x00-\x1f\x7f-\x9f\\{}\[\]*?]")


def staged_name(number: int, uri: str) -> str:
    """A plain, unique file name that begins and ends as the object's own, since readers filter by these."""
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
    open_store: Callable[[], ObjectStore] | None = None  # that reads with this access
    params: str = ""  # the run's, as JSON: they may name options of readers
    folders: tuple[str, ...] = ()  # the run's input folders
    partitions: Mapping[str, str] = field(default_factory=dict)  # of inputs and folders of others: where theirs begin
    apart: bool = False  # whether what is written must be told apart by inputs
    max_bytes: int = 0  # that packed ones and those beside them may have, unpacked; 0: any
    tell: Callable[[Sequence[InputObject]], None] = lambda _: None  # of the inputs, once archives are unpacked
    looks: bool = False  # at first bytes, too: Spark has met some that are not what a name says

    @property
    def store(self) -> ObjectStore:
        """Opened by who fetches."""
        assert self.open_store is not None
        return self.open_store()


@dataclass(frozen=True, slots=True)
class SparkInput:
    """An input as Spark shall see it."""

    item: InputObject  # what is read: an input of the plan, or a file out of a packed one
    origin: InputObject  # the input that it is of: itself, the packed one, or the file, if its archive has several
    key: str  # bucket and key of the address at which it stands for Spark
    path: str  # by which the script reads it: this address, or ``file://`` of its copy
    partitions: str = ""  # the folder below which its partitions begin; "": it lies in none
    copy: Path | None = None  # of its bytes, on this machine

    def to_document(self) -> dict[str, Any]:
        """For ``SparkInput.java``: what it needs besides the key is there if it is known."""
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
    """Makes the inputs of a Spark that has our S3A: there each stands at its object's address, as it is planned."""

    planned: ShardInputs
    script: Script
    reads_folder: bool = False  # whether the script is given the folder of its inputs

    patterns: ClassVar[str] = ""  # what makes a name a pattern: our S3A takes an input's own for its name
    tells: ClassVar[bool] = True  # whether Spark's side is told of inputs, shows slices, and tells what it does

    @contextmanager
    def shown(self, attempt: Attempt, folder: Path, min_free_bytes: int) -> Iterator[tuple[SparkInput, ...]]:
        """The inputs while they can be read; what Spark cannot read is fetched into ``folder``.

        Raises ScratchFullError, before anything is fetched, if less than ``min_free_bytes`` would stay free; the
        store's errors if an object is not the planned one; PlanError if Spark cannot see an input as it is planned.
        """
        parts = [item for item in self.planned.items if item.slice and item.slice.kind is SliceKind.ROW_GROUPS]
        if parts and self.script.numbers_rows(self.planned.params):
            raise PlanError(
                "the script has row_index, the number of a row in its file, and a part of a Parquet file counts from"
                " its own first one: plan without --split"
            )
        read: list[Read] = [(item, item, None) for item in self.planned.items]
        if self.planned.looks or any(map(self.is_fetched, self.planned.items)):
            started_s = monotonic()
            read = self.fetch(folder, attempt.deadline, min_free_bytes)
            fetched, duration_s = sum(copy is not None for _, _, copy in read), round(monotonic() - started_s, 3)
            attempt.log.info("inputs fetched", inputs=fetched, duration_s=duration_s)
        yield self.stand(read)

    def sees_options(self, inputs: Sequence[SparkInput]) -> bool:
        """Whether options of the script's readers decide what they see: the header of a slice, a copy's encoding."""
        return any(each.copy or is_cut(each.item) for each in inputs) or (
            bool(self.planned.partitions) and self.script.may_set_base_path(self.planned.params)
        )

    def lines(self, inputs: Sequence[SparkInput]) -> str:
        """What our Java is told in the file ``inputs``, in lines of JSON: inputs, folders, a rule for misnamed ones.

        The folders are those of the run's input, and those of others with other values of partitions.
        """
        own, roots = {item.uri for item in self.planned.items}, self.planned.partitions
        documents: list[dict[str, Any]] = [each.to_document() for each in inputs if each.item.uri]
        documents += (
            {"others": folder.partition("://")[2], "partitions": f"/{split_uri(root)[1]}"}
            for folder, root in roots.items()
            if folder not in own
        )
        documents += ({"folder": folder.partition("://")[2]} for folder in self.planned.folders)
        if self.script.unpacks:  # one that is shown packed inputs themselves reads them as they are
            documents.append({"misnamed": MISNAMED})
        return "".join(f"{json.dumps(document)}\n" for document in documents)

    def is_fetched(self, item: InputObject) -> bool:
        """Whether Spark cannot read just this input by its object's name."""
        if item.item:
            return False
        access = self.planned.access
        # Spark reads with the worker's own role and pays for nothing; the store does as the run's access says.
        differs = item.member or item.version_id or access.requester_pays or access.role_arn
        is_shown = self.tells or not (item.slice and is_cut(item))
        if differs or not is_shown or misread(item.uri, self.patterns) or PACKED.search(item.uri):
            return True
        return self.planned.looks and is_misnamed(item.uri, self.planned.store.get(item.uri, 0, FIRST_BYTES))

    def checked(self, item: InputObject, rows: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of a slice, if any reader here sees in them the rows of the whole object; else PlanError.

        Our S3A refuses a slice to readers who would not.
        """
        return rows

    def stand(self, read: "Sequence[Read]") -> tuple[SparkInput, ...]:
        """Each at its own address, but for copies with names that Spark misreads, and an object's further slices.

        Such a one has a name in the same folder that nothing else there has.
        """
        inputs, used, roots = list[SparkInput](), set[str](), self.planned.partitions
        for number, (item, origin, copy) in enumerate(read):
            address = item.uri
            is_again = item.uri in used and (copy or is_cut(item))
            if is_again or (copy and misread(item.uri, self.patterns)):
                folders = [_plain(part) for part in item.uri.removeprefix(SCHEME).split("/")[:-1]]
                folder = "/".join(part for part in folders if part not in ("", ".", ".."))
                address = f"{SCHEME}{folder}/{staged_name(number, item.uri)}"
            used.add(address)
            root = roots.get(item.uri if origin is item else origin.object_uri, "") or roots.get(item.uri, "")
            shown = SparkInput(item, origin, address.partition("://")[2], address, root, copy)
            inputs.append(self.named(shown) if copy else shown)
        return tuple(inputs)

    def named(self, shown: SparkInput) -> SparkInput:
        """A fetched input with the path that the script gets: if it has another name here a file, which anything reads.

        Not where the address counts, as in partitions, nor where only our S3A knows what a reader is to see.
        """
        item, copy = shown.item, shown.copy
        if shown.path == item.uri or item.slice or shown.partitions:
            return shown
        # With ``.raw`` beside it only our S3A can give it: as text, or unchanged to a reader of bytes.
        if self.planned.apart or self.script.filters_names(self.planned.params) or Path(f"{copy}.raw").exists():
            return shown
        return replace(shown, path=f"{LOCAL}{copy}")

    def fetch(self, folder: Path, deadline: Deadline, min_free_bytes: int) -> "list[Read]":
        """Fetch inputs, several at a time; what is then read, with the files of packed ones instead of these."""
        from concurrent.futures import ThreadPoolExecutor  # here, to keep cold starts fast

        planned = self.planned
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            needed = compress(enumerate(planned.items), pool.map(self.is_fetched, planned.items))
            together = self._together()
            paths = {
                number: folder / FOLDER / staged_name(number, item.object_uri)
                for number, item in needed
                if together[number][0] is item
            }
        items = [planned.items[number] for number in paths]
        needed_bytes = sum(item.size_bytes + (item.slice.header_bytes if item.slice else 0) for item in items)
        _check_space(folder, needed_bytes, min_free_bytes)
        (folder / FOLDER).mkdir()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            fetched = [
                pool.submit(self._fetch_one, item, path, deadline)
                for item, path in zip(items, paths.values(), strict=True)
            ]
            try:
                for number, future in zip(paths, fetched, strict=True):
                    try:
                        future.result()
                    except SparkletError as error:
                        error.files = tuple(map(described, together[number]))
                        raise
            finally:
                # The block's end waits for the pool, which else would fetch everything first.
                pool.shutdown(cancel_futures=True)
        # Some of these are read by ``file://``, where no S3A of ours compares first bytes with names: that is done
        # here.
        local = {item.uri for item in items if misread(item.object_uri, self.patterns)} if self.tells else ()
        is_planned = any(item.member for item in items)
        read: list[Read] = [(item, item, paths.get(number)) for number, item in enumerate(planned.items)]
        if planned.looks or is_planned or (self.script.unpacks and (local or any(item.is_packed for item in items))):
            read = self._unpacked(paths, together, min_free_bytes, local)
        for item, _, copy in read:
            if copy and item.modified_s:  # by which readers filter, too
                os.utime(copy, (item.modified_s, item.modified_s))
        return read

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
                file.writelines(self.checked(item, rows))
        except ObjectChangedError as error:
            raise ObjectChangedError(
                f"{described(item)} was replaced after it was planned; start a new run for its new content"
            ) from error
        except OSError as error:
            raise ObjectStoreError(f"{item.uri} could not be written to {path}: {error}") from error

    def _together(self) -> list[list[InputObject]]:
        """Of each input those that are fetched as one: the planned files of its archive."""
        archives, groups = dict[tuple[str, str], list[InputObject]](), list[list[InputObject]]()
        for item in self.planned.items:
            groups.append(archives.setdefault((item.object_uri, item.version_id), []) if item.member else [])
            groups[-1].append(item)
        return groups

    def _unpacked(
        self,
        paths: Mapping[int, Path],
        planned_together: Sequence[Sequence[InputObject]],
        min_free_bytes: int,
        local: Collection[str],
    ) -> "list[Read]":
        from sparklet.worker.unpacking import Member, unpacked  # imported by who has packed inputs

        planned, read = self.planned, list[Read]()
        inputs, bad = list[InputObject](), dict[str, SparkletError]()
        for number, (item, together) in enumerate(zip(planned.items, planned_together, strict=True)):
            path, members = paths.get(number), list[Member]()
            looks = not item.slice and (planned.looks or item.uri in local)
            if path and (item.is_packed or looks):
                name, only = item.object_uri.rpartition("/")[2], {entry.member for entry in together if entry.member}
                try:
                    members = unpacked(path, name, min_free_bytes, looks=looks, only=only)
                except SparkletError as error:
                    named = item if len(together) == 1 else replace(item, uri=item.object_uri)
                    error.args, error.files = (f"{described(named)}: {error}",), tuple(map(described, together))
                    raise
            for name, file in members:
                size_bytes = file.stat().st_size if isinstance(file, Path) else 0
                member = replace(item, uri=f"{item.object_uri}#{name}", size_bytes=size_bytes, member="")
                inputs.append(replace(member, member=name) if item.member or len(members) > 1 else item)
                if isinstance(file, Path):
                    read.append((member, inputs[-1], file))
                else:
                    bad[described(inputs[-1])] = file
            if not members and together[0] is item:
                read.append((item, item, path))
                inputs.append(item)
        # Before a bad file is raised: its shard is split by the files of archives, which the claim must know by then.
        planned.tell(inputs)
        for input_name, cause in bad.items():
            # All bad files are named, so that one split takes them all out.
            cause.args, cause.files = (f"{input_name}: {cause}",), tuple(bad)
            raise cause
        needed_bytes = sum(item.estimated_bytes for item, _, _ in read)
        is_unpacked = any(origin is not item for item, origin, _ in read)
        if is_unpacked and 0 < planned.max_bytes < needed_bytes:
            raise TooLargeError(
                f"the shard's inputs have {needed_bytes / MIB:,.0f} MiB unpacked, and a function takes "
                f"{planned.max_bytes / MIB:,.0f} MiB: make shards smaller, "
                f"{FOR_ROOM}, or have a function try it (--too-large fail)"
            )
        return read


def with_origins(text: str, inputs: Sequence[SparkInput]) -> str:
    """The script's text with the names of the objects instead of those under which Spark reads them."""
    for each in inputs:
        if each.path != each.item.uri or each.item.slice or each.origin is not each.item:
            # Spark's messages have addresses as they are or URL-encoded.
            path = "|".join(map(re.escape, {address := each.path.partition("://")[2], quote(address)}))
            text = described(each.origin).join(re.split(rf"(?:file:(?://)?|s3[an]?://)(?:{path})", text))
    return text


def is_cut(item: InputObject) -> bool:
    """Whether it is a slice of a text."""
    return item.slice is not None and item.slice.kind is SliceKind.LINES


def _plain(folder: str) -> str:
    """A folder's name without what Spark misreads; the value of a partition stays what it is."""
    return _MISREAD.sub(lambda match: quote(match[0]) if "=" in folder else "-", folder)


def _check_space(folder: Path, needed_bytes: int, min_free_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + min_free_bytes:
        raise ScratchFullError(
            f"{folder.parent} has {free / MIB:.0f} MiB free, the shard's inputs that must be fetched have "
            f"{needed_bytes / MIB:.0f} MiB and {min_free_bytes / MIB:.0f} MiB must stay free: "
            "give the function more ephemeral storage or make shards smaller"
        )


def described(item: InputObject) -> str:
    """An input in an error: the object, its version and its slice."""
    version = f" version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"{item.uri}{version}"
    return f"{item.uri}{version} (bytes {item.slice.start} to {item.slice.end - 1})"


def _check_time(item: InputObject, deadline: Deadline) -> None:
    if deadline.remaining_s() <= 0:
        raise DeadlineExceededError(f"the deadline passed while {described(item)} was fetched: make shards smaller")


def _chunks(store: ObjectStore, item: InputObject, deadline: Deadline, start: int, end: int) -> Iterator[bytes]:
    """Read a range of an object while it is the planned one and before the deadline."""
    for offset in range(start, end, CHUNK_BYTES):
        length = min(CHUNK_BYTES, end - offset)
        _check_time(item, deadline)
        chunk = store.get(item.uri, offset, length, item.etag, item.version_id)
        # A short answer would cut a row off in silence.
        if len(chunk) != length:
            raise ObjectStoreError(f"{item.uri}: asked for {length} bytes at {offset}, got {len(chunk)}")
        yield chunk
