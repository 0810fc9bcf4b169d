"""Local inputs copied to the bucket, and a run's output copied to a local folder, with progress."""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from sparklet.app.reporter import Reporter, count_text, size_text
from sparklet.app.stack import OpenStack
from sparklet.errors import PlanError, SettingsError
from sparklet.inputs.local_files import local_files
from sparklet.inputs.selection import Filter
from sparklet.job.catalogs import VARIABLES, catalog_properties
from sparklet.local.state import read_json
from sparklet.model import Run, RunOptions, ShardState
from sparklet.planning.new_run import run_id_of
from sparklet.planning.packing import within_limit
from sparklet.planning.request import RunRequest
from sparklet.ports import ObjectInfo, ObjectStore

T = TypeVar("T")
FOLDER = "local-paths"  # of the local stack's; it holds a file for each run that was started from here
THREADS = 8
SAY_EVERY = 100  # files

Say = Callable[[str], None]


@dataclass(frozen=True)
class LocalPaths:
    """Which local folders belong to a run; kept in the local stack's folder for later redrives."""

    inputs: Mapping[str, str] = field(default_factory=dict)  # S3 folder or object → local path
    output: str = ""  # local folder to be filled; "" = none
    replaces: Sequence[str] = ()  # names in it of what earlier runs wrote, to be deleted when it is filled

    def save(self, folder: Path, run_id: str) -> None:
        """Save them for ``run_id``."""
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".{run_id}.json"
        new.write_text(json.dumps(asdict(self), indent=2))
        new.replace(folder / f"{run_id}.json")

    @classmethod
    def load(cls, folder: Path, run_id: str) -> "LocalPaths":
        """The paths of ``run_id``; empty if it was not started from local paths."""
        return cls(**read_json(folder / f"{run_id}.json") or {})


def local_paths(stack: OpenStack, run_id: str) -> LocalPaths:
    """The local paths of a run; none if it was not started from local paths, or in a deployed stack."""
    return LocalPaths.load(stack.state / FOLDER, run_id) if stack.state else LocalPaths()


def with_local_files(stack: OpenStack, request: RunRequest, reporter: Reporter) -> RunRequest:
    """Copy a request's local files to the bucket; the request with their addresses, its output in the bucket."""
    if stack.state is None:
        table = request.table.partition("file://")[2]
        refuse_remote_only((*request.inputs, *request.files.values(), table), request.output_uri)
        return request
    is_local = request.output_uri and "://" not in request.output_uri
    paths = _output_paths(stack.state / FOLDER, request) if is_local else LocalPaths()
    inputs: list[str] = []
    for index, given in enumerate(request.inputs):
        inputs.append(given if "://" in given else _upload_input(stack, request, index, Path(given), reporter))
        if "://" not in given:
            paths = replace(paths, inputs={**paths.inputs, inputs[-1]: str(Path(given).resolve())})
    paths.save(stack.state / FOLDER, request.run_id)
    files = {}
    for name, given in request.files.items():
        path = Path(given)
        files[name] = f"s3://{stack.at.bucket}/input/{request.run_id}/files/{name}/{path.name}"
        reporter.say(f"copying {path} to the bucket")
        stack.at.store.upload(path, files[name])
    output_uri = f"s3://{stack.at.bucket}/output/{request.run_id}/" if paths.output else request.output_uri
    if paths.output and request.table.startswith("iceberg:"):
        Path(paths.output).mkdir(parents=True, exist_ok=True)  # for the catalog
    return replace(request, inputs=tuple(inputs), output_uri=output_uri, params={**request.params, **files})


