"""A write to a table in the script: its rows go into Parquet files, which a commit then adds.

An append to Delta or Iceberg lets the format's own writer make and describe the files, where the table keeps its data
(``delta.stage``, ``iceberg_draft``): the commit names them and copies nothing. Rows that the commit must read
(``upsert``, ``overwrite_partitions``, all of Hudi) go below ``_changes`` in the output, which is never published.
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

from sparklet.connectors.tables.columns import fitted, without_hudi_columns
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
FIELD_IDS = "spark.sql.parquet.fieldId.write.enabled"  # off: rows read from another table would keep its ids
OPTIONS = {
    "timeZone": "UTC",  # of timestamps in the names of folders
    "partitionOverwriteMode": "static",
    "mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
}
# Safe, since the folder is read only once it is declared; not on a cluster, whose late executors could still write.
LOCAL_OPTIONS = {"mapreduce.fileoutputcommitter.algorithm.version": "2"}
OUR_S3A = ("TaskS3A", "StagedS3A")
NOT_CONDITIONAL = (
    "this commit to Delta is not conditional on S3: of two at the same moment one may be lost. Write in a run, or set "
    "spark.delta.logStore.s3.impl to io.delta.storage.S3DynamoDBLogStore (docs/guide/tables.md)"
)
_writing = threading.Lock()  # the session's options are for one write at a time
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
    """Make one write, see ``TableWrites``; returns the number of its rows."""
    if not (name := table or job.table):
        raise EventError("no table: name one (iceberg:DATABASE.TABLE, delta:URI, hudi:URI), or pass --table")
    named_by = (_names(keys), order_by, merge_schema, _names(partition_by), delete is not None)
    draft = Declaration(Table.parse(name), mode, "", "", (), *named_by, shard=-1 if job.shard is None else job.shard)
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
    draft = _by_columns(draft, frame)
    layout = layout_of(frame, draft)
    if delete is not None:
        frame = _marked(frame, delete, layout)
    frame = _fitted(frame, layout, draft)
    # The fitted frame has the table's spelling of names.
    draft = _by_columns(draft, frame)
    named = (*draft.partition_by, *draft.keys, draft.order_by)
    if missing := [column for column in named if column and column not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which partition_by, keys or order_by names")
    with job.outcome.reserve_label(label) as free:
        draft = _staged(job, frame, replace(draft, label=free), layout)
        if direct:
            commit_now(job, draft, frame.sparkSession, batch, layout.root)
        else:
            # Once the files are complete: a kill before leaves files that nobody names, for the format's own cleaner.
            job.outcome.declare(draft.to_document())
    return draft.rows


def _staged(job: JobFields, frame: DataFrame, draft: Declaration, layout: Layout) -> Declaration:
    """The write, once its files are there."""
    if draft.mode == "append" and draft.table.format == "delta" and layout.is_described:
        with _writing:
            return stage(frame, draft)
    columns = frame.drop(DELETED)._jdf.schema().asNullable().json()  # another shard may have nulls
    draft = replace(draft, folder=_folder(job, draft, layout), seen=layout.seen or columns)
    if layout.draft and _adds_files(draft, layout):
        rows, files, described = layout.draft.stage(frame, draft.folder)
        return replace(draft, rows=rows, files=files, described=described)
    rows, files = _store(frame, [], draft.folder, "error")
    return replace(draft, rows=rows, files=files)


def _marked(frame: DataFrame, delete: str, layout: Layout) -> DataFrame:
    """The frame with a column that says of each row whether it deletes that of its key.

    Columns that the condition names, and the table lacks, are left out: they are of the change, not of the row.
    """
    # As in SQL, a condition that is null is not met.
    is_deleted = functions.coalesce(functions.expr(delete), functions.lit(False)).alias(DELETED)
    try:
        condition = frame.select(is_deleted)
    except AnalysisException as error:
        raise TableError(f"delete={delete!r} is no condition on the frame's columns: {error}") from error
    marked = frame.select("*", is_deleted)
    if layout.names is None:
        return marked
    references = condition._jdf.queryExecution().analyzed().references().toSeq()
    named = [str(references.apply(number).name()) for number in range(references.length())]
    return marked.drop(*(name for name in named if name.lower() not in layout.names))


def _fitted(frame: DataFrame, layout: Layout, write: Declaration) -> DataFrame:
    """The frame with the table's columns, which get the frame's new ones in Iceberg's draft."""
    if layout.schema is None:
        return without_hudi_columns(frame) if write.table.format == "hudi" else frame
    frame = fitted(frame, layout.schema, str(write.table), merge_schema=write.merge_schema)
    if layout.draft:
        new = [name for name in frame.columns[len(layout.schema) :] if name != DELETED]
        columns = frame.select(*map(backquoted, new))._jdf.schema().json()
        layout.draft.add_columns(iceberg_columns(frame.sparkSession, columns), new)
    return frame


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _by_columns(draft: Declaration, frame: DataFrame) -> Declaration:
    """The draft with the frame's own names of columns, which may differ in case unless Spark says that it matters."""
    exact = frame.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
    spellings = {} if exact else {name.lower(): name for name in frame.columns}
    order = draft.order_by and spellings.get(draft.order_by.lower(), draft.order_by)
    keys, by = (
        tuple(spellings.get(name.lower(), name) for name in names) for names in (draft.keys, draft.partition_by)
    )
    return replace(draft, keys=keys, order_by=order, partition_by=by)


