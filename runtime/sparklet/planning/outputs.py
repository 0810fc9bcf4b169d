"""Where a run publishes: in a folder for each shard, or in a file for each input (docs/decisions/0083)."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from sparklet.errors import PlanError
from sparklet.model import NAMES, NAMES_FILE, OWNER, InputObject, Run, RunOptions, published_by, split_uri
from sparklet.planning.inputs.selection import Digests, is_hidden
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.ports.deployment import Deployment

MAX_NAME_BYTES, MAX_PATH_BYTES = 200, 500  # S3 and disks allow 255 and, with the output's own path, 1,024
MAX_SHOWN = 3
TELL_APART = "tell them apart (--output-name '{folder}/{name}{suffix}'), or choose some (--include)"
_FORMAT = re.compile(
    r"(?i)(\.[a-z][a-z0-9]{0,9})?(\.(gz|gzip|bz2?|xz|lzma|zstd?|lz4|snappy|deflate|zip|tar|tgz|tbz2?|txz|tzst))*$"
)
By = re.Match[str]  # who published a file, see ``published_by``: run_id, created_ms, identity, shard


# --- who published a file ---


class Owners:
    """Tells who published each file of an output: by its folder's name, or by an attempt's list of its files.

    A list is written before the files. So the list of a shard that was stopped may name a file that another shard has
    published: then ``owner_of``, called with the file's path, returns the owner that is stored with the file. Without
    ``owner_of`` the run that was entered last counts. A shard that is done again has two lists until all its files are
    replaced.
    """

    def __init__(self, lists: Iterable[tuple[str, bytes]], owner_of: Callable[[str], str] | None = None) -> None:
        self._names = dict[str, list[tuple[By, int]]]()
        self._owner_of = owner_of
        list_bodies = ((by, body) for path, body in lists if (by := NAMES_FILE.fullmatch(path)))
        for by, body in sorted(list_bodies, key=lambda entry: int(entry[0]["created_ms"], 16)):
            for path, size_bytes in json.loads(body).items():
                self._names.setdefault(path, []).append((by, size_bytes))

    def of(self, path: str, size_bytes: int | None = None) -> By | None:
        """The run and shard that published a file of this size, by its path below the output; None if not known."""
        if by := published_by(path):
            return by
        claims = [by for by, listed_bytes in self._names.get(path, ()) if size_bytes in (None, listed_bytes)]
        # The file's own owner is read only if two lists name the file: it takes a HEAD request.
        if len({(by["identity"], by["shard"]) for by in claims}) > 1 and self._owner_of:
            return OWNER.fullmatch(self._owner_of(path))
        return claims[-1] if claims else None


def owners(store: ObjectStore, folder: str) -> Owners:
    """Who published the files of an output; ``folder`` ends with a slash."""
    # The lists are in the output, not in the ledger: other stacks read them, and a ledger loses runs that are cleaned.
    uris = [info.uri for info in store.list(folder + NAMES)]
    lists = zip((uri[len(folder) :] for uri in uris), store.get_all(uris), strict=True)
    return Owners(lists, lambda path: store.head(folder + path).owner)


class PublishedFile(NamedTuple):
    """A file in an output."""

    path: str  # below the output
    size_bytes: int
    by: By | None  # who published it; None: not known
    uri: str  # or a local path
    modified_s: float


def files_in(store: ObjectStore, folder: str) -> Iterator[PublishedFile]:
    """All files in an output; ``folder`` ends with a slash."""
    file_owners = owners(store, folder)
    for info in store.list(folder):
        path = info.uri[len(folder) :]
        if path and not path.endswith("/"):
            yield PublishedFile(path, info.size_bytes, file_owners.of(path, info.size_bytes), info.uri, info.modified_s)


def local_outputs(folder: Path) -> Iterator[PublishedFile]:
    """All files and empty folders in a local output, in the order of their names."""
    lists = ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted((folder / NAMES).glob("*")))
    file_owners = Owners(lists)
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or not any(path.iterdir()):
            name, status = path.relative_to(folder).as_posix(), path.lstat()
            by = file_owners.of(name, status.st_size)
            yield PublishedFile(name, status.st_size, by, str(path), status.st_mtime)


def may_replace(deployment: Deployment, run: Run, by: By | None) -> bool:
    """Whether a run is allowed to replace a file that ``by`` published."""
    # An attempt may wake late: files of a run that was entered later than its own run must stay.
    if by is None or by["identity"] == run.identity or int(by["created_ms"], 16) > int(run.created_s * 1000):
        return False
    if run.options.existing == "overwrite":
        return True
    # Another ledger over the same bucket may have a run with this id; the identity also has the run's time.
    publisher = deployment.known_run(by["run_id"]) if run.options.incremental else None
    return publisher is not None and (publisher.identity, publisher.name) == (by["identity"], run.name)


def refuse_replaced(uris: Iterable[str], outputs: Mapping[str, Callable[[], Owners]]) -> None:
    """PlanError if a run would delete an object of its own input; Spark refuses that, too.

    ``outputs`` has a function for each folder that returns the folder's owners; it is called only if an object is in
    the folder.
    """
    for (folder, load_owners), uri in product(outputs.items(), uris):
        if uri.startswith(folder) and load_owners().of(uri[len(folder) :]):
            raise PlanError(
                f"the input {uri} lies in the output {folder}, and this run would delete it, since it replaces what "
                "earlier runs wrote there: name another output, or append to this one (--append)"
            )


def published_files(store: ObjectStore, run: Run) -> Iterator[tuple[int, ObjectInfo]]:
    """The files that a run has published, each as a pair of its shard's number and the file."""
    base = f"{run.output_uri.rstrip('/')}/"
    by_name = owners(store, base) if run.options.output_per else Owners(())
    # Folders of shards begin with the run's identity, so that folders of other runs are not listed.
    for info in store.list(base if run.options.output_per else base + run.shard_prefix):
        by = by_name.of(info.uri[len(base) :], info.size_bytes)
        if by and by["identity"] == run.identity and not info.uri.endswith("/"):
            yield int(by["shard"]), info