def checked_output(request: RunRequest, state: Path | None) -> RunRequest:
    """The request with a catalog of Iceberg's below its local output; SettingsError if it cannot write there.

    The catalog is in SQLite, unless one is configured; its warehouse is a ``file://`` folder, since Iceberg's metadata
    holds absolute addresses. ``state``: the local stack's folder.
    """
    output, run_id = Path(request.output_uri).resolve(), run_id_of(request, 0.0)
    if state and LocalPaths.load(state / FOLDER, run_id).output != str(output):  # else it is this run's own
        check_output(output, request.options.existing)
    named = catalog_properties({**os.environ, **request.env}, request.params.get("warehouse"))
    if not request.table.startswith("iceberg:") or {"type", "uri"} & named.keys():
        return request
    catalog = {
        f"{VARIABLES}TYPE": "sql",
        f"{VARIABLES}URI": f"sqlite:///{output / 'catalog.sqlite'}",
        f"{VARIABLES}WAREHOUSE": f"file://{output}/warehouse",
    }
    return replace(request, env={**catalog, **request.env})


def _output_paths(paths_dir: Path, request: RunRequest) -> LocalPaths:
    """The local output and what is replaced there; a run that is started again keeps its own."""
    output, existing = str(Path(request.output_uri).resolve()), request.options.existing
    known = LocalPaths.load(paths_dir, request.run_id)
    if known.output == output:
        return known
    paths = LocalPaths(output=output, replaces=check_output(Path(output), existing))
    if existing == "overwrite":
        give_up_output(paths_dir, output)
    return paths


def _upload_input(stack: OpenStack, request: RunRequest, index: int, path: Path, reporter: Reporter) -> str:
    """Copy one local input; the S3 folder or object of the copy."""
    base, options = f"s3://{stack.at.bucket}/input/{request.run_id}/{index}/", request.options
    reporter.say(f"copying {path} to the bucket")
    deque(within_limit(wanted_files(path, options), options.limit, str(path)), maxlen=0)  # before anything is copied
    upload(stack.at.store, ((file, base + key) for file, key in wanted_files(path, options)), reporter.say)
    return base if path.is_dir() else base + path.name


def wanted_files(path: Path, options: RunOptions) -> Iterator[tuple[Path, str]]:
    """The files of a local input that the options choose, each with its key; PlanError at once if there is none."""
    since_s, found = options.modified_since_s, local_files(path, Filter(options.include, options.exclude))
    wanted = (each for each in found if not since_s or each[0].stat().st_mtime >= since_s)
    if (first := next(wanted, None)) is None:
        raise PlanError(f"the input {path} holds no file to plan; check the folder, --include, --exclude and --since")
    return chain([first], wanted)


def upload(store: ObjectStore, files: Iterable[tuple[Path, str]], say: Say) -> None:
    """Put local files into the bucket, each under its URI."""

    def put(file: tuple[Path, str]) -> int:
        path, uri = file
        store.upload(path, uri)
        return path.stat().st_size

    _transfer(put, files, say, "in the bucket")


def changed(store: ObjectStore, files: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The files that the bucket lacks, or has with other content."""

    @cache
    def etags(folder: str) -> dict[str, str]:
        return {info.uri: info.etag.strip('"') for info in store.list(folder)}

    return [(path, uri) for path, uri in files if etags(uri.rpartition("/")[0] + "/").get(uri) != _md5(path)]


def check_output(folder: Path, existing: str) -> Sequence[str]:
    """The names that a run replaces in a local folder: none, or all.

    SettingsError if the folder is a file, or if ``existing`` (see ``RunOptions``) forbids what it holds.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"--output {folder} is a file; name a folder")
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    if held and existing == "refuse":
        raise SettingsError(
            f"--output {folder} is not empty: append to it (--append), replace what is there (--overwrite), "
            "or name another folder"
        )
    if existing != "overwrite":
        return ()
    if not all(entry.is_dir() and entry.name.startswith("shard=") for entry in held):
        raise SettingsError(f"--output {folder} holds files that no Sparklet run wrote; name another folder")
    return [entry.name for entry in held]


def give_up_output(paths_dir: Path, output: str) -> None:
    """Let no earlier run fill a local folder again, since a new run replaces its files."""
    for path in paths_dir.glob("*.json"):
        paths = LocalPaths.load(paths_dir, path.stem)
        if paths.output == output:
            replace(paths, output="").save(paths_dir, path.stem)


