"""A run's input: its folders, objects and lists, read as one sequence; objects left out are counted by reason."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sparklet.errors import ObjectNotFoundError, PlanError
from sparklet.model import SCHEME, InputObject, Position, RunOptions, s3_address, split_uri
from sparklet.planning.inputs.folders import TableFolders, local_files
from sparklet.planning.inputs.lists import Listed, ListReader
from sparklet.planning.inputs.selection import Candidate, Digests, Filter, Found, Reason, is_hidden
from sparklet.ports import ObjectInfo, ObjectStore

NAMES_KEPT = 3

LeftOutCallback = Callable[[str, str, str], None]
"""Called with address, version and reason of an object that is left out."""


def resolve_inputs(store: ObjectStore, inputs: Sequence[str], local: bool = False) -> tuple[str, ...]:
    """Resolve inputs: ``s3://bucket/name`` becomes that object if it exists, else the folder ``name/``.

    With ``local`` an input may also be a path. PlanError if an input has another form, if nothing is at its address, or
    if two inputs overlap.
    """
    if not inputs:
        raise PlanError("no input was given; name at least one s3://bucket/folder/ or object")
    resolved = tuple(
        _local_input(address) if local and "://" not in address else _folder_or_object(store, address)
        for address in inputs
    )
    if len(resolved) > 1:
        _refuse_overlap(
            address if "://" in address else _local_input(str(Path(address).resolve())) for address in resolved
        )
    return resolved


def _local_input(path: str) -> str:
    """Return a local path; a folder's ends with a slash, as a prefix in S3 does."""
    return f"{path.rstrip('/')}/" if Path(path).is_dir() else path


def _refuse_overlap(inputs: Iterable[str]) -> None:
    """PlanError if an object could belong to two inputs, and would be processed twice."""
    # In sorted order the inputs in a folder come directly after the folder.
    for address, following in pairwise(sorted(inputs)):
        if following == address:
            raise PlanError(f"the input {address} was given twice; its objects would be processed twice")
        if address.endswith("/") and following.startswith(address):
            raise PlanError(
                f"the input {following} lies inside the input {address}; its objects would be processed twice: leave "
                "one out"
            )


def _folder_or_object(store: ObjectStore, address: str) -> str:
    if not (uri := s3_address(address)):
        raise PlanError(f"the input {address!r} cannot be listed; it must look like s3://bucket/folder/")
    folder = uri if uri.endswith("/") else f"{uri}/"
    if folder != uri and "/" in uri.removeprefix(SCHEME):
        with suppress(ObjectNotFoundError):  # then it can only be a folder
            return store.head(uri).uri
    if next(iter(store.list(folder)), None) is None:
        raise PlanError(
            f"the input {uri} is empty: there is no object below {folder} "
            f"(if you mean the beginning of file names, give their folder and --include 'beginning*')"
        )
    return folder


def refuse_other_regions(store: ObjectStore, buckets: Collection[str]) -> None:
    """PlanError if a bucket is in another region, in which S3A cannot read."""
    for bucket in sorted(buckets):
        if region := store.foreign_region(f"{SCHEME}{bucket}/"):
            raise PlanError(
                f"the bucket {bucket} is in {region}, not in this region: run Sparklet there, or copy the objects"
            )


# --- folders and single objects as candidates ---


@dataclass(frozen=True)
class CurrentObjects:
    """The objects of a folder (``s3://bucket/folder/``), or one object."""

    store: ObjectStore
    address: str

    def candidates(self, position: Position) -> Iterator[Candidate]:
        """The objects after the key ``position.after``; first that key's object if slices of it remain to plan."""
        # The listing begins after this object.
        if position.slices:
            yield self._candidate(position.after, resumed=True)
        if self.address.endswith("/"):
            for info in self.store.list(self.address, position.after):
                yield Candidate(split_uri(info.uri)[1], info.uri, info)
        elif not position.after:
            yield self._candidate(split_uri(self.address)[1])

    def _candidate(self, key: str, *, resumed: bool = False) -> Candidate:
        uri = f"{SCHEME}{split_uri(self.address)[0]}/{key}"
        try:
            return Candidate(key, uri, self.store.head(uri), resumed=resumed)
        except ObjectNotFoundError:
            return Candidate(key, uri, None, Reason.MISSING)


@dataclass(frozen=True)
class LocalFiles:
    """A local folder or file, for a preview. The run will have a copy in the bucket with the same keys."""

    address: str  # a path, with a slash at the end of a folder's
    file_filter: Filter

    def candidates(self, _: Position) -> Iterator[Candidate]:
        """The files that the filter keeps; the position is not used, since a preview begins at the first file."""
        for path, key in local_files(Path(self.address), self.file_filter):
            status, file = path.stat(), f"{self.address}{key}" if self.address.endswith("/") else self.address
            yield Candidate(key, file, ObjectInfo(file, status.st_size, "", status.st_mtime))


# --- the whole input ---

_Source = CurrentObjects | LocalFiles | Listed


