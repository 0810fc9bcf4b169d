"""Packs a run's input into shards, by bytes, count and group: once for the preview, the check and the plan."""

import gzip
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TypeVar, cast

from sparklet.errors import NothingNewError, PlanError
from sparklet.model import SCHEME, Access, ListSource, Position, Run, RunOptions, Shard
from sparklet.model.options import MIB, NO_LIMIT_BYTES
from sparklet.model.quantities import count_text
from sparklet.planning import routes
from sparklet.planning.inputs.folders import refuse_part_of_table
from sparklet.planning.inputs.list_requests import TABLE, ListRequest, refuse_mixed, resolve_list
from sparklet.planning.inputs.lists import ListReader
from sparklet.planning.inputs.partitions import Partitions, partition_root
from sparklet.planning.inputs.selection import Found, Reason
from sparklet.planning.inputs.slicing import slice_objects
from sparklet.planning.inventory import Inventory, resolve_inputs
from sparklet.planning.output_claims import RunStatus, earlier_runs, finished_objects
from sparklet.planning.outputs import (
    OutputNames,
    Owners,
    PublishedFile,
    files_in,
    local_outputs,
    owners,
    refuse_replaced,
)
from sparklet.planning.plan_files import LeftOut, Line, planned_objects
from sparklet.planning.request import RunRequest, output_folder
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import Deployment, scratch

T = TypeVar("T")
PREFIX = "prefix"
MAX_ITEMS_BYTES = 1024 * 1024  # of the items of one shard, which the script gets all at once
MAX_NAMED = 3  # objects that a message names
ADVICE = (
    "cut it with --split (CSV, JSON Lines and Parquet that are not compressed as a whole), "
    f"{routes.FOR_ROOM}, or have a function try it (--too-large fail)"
)
IN_MEMORY_BYTES = 8 * MIB
MAX_KEPT_BYTES = 256 * MIB  # compressed; enough for the shards of some four million objects
_position_values = attrgetter("source", "after", "slices", "etag")  # faster than pickling the position


def pack_shards(
    objects: Iterable[Found], options: RunOptions, first_number: int = 0, inputs: tuple[str, ...] = ()
) -> Iterator[tuple[Shard, Line]]:
    """Pack objects into shards, each with its line, in the order of the listing.

    ``options.target_bytes`` limits the estimated size of a shard, unless one object has more; ``max_objects`` limits
    the objects or items of a shard. With ``group_by`` each group begins a new shard, also one that comes again later.
    Objects in partitions of two ``inputs`` are in different shards: Spark reads partitions of one folder at once.
    """
    group_of = grouping(options.group_by) if options.group_by else None
    entries: list[Found] = []
    shard_bytes, shard_group, number = 0, ("", ""), first_number

    def shard_and_line() -> tuple[Shard, Line]:
        shard, last = Shard(number, tuple(entry.item for entry in entries)), entries[-1]
        sizes = len(entries), shard.size_bytes, shard_bytes
        return shard, Line(shard.to_line(), number, *sizes, last.position, last.skipped)

    for entry in objects:
        uri, size_bytes = entry.item.uri, entry.item.estimated_bytes
        group = group_of(uri) if group_of else "", partition_root(uri[: uri.rfind("/") + 1], inputs)
        max_bytes = options.target_bytes
        # Without a limit all items must be in one shard (a reduce), however many bytes they have.
        if entry.item.item and max_bytes < NO_LIMIT_BYTES:
            max_bytes = min(max_bytes, MAX_ITEMS_BYTES)
        is_full = len(entries) == options.max_objects or shard_bytes + size_bytes > max_bytes
        if entries and (is_full or group != shard_group):
            yield shard_and_line()
            number, entries, shard_bytes = number + 1, [], 0
        entries.append(entry)
        shard_bytes, shard_group = shard_bytes + size_bytes, group
    if entries:
        yield shard_and_line()


def grouping(group_by: str) -> Callable[[str], str]:
    """The function from an object's address to its group.

    With ``prefix`` the group is the folder. Else ``group_by`` has patterns of folders, separated by ``/``: ``dt=*``
    groups by the first folder that matches, ``dt=*/hour=*`` by both. If no folder of an object matches a pattern, that
    part of the object's group is empty.
    """
    if group_by == PREFIX:
        return lambda uri: uri.rpartition("/")[0]

    def group_of(uri: str) -> str:
        folders = uri.partition("://")[2].split("/")[1:-1] if "://" in uri else uri.split("/")[:-1]
        patterns = filter(None, group_by.split("/"))
        return "/".join(
            next((folder for folder in folders if fnmatchcase(folder, pattern)), "") for pattern in patterns
        )

    return group_of


# --- the whole input: read once for the preview, the check and the plan of a request ---