def fill_output(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Download the output of succeeded shards to the run's local output folder, if it has one."""
    paths = local_paths(stack, run.run_id)
    if paths.output:
        fill(stack.at.store, run, paths, _succeeded(stack, run), reporter.say)


def is_complete(stack: OpenStack, run: Run, folder: Path) -> bool:
    """Whether a local folder has every file that succeeded shards wrote, by name and size."""
    files = output_files(stack.at.store, run, _succeeded(stack, run))
    found = ((folder / name, info.size_bytes) for name, info in files.items())
    return all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in found)


def _succeeded(stack: OpenStack, run: Run) -> set[int]:
    return {record.number for record in stack.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)}


def fill(store: ObjectStore, run: Run, paths: LocalPaths, shards: Collection[int], say: Say) -> None:
    """Make a run's folders below its local output hold what ``shards`` have written; then delete what it replaces.

    Files that are there already are not downloaded again; files of other runs stay.
    """
    folder = Path(paths.output)
    keep = {folder / name: info for name, info in output_files(store, run, shards).items()}
    if shards:
        folder.mkdir(parents=True, exist_ok=True)
    for path in [p for p in folder.glob(f"{run.shard_prefix}*/**/*") if p.is_file() and p not in keep]:
        path.unlink()
    _transfer(lambda item: _download(store, *item), keep.items(), say, f"in {folder}")
    for name in paths.replaces:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in sorted((p for p in folder.glob(f"{run.shard_prefix}*/**/") if p.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    if run.table and not shards:
        with suppress(OSError):  # it was made for a catalog, and is empty unless there is one
            folder.rmdir()


def output_files(store: ObjectStore, run: Run, shards: Iterable[int]) -> dict[str, ObjectInfo]:
    """The files that ``shards`` have written, by their names below the run's output."""
    prefix, wanted = run.output_uri.rstrip("/") + "/", {f"{run.shard_prefix}{number:06d}" for number in shards}
    named = ((info.uri.removeprefix(prefix), info) for info in store.list(prefix))
    return {name: info for name, info in named if name.split("/", 1)[0] in wanted and not name.endswith("/")}


def _download(store: ObjectStore, path: Path, info: ObjectInfo) -> int:
    if not (path.exists() and path.stat().st_size == info.size_bytes and _md5(path) == info.etag.strip('"')):
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(info.uri, path, etag=info.etag)
    return info.size_bytes


def _md5(path: Path) -> str:
    """The ETag of an object that was written in one part."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _transfer(work: Callable[[T], int], items: Iterable[T], say: Say, where: str) -> None:
    """Copy files in threads, a bounded number in memory at a time; ``work`` returns a file's bytes."""
    waiting, count, size_bytes = iter(items), 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(waiting, SAY_EVERY)):
            size_bytes += sum(pool.map(work, batch))
            count += len(batch)
            if len(batch) == SAY_EVERY:
                say(f"  {count} files ({size_text(size_bytes)}) {where} so far")
    if count:
        say(f"  {count_text(count, 'file')} ({size_text(size_bytes)}) {where}")


def local_part(uri: str, inputs: Mapping[str, str]) -> Path | None:
    """The local file that was put at ``uri``; None if none was."""
    for folder, local in inputs.items():
        if folder.endswith("/") and uri.startswith(folder):
            return Path(local) / uri.removeprefix(folder)
        if uri == folder:
            return Path(local)
    return None


def stored_uri(path: Path, inputs: Mapping[str, str]) -> str:
    """Where a local file was put; "" if it is no input of the run."""
    for folder, local in inputs.items():
        whole, root = path.absolute(), Path(local)
        if folder.endswith("/") and whole.is_relative_to(root):
            return folder + whole.relative_to(root).as_posix()
        if whole == root:
            return folder
    return ""


def refuse_remote_only(inputs: Collection[str], output: str) -> None:
    """PlanError if there is a local path, which a deployed stack cannot read."""
    for path in (*inputs, output):
        if path and "://" not in path:
            raise PlanError(
                f"{path} is a local path, but a deployed stack reads and writes s3:// only; copy it there first"
            )
