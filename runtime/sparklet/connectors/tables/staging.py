"""The script's side of a write to a table: the rows go into Parquet files, which a commit then adds.

For an append to Delta or Iceberg, the format's own writer makes and describes the files where the table keeps its data
(``delta.stage``, ``iceberg_draft``): the commit names these files and copies nothing. Rows that the commit must read
(``upsert``, ``overwrite_partitions``, everything for Hudi) go below ``_changes`` in the output; this folder is never
published.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Observation, SparkSession, functions

from sparklet.connectors.tables.columns import fit_columns, without_hudi_columns
from sparklet.connectors.tables.declaration import DELETED, PARQUET, Commit, Declaration
from sparklet.connectors.tables.delta import stage
from sparklet.connectors.tables.iceberg_draft import iceberg_columns
from sparklet.connectors.tables.layout import Layout, layout_of
from sparklet.job.commit_ids import commit_id, work_time_s
from sparklet.job.errors import EventError, TableError
from sparklet.job.fields import CHANGES, DATA, JobFields, Table
from sparklet.job.session import backquoted, hadoop_path, is_remote, session_options

if TYPE_CHECKING:
    from sparklet.connectors.tables.stream_batch import Batch

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
FIELD_IDS = "spark.sql.parquet.fieldId.write.enabled"  # turned off: rows read from another table would keep its ids
OPTIONS = {
    "timeZone": "UTC",  # of timestamps in the names of folders
    "partitionOverwriteMode": "static",
    "mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
}
# Version 2 moves each task's files at once. This is safe since the folder is read only after the write is declared; but
# not on a cluster, where late executors could still write.
LOCAL_OPTIONS = {"mapreduce.fileoutputcommitter.algorithm.version": "2"}
OUR_S3A = ("TaskS3A", "StagedS3A")  # Sparklet's S3 file systems, which write a commit only if there is none yet
NOT_CONDITIONAL = (
    "this commit to Delta is not conditional on S3: of two at the same moment one may be lost. Write in a run, or set "
    "spark.delta.logStore.s3.impl to io.delta.storage.S3DynamoDBLogStore (docs/guide/tables.md)"
)
_writing = threading.Lock()  # each write sets options of the session, so only one writes at a time
made_here: set[str] = set()  # ids of the commits that this process has made


def write(
    job: JobFields,
    frame: DataFrame,
    table: str | None,
    mode: str,
    label: str | None,
    commit: str | None,
    *,
    keys: str | Sequence[str] = (),
    order_by: str | None = None,
    merge_schema: bool = False,
    partition_by: str | Sequence[str] = (),
    delete: str | None = None,
) -> int:
    """Make one write, see ``TableWrites``. Return the number of its rows."""
    if not (name := table or job.table):
        raise EventError("no table: name one (iceberg:DATABASE.TABLE, delta:URI, hudi:URI), or pass --table")
    shard = -1 if job.shard is None else job.shard
    draft = Declaration(Table.parse(name), mode, label="", folder="", files=(), shard=shard, keys=_as_tuple(keys))
    draft = replace(draft, order_by=order_by, merge_schema=merge_schema, deletes=delete is not None)
    draft = replace(draft, partition_by=_as_tuple(partition_by))
    if label is not None and not LABEL.fullmatch(label):
        raise ValueError(f"the label {label!r} must be up to 64 letters, digits, '-' and '_'")
    direct = _is_direct(job, commit)
    if is_remote(frame.sparkSession):
        raise TableError("a write to a table needs the JVM, which a remote session (Spark Connect) has not")
    if draft.table.format == "parquet":
        return _write_parquet(job, frame, draft, label)
    batch = batch_for(job, draft.table, label, frame.sparkSession) if direct else None
    if batch:
        frame = batch.new_rows(frame, job, draft.table)
    draft = _with_spelling(draft, frame)
    layout = layout_of(frame, draft)
    if delete is not None:
        frame = _with_deleted(frame, delete, layout)
    frame = _fit_to_table(frame, layout, draft)
    # Now the frame has the table's spelling of names.
    draft = _with_spelling(draft, frame)
    named_columns = (*draft.partition_by, *draft.keys, draft.order_by)
    if missing := [column for column in named_columns if column and column not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which partition_by, keys or order_by names")
    with job.outcome.reserve_label(label) as write_label:
        draft = _stage(job, frame, replace(draft, label=write_label), layout)
        if direct:
            commit_now(job, draft, frame.sparkSession, batch, layout.root)
        else:
            # Only now that the files are complete. A kill before leaves files that no commit names; the format's own
            # cleaner deletes these.
            job.outcome.declare(draft.to_document())
    return draft.rows


def _stage(job: JobFields, frame: DataFrame, draft: Declaration, layout: Layout) -> Declaration:
    """Write the rows to files. Return the declaration with these files."""
    if draft.mode == "append" and draft.table.format == "delta" and layout.is_described:
        with _writing:
            return stage(frame, draft)
    columns = frame.drop(DELETED)._jdf.schema().asNullable().json()  # nullable, since another shard may have nulls
    draft = replace(draft, folder=_folder(job, draft, layout), seen=layout.seen or columns)
    if layout.draft and _adds_files(draft, layout):
        rows, files, described = layout.draft.stage(frame, draft.folder)
        return replace(draft, rows=rows, files=files, described=described)
    rows, files = _store(frame, [], draft.folder, "error")
    return replace(draft, rows=rows, files=files)


def _with_deleted(frame: DataFrame, delete: str, layout: Layout) -> DataFrame:
    """Return the frame with the column DELETED: whether a row deletes the table's row with the same keys.

    A column that only the condition uses, such as a change's operation, is dropped if the table does not have it.
    """
    # As in SQL, a condition that is null does not hold.
    is_deleted = functions.coalesce(functions.expr(delete), functions.lit(False)).alias(DELETED)
    try:
        condition = frame.select(is_deleted)
    except AnalysisException as error:
        raise TableError(f"delete={delete!r} is no condition on the frame's columns: {error}") from error
    with_deleted = frame.select("*", is_deleted)
    if layout.names is None:
        return with_deleted
    references = condition._jdf.queryExecution().analyzed().references().toSeq()
    names = [str(references.apply(index).name()) for index in range(references.length())]
    return with_deleted.drop(*(name for name in names if name.lower() not in layout.names))


def _fit_to_table(frame: DataFrame, layout: Layout, write: Declaration) -> DataFrame:
    """Return the frame with the table's columns. Its new columns are added to the draft of an Iceberg table."""
    if layout.schema is None:
        return without_hudi_columns(frame) if write.table.format == "hudi" else frame
    frame = fit_columns(frame, layout.schema, str(write.table), merge_schema=write.merge_schema)
    if layout.draft:
        new = [name for name in frame.columns[len(layout.schema) :] if name != DELETED]
        columns = frame.select(*map(backquoted, new))._jdf.schema().json()
        layout.draft.add_columns(iceberg_columns(frame.sparkSession, columns), new)
    return frame


