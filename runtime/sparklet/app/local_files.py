"""Local inputs copied to the bucket, and a run's output copied to a local folder, with progress."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from math import inf
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

from sparklet.app.reporter import Reporter, count_text, size_text
from sparklet.app.stack import OpenStack
from sparklet.errors import ObjectStoreError, PlanError, SettingsError
from sparklet.job.catalogs import VARIABLES, catalog_properties
from sparklet.local.lock import Lock
from sparklet.local.state import LOCAL_PATHS, StateDir, read_json, write_json
from sparklet.model import InputObject, Run, RunOptions
from sparklet.planning.inputs.folders import local_files
from sparklet.planning.inputs.selection import Filter
from sparklet.planning.new_run import refuse_own_output, run_id_of
from sparklet.planning.output_claims import replaced_by
from sparklet.planning.outputs import By, OutputNames, local_outputs, may_replace, published_files
from sparklet.planning.packing import paths_in_output, within_limit
from sparklet.planning.request import RunRequest
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.ports.deployment import Deployment

T = TypeVar("T")
THREADS = 8
SAY_EVERY = 100  # files

Say = Callable[[str], None]


def local_inputs(stack: OpenStack, run_id: str) -> Mapping[str, str]:
    """The local paths from which a run's inputs were copied, by S3 folder or object; {} in a deployed stack."""
    return (read_json(_kept(stack.state, run_id)) or {}) if stack.state else {}


def forget_inputs(stack: OpenStack, run_id: str) -> None:
    """Forget where a run's inputs were copied from."""
    if stack.state:
        _kept(stack.state, run_id).unlink(missing_ok=True)


def _kept(state: Path, run_id: str) -> Path:
    return state / LOCAL_PATHS / f"{run_id}.json"


def with_local_files(stack: OpenStack, request: RunRequest, reporter: Reporter) -> RunRequest:
    """Copy a request's local files to the bucket; return the request with their addresses, its output in the bucket."""
    if stack.state is None:
        table = request.table.partition("file://")[2]
        refuse_remote_only((*request.inputs, *request.files.values(), table), request.output_uri)
        return request
    inputs = {
        source if "://" in source else _upload_input(stack, request, index, Path(source), reporter): source
        for index, source in enumerate(request.inputs)
    }
    local = {uri: str(Path(source).resolve()) for uri, source in inputs.items() if uri != source}
    # Kept by the run's id before the run is entered, so that a redrive always finds the local files.
    write_json(_kept(stack.state, request.run_id), local)
    files = {}
    for name, source in request.files.items():
        path = Path(source)
        files[name] = f"s3://{stack.deployment.bucket}/input/{request.run_id}/files/{name}/{path.name}"
        reporter.say(f"copying {path} to the bucket")
        stack.deployment.store.upload(path, files[name])
    if request.output_uri and "://" not in request.output_uri:
        output = Path(request.output_uri).resolve()
        if request.table.startswith("iceberg:"):
            output.mkdir(parents=True, exist_ok=True)  # for the catalog
        bucket_copy = f"s3://{stack.deployment.bucket}/output/{request.run_id}/"
        request = replace(request, output_uri=bucket_copy, local_output=_folder_uri(output))
    return replace(request, inputs=tuple(inputs), params={**request.params, **files})


def _folder_uri(folder: Path) -> str:
    return f"file://{str(folder.resolve()).rstrip('/')}/"


def refuse_own_input(path: Path, output: str, state: Path) -> None:
    """PlanError if a local output, or the local stack's folder ``state``, lies inside the local input ``path``."""
    places = {"the state folder": state} | ({"the output": Path(output)} if output and "://" not in output else {})
    if path.is_dir():
        refuse_own_output([_folder_uri(path)], {what: _folder_uri(folder) for what, folder in places.items()})


def refuse_replaced_input(files: Iterable[Path], request: RunRequest) -> None:
    """PlanError if one of the local files that a run reads lies in the local output that it replaces."""
    output = Path(request.output_uri).resolve()
    read = next((path for path in files if path.resolve().is_relative_to(output)), None)
    if read and "://" not in request.output_uri:
        raise PlanError(
            f"the input {read} lies in the output {output}, and this run would delete it, since it replaces what is "
            "there: name another output, or append to this one (--append)"
        )


def refuse_taken_names(request: RunRequest) -> None:
    """PlanError if a local output holds files under the names that a run will give those of its local inputs."""
    if not (request.options.output_per and request.options.existing == "append"):
        return
    existing_names = paths_in_output(None, request)
    folders = [source for source in request.inputs if "://" not in source]
    named = tuple(f"{source.rstrip('/')}/" if Path(source).is_dir() else source for source in folders)
    with closing(OutputNames(request.run_id, request.options, named, existing_names)) as names:
        for source in named:
            for _, key in wanted_files(Path(source), request.options):
                names.add(InputObject(source + key if source.endswith("/") else source, 0))
        names.refuse_taken()


