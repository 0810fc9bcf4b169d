"""Makes all staged writes to a table one atomic commit, once however often it runs.

``main`` is the script of a commit run: its inputs are the run's commit files, with the declarations of all shards.

The table keeps the id of each commit. A committer loads the table, looks for the id, and commits on top of the state
that it has loaded; the table refuses the commit if another one came first. The commit of a batch of a stream is known
by its records instead, see ``chains``.
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

from sparklet.connectors.tables.chains import CHANGES, extend, found
from sparklet.connectors.tables.declaration import Commit, Committed, Declaration, shard_name
from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.fields import Table
from sparklet.job.session import hadoop_path, java_class, stored_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX_CONFLICTS_S = 120.0  # then another attempt may go on
MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 5.0
MAX_READERS = 16  # staged files asked for at a time: each waits for the store, not for the processor
SHARED = ("mode", "keys", "order_by", "merge_schema", "partition_by", "deletes")  # in all writes to a table


class OpenTable(Protocol):
    """A table of one format in the state in which it was loaded; it may not exist yet."""

    @property
    def root(self) -> str | None:
        """Where its files are; None if it does not exist and its catalog will choose the place."""

    def made(self, name: str) -> tuple[str, int] | None:
        """The last version that set a name (a commit's id, or a chain), and its number; None if none has.

        Who restores an earlier state takes rows out, and no name, but in Hudi.
        """

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Commit on top of this state, set the names to these numbers with it, and return the new version.

        CommitConflictError if others have written since, or if the answer was lost: load the table and look again.
        CommitStateUnknownError if the table may have forgotten the commit.
        """


def commit(
    commit: Commit, spark: SparkSession, opened: OpenTable | None = None, *, only_on_opened: bool = False
) -> Committed:
    """Make a commit, unless the table holds it already.

    ``opened``: a state of the table to begin with; ``only_on_opened``: the rows were made from that state alone.

    TableError if the table cannot take the files: another schema, a missing file, a feature that is not supported.
    CommitConflictError if other writers were faster for two minutes (``only_on_opened``: once).
    CommitStateUnknownError if the table does not hold the commit, but may have forgotten it.
    """
    # A shard without rows has no say in the columns.
    writes, earlier = (tuple(write for write in some if write.files) for some in (commit.writes, commit.earlier))
    commit = replace(commit, writes=writes, earlier=earlier)
    maker = random.getrandbits(60)  # the number of this attempt at the commit
    tried = {maker}
    # A table's cleaner may have deleted staged files by now. One look a commit: it is a request for each file.
    look = cache(lambda: _check_stored(spark, [*commit.writes, *commit.earlier]))
    rows, files = sum(write.rows for write in commit.writes), sum(len(write.files) for write in commit.writes)
    end_s, pause_s = time.monotonic() + MAX_CONFLICTS_S, MIN_PAUSE_S
    while True:
        table, opened = opened or open_table(commit.table, spark), None
        # Looked for again after each conflict: the last try may have been made, and its answer lost.
        if made := _made(commit, spark, table):
            # An earlier attempt may have died after its commit and before it entered the table into the catalog.
            _register(commit, spark)
            # By its number: if this call itself has made the commit and lost the answer, the staged files are the
            # table's, and the caller must not delete them.
            return Committed(made[0], rows, files, already=made[1].isdisjoint(tried))
        # Without rows nothing could be there twice, so the table need not know of the commit.
        if not rows:
            return Committed("", 0, files, already=False)
        names = _names(commit, spark, table, maker)
        tried.update(names.values())
        look()
        try:
            version = table.write(commit, names)
        except CommitConflictError:
            if only_on_opened or time.monotonic() > end_s:
                raise
        else:
            _register(commit, spark)
            return Committed(version, rows, files, already=False)
        # A random pause, or committers that have met would meet again.
        time.sleep(random.uniform(pause_s / 2, pause_s))
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _made(commit: Commit, spark: SparkSession, table: OpenTable) -> tuple[str, set[int]] | None:
    """The version that made a commit ("" for records of a stream) and the numbers that it set; None if none made it.

    CommitConflictError if the table holds only a part of the commit's records.
    """
    if not commit.records:
        made = table.made(commit.commit_id)
        return made and (made[0], {made[1]})
    chains = commit.records.items()
    looks = (found(spark, commit.chains_folder, name, numbers, table) for name, numbers in chains)
    links = [link for look in looks for link in look.values()]
    if links and len(links) < (count := sum(map(len, commit.records.values()))):
        # Left to the next delivery, which makes rows of the other records alone
        raise CommitConflictError(f"{commit.table}: another has committed {len(links)} of {count} records meanwhile")
    return ("", set(links)) if links else None


def _names(commit: Commit, spark: SparkSession, table: OpenTable, maker: int) -> dict[str, int]:
    """The names that the commit sets in the table, and their numbers."""
    if not commit.records:
        return {commit.commit_id: maker}
    heads = extend(spark, commit.chains_folder, commit.records, table)
    return heads if commit.mode == "append" else {**heads, CHANGES: maker}


def main() -> None:
    """Make a run's commits, in order; those in the parameter ``commits_made`` are in the tables already."""
    from sparklet.job import Job

    job = Job.from_args()
    spark = job.spark()
    commits = [_read_commit(spark, uri) for uri in job.inputs]
    answers: list[dict[str, Any]] = []
    for number, (header, _) in enumerate(commits):
        # The ledger knows of commits whose ids the table may have forgotten.
        if header["commit"] in job.params.get("commits_made", ()):
            continue
        for planned in plan(header, [declared for _, declared in commits[: number + 1]]):
            done = commit(replace(planned, warehouse=job.params.get("warehouse")), spark)
            job.report(rows=done.rows, outputs=[str(planned.table)])
            answers.append({"table": str(planned.table), "commit_id": planned.commit_id, **asdict(done)})
            job.answer(answers)


def _read_commit(spark: SparkSession, uri: str) -> tuple[dict[str, Any], list[Declaration]]:
    """A commit file: its first line, and what each shard's winner declared."""
    # Not ``splitlines``: JSON may hold what Unicode has for ends of lines.
    header, *shards = (json.loads(line) for line in stored_text(spark, uri).split("\n") if line)
    return header, [
        Declaration.from_document(write, int(shard["shard"])) for shard in shards for write in shard["writes"]
    ]


def _check_stored(spark: SparkSession, writes: Iterable[Declaration]) -> None:
    """TableError if a staged file is missing, or has another size; files are asked for, and not read."""

    def check(write: Declaration, name: str, size_bytes: int) -> None:
        path, files = hadoop_path(spark, uri := name if ":/" in name else f"{write.folder.rstrip('/')}/{name}")
        try:
            stored_bytes = int(files.getFileStatus(path).getLen())
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
    """The commits, one a table, of the last of a run's commit files; ``commits``: the declarations in each file.

    TableError if the declarations of shards for a table differ, or if a shard that was done again appends once more.
    """
    declared: dict[Table, list[Declaration]] = {}
    for write in commits[-1]:
        declared.setdefault(write.table, []).append(write)
    planned = []
    for table, writes in declared.items():
        model = writes[0]
        looks_back = model.mode == "overwrite_partitions" or (model.mode == "upsert" and model.order_by is None)
        earlier = [[write for write in commit if write.table == table] for commit in commits[:-1]]
        # Each commit of a run has an id of its own, so the table would not know the rows.
        if model.mode == "append" and (again := _shards(writes) & _shards(chain(*earlier))):
            raise TableError(f"{table} has the rows of the shards {sorted(again)}, and would have them twice")
        before = _standing([*earlier, writes]) if looks_back else []
        for write in before + writes:
            for name in SHARED:
                if (got := getattr(write, name)) != (want := getattr(model, name)):
                    differ = f"shard {write.shard} has {name}={got!r}, shard {model.shard} {want!r}"
                    raise TableError(f"{table}: {differ}: pick one")
        how = {name: getattr(model, name) for name in SHARED}
        how |= {"fixed_at_s": header.get("fixed_at_s"), "earlier": tuple(before)}
        planned.append(Commit(f"{header['identity']}/commit-{header['commit']}", table, writes=tuple(writes), **how))
    return planned


def _standing(commits: Sequence[Sequence[Declaration]]) -> list[Declaration]:
    """The writes of all commits but the last, without those of shards that were done again since."""
    latest = {write.shard: index for index, commit in enumerate(commits) for write in commit}
    return [write for index, commit in enumerate(commits[:-1]) for write in commit if latest[write.shard] == index]


def _shards(writes: Iterable[Declaration]) -> set[int]:
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
    """Enter a Delta table into Glue's catalog, if that is the catalog; Iceberg's tables are in theirs."""
    if commit.table.format == "delta" and catalog_properties(os.environ, commit.warehouse).get("type") == "glue":
        from sparklet.connectors.tables.delta import register

        register(commit.table.place, commit.warehouse, spark)
