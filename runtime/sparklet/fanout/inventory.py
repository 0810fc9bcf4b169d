"""What a run's input consists of: S3 folders and objects, listed in order and from any position on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sparklet.errors import ObjectNotFoundError, PlanError
from sparklet.fanout.globs import Filter
from sparklet.model import InputObject, Position
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.s3_uri import SCHEME, split_uri

FOLDER_MARKER = "an empty object that stands for a folder"


@dataclass(frozen=True, slots=True)
class Found:
    """An object of the input, and how far planning has come once it is in a shard."""

    item: InputObject
    position: Position
    skipped: Mapping[str, int] = field(default_factory=dict)  # left out before it by this inventory, by reason


class Inventory:
    """The objects of a run's input, in the order of the inputs and, below each, of their keys.

    Parameters
    ----------
    inputs
        As ``resolve_inputs`` gives them: a folder ends in ``/``, everything else is one object.
    include, exclude
        Patterns on the key below the folder, on the file name of a single object (see ``globs``).
    """

    def __init__(
        self, store: ObjectStore, inputs: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._filter = Filter(include, exclude)

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many objects were left out since this inventory was made, by reason."""
        return dict(self._filter.skipped)

    def objects(self, position: Position = Position()) -> Iterator[Found]:  # noqa: B008 - frozen
        """All objects after ``position``, pages fetched as they are needed.

        Where slices of an object are still to be planned, that object comes first, once more and whole.
        """
        for source in range(position.source, len(self._inputs)):
            here = position if source == position.source else Position(source)
            for info in self._list(self._inputs[source], here):
                if self._keeps(self._inputs[source], info):
                    item = InputObject(info.uri, info.size_bytes, info.etag)
                    yield Found(item, Position(source, split_uri(info.uri)[1]), self._filter.snapshot())

    def _list(self, given: str, at: Position) -> Iterator[ObjectInfo]:
        if at.slices:
            yield self._store.head(f"{SCHEME}{split_uri(given)[0]}/{at.after}")
        if given.endswith("/"):
            yield from self._store.list(given, at.after)
        elif not at.after:
            yield self._store.head(given)

    def _keeps(self, given: str, info: ObjectInfo) -> bool:
        if info.uri.endswith("/") and not info.size_bytes:
            return self._filter.skip(FOLDER_MARKER)
        folder = given if given.endswith("/") else given.rpartition("/")[0] + "/"
        return self._filter.keeps(info.uri.removeprefix(folder))


def resolve_inputs(store: ObjectStore, inputs: Sequence[str]) -> tuple[str, ...]:
    """Make inputs definite: ``s3://bucket/name`` is that object if it is there, else the folder ``name/``.

    Raises
    ------
    PlanError
        If an input is no S3 address, if nothing lies there, or if two inputs overlap.
    """
    if not inputs:
        raise PlanError("no input was given; name at least one s3://bucket/folder/ or object")
    resolved = tuple(_resolve(store, _s3_address(given)) for given in inputs)
    refuse_overlap(resolved)
    return resolved


def refuse_overlap(inputs: Sequence[str]) -> None:
    """PlanError if an object could belong to two inputs: it would be processed twice."""
    folder = last = None
    for given in sorted(inputs):
        if given == last:
            raise PlanError(f"the input {given} was given twice; its objects would be processed twice")
        if folder is not None and given.startswith(folder):
            raise PlanError(
                f"the input {given} lies inside the input {folder}; its objects would be processed twice: leave one out"
            )
        if given.endswith("/"):
            folder = given
        last = given


def _s3_address(given: str) -> str:
    """The input as ``s3://bucket/...``; ``s3a://`` and ``s3n://`` mean the same."""
    scheme, separator, rest = given.partition("://")
    if not separator or scheme not in ("s3", "s3a", "s3n") or not rest.partition("/")[0]:
        raise PlanError(f"the input {given!r} cannot be listed; it must look like s3://bucket/folder/")
    return f"{SCHEME}{rest}" if "/" in rest else f"{SCHEME}{rest}/"


def _resolve(store: ObjectStore, uri: str) -> str:
    if not uri.endswith("/"):
        try:
            return store.head(uri).uri
        except ObjectNotFoundError:
            pass  # then it is a folder, or nothing
    folder = uri if uri.endswith("/") else f"{uri}/"
    if next(iter(store.list(folder)), None) is None:
        raise PlanError(
            f"the input {uri} is empty: there is no object below {folder} "
            f"(for keys that only begin alike, give their folder and --include 'beginning*')"
        )
    return folder
