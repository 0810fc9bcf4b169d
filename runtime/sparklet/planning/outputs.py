"""Where a run publishes: in a folder for each shard, or for each input (docs/decisions/0083)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, product

from sparklet.errors import PlanError
from sparklet.inputs.digests import Digests
from sparklet.model import Run, published_by, split_uri
from sparklet.ports import ObjectInfo, ObjectStore

MAX_NAME_BYTES, MAX_PLACE_BYTES = 200, 500  # 255 and, with the output's and the files' names, 1,024 are possible
_FORMAT = re.compile(
    r"(?i)(\.[a-z][a-z0-9]{0,9})?(\.(gz|gzip|bz2?|xz|lzma|zstd?|lz4|snappy|deflate|zip|tar|tgz|tbz2?|txz|tzst))*$"
)


def refuse_replaced(uris: Iterable[str], folders: Iterable[str]) -> None:
    """PlanError if an object of a run's input is one that the run would delete; so does Spark refuse it."""
    for folder, uri in product(folders, uris):
        if uri.startswith(folder) and published_by(uri[len(folder) :]):
            raise PlanError(
                f"the input {uri} lies in the output {folder}, and this run would delete it, since it replaces what "
                "earlier runs wrote there: name another output, or append to this one (--append)"
            )


def published_files(store: ObjectStore, run: Run) -> Iterator[tuple[int, ObjectInfo]]:
    """Each file that a run has published, with the number of its shard."""
    base = f"{run.output_uri.rstrip('/')}/"
    for info in store.list(base if run.options.output_per else base + run.shard_prefix):
        found = published_by(info.uri[len(base) :])
        if found and found["identity"] == run.identity and not info.uri.endswith("/"):
            yield int(found["shard"]), info


def input_place(uri: str, inputs: Sequence[str]) -> str:
    """The folder of an input's output, below the run's: its own folders, and its name without that of its format."""
    root = next((given for given in inputs if given.endswith("/") and uri.startswith(given)), "")
    path = uri[len(root) :] if root else uri.rpartition("/")[2] if uri in inputs else split_uri(uri)[1]
    folder, slash, name = path.rpartition("/")
    found = _FORMAT.search(name)
    return f"{folder}{slash}{name[: found.start()] if found and found.start() else name}"


class InputPlaces:
    """The outputs of a run's inputs: no two are one, and none lies in another, whatever the capitals."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs, self._met, self._last = inputs, Digests(), ("", "")  # of the last: object, folder
        self.close = self._met.close

    def add(self, uri: str) -> None:
        """Take one input; PlanError if its output would not be its own. Slices of one object follow each other."""
        if uri == self._last[0]:
            return
        place, met = input_place(uri, self._inputs), self._met
        names = place.casefold().split("/")
        is_long = len(place.encode()) > MAX_PLACE_BYTES or max(len(name.encode()) for name in names) > MAX_NAME_BYTES
        if is_long or not {"", ".", ".."}.isdisjoint(names) or "\0" in place:
            raise PlanError(f"the output of {uri} would be {place}, which can be no folder: leave it out (--exclude)")
        *folders, whole = accumulate(names, "{}/{}".format)
        new = folders if folders[-1:] != [self._last[1]] else []
        if met.has("folder", whole) or any(met.has("output", each) for each in new) or not met.add("output", whole):
            raise PlanError(
                f"the output of {uri} would be {place}, and that of another input is there, in it, or around it, "
                "whatever the capitals: give them to runs with other outputs, or choose some (--include)"
            )
        for each in new:
            met.add("folder", each)
        self._last = uri, folders[-1] if folders else ""