class Inventory:
    """The objects of a run's input, in the order of the inputs and then of the lists.

    ``inputs`` come from ``resolve_inputs``: a folder ends in ``/``, everything else is one object. An object that
    ``lists`` name twice is planned once, an item as often as it is listed. ``read_planned`` returns the objects that
    are already in shards, if a plan with lists is continued; ``read_done``, called once for each pass, returns the
    objects that earlier runs have done. ``on_left_out`` is called for every object that is left out, unless a pattern
    leaves it out.
    """

    def __init__(
        self,
        store: ObjectStore,
        inputs: Sequence[str],
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        lists: Sequence[ListReader] = (),
        *,
        read_planned: Callable[[], Iterable[InputObject]] = tuple,
        read_done: Callable[[], Digests] | None = None,
        on_left_out: LeftOutCallback = lambda uri, version_id, reason: None,
    ) -> None:
        self._filter = Filter(options.include, options.exclude)
        self._sources: list[_Source] = [
            CurrentObjects(store, address) if "://" in address else LocalFiles(address, self._filter)
            for address in inputs
        ]
        self._sources += [Listed(reader, store, options) for reader in lists]
        self._finds_duplicates = any(not reader.source.items for reader in lists)
        self._options, self._on_left_out = options, on_left_out
        self._read_planned, self._read_done = read_planned, read_done
        self._tables = TableFolders("", ())  # a new one for each source
        self.named: dict[str, list[str]] = {Reason.ARCHIVED: [], Reason.MISSING: []}
        """The first objects that were left out, for reasons that refuse a run."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many objects were left out since this inventory was made, by reason."""
        return self._filter.skipped

    def objects(self, position: Position = Position()) -> Iterator[Found]:  # noqa: B008 - frozen
        """All objects after ``position``, page by page; first, whole, an object some of whose slices remain to plan."""
        with ExitStack() as files:
            seen_objects = files.enter_context(closing(Digests())) if self._finds_duplicates else None
            # Objects that earlier planners have planned must not come a second time.
            if seen_objects is not None and position != Position():
                for item in self._read_planned():
                    seen_objects.add(item.uri, item.version_id)
            done_objects = files.enter_context(closing(self._read_done())) if self._read_done else None
            for number in range(position.source, len(self._sources)):
                source = self._sources[number]
                begin = position if number == position.source else Position(number)
                folder = "" if isinstance(source, Listed) else source.address
                # A table's log may come after its data in the listing, and an earlier planner have planned the data.
                planned = f"{SCHEME}{split_uri(folder)[0]}/{begin.after}" if folder and begin.after else ""
                self._tables = TableFolders(folder, self._options.exclude, planned)
                for candidate in source.candidates(begin):
                    if candidate.item:
                        yield Found(candidate.item, Position(number, candidate.after), self._filter.skipped)
                    elif (info := candidate.info) and self._accept(source, candidate, info, seen_objects, done_objects):
                        item = InputObject(
                            *(info.uri, info.size_bytes, info.etag, info.version_id),
                            partition=candidate.partition,
                            modified_s=0.0 if isinstance(source, Listed) else info.modified_s,  # a list may be wrong
                        )
                        yield Found(item, Position(number, candidate.after), self._filter.skipped)
                    elif not candidate.info:
                        self._leave_out(candidate, candidate.reason)

    def _accept(
        self,
        source: _Source,
        candidate: Candidate,
        info: ObjectInfo,
        seen_objects: Digests | None,
        done_objects: Digests | None,
    ) -> bool:
        """Return whether a candidate is planned; if not, count it under the first reason that applies.

        Also note it for the next candidates: among ``seen_objects``, and in the search for tables.
        """
        # Some of its slices are in shards: if it were left out now, its other rows would be lost without notice.
        if candidate.resumed:
            return True
        if candidate.reason or (info.uri.endswith("/") and not info.size_bytes):
            return self._leave_out(candidate, candidate.reason or Reason.FOLDER_MARKER)
        options = self._options
        address = "" if isinstance(source, Listed) else source.address
        # Objects of lists are not checked: the user has named each of them.
        self._tables.note_listed(info.uri if address else "")
        # The name below the folder; the file's name if the file is the input; for an object of a list the whole key.
        name = info.uri[address.rfind("/") + 1 :] if address else split_uri(info.uri)[1]
        if address.endswith("/") and not options.hidden and is_hidden(name):
            return self._leave_out(candidate, Reason.HIDDEN)
        if (options.include or options.exclude) and not self._filter.keeps(name):
            return False
        if info.modified_s < options.modified_since_s:
            return self._leave_out(candidate, Reason.OLDER)
        if not info.size_bytes and not options.keep_empty:
            return self._leave_out(candidate, Reason.EMPTY)
        if info.archived:
            return self._leave_out(candidate, Reason.ARCHIVED)
        if done_objects and done_objects.has(info.uri, info.version_id, info.etag):
            return self._leave_out(candidate, Reason.DONE)
        # The last check, so that a row is a duplicate only of an object that is planned.
        if seen_objects and not seen_objects.add(info.uri, info.version_id):
            return self._leave_out(candidate, Reason.DUPLICATE)
        self._tables.note_planned(info.uri)
        return True

    def _leave_out(self, candidate: Candidate, reason: str) -> bool:
        """Count a candidate that is left out; return False."""
        self._on_left_out(candidate.uri, candidate.info.version_id if candidate.info else "", reason)
        names = self.named.get(reason)  # None for a reason that does not refuse a run
        if names is not None and len(names) < NAMES_KEPT:
            names.append(candidate.uri)
        return self._filter.skip(reason)