def _is_direct(job: JobFields, commit: str | None) -> bool:
    if commit not in (None, "direct"):
        raise ValueError(f"commit is {commit!r}; it may be 'direct', or left away")
    if job.shard is None:
        return True
    if commit == "direct":
        commit_id(job, "")  # is refused, or the worker is told, before a row is read
        return True
    if not job.outcome.claimed:
        raise EventError(
            "no worker has claimed this shard, so its staged rows would not be committed: pass commit='direct', or an "
            "event without a run"
        )
    return False


def _write_parquet(job: JobFields, frame: DataFrame, draft: Declaration, label: str | None) -> int:
    """Append to Parquet files: in a run to the shard's output, elsewhere to a folder that the write's id names.

    So a second delivery replaces the files of the first.
    """
    if draft.mode != "append":
        raise TableError(f"{draft.table} can only be appended to; Delta, Iceberg and Hudi support {draft.mode}")
    if job.shard is not None and (not job.table or Table.parse(job.table) != draft.table):
        raise TableError(f"in a run parquet: is the run's output: start it with --table {draft.table}")
    by = list(draft.partition_by)
    with job.outcome.reserve_label(label) as named:
        if job.shard is not None:
            return _store(frame, by, job.output, "append")[0]
        identity = _once(commit_id(job, named))
        rows, _ = _store(frame, by, f"{draft.table.place}/shard={identity.replace('/', '_')}", "overwrite")
        made_here.add(identity)
        return rows


def _once(identity: str) -> str:
    """The id of a commit; TableError if this process has made it already."""
    if identity in made_here:
        raise TableError(f"this process has made the commit {identity} already: give the second write a label")
    return identity


def _folder(job: JobFields, draft: Declaration, layout: Layout) -> str:
    """A new folder for the write's files: tasks of an earlier write that failed may still write to theirs."""
    label, owner = f"{draft.label}-{uuid.uuid4().hex[:8]}", f"direct/{uuid.uuid4().hex}"
    if job.shard is not None and job.attempt:
        owner = f"{job.run_id}/{job.shard:06d}-{job.attempt}"
    if _adds_files(draft, layout):
        return f"{layout.root}/{DATA}/{owner}/{label}"
    if job.shard is not None:
        return f"{job.output}/{CHANGES}/{label}"
    if not (base := job.output_path or layout.root):
        raise TableError(f"{draft.table} is in S3 Tables, where no rows can be staged: name another place (--output)")
    return f"{base if '://' in base else f'file://{Path(base).absolute()}'}/{CHANGES}/{owner}/{label}"


def _adds_files(draft: Declaration, layout: Layout) -> bool:
    """Whether the files become the table's own."""
    return draft.mode == "append" and draft.table.format == "iceberg" and layout.root != ""


