"""What a plan would look like; nothing is written. Local inputs are previewed without being put into a bucket."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparklet.fanout.inventory import Found, Inventory, ListReader, refuse_overlap, resolve_inputs
from sparklet.fanout.inventory.digests import Digests
from sparklet.fanout.inventory.found import EMPTY
from sparklet.fanout.planning.fitting import is_oversize
from sparklet.fanout.planning.list_requests import ListRequest, readers, refuse_mixed, resolve_list
from sparklet.fanout.planning.local_files import local_files
from sparklet.fanout.planning.packing import pack_shards
from sparklet.fanout.planning.slicing import slice_objects
from sparklet.fanout.planning.unplannable import nothing_to_plan, refuse_archived
from sparklet.model import InputObject, Position, RunOptions, Shard
from sparklet.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """The shards that a plan would have."""

    shards: int
    objects: int
    size_bytes: int
    smallest_shard_bytes: int
    largest_shard_bytes: int
    most_objects_in_a_shard: int
    skipped: Mapping[str, int]  # objects left out, by reason
    slices: int = 0  # of the objects so many are parts of one that was cut
    largest_shard: int = 0  # its number
    largest_object: str = ""  # the first one in it
    oversize: int = 0  # shards above what one function takes on; a run would refuse or mark them


def preview(
    options: RunOptions,
    inputs: Sequence[str],
    store: ObjectStore,
    lists: Sequence[ListRequest] = (),
    done: Callable[[], Digests] | None = None,
) -> PlanPreview:
    """Pack the input as ``plan`` would; memory does not grow with the number of objects.

    Parameters
    ----------
    inputs
        S3 addresses and local paths, in order.
    store
        Where S3 addresses are read, with the access of the run to be.
    done
        What earlier runs have done, for an incremental run.

    Raises
    ------
    PlanError
        If an input is not usable, or nothing is left to plan.
    """
    refuse_mixed(lists, inputs, options)
    remote = [given for given in inputs if "://" in given]
    resolved = iter(resolve_inputs(store, remote) if remote or not (inputs or lists) else ())
    refuse_overlap([_local_address(given) for given in inputs if "://" not in given])
    skipped: Counter[str] = Counter()
    sources = [next(resolved) if "://" in given else given for given in inputs]
    objects = _Objects(options, store, lists, done, skipped)
    seen = _seen((packed.shard for packed in pack_shards(objects.of(sources), options)), options)
    if seen is None:
        raise nothing_to_plan(", ".join([*sources, *(given.source for given in lists)]), skipped)
    return replace(seen, skipped=dict(skipped))


def _seen(shards: Iterable[Shard], options: RunOptions) -> PlanPreview | None:
    count = objects = size_bytes = most = slices = oversize = 0
    smallest: int | None = None
    largest: Shard | None = None
    for shard in shards:
        count, objects, size_bytes = count + 1, objects + len(shard.objects), size_bytes + shard.size_bytes
        smallest = shard.size_bytes if smallest is None else min(smallest, shard.size_bytes)
        largest = shard if largest is None or shard.size_bytes > largest.size_bytes else largest
        most = max(most, len(shard.objects))
        slices += sum(item.slice is not None for item in shard.objects)
        oversize += is_oversize(shard, options)
    if smallest is None or largest is None:
        return None
    return PlanPreview(
        count,
        objects,
        size_bytes,
        smallest,
        largest.size_bytes,
        most,
        {},
        slices,
        largest.number,
        largest.objects[0].name,
        oversize,
    )


@dataclass(frozen=True, slots=True)
class _Objects:
    """Objects in S3, cut as the options say, and files as if they were objects; these are not cut."""

    options: RunOptions
    store: ObjectStore
    lists: Sequence[ListRequest]
    done: Callable[[], Digests] | None
    skipped: Counter[str]

    def of(self, sources: Sequence[str]) -> Iterator[Found]:
        """In the order of the sources, the lists last."""
        pending: list[str] = []
        for source in sources:
            if "://" in source:
                pending.append(source)
                continue
            yield from self._stored(pending)
            pending = []
            yield from self._local(Path(source))
        given = [resolve_list(self.store, each) for each in self.lists]
        yield from self._stored(pending, list(readers(self.store, self.lists, given)))

    def _stored(self, sources: Sequence[str], lists: Sequence[ListReader] = ()) -> Iterator[Found]:
        inventory = Inventory(self.store, sources, self.options, lists, done=self.done)
        yield from slice_objects(self.store, inventory.objects(), self.options)
        refuse_archived(inventory, self.options)
        self.skipped.update(inventory.skipped)

    def _local(self, folder: Path) -> Iterator[Found]:
        for path, _ in local_files(folder, self.options.include, self.options.exclude, self.skipped):
            if (size_bytes := path.stat().st_size) or self.options.keep_empty:
                yield Found(InputObject(str(path), size_bytes), Position())
            else:
                self.skipped[EMPTY] += 1


def _local_address(given: str) -> str:
    path = Path(given).resolve()
    return f"{path}/" if path.is_dir() else str(path)