def checked_output(request: RunRequest, state: Path | None) -> RunRequest:
    """The request with a catalog of Iceberg's below its local output; SettingsError if it cannot write there.

    The catalog is in SQLite, unless one is configured; its warehouse is a ``file://`` folder, since Iceberg's metadata
    holds absolute addresses. ``state``: the local stack's folder.
    """
    output, run_id = Path(request.output_uri).resolve(), run_id_of(request, 0.0)
    _refuse_unwritable(output)
    if not (state and _kept(state, run_id).exists()):  # else it may be this run's own; ``fill`` looks again
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


def _upload_input(stack: OpenStack, request: RunRequest, index: int, path: Path, reporter: Reporter) -> str:
    """Copy one local input; return the S3 folder or object of the copy."""
    base, options = f"s3://{stack.deployment.bucket}/input/{request.run_id}/{index}/", request.options
    reporter.say(f"copying {path} to the bucket")
    deque(within_limit(wanted_files(path, options), options.limit, str(path)), maxlen=0)  # before anything is copied
    upload(stack.deployment.store, ((file, base + key) for file, key in wanted_files(path, options)), reporter.say)
    return base if path.is_dir() else base + path.name


def wanted_files(path: Path, options: RunOptions) -> Iterator[tuple[Path, str]]:
    """The files of a local input that the options choose, each with its key; PlanError at once if there is none."""
    since_s, files = options.modified_since_s, local_files(path, Filter(options.include, options.exclude))
    chosen = (file for file in files if not since_s or file[0].stat().st_mtime >= since_s)
    if (first := next(chosen, None)) is None:
        raise PlanError(f"the input {path} holds no file to plan; check the folder, --include, --exclude and --since")
    return chain([first], chosen)


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

    # A LIST a folder instead of a HEAD a file. An object of several parts has an ETag that is not an MD5: it is
    # uploaded at each redrive, which does no harm.
    return [(path, uri) for path, uri in files if etags(uri.rpartition("/")[0] + "/").get(uri) != _md5(path)]


def check_output(folder: Path, existing: str) -> None:
    """SettingsError if ``existing`` (see ``RunOptions``) forbids what a local output holds."""
    if existing == "refuse" and folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(
            f"--output {folder} is not empty: append to it (--append), replace what is there (--overwrite), "
            "or name another folder"
        )
    files = local_outputs(folder) if existing == "overwrite" else ()
    if other := next((file.path for file in files if not file.by), ""):
        raise SettingsError(f"--output {folder} holds {other}, which no Sparklet run wrote; name another folder")


def _refuse_unwritable(folder: Path) -> None:
    """SettingsError unless a folder, or the nearest one above it that exists, can be written to; nothing is left."""
    nearest = folder
    try:
        while not nearest.exists():
            nearest = nearest.parent
        # Permissions alone do not tell: a disk may be read-only or full.
        with TemporaryFile(dir=nearest) as file:
            file.write(b"a full disk takes files, but no content")
    except OSError as error:
        cause = f"{nearest}: {error.strerror}"
        raise SettingsError(f"--output {folder} cannot be written ({cause}); name a folder that can") from error


