"""Copies local inputs to the bucket, and a run's output to a local folder, with progress."""

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
REPORT_EVERY = 100  # files

Say = Callable[[str], None]


def local_inputs(stack: OpenStack, run_id: str) -> Mapping[str, str]:
    """Return the local paths from which a run's inputs were copied, by S3 folder or object; {} in a deployed stack."""
    return (read_json(_paths_file(stack.state, run_id)) or {}) if stack.state else {}


def forget_inputs(stack: OpenStack, run_id: str) -> None:
    """Delete the record of the local paths from which a run's inputs were copied."""
    if stack.state:
        _paths_file(stack.state, run_id).unlink(missing_ok=True)


def _paths_file(state: Path, run_id: str) -> Path:
    """Return the file that keeps the local paths of a run's inputs."""
    return state / LOCAL_PATHS / f"{run_id}.json"


def with_local_files(stack: OpenStack, request: RunRequest, reporter: Reporter) -> RunRequest:
    """Copy a request's local files to the bucket; return the request with the addresses of the copies.

    A local output is replaced by an address in the bucket, too; ``fill_output`` copies the output to the local folder.
    The paths of the local inputs are recorded for ``local_inputs``.
    PlanError for a local path in a deployed stack.
    """
    if stack.state is None:
        table = request.table.partition("file://")[2]
        refuse_local_paths((*request.inputs, *request.files.values(), table), request.output_uri)
        return request
    source_by_uri = {
        source if "://" in source else _upload_input(stack, request, index, Path(source), reporter): source
        for index, source in enumerate(request.inputs)
    }
    local_paths = {uri: str(Path(source).resolve()) for uri, source in source_by_uri.items() if uri != source}
    # Written before the run is entered in the ledger, so that a redrive always finds the local files.
    write_json(_paths_file(stack.state, request.run_id), local_paths)
    files = {}
    for name, source in request.files.items():
        path = Path(source)
        files[name] = f"s3://{stack.deployment.bucket}/input/{request.run_id}/files/{name}/{path.name}"
        reporter.say(f"copying {path} to the bucket")
        stack.deployment.store.upload(path, files[name])
    if request.output_uri and "://" not in request.output_uri:
        output = Path(request.output_uri).resolve()
        if request.table.startswith("iceberg:"):
            output.mkdir(parents=True, exist_ok=True)  # the catalog's file is made in this folder
        bucket_copy = f"s3://{stack.deployment.bucket}/output/{request.run_id}/"
        request = replace(request, output_uri=bucket_copy, local_output=_folder_uri(output))
    return replace(request, inputs=tuple(source_by_uri), params={**request.params, **files})


def _folder_uri(folder: Path) -> str:
    return f"file://{str(folder.resolve()).rstrip('/')}/"


def refuse_own_input(path: Path, output: str, state: Path) -> None:
    """PlanError if a local output, or the local stack's folder ``state``, lies inside the local input ``path``."""
    folders = {"the state folder": state}
    if output and "://" not in output:
        folders["the output"] = Path(output)
    if path.is_dir():
        refuse_own_output([_folder_uri(path)], {name: _folder_uri(folder) for name, folder in folders.items()})


def refuse_replaced_input(files: Iterable[Path], request: RunRequest) -> None:
    """PlanError if one of the local files that a run reads lies in the local output that it replaces."""
    output = Path(request.output_uri).resolve()
    source = next((path for path in files if path.resolve().is_relative_to(output)), None)
    if source and "://" not in request.output_uri:
        raise PlanError(
            f"the input {source} lies in the output {output}, and this run would delete it, since the run replaces the "
            "output's files: name another output, or append to this one (--append)"
        )


def refuse_taken_names(request: RunRequest) -> None:
    """PlanError if a local output has files with names that the run will give to outputs of its local inputs."""
    if not (request.options.output_per and request.options.existing == "append"):
        return
    existing_names, paths = paths_in_output(None, request), [source for source in request.inputs if "://" not in source]
    sources = tuple(f"{path.rstrip('/')}/" if Path(path).is_dir() else path for path in paths)
    with closing(OutputNames(request.run_id, request.options, sources, existing_names)) as names:
        for source in sources:
            for _, key in wanted_files(Path(source), request.options):
                names.add(InputObject(source + key if source.endswith("/") else source, 0))
        names.refuse_taken()


