"""A run's input as one sequence of objects, what is left out counted by its reason."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from sparklet.fanout.inventory.digests import Digests
from sparklet.fanout.inventory.found import (
    ARCHIVED,
    DONE,
    DUPLICATE,
    EMPTY,
    FOLDER_MARKER,
    OLDER,
    Candidate,
    Found,
)
from sparklet.fanout.inventory.globs import Filter
from sparklet.fanout.inventory.lists import Listed, ListReader
from sparklet.fanout.inventory.sources import AllVersions, CurrentObjects, Source
from sparklet.model import InputObject, Position, RunOptions
from sparklet.ports import ObjectInfo, ObjectStore

NAMES_KEPT = 3

Told = Callable[[str, str, str], None]


def not_told(uri: str, version_id: str, reason: str) -> None:
    """Nobody wants to know."""


class Inventory:
    """The objects of a run's input, in the order of the inputs and then of the lists.

    Parameters
    ----------
    store
        Where the objects lie.
    inputs
        As ``resolve_inputs`` gives them: a folder ends in ``/``, everything else is one object.
    options
        What is taken in: patterns on the key below the folder (on the file name of a single object, on the whole key
        of a listed one), time of change, versions, empty objects.
    lists
        An object that is named twice is planned once, an item as often as it is listed.
    planned
        What lies in shards already, for whoever continues a plan with lists.
    done
        What need not be done again, by address, version and ETag; asked for once for each pass.
    told
        Called with address, version and reason of every object that is left out but for those that patterns leave out.
    """

    def __init__(
        self,
        store: ObjectStore,
        inputs: Sequence[str],
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        lists: Sequence[ListReader] = (),
        *,
        planned: Callable[[], Iterable[InputObject]] = tuple,
        done: Callable[[], Digests] | None = None,
        told: Told = not_told,
    ) -> None:
        folders = AllVersions if options.all_versions else CurrentObjects
        self._sources: list[Source] = [folders(store, given) for given in inputs]
        self._sources += [Listed(reader, store, options) for reader in lists]
        self._finds_duplicates = any(not reader.holds_items for reader in lists)
        self._options, self._planned, self._done, self._told = options, planned, done, told
        self._filter = Filter(options.include, options.exclude)
        self.archived_names: list[str] = []
        """The first objects that were left out because they are archived."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many objects were left out since this inventory was made, by reason."""
        return dict(self._filter.skipped)

    def objects(self, position: Position = Position()) -> Iterator[Found]:  # noqa: B008 - frozen
        """All objects after ``position``, pages fetched as they are needed.

        Where slices of an object are still to be planned, that object comes first, once more and whole.
        """
        with ExitStack() as files:
            seen = files.enter_context(self._seen(position)) if self._finds_duplicates else None
            done = files.enter_context(self._done()) if self._done else None
            for number in range(position.source, len(self._sources)):
                source = self._sources[number]
                for each in source.candidates(position if number == position.source else Position(number)):
                    if each.item:
                        yield Found(each.item, Position(number, each.after), self._filter.snapshot())
                    elif each.info and self._takes(source, each, each.info, seen, done):
                        yield Found(_item(each.info), Position(number, each.after), self._filter.snapshot())
                    elif not each.info:
                        self._leaves_out(each, each.reason)

    def _seen(self, position: Position) -> Digests:
        seen = Digests()
        if position != Position():
            for item in self._planned():
                seen.add(item.uri, item.version_id)
        return seen

    def _takes(
        self, source: Source, each: Candidate, info: ObjectInfo, seen: Digests | None, done: Digests | None
    ) -> bool:
        """Whether a candidate is planned; if not, it is counted."""
        if each.resumed:
            return True
        if each.reason or (info.uri.endswith("/") and not info.size_bytes):
            return self._leaves_out(each, each.reason or FOLDER_MARKER)
        if not self._filter.keeps(source.relative(info.uri)):
            return False
        reason = self._reason(info, seen, done)
        return not reason or self._leaves_out(each, reason)

    def _leaves_out(self, each: Candidate, reason: str) -> bool:
        self._told(each.uri, each.info.version_id if each.info else "", reason)
        return self._filter.skip(reason)

    def _reason(self, info: ObjectInfo, seen: Digests | None, done: Digests | None) -> str:
        """Why an object that the patterns keep is left out; "" if it is not."""
        if info.modified_s < self._options.modified_since_s:
            return OLDER
        if not info.size_bytes and not self._options.keep_empty:
            return EMPTY
        if info.archived:
            self.archived_names += [info.uri] * (len(self.archived_names) < NAMES_KEPT)
            return ARCHIVED
        if done and done.has(info.uri, info.version_id, info.etag):
            return DONE
        return DUPLICATE if seen and not seen.add(info.uri, info.version_id) else ""


def _item(info: ObjectInfo) -> InputObject:
    return InputObject(info.uri, info.size_bytes, info.etag, info.version_id)