# --- the names of inputs' files ---


def suffix_of(name: str) -> str:
    """The part of a file's name that shows its format: .csv, .json.gz, .parquet; "" if there is none."""
    match = _FORMAT.search(name)
    return match[0] if match and match.start() else ""


def output_name(
    run_id: str, options: RunOptions, inputs: Sequence[str], item: InputObject, label: str = "", suffix: str = ""
) -> str:
    """The name, below the output, of an input's file: ``label`` follows the stem, ``suffix`` is the format's."""
    uri = item.object_uri
    root = next((input_uri for input_uri in inputs if input_uri.endswith("/") and uri.startswith(input_uri)), "")
    if root:
        path = uri[len(root) :]
    elif uri in inputs:
        path = uri.rpartition("/")[2]
    else:
        path = split_uri(uri)[1]
    if item.member:
        path = f"{path.removesuffix(suffix_of(path.rpartition('/')[2]))}/{item.member}"
    folder, _, name = path.rpartition("/")
    own_suffix = suffix_of(name)
    stem = name.removesuffix(own_suffix) + label
    values = {"folder": folder, "stem": stem, "name": stem + own_suffix, "run": run_id, "suffix": suffix}
    pattern = options.output_name if folder else options.output_name.replace("{folder}/", "")
    # One pass, since an object's key may itself have such a word in braces.
    name = re.sub(r"\{(\w+)\}", lambda field: values[field[1]], pattern)
    parts = name.split("/")
    is_long = len(name.encode()) > MAX_PATH_BYTES or max(len(part.encode()) for part in parts) > MAX_NAME_BYTES
    if is_long or not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
        raise PlanError(f"the output of {item.uri} would be {name}, not a valid name: leave it out (--exclude)")
    return name


def is_named(path: str, name: str) -> bool:
    """Whether a file has an input's ``name``, with any number and suffix, or is in a folder of that name."""
    rest = path.removeprefix(name)
    return rest != path and re.fullmatch(r"/.*|(-[^/]*)?(\.[^/]*)?", rest, re.DOTALL) is not None


class OutputNames:
    """The names of the files for a run's inputs. They must differ, whatever the case of letters, and be new there."""

    def __init__(
        self, run_id: str, options: RunOptions, inputs: Sequence[str], existing_paths: Iterable[str] = ()
    ) -> None:
        self._naming = run_id, options, inputs
        self._names, self._last = Digests(), ""
        self.close = self._names.close
        self._taken = list[str]()
        for path in existing_paths:
            if not is_hidden(path):
                self._names.add("existing", path.casefold().removesuffix(suffix_of(path.rpartition("/")[2]).casefold()))

    def add(self, item: InputObject) -> None:
        """Add an input; PlanError if another input has the same output. Slices of an object follow each other."""
        if item.uri == self._last:
            return
        self._last, name = item.uri, output_name(*self._naming, item)
        if not self._names.add("output", name.casefold()):
            raise PlanError(
                f"the output of {item.uri} would be {name}, and so would that of another input, whatever the capitals: "
                f"{TELL_APART}"
            )
        if self._names.has("existing", name.casefold()):
            self._taken.append(name)

    def refuse_taken(self) -> None:
        """PlanError if outputs of inputs that were added exist already."""
        if self._taken:
            more = f" and {len(self._taken) - MAX_SHOWN} more" if len(self._taken) > MAX_SHOWN else ""
            raise PlanError(
                f"the output holds {', '.join(self._taken[:MAX_SHOWN])}{more} already: replace what is there "
                "(--overwrite), give other names (--output-name '{folder}/{stem}-{run}{suffix}'), or another output"
            )