def checked_output(request: RunRequest, state: Path | None) -> RunRequest:
    """Check a request's local output; return the request, with a catalog if the table is an Iceberg table without one.

    The catalog is an SQLite file in the output; its warehouse is a ``file://`` folder, since Iceberg's metadata holds
    absolute addresses. ``state`` is the local stack's folder. SettingsError if the output cannot be written, or holds
    files that the request's ``existing`` forbids.
    """
    output, run_id = Path(request.output_uri).resolve(), run_id_of(request, 0.0)
    _refuse_unwritable(output)
    # If this run was started before, the files can be its own; ``fill_output`` checks again.
    was_started = state and _paths_file(state, run_id).exists()
    if not was_started:
        check_output(output, request.options.existing)
    properties = catalog_properties({**os.environ, **request.env}, request.params.get("warehouse"))
    if not request.table.startswith("iceberg:") or {"type", "uri"} & properties.keys():
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
    # Goes through all files, so that too many are refused before any file is copied.
    deque(within_limit(wanted_files(path, options), options.limit, str(path)), maxlen=0)
    upload(stack.deployment.store, ((file, base + key) for file, key in wanted_files(path, options)), reporter.say)
    return base if path.is_dir() else base + path.name


def wanted_files(path: Path, options: RunOptions) -> Iterator[tuple[Path, str]]:
    """Return the files of a local input that the options select, each with its key; PlanError if there is none."""
    since_s, files = options.modified_since_s, local_files(path, Filter(options.include, options.exclude))
    selected = ((file, key) for file, key in files if not since_s or file.stat().st_mtime >= since_s)
    if (first := next(selected, None)) is None:
        raise PlanError(f"the input {path} holds no file to plan; check the folder, --include, --exclude and --since")
    return chain([first], selected)


def upload(store: ObjectStore, files: Iterable[tuple[Path, str]], say: Say) -> None:
    """Copy local files to the bucket, each to its URI."""

    def put(file: tuple[Path, str]) -> int:
        path, uri = file
        store.upload(path, uri)
        return path.stat().st_size

    _transfer(put, files, say, "in the bucket")