def _as_tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _with_spelling(draft: Declaration, frame: DataFrame) -> Declaration:
    """Return the draft with column names spelled as in the frame, unless Spark distinguishes upper and lower case."""
    is_exact = frame.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
    spellings = {} if is_exact else {name.lower(): name for name in frame.columns}
    order = draft.order_by and spellings.get(draft.order_by.lower(), draft.order_by)
    keys, by = (
        tuple(spellings.get(name.lower(), name) for name in names) for names in (draft.keys, draft.partition_by)
    )
    return replace(draft, keys=keys, order_by=order, partition_by=by)


def _is_direct(job: JobFields, commit: str | None) -> bool:
    """Whether a write commits at once; else the run's commit adds it. EventError if no run would commit it."""
    if commit not in (None, "direct"):
        raise ValueError(f"commit is {commit!r}; it must be 'direct', or left out")
    if job.shard is None:
        return True
    if commit == "direct":
        commit_id(job, "")  # refuses the write, or reports it to the worker, before a row is read
        return True
    if not job.outcome.claimed:
        raise EventError(
            "no worker has claimed this shard, so its staged rows would not be committed: pass commit='direct', or an "
            "event without a run"
        )
    return False


def _write_parquet(job: JobFields, frame: DataFrame, draft: Declaration, label: str | None) -> int:
    """Append Parquet files: in a run to the shard's output, outside a run to a folder named after the write's id.

    So a second delivery of an event replaces the files of the first. Returns the number of rows.
    """
    if draft.mode != "append":
        raise TableError(f"{draft.table} can only be appended to; Delta, Iceberg and Hudi support {draft.mode}")
    if job.shard is not None and (not job.table or Table.parse(job.table) != draft.table):
        raise TableError(f"in a run parquet: is the run's output: start it with --table {draft.table}")
    by = list(draft.partition_by)
    with job.outcome.reserve_label(label) as write_label:
        if job.shard is not None:
            rows, _ = _store(frame, by, job.output, "append")
            return rows
        write_id = _new_id(commit_id(job, write_label))
        rows, _ = _store(frame, by, f"{draft.table.place}/shard={write_id.replace('/', '_')}", "overwrite")
        made_here.add(write_id)
        return rows


def _new_id(write_id: str) -> str:
    """Return the id of a commit; TableError if this process has already made a commit with this id."""
    if write_id in made_here:
        raise TableError(f"this process has made the commit {write_id} already: give the second write a label")
    return write_id


def _folder(job: JobFields, draft: Declaration, layout: Layout) -> str:
    """Return a new folder for the write's files: tasks of a failed earlier write may still write to their folder."""
    label, owner = f"{draft.label}-{uuid.uuid4().hex[:8]}", f"direct/{uuid.uuid4().hex}"
    if job.shard is not None and job.attempt:
        owner = f"{job.run_id}/{job.shard:06d}-{job.attempt}"
    if _adds_files(draft, layout):
        return f"{layout.root}/{DATA}/{owner}/{label}"
    if job.shard is not None:
        return f"{job.output}/{CHANGES}/{label}"
    if not (base := job.output_path or layout.root):
        raise TableError(f"{draft.table} is in S3 Tables, where no rows can be staged: name another place (--output)")
    base_uri = base if "://" in base else f"file://{Path(base).absolute()}"
    return f"{base_uri}/{CHANGES}/{owner}/{label}"