def _store(frame: DataFrame, by: list[str], folder: str, mode: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Write the files; returns the number of rows, and the files with their sizes. Without rows there are no files."""
    spark, observed = frame.sparkSession, Observation()
    counted = frame.observe(observed, functions.count(functions.lit(1)).alias("rows"))
    options = {**OPTIONS, **(LOCAL_OPTIONS if spark.sparkContext.master.startswith("local") else {})}
    path, files = hadoop_path(spark, folder)
    is_new = mode != "append" or not files.exists(path)  # an earlier write's rows are not this one's to delete
    with _writing, session_options(spark, {**PARQUET, FIELD_IDS: "false"}):
        counted.write.options(**options).mode(mode).partitionBy(*by).parquet(folder)
    rows = int(observed.get["rows"])
    if not rows:
        # Spark makes a file without rows, too, for the schema.
        if is_new:
            files.delete(path, True)
        return 0, ()
    start = len(path.toUri().getPath().rstrip("/")) + 1
    stored = _data_files(files, path)
    return rows, tuple(sorted((status.getPath().toUri().getPath()[start:], int(status.getLen())) for status in stored))


def _data_files(files: Any, folder: Any) -> list[Any]:
    """The files in a folder, without those of Hadoop's committers."""
    listed, statuses = files.listFiles(folder, True), []
    while listed.hasNext():
        statuses.append(listed.next())
    return [status for status in statuses if not status.getPath().getName().startswith(("_", "."))]


def commit_now(job: JobFields, draft: Declaration, spark: SparkSession, batch: Batch | None, root: str) -> None:
    """Commit one write under its own id, or by its batch's records; delete its files unless the table needs them."""
    from sparklet.connectors.tables.commit import commit

    if not draft.files:
        return
    if draft.table.format == "delta" and _replaces_commits(spark, draft.table.place):
        sys.stderr.write(f"sparklet: {NOT_CONDITIONAL}\n")
    identity = batch.name if batch else _once(commit_id(job, draft.label))
    how = (draft.keys, draft.order_by, draft.merge_schema, draft.partition_by, draft.deletes)
    planned = Commit(identity, draft.table, draft.mode, (draft,), *how, warehouse=job.params.get("warehouse"))
    if batch:
        planned = replace(planned, records=batch.new, chains_folder=f"{root}/{batch.folder}")
        # Rows to be appended are made of records alone; those that replace may be made of the table's, so they hold for
        # the state that was read.
        replaces = batch.is_read and draft.mode != "append"
        done = commit(planned, spark, batch.opened, only_on_opened=replaces)
        batch.is_written = True
    else:
        done = commit(replace(planned, fixed_at_s=work_time_s(job)), spark)
        made_here.add(identity)
    # An earlier delivery has the rows in the table by its own files; of changes the commit has written them anew.
    if done.already or f"/{CHANGES}/" in draft.folder:
        sweep(spark, draft)


def _replaces_commits(spark: SparkSession, uri: str) -> bool:
    """Whether Spark may replace another's commit in S3: where our S3A is not, and the script chose no log store."""
    scheme, separator, _ = uri.partition("://")
    chosen: Any = spark.sparkContext.getConf().getAll()
    if not separator or scheme == "file" or any("delta.logstore" in key.lower() for key, _ in chosen):
        return False
    used = spark.sparkContext._jsc.hadoopConfiguration().get(f"fs.{scheme}.impl")
    return not str(used).endswith(OUR_S3A)


def sweep(spark: SparkSession, write: Declaration) -> None:
    """Delete the files that a write has staged: those that it describes lie among the table's own."""
    for name in (f"/{name}" for name, _ in write.files) if write.described else [""]:
        path, files = hadoop_path(spark, f"{write.folder}{name}")
        files.delete(path, True)


def batch_for(
    job: JobFields, table: Table, label: str | None, spark: SparkSession, *, is_read: bool = False
) -> Batch | None:
    """See ``stream_batch.batch_of``; TableError without the library of a direct commit."""
    if table.format == "hudi" and importlib.util.find_spec("boto3") is None:
        raise TableError(
            "a direct commit to hudi needs boto3 in the script's Python: pip install boto3. In a run, without "
            "commit='direct', the script does without"
        )
    from sparklet.connectors.tables.stream_batch import batch_of

    return batch_of(job, table, label, spark, is_read)