def changed_files(store: ObjectStore, files: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return those files, each with its URI, that are not in the bucket, or have another content there."""

    @cache
    def etags(folder: str) -> dict[str, str]:
        return {info.uri: info.etag.strip('"') for info in store.list(folder)}

    # One LIST request for a folder replaces a HEAD request for each file. The ETag of an object of several parts is not
    # an MD5, so such a file is uploaded at each redrive, which does no harm.
    return [(path, uri) for path, uri in files if etags(uri.rpartition("/")[0] + "/").get(uri) != _md5(path)]


def check_output(folder: Path, existing: str) -> None:
    """SettingsError if a local output has files that ``existing`` (see ``RunOptions``) forbids."""
    if existing == "refuse" and folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(
            f"--output {folder} is not empty: append to it (--append), replace what is there (--overwrite), "
            "or name another folder"
        )
    files = local_outputs(folder) if existing == "overwrite" else ()
    if foreign_file := next((file.path for file in files if not file.by), ""):
        raise SettingsError(f"--output {folder} holds {foreign_file}, which no Sparklet run wrote; name another folder")


def _refuse_unwritable(folder: Path) -> None:
    """SettingsError unless a folder, or the nearest existing folder above it, can be written; no file stays there."""
    nearest = folder
    try:
        while not nearest.exists():
            nearest = nearest.parent
        # A file is written, since permissions do not show that a disk is read-only or full.
        with TemporaryFile(dir=nearest) as file:
            file.write(b"a full disk takes files, but no content")
    except OSError as error:
        cause = f"{nearest}: {error.strerror}"
        raise SettingsError(f"--output {folder} cannot be written ({cause}); name a folder that can") from error


def fill_output(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Download the output of succeeded shards to the run's local output folder, if it has one.

    If a later run has replaced the folder's files, the output stays in the bucket, with a warning. PlanError if the
    folder has files of other runs or other tools that must not be mixed with the output, see ``_refuse_other_files``.
    """
    if not run.local_output:
        return
    with Lock(StateDir(stack.state or Path()).fill_lock) as lock:
        lock.exclusive(inf, lambda: reporter.say("waiting for another run that fills its local output"))
        # Checked under the lock, since another run can have replaced the folder's files while this client waited.
        if later_run := replaced_by(stack.deployment, run):
            reporter.warn(
                f"{local_folder(run)} now belongs to {later_run}; the output of {run.run_id} stays in {run.output_uri}"
            )
            return
        _refuse_other_files(stack.deployment, run)
        try:
            fill(stack.deployment.store, run, _shards_with_output(stack.deployment, run), reporter.say)
        except OSError as error:
            raise ObjectStoreError(f"{local_folder(run)} cannot be filled from {run.output_uri}: {error}") from error


def local_folder(run: Run) -> Path:
    """Return the local folder of a run's output."""
    return Path(run.local_output.removeprefix("file://"))


def _refuse_other_files(deployment: Deployment, run: Run) -> None:
    """PlanError if the local output has files that the run's output in S3 could not have beside its own.

    These are files of runs that were entered later and do not append; for a run that wanted an empty folder, files of
    all other runs; and with --output-per, files with the name of an output that the run is not allowed to replace.
    """
    requires_empty, folder = run.options.existing == "refuse", local_folder(run)
    for path, run_id, is_later in _files_of_other_runs(run):
        other_run = deployment.known_run(run_id)  # None for a run of another stack
        is_allowed = not requires_empty
        if is_later and other_run:
            is_allowed = other_run.options.existing == "append"
        if not is_allowed:
            raise PlanError(
                f"{path.parent} now holds {path.name} of another run: the output of {run.run_id} stays in "
                f"{run.output_uri}; move the files in {path.parent}, then: sparklet resume {run.run_id}"
            )
    if not run.options.output_per:
        return
    publisher_by_name = {file.path: file.by for file in local_outputs(folder) if file.by}
    for name in output_files(deployment.store, run, _shards_with_output(deployment, run)):
        publisher = publisher_by_name.get(name)
        is_own = publisher is not None and publisher["identity"] == run.identity
        if (folder / name).exists() and not (is_own or may_replace(deployment, run, publisher)):
            raise PlanError(
                f"{folder / name} exists already, and {run.run_id} has a file of this name, which stays in "
                f"{run.output_uri}; move {folder / name}, then: sparklet resume {run.run_id}"
            )


def _files_of_other_runs(run: Run) -> list[tuple[Path, str, bool]]:
    """Return the files of other runs in the local output: path, run id, and whether that run was entered later."""
    # The names of published folders hold the time of a run in milliseconds, so times are compared in milliseconds.
    own_ms = int(run.created_s * 1000)
    published = ((path, by["run_id"], int(by["created_ms"], 16)) for path, by in _published_files(local_folder(run)))
    return [
        (path, run_id, created_ms > own_ms)
        for path, run_id, created_ms in published
        if (run_id, created_ms) != (run.run_id, own_ms)
    ]


def _published_files(folder: Path) -> Iterator[tuple[Path, By]]:
    """Return the files below the folder that runs have published, each with its publisher."""
    return ((Path(file.uri), file.by) for file in local_outputs(folder) if file.by and not Path(file.uri).is_dir())


def is_complete(stack: OpenStack, run: Run, folder: Path) -> bool:
    """Return whether a local folder has every file that succeeded shards wrote, by name and size."""
    files = output_files(stack.deployment.store, run, _shards_with_output(stack.deployment, run))
    expected_files = ((folder / name, info.size_bytes) for name, info in files.items())
    return all(path.is_file() and path.stat().st_size == size_bytes for path, size_bytes in expected_files)


def _shards_with_output(deployment: Deployment, run: Run) -> set[int]:
    return {record.number for record in deployment.ledger.shards.list(run.run_id) if record.has_output}


def fill(store: ObjectStore, run: Run, shards: Collection[int], say: Say) -> None:
    """Download the files of ``shards`` to the run's local output; then delete files that these replace.

    Files that exist already are not downloaded again. Older files of the same run are deleted, and for a run with
    --overwrite also files that earlier runs have published, with folders that become empty; all other files stay.
    """
    folder = local_folder(run)
    info_by_path = {folder / name: info for name, info in output_files(store, run, shards).items()}
    if shards:
        folder.mkdir(parents=True, exist_ok=True)
    replaced_paths = [
        path for path, by in _published_files(folder) if by["identity"] == run.identity and path not in info_by_path
    ]
    # Files are deleted last: a kill in between leaves both old and new files, and the next call deletes the old ones.
    _transfer(lambda item: _download(store, *item), info_by_path.items(), say, f"in {folder}")
    if run.options.existing == "overwrite" and run.sealed:
        replaced_paths += [path for path, _, is_later in _files_of_other_runs(run) if not is_later]
    for path in replaced_paths:
        path.unlink()
        with suppress(OSError):  # the first folder that is not empty stays, and so do those above it
            for parent in list(path.parents)[: len(path.relative_to(folder).parents) - 1]:
                parent.rmdir()
    if run.table and not shards:
        with suppress(OSError):  # the folder was made for a catalog; it is deleted if no catalog was written
            folder.rmdir()


def output_files(store: ObjectStore, run: Run, shards: Collection[int]) -> dict[str, ObjectInfo]:
    """Return the files that ``shards`` have written, by their names below the run's output."""
    prefix, numbers = run.output_uri.rstrip("/") + "/", set(shards)
    return {info.uri.removeprefix(prefix): info for number, info in published_files(store, run) if number in numbers}


def _download(store: ObjectStore, path: Path, info: ObjectInfo) -> int:
    """Download a file unless it exists with the same content; return its size in bytes."""
    is_same = path.exists() and path.stat().st_size == info.size_bytes and _md5(path) == info.etag.strip('"')
    if not is_same:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By its ETag, since a shard that is run again can replace the object after it was listed.
        store.download(info.uri, path, etag=info.etag)
    return info.size_bytes


def _md5(path: Path) -> str:
    """Return a file's MD5, which is the ETag of an object that was written in one part."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _transfer(copy: Callable[[T], int], files: Iterable[T], say: Say, where: str) -> None:
    """Copy files in threads, a bounded number at a time; ``copy`` copies one file and returns its bytes."""
    remaining, count, size_bytes = iter(files), 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(remaining, REPORT_EVERY)):
            size_bytes += sum(pool.map(copy, batch))
            count += len(batch)
            if len(batch) == REPORT_EVERY:
                say(f"  {count} files ({size_text(size_bytes)}) {where} so far")
    if count:
        say(f"  {count_text(count, 'file')} ({size_text(size_bytes)}) {where}")


def local_part(uri: str, inputs: Mapping[str, str]) -> Path | None:
    """Return the local file that was copied to ``uri``; None if no file was. See ``local_inputs`` for ``inputs``."""
    for input_uri, local in inputs.items():
        if input_uri.endswith("/") and uri.startswith(input_uri):
            return Path(local) / uri.removeprefix(input_uri)
        if uri == input_uri:
            return Path(local)
    return None


def with_local_paths(stack: OpenStack, run_id: str, text: str) -> str:
    """Return the text with local paths in place of the addresses to which inputs were copied."""
    for uri, path in local_inputs(stack, run_id).items():
        local = f"{path}/" if uri.endswith("/") else path
        # Spark's messages name inputs by s3a, the scheme of Hadoop's client.
        text = text.replace(uri.replace("s3://", "s3a://"), local).replace(uri, local)
    return text


def stored_uri(path: Path, inputs: Mapping[str, str]) -> str:
    """Return the address to which a local file was copied; "" if the file is not an input of the run."""
    for input_uri, local in inputs.items():
        full_path, root = path.absolute(), Path(local)
        if input_uri.endswith("/") and full_path.is_relative_to(root):
            return input_uri + full_path.relative_to(root).as_posix()
        if full_path == root:
            return input_uri
    return ""


def refuse_local_paths(inputs: Collection[str], output: str) -> None:
    """PlanError if an input or the output is a local path, which a deployed stack cannot read or write."""
    for path in (*inputs, output):
        if path and "://" not in path:
            raise PlanError(
                f"{path} is a local path, but a deployed stack reads and writes s3:// only; copy it there first"
            )