def _adds_files(draft: Declaration, layout: Layout) -> bool:
    """Whether Iceberg's writer makes the files, and the commit adds them to the table as they are."""
    return draft.mode == "append" and draft.table.format == "iceberg" and layout.root != ""


def _store(frame: DataFrame, by: list[str], folder: str, mode: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Write the rows. Return the number of rows, and the files with their sizes; without rows there are no files."""
    spark, observation = frame.sparkSession, Observation()
    observed_frame = frame.observe(observation, functions.count(functions.lit(1)).alias("rows"))
    options = {**OPTIONS, **(LOCAL_OPTIONS if spark.sparkContext.master.startswith("local") else {})}
    path, file_system = hadoop_path(spark, folder)
    is_new = mode != "append" or not file_system.exists(path)  # an earlier write's rows must not be deleted below
    with _writing, session_options(spark, {**PARQUET, FIELD_IDS: "false"}):
        observed_frame.write.options(**options).mode(mode).partitionBy(*by).parquet(folder)
    rows = int(observation.get["rows"])
    if not rows:
        # Without rows Spark still makes a file, for the schema.
        if is_new:
            file_system.delete(path, True)
        return 0, ()
    start = len(path.toUri().getPath().rstrip("/")) + 1
    statuses = _data_files(file_system, path)
    return rows, tuple(
        sorted((status.getPath().toUri().getPath()[start:], int(status.getLen())) for status in statuses)
    )


def _data_files(file_system: Any, folder: Any) -> list[Any]:
    """Return the files in a folder, without the files of Hadoop's committers."""
    iterator, statuses = file_system.listFiles(folder, True), []
    while iterator.hasNext():
        statuses.append(iterator.next())
    return [status for status in statuses if not status.getPath().getName().startswith(("_", "."))]


def commit_now(job: JobFields, draft: Declaration, spark: SparkSession, batch: Batch | None, root: str) -> None:
    """Commit one write by its own id, or by its batch's records. Delete its files unless they are the table's now."""
    from sparklet.connectors.tables.commit import commit

    if not draft.files:
        return
    if draft.table.format == "delta" and _replaces_commits(spark, draft.table.place):
        sys.stderr.write(f"sparklet: {NOT_CONDITIONAL}\n")
    write_id = batch.name if batch else _new_id(commit_id(job, draft.label))
    shared = {name: getattr(draft, name) for name in ("keys", "order_by", "merge_schema", "partition_by", "deletes")}
    planned = Commit(
        write_id, draft.table, draft.mode, writes=(draft,), warehouse=job.params.get("warehouse"), **shared
    )
    if batch:
        planned = replace(planned, records=batch.new, chains_folder=f"{root}/{batch.folder}")
        # Appended rows are made of records alone. Rows that replace others may be computed from the table's rows, so
        # they are valid only for the state of the table that was read.
        replaces_rows = batch.is_read and draft.mode != "append"
        committed = commit(planned, spark, batch.opened, only_on_opened=replaces_rows)
        batch.is_written = True
    else:
        committed = commit(replace(planned, fixed_at_s=work_time_s(job)), spark)
        made_here.add(write_id)
    # If an earlier delivery was committed, the table has that one's files. Changes were written anew by the commit.
    if committed.already or f"/{CHANGES}/" in draft.folder:
        _delete_staged(spark, draft)


def _replaces_commits(spark: SparkSession, uri: str) -> bool:
    """Whether Spark might overwrite another writer's commit in S3.

    It cannot with Sparklet's own S3 file system, or with a log store that the script has set.
    """
    scheme, separator, _ = uri.partition("://")
    options: Any = spark.sparkContext.getConf().getAll()
    if not separator or scheme == "file" or any("delta.logstore" in key.lower() for key, _ in options):
        return False
    file_system = spark.sparkContext._jsc.hadoopConfiguration().get(f"fs.{scheme}.impl")
    return not str(file_system).endswith(OUR_S3A)


def _delete_staged(spark: SparkSession, write: Declaration) -> None:
    """Delete the files that a write has staged."""
    # Files that the format's library wrote can lie among the table's files, so they are deleted one by one. Files that
    # Spark itself wrote have a folder of their own, which is deleted as a whole.
    names = [f"/{name}" for name, _ in write.files] if write.described else [""]
    for name in names:
        path, file_system = hadoop_path(spark, f"{write.folder}{name}")
        file_system.delete(path, True)


def batch_for(
    job: JobFields, table: Table, label: str | None, spark: SparkSession, *, is_read: bool = False
) -> Batch | None:
    """See ``stream_batch.batch_of``. TableError if a direct commit lacks its library."""
    if table.format == "hudi" and importlib.util.find_spec("boto3") is None:
        raise TableError(
            "a direct commit to hudi needs boto3 in the script's Python: pip install boto3. In a run, without "
            "commit='direct', the script does without"
        )
    from sparklet.connectors.tables.stream_batch import batch_of

    return batch_of(job, table, label, spark, is_read)
