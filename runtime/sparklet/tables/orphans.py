"""Finds orphans: files that attempts have staged and no run will commit.

An attempt stages below ``<run>/<shard>-<attempt>/``: in Sparklet's bucket, and below ``sparklet/`` where a Delta or
Iceberg table has its data; outside of runs also below ``_changes/`` there. A file is an orphan if all of this is true:

- the attempt's newest file is older than the given age;
- the run has ended, or this ledger does not know it;
- no redrive needs it: the attempt has declared no write, and is not the winner of a FAILED shard, whose files the next
  attempt publishes;
- no version of the table that can still be read refers to it.

Open runs of other ledgers are unknown here: for a table of several stacks the age must exceed the longest run.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sparklet.errors import PlanError
from sparklet.job.fields import CHANGES, DATA, Table
from sparklet.model import ShardState
from sparklet.planning.commit_files import declared
from sparklet.ports import ObjectInfo, ObjectStore, only_within
from sparklet.ports.deployment import Deployment

MIN_AGE_S = 24 * 3600.0  # an attempt outside of Lambda may take hours
# A Hudi table refers to no staged file, and Parquet's output is the run's own.
STAGING = {"delta": (DATA, CHANGES), "iceberg": (DATA, CHANGES), "hudi": (CHANGES,), "parquet": ()}
_REMEDY = "pip install 'sparklet[tables]'"
_ATTEMPT = re.compile(r"\d{6,}-\w+|[0-9a-f]{32}")  # the second outside of runs; another name is somebody else's
_FILE = "file://"
_ABSOLUTE = re.compile(r"(?:s3[an]?|file):/+|/+")  # writers spell addresses differently


@dataclass(frozen=True, slots=True)
class Orphans:
    """The orphans in one attempt's folder."""

    folder: str
    files: tuple[str, ...]
    size_bytes: int


def orphans(at: Deployment, table: Table | None, older_than_s: float) -> Iterator[Orphans]:
    """The orphans where a table has its data, or in Sparklet's bucket; PlanError if the metadata is unreadable.

    The metadata is read after the files were listed, so that it has every commit of a listed file.
    """
    root, paths = _root_and_paths(at, table) if table else (f"s3://{at.bucket}", iter(()))
    folders = STAGING[table.format] if table else ("staged",)
    unneeded = [found for folder in folders for found in _unneeded(at, f"{root}/{folder}/", older_than_s)]
    referred = {_plain(name) for path in paths for name in (path, unquote(path))}
    for folder, files in unneeded:
        if left := [info for info in files if info.uri not in referred]:
            yield Orphans(folder, tuple(info.uri for info in left), sum(info.size_bytes for info in left))


def _unneeded(at: Deployment, root: str, older_than_s: float) -> Iterator[tuple[str, list[ObjectInfo]]]:
    """The folders of attempts below ``root`` that are old, and that no run of this ledger needs, with their files."""
    before_s = at.clock.now_s() - older_than_s
    placed = ((info.uri.removeprefix(root).split("/"), info) for info in files_at(at, root).list(root))
    inside = ((names[0], names[1], info) for names, info in placed if len(names) > 2)
    for run_id, of_run in groupby(inside, lambda each: each[0]):
        needed = _needed(at, run_id)
        for attempt, of_attempt in groupby(of_run, lambda each: each[1]):
            files = [info for _, _, info in of_attempt]
            if needed is None or attempt in needed or not _ATTEMPT.fullmatch(attempt):
                continue
            if max(info.modified_s for info in files) < before_s:
                yield f"{root}{run_id}/{attempt}/", files


def _needed(at: Deployment, run_id: str) -> set[str] | None:
    """The attempts of a run, as ``<shard>-<attempt>``, whose files it may still need; None: all, for it is open."""
    run = at.known_run(run_id)
    if run is None:
        return set()
    if not run.state.ended:
        return None
    failed = (record for record in at.ledger.shards.list(run_id, ShardState.FAILED) if record.winner)
    needed = {f"{record.number:06d}-{record.winner}" for record in failed}
    return needed.union(f"{number:06d}-{attempt}" for number, attempt in declared(at, run_id))


def _plain(address: str) -> str:
    """An address in one spelling: ``s3://bucket/key`` or ``file:///path``."""
    scheme = "s3://" if address.startswith("s3") else f"{_FILE}/"
    return scheme + _ABSOLUTE.sub("", address, count=1).rstrip("/")


def _delta_paths(files: "ObjectStore | _LocalFiles", root: str) -> Iterator[str]:
    """Every path in a table's log, whatever the action: the files of all versions that can be read, and more."""
    log = [info.uri for info in files.list(f"{root}/_delta_log/") if info.uri.endswith((".json", ".parquet"))]
    if not log:
        raise PlanError(f"there is no Delta table at {root}")
    for uri, body in zip(log, files.get_all(log), strict=True):
        for action in map(json.loads, body.splitlines()) if uri.endswith(".json") else _checkpoint(body):
            paths = (each["path"] for each in action.values() if isinstance(each, dict) and each.get("path"))
            yield from (path if _ABSOLUTE.match(path) else f"{root}/{path}" for path in paths)


def _checkpoint(body: bytes) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise PlanError(f"the checkpoints of a Delta table are read with pyarrow: {_REMEDY}") from None
    for batch in ParquetFile(BytesIO(body)).iter_batches(columns=["add.path", "remove.path"]):
        yield from batch.to_pylist()


def _root_and_paths(at: Deployment, table: Table) -> tuple[str, Iterator[str]]:
    """Where a table has its data, and, read lazily, the files to which its metadata refer."""
    if table.format == "iceberg":
        loaded = _iceberg_table(table.place)
        root = loaded.properties.get("write.data.path") or f"{loaded.location().rstrip('/')}/data"
        return _plain(root), _iceberg_paths(loaded)
    root = _plain(table.place)
    return root, _delta_paths(files_at(at, root), root) if table.format == "delta" else iter(())


def _iceberg_table(name: str) -> Any:
    try:
        from pyiceberg.exceptions import NoSuchTableError

        from sparklet.tables.iceberg import load
    except ImportError:
        raise PlanError(f"the metadata of an Iceberg table is read with pyiceberg: {_REMEDY}") from None
    try:
        return load().load_table(name)
    except (NoSuchTableError, ValueError) as error:  # ValueError: no catalog is configured
        raise PlanError(f"{name} cannot be read: {error}; PYICEBERG_CATALOG__ICEBERG__… name the catalog") from error


def _iceberg_paths(table: Any) -> Iterator[str]:
    table.refresh()
    manifests = {each.manifest_path: each for shot in table.snapshots() for each in shot.manifests(table.io)}
    for manifest in manifests.values():
        yield from (entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io))


def files_at(at: Deployment, uri: str) -> "ObjectStore | _LocalFiles":
    """The store that has a folder's files."""
    return _LocalFiles() if uri.startswith(_FILE) else at.store


class _LocalFiles:
    """Lists, reads and deletes files as an ``ObjectStore`` does; percent signs in their addresses are literal."""

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        found = ((path, path.stat()) for path in sorted(_path(prefix_uri).rglob("*")) if path.is_file())
        return (ObjectInfo(f"{_FILE}{path}", stat.st_size, "", stat.st_mtime) for path, stat in found)

    def get_all(self, uris: Iterable[str]) -> Iterator[bytes]:
        return (_path(uri).read_bytes() for uri in uris)

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        for uri in only_within(uris, within):
            _path(uri).unlink(missing_ok=True)


def _path(uri: str) -> Path:
    return Path(uri.removeprefix(_FILE))
