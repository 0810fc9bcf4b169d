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

MAX_NAME_BYTES, MAX_PATH_BYTES = 200, 500  # 255 and, with the output's, 1,024 are possible
MAX_SHOWN = 3
TELL_APART = "tell them apart (--output-name '{folder}/{name}{suffix}'), or choose some (--include)"
_FORMAT = re.compile(
    r"(?i)(\.[a-z][a-z0-9]{0,9})?(\.(gz|gzip|bz2?|xz|lzma|zstd?|lz4|snappy|deflate|zip|tar|tgz|tbz2?|txz|tzst))*$"
)
By = re.Match[str]  # of ``published_by``: run_id, created_ms, identity, shard


# --- who published a file ---


class Owners:
    """Who published each file of an output: its folder's name says so, or a list of the names that an attempt gave.

    A list is written before its files. So one whose shard was stopped may name what another has published: ``owner_of``
    tells, by a file's path, what the file itself keeps. Without it the run that was entered last has the file.
    A shard that is done again has two lists until all its files are replaced.
    """

    def __init__(self, lists: Iterable[tuple[str, bytes]], owner_of: Callable[[str], str] | None = None) -> None:
        self._names = dict[str, list[tuple[By, int]]]()
        self._owner_of = owner_of
        named = ((by, body) for path, body in lists if (by := NAMES_FILE.fullmatch(path)))
        for by, body in sorted(named, key=lambda entry: int(entry[0]["created_ms"], 16)):
            for path, size_bytes in json.loads(body).items():
                self._names.setdefault(path, []).append((by, size_bytes))

    def of(self, path: str, size_bytes: int | None = None) -> By | None:
        """The run and shard that published a file of this size, by its path below the output; None if not known."""
        if by := published_by(path):
            return by
        claims = [by for by, its_bytes in self._names.get(path, ()) if size_bytes in (None, its_bytes)]
        # Only where two lists name a file the file itself is asked: a HEAD for each would be a request a file.
        if len({(by["identity"], by["shard"]) for by in claims}) > 1 and self._owner_of:
            return OWNER.fullmatch(self._owner_of(path))
        return claims[-1] if claims else None


def owners(store: ObjectStore, folder: str) -> Owners:
    """Who published the files of an output, a folder with a slash at its end."""
    # Lists in the output, not the ledger: other stacks read them, too, and a ledger forgets runs that were cleaned.
    uris = [info.uri for info in store.list(folder + NAMES)]
    lists = zip((uri[len(folder) :] for uri in uris), store.get_all(uris), strict=True)
    return Owners(lists, lambda path: store.head(folder + path).owner)


class PublishedFile(NamedTuple):
    """A file in an output."""

    path: str  # below it
    size_bytes: int
    by: By | None  # who published it; None: nobody that is known
    uri: str  # or its local path
    modified_s: float


def files_in(store: ObjectStore, folder: str) -> Iterator[PublishedFile]:
    """All files in an output, a folder with a slash at its end."""
    published = owners(store, folder)
    for info in store.list(folder):
        path = info.uri[len(folder) :]
        if path and not path.endswith("/"):
            yield PublishedFile(path, info.size_bytes, published.of(path, info.size_bytes), info.uri, info.modified_s)


