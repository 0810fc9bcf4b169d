"""Makes one atomic commit of all staged writes to a table; if it runs again, the commit is not repeated.

``main`` is the script of a commit run: its inputs are the run's commit files, with the declarations of all shards.

The table keeps the id of each commit. A committer loads the table, looks for the id, and commits on top of the state
that it has loaded; the table refuses the commit if another commit came first. The commit of a stream's batch is
identified by the batch's records instead, see ``chains``.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from py4j.protocol import Py4JJavaError

from sparklet.connectors.tables.chains import CHANGES, committed_records, extend
from sparklet.connectors.tables.declaration import Commit, Committed, Declaration, shard_name
from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.fields import Table
from sparklet.job.session import hadoop_path, java_class, stored_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX_CONFLICTS_S = 120.0  # then the commit fails, and another attempt may try it
MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 5.0
MAX_READERS = 16  # staged files that are checked at a time: each waits for the store, not for the processor
SHARED = ("mode", "keys", "order_by", "merge_schema", "partition_by", "deletes")  # equal in all writes to a table


class OpenTable(Protocol):
    """A table of one format in the state in which it was loaded; it may not exist yet."""

    @property
    def root(self) -> str | None:
        """The folder of the table's files; None if the table does not exist, and its catalog will choose the folder."""

    def find_name(self, name: str) -> tuple[str, int] | None:
        """Return the last version that set a name (a commit's id, or a chain), and the name's number; None if none did.

        If somebody restores an earlier state of the table, rows are lost, but names are lost only in Hudi.
        """

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Commit on top of this state, and set the names to these numbers in the same step. Return the new version.

        CommitConflictError if others have written since, or if the answer was lost: load the table and look again.
        CommitStateUnknownError if the table may have forgotten the commit.
        """


def commit(
    commit: Commit, spark: SparkSession, opened: OpenTable | None = None, *, only_on_opened: bool = False
) -> Committed:
    """Make a commit, unless the table holds it already. If Glue's catalog is the run's, enter a Delta table into it.

    ``opened``: the state of the table to begin with. ``only_on_opened``: the rows were computed from this state, so the
    commit must be based on it.

    TableError if the table cannot take the files: another schema, a missing file, a feature that is not supported.
    CommitConflictError if other writers were faster for two minutes (with ``only_on_opened``: once), or have committed
    a part of the records.
    CommitStateUnknownError if the table does not hold the commit, but may have forgotten it.
    """
    # A shard without rows must not decide on the columns.
    writes, earlier = (tuple(write for write in group if write.files) for group in (commit.writes, commit.earlier))
    commit = replace(commit, writes=writes, earlier=earlier)
    maker = random.getrandbits(60)  # the number of this attempt at the commit
    own_numbers = {maker}
    # A table's cleaner may have deleted staged files. They are checked once, since this is a request for each file.
    check_files = cache(lambda: _check_stored(spark, [*commit.writes, *commit.earlier]))
    rows, files = sum(write.rows for write in commit.writes), sum(len(write.files) for write in commit.writes)
    end_s, pause_s = time.monotonic() + MAX_CONFLICTS_S, MIN_PAUSE_S
    while True:
        table, opened = opened or open_table(commit.table, spark), None
        # After each conflict, too: the last try may have succeeded although its answer was lost.
        if earlier_commit := _find_commit(commit, spark, table):
            version, numbers = earlier_commit
            # An earlier attempt may have been killed after its commit, before it entered the table into the catalog.
            _register(commit, spark)
            # The numbers show whether this call itself has made the commit and lost the answer. Then the staged files
            # are the table's, and the caller must not delete them.
            return Committed(version, rows, files, already=numbers.isdisjoint(own_numbers))
        # Without rows nothing could be added twice, so the table need not know of the commit.
        if not rows:
            return Committed("", 0, files, already=False)
        names = _names_to_set(commit, spark, table, maker)
        own_numbers.update(names.values())
        check_files()
        try:
            version = table.write(commit, names)
        except CommitConflictError:
            if only_on_opened or time.monotonic() > end_s:
                raise
        else:
            _register(commit, spark)
            return Committed(version, rows, files, already=False)
        # The pause is random, or two committers that were in conflict would be so again.
        time.sleep(random.uniform(pause_s / 2, pause_s))
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _find_commit(commit: Commit, spark: SparkSession, table: OpenTable) -> tuple[str, set[int]] | None:
    """Return the version that made a commit ("" for a stream's records) and the numbers it set; None if none did.

    CommitConflictError if the table has only a part of the commit's records.
    """
    if not commit.records:
        version_and_number = table.find_name(commit.commit_id)
        return version_and_number and (version_and_number[0], {version_and_number[1]})
    links = [
        link
        for name, numbers in commit.records.items()
        for link in committed_records(spark, commit.chains_folder, name, numbers, table).values()
    ]
    if links and len(links) < (count := sum(map(len, commit.records.values()))):
        # The next delivery makes rows of the other records alone.
        raise CommitConflictError(
            f"{commit.table}: another committer has meanwhile committed {len(links)} of {count} records"
        )
    return ("", set(links)) if links else None


def _names_to_set(commit: Commit, spark: SparkSession, table: OpenTable, maker: int) -> dict[str, int]:
    """Return the names that the commit sets in the table, and their numbers. Write the links of a batch's chains."""
    if not commit.records:
        return {commit.commit_id: maker}
    heads = extend(spark, commit.chains_folder, commit.records, table)
    return heads if commit.mode == "append" else {**heads, CHANGES: maker}


def main() -> None:
    """Make a run's commits in order, except those that the parameter ``commits_made`` names: they are made already."""
    from sparklet.job import Job

    job = Job.from_args()
    spark = job.spark()
    commits = [_read_commit(spark, uri) for uri in job.inputs]
    answers: list[dict[str, Any]] = []
    for number, (header, _) in enumerate(commits):
        # The table may have forgotten a commit's id, but the ledger has not.
        if header["commit"] in job.params.get("commits_made", ()):
            continue
        for planned in plan(header, [declared for _, declared in commits[: number + 1]]):
            committed = commit(replace(planned, warehouse=job.params.get("warehouse")), spark)
            job.report(rows=committed.rows, outputs=[str(planned.table)])
            answers.append({"table": str(planned.table), "commit_id": planned.commit_id, **asdict(committed)})
            job.answer(answers)


def _read_commit(spark: SparkSession, uri: str) -> tuple[dict[str, Any], list[Declaration]]:
    """Return the header of a commit file, and the writes that the winning attempt at each shard has declared."""
    # ``splitlines`` would also split at Unicode's other line separators, which JSON texts can contain.
    header, *shards = (json.loads(line) for line in stored_text(spark, uri).split("\n") if line)
    return header, [
        Declaration.from_document(write, int(shard["shard"])) for shard in shards for write in shard["writes"]
    ]


def _check_stored(spark: SparkSession, writes: Iterable[Declaration]) -> None:
    """Raise TableError if a staged file is missing, or has another size. The files are not read."""

    def check(write: Declaration, name: str, size_bytes: int) -> None:
        path, file_system = hadoop_path(spark, uri := name if ":/" in name else f"{write.folder.rstrip('/')}/{name}")
        try:
            stored_bytes = int(file_system.getFileStatus(path).getLen())
        except Py4JJavaError as error:
            if java_class(error) != "FileNotFoundException":
                raise
            raise TableError(f"{shard_name(write.shard)} staged {uri}, which is not there any more") from error
        if stored_bytes != size_bytes:
            raise TableError(
                f"{shard_name(write.shard)} staged {uri} with {size_bytes} bytes; now it has {stored_bytes}"
            )

    with ThreadPoolExecutor(MAX_READERS) as readers:
        list(readers.map(lambda file: check(*file), [(write, *file) for write in writes for file in write.files]))


def plan(header: Mapping[str, Any], commits: Sequence[Sequence[Declaration]]) -> list[Commit]:
    """Return the commits that the last of a run's commit files asks for, one for each table.

    ``commits`` has the declarations in each file. TableError if the shards' declarations for a table differ, or if a
    shard that was done again appends a second time.
    """
    declared: dict[Table, list[Declaration]] = {}
    for write in commits[-1]:
        declared.setdefault(write.table, []).append(write)
    planned = []
    for table, writes in declared.items():
        model = writes[0]
        looks_back = model.mode == "overwrite_partitions" or (model.mode == "upsert" and model.order_by is None)
        earlier = [[write for write in commit if write.table == table] for commit in commits[:-1]]
        # Each commit of a run has its own id, so the table itself would not recognize the rows.
        if model.mode == "append" and (repeated_shards := _shard_numbers(writes) & _shard_numbers(chain(*earlier))):
            raise TableError(
                f"{table} already has the rows of the shards {sorted(repeated_shards)}, which another commit would add "
                "again"
            )
        earlier_writes = _valid_earlier_writes([*earlier, writes]) if looks_back else []
        for write in earlier_writes + writes:
            for name in SHARED:
                if (got := getattr(write, name)) != (want := getattr(model, name)):
                    differ = f"shard {write.shard} has {name}={got!r}, shard {model.shard} {want!r}"
                    raise TableError(f"{table}: {differ}: let all shards write alike")
        fields = {name: getattr(model, name) for name in SHARED}
        fields |= {"fixed_at_s": header.get("fixed_at_s"), "earlier": tuple(earlier_writes)}
        planned.append(Commit(f"{header['identity']}/commit-{header['commit']}", table, writes=tuple(writes), **fields))
    return planned


def _valid_earlier_writes(commits: Sequence[Sequence[Declaration]]) -> list[Declaration]:
    """Return the writes of all commits except the last, without those of shards that were done again later."""
    last_commit = {write.shard: index for index, commit in enumerate(commits) for write in commit}
    return [write for index, commit in enumerate(commits[:-1]) for write in commit if last_commit[write.shard] == index]


def _shard_numbers(writes: Iterable[Declaration]) -> set[int]:
    return {write.shard for write in writes}


def open_table(table: Table, spark: SparkSession) -> OpenTable:
    """Load a table; a format's libraries are imported only for its own tables."""
    if table.format == "iceberg":
        from sparklet.connectors.tables.iceberg import IcebergTable

        return IcebergTable(table.place, spark)
    if table.format == "delta":
        from sparklet.connectors.tables.delta import DeltaLakeTable

        return DeltaLakeTable(table.place, spark)
    if table.format == "hudi":
        from sparklet.connectors.tables.hudi import HudiTable

        return HudiTable(table.place, spark)
    raise TableError(f"{table} cannot be committed to")


def _register(commit: Commit, spark: SparkSession) -> None:
    """Enter a Delta table into Glue's catalog if it is the run's catalog. Iceberg's commits do so by themselves."""
    if commit.table.format == "delta" and catalog_properties(os.environ, commit.warehouse).get("type") == "glue":
        from sparklet.connectors.tables.delta import register

        register(commit.table.place, commit.warehouse, spark)