@dataclass(slots=True)
class PlanPreview:
    """The shards that a plan would have."""

    shards: int = 0
    objects: int = 0
    size_bytes: int = 0
    smallest_shard_bytes: int = 0
    largest_shard_bytes: int = 0
    most_objects_in_a_shard: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)  # objects left out, by reason
    slices: int = 0  # objects that are parts of a larger one
    largest_shard: int = 0  # its number
    largest_object: str = ""  # the first one in it
    too_large: int = 0  # shards too large for one function
    by_engine: dict[str, tuple[int, int]] = field(default_factory=dict)  # numbers of shards, and of their bytes

    def add(self, shard: Shard, line: Line, options: RunOptions) -> None:
        """Count a shard."""
        size_bytes = line.size_bytes
        self.smallest_shard_bytes = min(self.smallest_shard_bytes, size_bytes) if self.shards else size_bytes
        if not self.shards or size_bytes > self.largest_shard_bytes:
            self.largest_shard_bytes, self.largest_shard = size_bytes, shard.number
            self.largest_object = shard.objects[0].name
        self.most_objects_in_a_shard = max(self.most_objects_in_a_shard, len(shard.objects))
        self.slices += sum(item.slice is not None for item in shard.objects)
        is_too_large, name = routes.of_size(options, line.estimated_bytes)
        self.too_large += is_too_large
        if name:
            shards, routed_bytes = self.by_engine.get(name, (0, 0))
            self.by_engine[name] = shards + 1, routed_bytes + size_bytes
        self.shards, self.objects = self.shards + 1, self.objects + len(shard.objects)
        self.size_bytes += size_bytes