def local_outputs(folder: Path) -> Iterator[PublishedFile]:
    """All files in a local output, and folders that are empty, in the order of their names."""
    lists = ((path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted((folder / NAMES).glob("*")))
    published = Owners(lists)
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or not any(path.iterdir()):
            name, status = path.relative_to(folder).as_posix(), path.lstat()
            by = published.of(name, status.st_size)
            yield PublishedFile(name, status.st_size, by, str(path), status.st_mtime)


def may_replace(deployment: Deployment, run: Run, by: By | None) -> bool:
    """Whether a run may replace another attempt's file, which ``by`` published."""
    # However late an attempt wakes, what a run that was entered later has published stays.
    if by is None or by["identity"] == run.identity or int(by["created_ms"], 16) > int(run.created_s * 1000):
        return False
    if run.options.existing == "overwrite":
        return True
    # The id alone may be that of a run in another ledger over the same bucket; the identity has its time.
    publisher = deployment.known_run(by["run_id"]) if run.options.incremental else None
    return publisher is not None and (publisher.identity, publisher.name) == (by["identity"], run.name)


def refuse_replaced(uris: Iterable[str], outputs: Mapping[str, Callable[[], Owners]]) -> None:
    """PlanError if an object of a run's input is one that the run would delete; so does Spark refuse it.

    Owners are looked up only in those ``outputs`` in which an object lies.
    """
    for (folder, published), uri in product(outputs.items(), uris):
        if uri.startswith(folder) and published().of(uri[len(folder) :]):
            raise PlanError(
                f"the input {uri} lies in the output {folder}, and this run would delete it, since it replaces what "
                "earlier runs wrote there: name another output, or append to this one (--append)"
            )


def published_files(store: ObjectStore, run: Run) -> Iterator[tuple[int, ObjectInfo]]:
    """Each file that a run has published, with the number of its shard."""
    base = f"{run.output_uri.rstrip('/')}/"
    by_name = owners(store, base) if run.options.output_per else Owners(())
    # Folders of shards begin with the run's identity: the listing passes over those of other runs.
    for info in store.list(base if run.options.output_per else base + run.shard_prefix):
        by = by_name.of(info.uri[len(base) :], info.size_bytes)
        if by and by["identity"] == run.identity and not info.uri.endswith("/"):
            yield int(by["shard"]), info


# --- the names of inputs' files ---


def suffix_of(name: str) -> str:
    """What tells the format of a file: .csv, .json.gz, .parquet."""
    match = _FORMAT.search(name)
    return match[0] if match and match.start() else ""


def output_name(
    run_id: str, options: RunOptions, inputs: Sequence[str], item: InputObject, label: str = "", suffix: str = ""
) -> str:
    """The name of an input's file below the output; ``label`` stands behind its stem, ``suffix`` is of its format."""
    uri = item.object_uri
    root = next((input_uri for input_uri in inputs if input_uri.endswith("/") and uri.startswith(input_uri)), "")
    path = uri[len(root) :] if root else uri.rpartition("/")[2] if uri in inputs else split_uri(uri)[1]
    if item.member:
        path = f"{path.removesuffix(suffix_of(path.rpartition('/')[2]))}/{item.member}"
    folder, _, name = path.rpartition("/")
    own_suffix = suffix_of(name)
    stem = name.removesuffix(own_suffix) + label
    values = {"folder": folder, "stem": stem, "name": stem + own_suffix, "run": run_id, "suffix": suffix}
    pattern = options.output_name if folder else options.output_name.replace("{folder}/", "")
    # One pass, since a key may itself hold such a word in braces.
    name = re.sub(r"\{(\w+)\}", lambda field: values[field[1]], pattern)
    parts = name.split("/")
    is_long = len(name.encode()) > MAX_PATH_BYTES or max(len(part.encode()) for part in parts) > MAX_NAME_BYTES
    if is_long or not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
        raise PlanError(f"the output of {item.uri} would be {name}, not a valid name: leave it out (--exclude)")
    return name


def is_named(path: str, name: str) -> bool:
    """Whether a file has an input's ``name``, with any suffix and number, or lies in a folder of that name."""
    rest = path.removeprefix(name)
    return rest != path and re.fullmatch(r"/.*|(-[^/]*)?(\.[^/]*)?", rest, re.DOTALL) is not None


class OutputNames:
    """The names of the files for a run's inputs: unique whatever the capitals, and none is in ``existing_paths``."""

    def __init__(
        self, run_id: str, options: RunOptions, inputs: Sequence[str], existing_paths: Iterable[str] = ()
    ) -> None:
        self._of = run_id, options, inputs
        self._met, self._last = Digests(), ""
        self.close = self._met.close
        self._taken = list[str]()
        for path in existing_paths:
            if not is_hidden(path):
                self._met.add("there", path.casefold().removesuffix(suffix_of(path.rpartition("/")[2]).casefold()))

    def add(self, item: InputObject) -> None:
        """Take one input; PlanError if its output would not be its own. Slices of one object follow each other."""
        if item.uri == self._last:
            return
        self._last, name = item.uri, output_name(*self._of, item)
        if not self._met.add("output", name.casefold()):
            raise PlanError(
                f"the output of {item.uri} would be {name}, and so would that of another input, whatever the capitals: "
                f"{TELL_APART}"
            )
        if self._met.has("there", name.casefold()):
            self._taken.append(name)

    def refuse_taken(self) -> None:
        """PlanError if there is an output of one of these inputs."""
        if self._taken:
            more = f" and {len(self._taken) - MAX_SHOWN} more" if len(self._taken) > MAX_SHOWN else ""
            raise PlanError(
                f"the output holds {', '.join(self._taken[:MAX_SHOWN])}{more} already: replace what is there "
                "(--overwrite), give other names (--output-name '{folder}/{stem}-{run}{suffix}'), or another output"
            )