def fill_output(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Download the output of succeeded shards to the run's local output folder, if it has one; see ``_refuse_others``.

    If a later run has replaced what is there, this one's output stays in the bucket, with a warning.
    """
    if not run.local_output:
        return
    with Lock(StateDir(stack.state or Path()).fill_lock) as lock:
        lock.exclusive(inf, lambda: reporter.say("waiting for another run that fills its local output"))
        # Asked under the lock: while this client waited another run may have replaced the folder.
        if later := replaced_by(stack.deployment, run):
            reporter.warn(f"{local_folder(run)} is {later}'s by now; what {run.run_id} wrote stays in {run.output_uri}")
            return
        _refuse_others(stack.deployment, run)
        try:
            fill(stack.deployment.store, run, _with_output(stack.deployment, run), reporter.say)
        except OSError as error:
            raise ObjectStoreError(f"{local_folder(run)} cannot be filled from {run.output_uri}: {error}") from error


def local_folder(run: Run) -> Path:
    """A run's local output."""
    return Path(run.local_output.removeprefix("file://"))


def _refuse_others(deployment: Deployment, run: Run) -> None:
    """PlanError if the local output has files of other runs since this one began that its output in S3 would not have.

    Those are runs entered later that do not append; and beside a run that wanted the folder empty, all other runs.
    """
    wanted_empty, folder = run.options.existing == "refuse", local_folder(run)
    for path, run_id, is_later in _others(run):
        other_run = deployment.known_run(run_id)  # None: of another stack
        joins = other_run.options.existing == "append" if other_run else not wanted_empty
        if not (joins if is_later else not wanted_empty):
            raise PlanError(
                f"{path.parent} holds {path.name} of another run by now: what {run.run_id} wrote stays in "
                f"{run.output_uri}; move what is there, then: sparklet resume {run.run_id}"
            )
    owned = {file.path: file.by for file in local_outputs(folder) if file.by} if run.options.output_per else {}
    for name in output_files(deployment.store, run, _with_output(deployment, run)) if run.options.output_per else ():
        by = owned.get(name)
        is_own = by is not None and by["identity"] == run.identity
        if (folder / name).exists() and not (is_own or may_replace(deployment, run, by)):
            raise PlanError(
                f"{folder / name} is there already, and {run.run_id} has a file of this name, which stays in "
                f"{run.output_uri}; move what is there, then: sparklet resume {run.run_id}"
            )


def _others(run: Run) -> list[tuple[Path, str, bool]]:
    """The files in the local output that other runs published: their run ids, and whether they were entered later."""
    # The names of published folders have milliseconds, so times are compared as these.
    mine = int(run.created_s * 1000)
    published = ((path, by["run_id"], int(by["created_ms"], 16)) for path, by in _published(local_folder(run)))
    return [(path, run_id, then > mine) for path, run_id, then in published if (run_id, then) != (run.run_id, mine)]


def _published(folder: Path) -> Iterator[tuple[Path, By]]:
    return ((Path(file.uri), file.by) for file in local_outputs(folder) if file.by and not Path(file.uri).is_dir())


def is_complete(stack: OpenStack, run: Run, folder: Path) -> bool:
    """Whether a local folder has every file that succeeded shards wrote, by name and size."""
    files = output_files(stack.deployment.store, run, _with_output(stack.deployment, run))
    expected_files = ((folder / name, info.size_bytes) for name, info in files.items())
    return all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in expected_files)


def _with_output(deployment: Deployment, run: Run) -> set[int]:
    return {record.number for record in deployment.ledger.shards.list(run.run_id) if record.has_output}


def fill(store: ObjectStore, run: Run, shards: Collection[int], say: Say) -> None:
    """Make a run's folders below its local output hold what ``shards`` have written; then delete what it replaces.

    Files that are there already are not downloaded again. A run that replaces others deletes what runs that were
    entered before it have published; all other files stay.
    """
    folder = local_folder(run)
    keep = {folder / name: info for name, info in output_files(store, run, shards).items()}
    if shards:
        folder.mkdir(parents=True, exist_ok=True)
    gone = [path for path, by in _published(folder) if by["identity"] == run.identity and path not in keep]
    # Copies first: a kill in between leaves both old and new files, and filling again deletes the old.
    _transfer(lambda item: _download(store, *item), keep.items(), say, f"in {folder}")
    if run.options.existing == "overwrite" and run.sealed:
        gone += [path for path, _, is_later in _others(run) if not is_later]
    for path in gone:
        path.unlink()
        with suppress(OSError):  # other files are there
            for up in list(path.parents)[: len(path.relative_to(folder).parents) - 1]:
                up.rmdir()
    if run.table and not shards:
        with suppress(OSError):  # it was made for a catalog, and is empty unless there is one
            folder.rmdir()


def output_files(store: ObjectStore, run: Run, shards: Collection[int]) -> dict[str, ObjectInfo]:
    """The files that ``shards`` have written, by their names below the run's output."""
    prefix, numbers = run.output_uri.rstrip("/") + "/", set(shards)
    return {info.uri.removeprefix(prefix): info for number, info in published_files(store, run) if number in numbers}


def _download(store: ObjectStore, path: Path, info: ObjectInfo) -> int:
    if not (path.exists() and path.stat().st_size == info.size_bytes and _md5(path) == info.etag.strip('"')):
        path.parent.mkdir(parents=True, exist_ok=True)
        # By its ETag: a shard that is done again may replace the file behind this listing.
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


def localized(stack: OpenStack, run_id: str, text: str) -> str:
    """The text with the addresses of copied inputs replaced by the local files that were copied."""
    for uri, path in local_inputs(stack, run_id).items():
        local = f"{path}/" if uri.endswith("/") else path
        # Spark's messages have the scheme of Hadoop's client.
        text = text.replace(uri.replace("s3://", "s3a://"), local).replace(uri, local)
    return text


def stored_uri(path: Path, inputs: Mapping[str, str]) -> str:
    """The address to which a local file was copied; "" if the file is not an input of the run."""
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