class PackedInput:
    """The input of a request in shards. It is read once: by the preview, the check or the plan, which comes first.

    A file keeps the shards, so that an input that changes later is planned as it was read. Only if the file would have
    more than ``MAX_KEPT_BYTES``, the plan reads the input again.
    """

    def __init__(self) -> None:
        self.inputs: tuple[str, ...] = ()
        self.lists: list[ListReader] = []
        self.found = PlanPreview()
        self.whole: Counter[str] = Counter()
        """How many large objects could not be cut, by reason."""
        self.too_large: list[str] = []
        """The first shards that are too large for a function."""
        self.left_out = LeftOut()
        self.partitions = Partitions(())
        self._is_open = self._is_read = False
        self._replaced: dict[str, Callable[[], Owners]] = {}  # owners, by the folder in which the run deletes files
        self._names: OutputNames | None = None
        self._earlier: list[RunStatus] = []  # the runs whose objects an incremental run leaves out
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - see close

    def close(self) -> None:
        """Delete the files."""
        self._file.close()
        self.left_out.close()
        if self._names:
            self._names.close()

    def open(self, deployment: Deployment | None, request: RunRequest, *, local: bool = False) -> ObjectStore:
        """Find the inputs and lists of a request; return the inputs' store.

        PlanError if one does not exist, is local without ``local``, or is a part of a table.
        """
        store = deployment.inputs(request.access) if deployment else cast(ObjectStore, None)
        if not self._is_open:
            refuse_mixed(request.lists, request.inputs, request.options)
            self.inputs = resolve_inputs(store, request.inputs, local) if request.inputs or not request.lists else ()
            self.lists = [_reader(deployment, store, list_request, request.options) for list_request in request.lists]
            for uri in self.inputs:
                if uri.startswith(SCHEME) and uri.endswith("/"):
                    names = lambda prefix: (info.uri for info in store.list(prefix))  # noqa: E731
                    refuse_part_of_table(uri, request.options.exclude, names)
            self.partitions = Partitions(self.inputs)
            self._is_open = True
        return store

    def read(
        self,
        deployment: Deployment | None,
        request: RunRequest,
        *,
        limit: int = 0,
        local: bool = False,
        to_end: bool = True,
    ) -> PlanPreview:
        """Read the input; unless ``to_end``, only lists and the first shard. Without a deployment all inputs are local.

        The whole input is read in any case if it has partitions, or if the run deletes earlier output.

        PlanError if it has more than ``limit`` objects, archived or missing objects that the options refuse, a wrong
        row in a list, or nothing to plan; NothingNewError if earlier runs have done everything.
        """
        if self._is_read:
            return self.found
        store, options = self.open(deployment, request, local=local), request.options
        if options.output_per or options.existing != "refuse":
            self._prepare_output_checks(deployment, request)
        # Noted before the input is read: if a run of this name ends meanwhile, `lines` finds a difference.
        self._earlier = (
            earlier_runs(deployment, request.run_name, request.run_id) if deployment and options.incremental else []
        )
        name = ", ".join([*self.inputs, *(reader.source.uri for reader in self.lists)])
        inventory = self._inventory(deployment, store, options, request.run_name, request.run_id)
        lines = self._pack(within_limit(inventory.objects(), limit, name), inventory, store, options, request.access)
        with gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1) as gzip_file:
            for line in lines:
                # Beyond the limit shards are not kept, but the preview and the checks need the whole input.
                if self._file.tell() <= MAX_KEPT_BYTES:
                    with scratch("the shards of the plan"):
                        pickle.dump((*line[:5], *_position_values(line.position), line.skipped), gzip_file)
                # The first shard needs the partitions of all inputs, and a run deletes only once all inputs are known.
                to_end = to_end or bool(self.partitions.examples or self._replaced)
                if not to_end:
                    break
        # A wrong row must refuse the run before it is entered, rather than end it half planned.
        for reader in () if to_end else self.lists:
            reader.read_all()
        self._is_read = to_end
        for reason, option in ((Reason.ARCHIVED, options.archived), (Reason.MISSING, options.missing)):
            if option == "refuse" and inventory.named[reason]:
                raise _refusal(inventory, reason)
        if not self.found.shards:
            raise _nothing_to_plan(name, inventory.skipped)
        return self.found

    def _prepare_output_checks(self, deployment: Deployment | None, request: RunRequest) -> None:
        """Note the folders that the run would replace and, if it names files after inputs, which names exist."""
        options = request.options
        if deployment:
            self._replaced = {
                folder: cache(partial(owners, deployment.store, folder)) for folder in request.replaced_folders
            }
        if options.output_per:
            # An incremental run may replace the files of earlier runs of its name (`may_replace`): these do not count.
            existing_paths = (
                paths_in_output(deployment, request) if options.existing == "append" and not options.incremental else ()
            )
            self._names = OutputNames(request.run_id, options, self.inputs, existing_paths)

    def lines_after(self, deployment: Deployment, run: Run, position: Position, first_number: int) -> Iterator[Line]:
        """The shards of a run after a position. Its input is read while they are iterated."""
        store, self.inputs, self.partitions = deployment.inputs(run.access), run.inputs, Partitions(run.inputs)
        # A list that came as bytes is in the run's own folder, for which a role for the inputs may have no permission.
        stores = [deployment.store if source.uri.startswith(deployment.runs_uri) else store for source in run.lists]
        self.lists = list(map(ListReader, run.lists, stores))
        inventory = self._inventory(deployment, store, run.options, run.name, run.run_id)
        objects = inventory.objects(position)
        return self._pack(objects, inventory, store, run.options, run.access, position, first_number)

    def _inventory(
        self, deployment: Deployment | None, store: ObjectStore, options: RunOptions, *run: str
    ) -> Inventory:
        """The inventory of a run's input; ``run`` is the run's name and id."""
        planned = partial(planned_objects, deployment, run[1]) if deployment else tuple
        done = partial(finished_objects, deployment, *run) if deployment and options.incremental else None
        return Inventory(
            store,
            self.inputs,
            options,
            self.lists,
            read_planned=planned,
            read_done=done,
            on_left_out=self._note_left_out,
        )

    def _note_left_out(self, uri: str, version_id: str, reason: str) -> None:
        self.left_out.add(uri, version_id, reason)
        folder = uri[: uri.rfind("/") + 1]
        # Spark lists an empty object, too, and uses its partition's values.
        if reason == Reason.EMPTY and partition_root(folder, self.inputs):
            self.partitions.add(uri)

    def _pack(
        self,
        objects: Iterable[Found],
        inventory: Inventory,
        store: ObjectStore,
        options: RunOptions,
        access: Access,
        position: Position = Position(),  # noqa: B008 - frozen
        first_number: int = 0,
    ) -> Iterator[Line]:
        if options.split:
            objects = slice_objects(store, objects, options, position, lambda why: self.whole.update([why]), access)
        for shard, line in pack_shards(objects, options, first_number, self.inputs):
            self.found.add(shard, line, options)
            if routes.of_size(options, line.estimated_bytes)[0] and len(self.too_large) < MAX_NAMED:
                self.too_large.append(_shard_text(shard, line.estimated_bytes))
            if self._replaced:
                refuse_replaced([item.uri for item in shard.objects], self._replaced)
            for item in shard.objects:
                self.partitions.add(item.uri)
                if self._names:
                    self._names.add(item)
            yield line
        if self._names:
            # At the end, so that the message has more than the first name.
            self._names.refuse_taken()
        self.found.skipped = inventory.skipped

    def lines(self, deployment: Deployment, run: Run) -> Iterator[Line] | None:
        """All shards, from the file that ``read`` wrote; None if the input must be read again.

        That is so if the file lacks shards, or if other runs of an incremental run's name have changed since.
        """
        # The run has claimed its name: no other run of this name can do further objects after this check.
        has_all = self._is_read and self._file.tell() <= MAX_KEPT_BYTES
        if not has_all or (run.options.incremental and self._earlier != earlier_runs(deployment, run.name, run.run_id)):
            return None
        self._file.seek(0)
        gzip_file = gzip.GzipFile(fileobj=self._file, mode="rb")
        # The rows are as `read` has written them, with the position's values in the place of the position.
        rows = (pickle.load(gzip_file) for _ in range(self.found.shards))  # noqa: S301 - this process wrote them
        return (Line._make((*row[:5], Position(*row[5:9]), row[9])) for row in rows)


def paths_in_output(deployment: Deployment | None, request: RunRequest) -> Iterator[str]:
    """The paths, below a request's output, of files that are not this run's own."""
    if "://" not in request.output_uri:
        files: Iterable[PublishedFile] = local_outputs(Path(request.output_uri))
    else:
        files = files_in(deployment.store, output_folder(request.output_uri, request.run_id)) if deployment else ()
    return (file.path for file in files if not (file.by and file.by["run_id"] == request.run_id))


def _reader(
    deployment: Deployment | None, store: ObjectStore, list_request: ListRequest, options: RunOptions
) -> ListReader:
    if not list_request.source.startswith(TABLE):
        return ListReader(resolve_list(store, list_request), store, list_request.body)
    if not (deployment and deployment.catalog):
        raise PlanError(f"this deployment has no catalog for {list_request.source}: name folders instead")
    table, body = deployment.catalog(list_request.source.removeprefix(TABLE), options, store)
    return ListReader(ListSource(list_request.source, "jsonl", table=table), store, body)


def preview(deployment: Deployment | None, request: RunRequest, packed: PackedInput | None = None) -> PlanPreview:
    """Preview the plan of a request; without a deployment all inputs are local.

    The input is read into ``packed``, from which it can be planned, unless an input is local.
    """
    # A plan needs the copies of local files in the bucket, with their addresses and ETags: it cannot use this reading.
    if packed and all("://" in address for address in request.inputs):
        return packed.read(deployment, request, limit=request.options.limit)
    with closing(PackedInput()) as temporary_input:
        return temporary_input.read(deployment, request, local=True)


# --- what refuses an input before its plan ---


def within_limit(objects: Iterable[T], limit: int, name: str) -> Iterator[T]:
    """The same objects; PlanError if there are more than ``limit`` (0: no limit)."""
    for count, input_object in enumerate(objects, 1):
        if 0 < limit < count:
            raise PlanError(
                f"the input {name} has more than {limit:,} objects; if that is no mistake, allow more with --limit "
                "(0: any number), else choose fewer with --include, --exclude or --since"
            )
        yield input_object


def too_large(packed: PackedInput, options: RunOptions) -> PlanError:
    """The error of an input with shards that are too large for a function."""
    count, names = packed.found.too_large, packed.too_large
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return PlanError(
        f"the input has {count_text(count, 'shard')} above the {options.max_shard_bytes / MIB:,.0f} MiB "
        f"that one function takes on: {', '.join(names)}{more}; {ADVICE}, or leave it out (--exclude)"
    )


def _refusal(inventory: Inventory, reason: Reason) -> PlanError:
    """The error of an input with objects that are archived or missing."""
    count, names = inventory.skipped[reason], inventory.named[reason]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    if reason is Reason.MISSING:
        problem = f"names {count_text(count, 'object')} not there"
        remedy = "correct the list, or leave out what is gone with --missing skip"
    else:
        problem = f"has {count_text(count, 'archived object')} that cannot be read"
        remedy = "restore what is archived first, or leave it out with --archived skip"
    return PlanError(f"the input {problem}: {', '.join(names)}{more}; {remedy}")


def _nothing_to_plan(name: str, skipped: Mapping[str, int]) -> PlanError:
    """The error of an input without an object to plan: NothingNewError if there is only nothing new."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "nothing"
    if is_nothing_new(skipped):
        return NothingNewError(f"the input {name} holds nothing new; left out: {reasons}")
    return PlanError(f"the input {name} has nothing to plan; left out: {reasons}")


def is_nothing_new(skipped: Mapping[str, int]) -> bool:
    """Whether an input without an object to plan has objects that were done earlier or are older than requested."""
    return (Reason.DONE in skipped or Reason.OLDER in skipped) and Reason.MISSING not in skipped


def _shard_text(shard: Shard, estimated_bytes: int) -> str:
    """The first object of a shard, how many more there are, and their size."""
    estimated = f", decompressed about {estimated_bytes / MIB:,.0f} MiB" if estimated_bytes != shard.size_bytes else ""
    others = f" and {len(shard.objects) - 1} more" if len(shard.objects) > 1 else ""
    return f"{shard.objects[0].name}{others} ({shard.size_bytes / MIB:,.0f} MiB{estimated})"
