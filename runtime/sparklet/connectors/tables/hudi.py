"""Commits to Hudi tables, with Spark; a commit's id is in the metadata of its completed instant.

The chains of streams are there, too: a batch's commit repeats all chains, so the newest such instant has them.

Hudi lets two writers complete the same inserts, and its jars for Spark have no lock for S3. So Sparklet's writers take
turns by a lease in the table, and look for the id again once they hold it. Other programs must not write then.

A writer may be stopped for longer than its lease and then go on. So each writer looks, after its last file and before
it completes its instant, for instants that it did not see under its lease, or saw pending that are completed by now.
Its own instant was on the timeline before: of two writers, one finds the other's instant and refuses. A writer that
starts rolls all pending instants back, which deletes their files; one that is completed all the same does not count,
from when its rollback is planned. Hudi takes files that are older than a timeline's first instant for committed ones,
so a new table first gets an empty instant.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.java_gateway import ensure_callback_server_started
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.types import StructType

from sparklet.connectors.tables.chains import CHAIN
from sparklet.connectors.tables.changes import (
    FILE,
    ROW,
    overwriting_rows,
    read_all,
    staged_columns,
    staged_rows,
    upserted_rows,
)
from sparklet.connectors.tables.columns import agreed, without_hudi_columns
from sparklet.connectors.tables.declaration import DELETED, HUDI_DELETED, Commit, refuse_hudi
from sparklet.connectors.tables.lease import lease
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.session import backquoted, hadoop_path, java_class, scala_object

COMMIT_ID, MAKER, CHAINS = "sparklet.commit-id", "sparklet.maker", "sparklet.chains"
OPERATION = "hoodie.datasource.write.operation"
GLOBAL = {"hoodie.index.type": "GLOBAL_SIMPLE", "hoodie.simple.index.update.partition.path": "true"}
OPERATIONS = {"append": "bulk_insert", "upsert": "upsert", "overwrite_partitions": "insert_overwrite"}


class HudiTable:
    """A table at a URI, read anew for each question. Hudi calls ``accept`` before it completes an instant."""

    def __init__(self, uri: str, spark: SparkSession) -> None:
        self._uri = self.root = uri
        self._spark = spark
        self._chains: dict[str, int] | None = None  # as they were at the first look
        self._known: dict[str, bool] = {}  # the instants that this writer expects: whether each is completed
        self._refusal = ""  # why ``accept`` has refused an instant

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is its last link."""
        if name.startswith(CHAIN):
            self._chains = self._chains_now() if self._chains is None else self._chains
            return ("", self._chains[name]) if name in self._chains else None
        newest = self._newest(lambda metadata: metadata.getMetadata(COMMIT_ID) == name)
        return newest and (str(newest[0].requestedTime()), int(newest[1].getMetadata(MAKER) or 0))

    def _chains_now(self) -> dict[str, int]:
        newest = self._newest(lambda metadata: metadata.getMetadata(CHAINS) is not None)
        return dict(json.loads(newest[1].getMetadata(CHAINS))) if newest else {}

    def _newest(self, condition: Callable[[Any], bool]) -> tuple[Any, Any] | None:
        """The newest completed instant with wanted metadata, archived or not, and its metadata."""
        if (table := self._metadata()) is None:
            return None
        for archived in (False, True):
            timeline = table.getArchivedTimeline() if archived else table.getActiveTimeline()
            if archived:
                timeline.loadCompletedInstantDetailsInMemory()
            commits = timeline.getCommitsTimeline().filterCompletedInstants()
            for instant in reversed(list(commits.getInstants())):
                is_wanted = condition(metadata := commits.readCommitMetadata(instant))
                if is_wanted and str(instant.requestedTime()) not in _rolled_back(table):
                    return instant, metadata
        return None

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Write the files' rows in one instant; see ``OpenTable``."""
        with lease(f"{self._uri}/_sparklet_lease"):
            table, frame, by, can_delete = self._metadata(), None, list(commit.partition_by), False
            # Before the commit is looked for: what is completed in between counts as another writer's.
            self._known = _instants(table)
            names_set = {COMMIT_ID: commit.commit_id}
            if commit.records:
                chains, before = self._chains_now(), self._chains or {}
                is_late = any(chains.get(name) != before.get(name) for name in names)
                names_set[CHAINS] = json.dumps({**chains, **names})
            else:
                is_late = self.made(commit.commit_id) is not None
                names_set[MAKER] = str(names[commit.commit_id])
            # The commit was looked for without the lease, and another writer may have made it since.
            if is_late:
                raise CommitConflictError(f"{commit.table}: another committer was faster")
            if table is None:
                self._half_made(delete=True)
            else:
                frame = self._spark.read.format("hudi").load(self._uri)
                can_delete, frame = HUDI_DELETED in frame.columns, without_hudi_columns(frame)
                by = [str(name) for name in table.getTableConfig().getPartitionFields().orElse(None) or ()]
                properties = table.getTableConfig().getProps()
                refuse_hudi(commit.table, commit, {str(key): str(properties[key]) for key in properties})
                self._let_roll_back(table)
            rows = self.new_rows(commit, frame if frame and frame.columns else None, by)
            if can_delete and HUDI_DELETED not in rows.columns:
                rows = rows.withColumn(HUDI_DELETED, functions.lit(None).cast("boolean"))
            self.load_early()
            # With this empty instant as the first one, no file of a killed writer is older than the timeline.
            if not any(_instants(table).values()):
                self._save(rows.limit(0), {**_options(commit, table), OPERATION: "bulk_insert"})
                table = self._metadata()
                if len(instants := self._new()) != 1:
                    raise CommitConflictError(f"{self._uri}: another writer was there: {instants}")
                self._known.update(instants)
            self._save(rows, {**_options(commit, table), **names_set})
            made = self.made(commit.commit_id)
        # An instant can be completed although another writer has planned its rollback; then it has no rows.
        if made is None:
            raise CommitConflictError(f"{self._uri}: another writer has rolled this commit back")
        return made[0]

    def _save(self, rows: Any, options: dict[str, str]) -> None:
        """Write an instant, as ``rows.write`` does, and complete it if it is accepted."""
        jvm: Any = self._spark._jvm
        let_java_call(self._spark.sparkContext._gateway)
        # Parquet's older lists hold no nulls.
        self._spark._jsc.hadoopConfiguration().setIfUnset("parquet.avro.write-old-list-structure", "false")
        some, nothing, hudi = jvm.scala.Option.apply, jvm.scala.Option.empty(), jvm.org.apache.hudi
        hooks = getattr(hudi, "HoodieSparkSqlWriter$StreamingWriteParams")(nothing, nothing, nothing, some(self))
        writer = scala_object(self._spark, "org.apache.hudi.HoodieSparkSqlWriter")
        scala_options = jvm.PythonUtils.toScalaMap({**options, "path": self._uri})
        mode = jvm.org.apache.spark.sql.SaveMode.Append
        context = self._spark._jsparkSession.sqlContext()
        try:
            answer = writer.write(context, mode, scala_options, rows._jdf, some(hooks), nothing, nothing)
        except (Py4JJavaError, PySparkException) as error:
            # The error of ``accept`` comes back as one of Java's, so its reason is kept aside. Any other may come of
            # another writer, which has rolled this instant back and deleted its files.
            if other := self._refusal or self.other_writer():
                raise CommitConflictError(other) from error
            raise
        finally:
            writer.cleanup()
        if not answer._1():
            raise TableError(f"{self._uri}: Hudi could not write all rows")

    def accept(self, client: Any, metadata: Any) -> None:
        """Delete the instant's files and refuse it by an error, if there was another writer."""
        files = [str(path) for path in metadata.getFileIdAndFullPaths(client.getBasePath()).values()]
        # A file of Hudi's is called FILE_TOKEN_INSTANT.parquet.
        instants = {name.rpartition("_")[2].partition(".")[0] for name in files if name.endswith(".parquet")}
        if other := self.other_writer(instants):
            storage = self._spark._jvm.org.apache.hudi.storage
            # Not left to a rollback: one that another writer has made already does not know of files that came later.
            for path in files:
                client.getStorage().deleteFile(storage.StoragePath(path))
            self._refusal = other
            raise CommitConflictError(other)

    class Java:
        """The interfaces that py4j implements by this object."""

        implements = ("java.util.function.BiConsumer",)

    def other_writer(self, instants: Collection[str] = ()) -> str:
        """The new instants if there was another writer; "" if one instant is new and pending: this writer's own.

        ``instants``: its own, where the files tell it; it is not there if another writer has rolled it back.
        Chains are read from the newest instant, so the instant of a batch must be the newest by every writer's clock.
        """
        new = self._new()
        is_newest = self._chains is None or min(new, default="") > max(self._known, default="")
        is_own = list(new.values()) == [False] and new.keys() >= set(instants)
        return "" if is_own and is_newest else f"{self._uri}: another writer was there: {new}"

    def _new(self) -> dict[str, bool]:
        """The instants that were not there at the look, or are completed since; what was rolled back has no rows."""
        instants = _instants(table := self._metadata())
        new = {time: state for time, state in instants.items() if self._known.get(time) != state}
        undone = _rolled_back(table) if self._known.keys() & new else ()
        return {time: state for time, state in new.items() if time not in undone}

    def new_rows(self, commit: Commit, table_rows: DataFrame | None, by: Sequence[str]) -> DataFrame:
        """The rows to write; ``table_rows``: the table's, None if its first writer was killed before it had any."""
        # An upsert takes keys alone of what was committed before.
        writes = [*commit.writes, *(commit.earlier if commit.mode == "overwrite_partitions" else ())]
        # A column that has had no null may have one from now on.
        table = table_rows and StructType.fromJson(json.loads(table_rows._jdf.schema().asNullable().json()))
        columns = agreed(commit, writes, table, staged_columns)

        rows = partial(staged_rows, self._spark)
        if commit.mode == "upsert":
            changes = self._changes(commit, upserted_rows(commit, columns, rows), table_rows)
            return changes.withColumnRenamed(DELETED, HUDI_DELETED)
        if commit.mode == "overwrite_partitions":
            return overwriting_rows(commit, columns, rows, list(map(backquoted, by)))
        return read_all(commit.writes, columns, rows).drop(FILE, ROW)

    def _changes(self, commit: Commit, newest: DataFrame, table_rows: DataFrame | None) -> DataFrame:
        """The rows without those that are older than the table's; with its own keys where Spark has them for equal.

        Hudi compares keys as texts: -0.0 is another than 0.0.
        """
        floats = [name for name, type_ in newest.dtypes if name in commit.keys and type_ in ("float", "double")]
        if floats and table_rows is not None:
            groups = [functions.col(name).alias(f"_sparklet_{name}") for name in commit.keys]
            table_keys = table_rows.groupBy(*groups).agg(
                *(functions.first(name).alias(f"_own_{name}") for name in floats)
            )
            same = [newest[name] == table_keys[f"_sparklet_{name}"] for name in commit.keys]
            float_keys = {name: functions.coalesce(f"_own_{name}", newest[name]) for name in floats}
            columns = [float_keys.get(name, newest[name]).alias(name) for name in newest.columns]
            newest = newest.join(table_keys, same, "left").select(*columns)
        if commit.order_by is None or table_rows is None or commit.order_by not in table_rows.columns:
            return newest
        old, new = table_rows[commit.order_by], newest[commit.order_by]
        is_older = functions.coalesce(old > new, old.isNotNull())
        same = [table_rows[name] == newest[name] for name in commit.keys]
        return newest.join(table_rows, [*same, is_older], "left_anti")

    def _metadata(self) -> Any | None:
        """Hudi's view of the table; None if there is none."""
        path, files = hadoop_path(self._spark, f"{self._uri}/.hoodie")
        if not files.exists(path):  # Hudi itself would look for its properties for five seconds
            return None
        hudi = self._spark._jvm.org.apache.hudi
        conf = hudi.hadoop.fs.HadoopFSUtils.getStorageConf(self._spark._jsc.hadoopConfiguration())
        try:
            return hudi.common.table.HoodieTableMetaClient.builder().setConf(conf).setBasePath(self._uri).build()
        except Py4JJavaError as error:
            if java_class(error) != "TableNotFoundException" and not self._half_made():
                raise
            return None

    def _half_made(self, *, delete: bool = False) -> bool:
        """Whether a writer was killed once it had made the table's folders, which have no file yet."""
        path, files = hadoop_path(self._spark, f"{self._uri}/.hoodie")
        if not files.exists(path) or files.listFiles(path, True).hasNext():
            return False
        return bool(files.delete(path, True)) if delete else True

    def _let_roll_back(self, table: Any) -> None:
        """Give heartbeats to the instants that Hudi is to roll back: then it does so though later ones are completed.

        A writer that was stopped before it made its instant makes one that is older than what others have completed.
        Hudi would refuse to roll that back, and with it every later commit.
        """
        folder = self._spark._jvm.org.apache.hudi.common.table.HoodieTableMetaClient.getHeartbeatFolderPath(self._uri)
        pending = (instant for instant, is_completed in _instants(table).items() if not is_completed)
        for instant in {*pending, *_rolled_back(table, is_pending=True)}:
            path, files = hadoop_path(self._spark, f"{folder}/{instant}")
            files.create(path, True).close()

    def load_early(self) -> None:
        """Load a class that Hudi 1.2.0 may load too late: every tenth commit in a fresh JVM fails without it."""
        jvm: Any = self._spark._jvm
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        jvm.java.lang.Class.forName("org.apache.hudi.metadata.HoodieMetadataPayload", True, loader)


def let_java_call(gateway: Any) -> None:
    """Let Java call objects of this process, by numbers that no earlier script of a warm JVM has used.

    When Java collects an object of an earlier script, py4j would make this process forget its own of that number.
    """
    ensure_callback_server_started(gateway)
    gateway.gateway_property.pool.next_id = time.time_ns()


def _instants(table: Any | None) -> dict[str, bool]:
    """The commits on a timeline: whether each is completed."""
    if table is None:
        return {}
    timeline = table.getActiveTimeline().getCommitsTimeline()
    return {str(instant.requestedTime()): bool(instant.isCompleted()) for instant in timeline.getInstants()}


def _rolled_back(table: Any, *, is_pending: bool = False) -> set[str]:
    """The instants that a timeline's rollbacks undo, by their plans: each is stored before its rollback deletes a file.

    ``is_pending``: only those of rollbacks that have not ended.
    """
    timeline, instants = table.getActiveTimeline().getRollbackTimeline(), table.getInstantGenerator()
    timeline = timeline.filterInflightsAndRequested() if is_pending else timeline
    plans = map(timeline.readRollbackPlan, map(instants.getRollbackRequestedInstant, timeline.getInstants()))
    return {str(plan.getInstantToRollback().getCommitTime()) for plan in plans}


def _options(commit: Commit, table: Any | None) -> dict[str, str]:
    """The options of one write; those of the table itself are in the table, once it exists."""
    options = {
        OPERATION: OPERATIONS[commit.mode],
        "hoodie.datasource.write.row.writer.enable": "false",  # it would not call ``accept``
        "hoodie.datasource.write.commitmeta.key.prefix": "sparklet.",
        # Hudi sleeps so long (default: 200 ms) for each time it takes: for concurrent writers on unequal clocks.
        "hoodie.time.generator.max_expected_clock_skew_ms": "20",
        # The lease is the lock, and pending instants are deleted: not the worker's defaults, for plain writers.
        "hoodie.write.concurrency.mode": "single_writer",
        "hoodie.cleaner.policy.failed.writes": "EAGER",
        "hoodie.write.lock.provider": "org.apache.hudi.client.transaction.lock.InProcessLockProvider",
    }
    if table is not None:
        config = table.getTableConfig()
        by = [str(name) for name in config.getPartitionFields().orElse(None) or ()]
        has_metadata = not config.getMetadataPartitions().isEmpty()
        return {
            **options,
            "hoodie.table.name": str(config.getTableName()),
            # As the table has it: false deletes its metadata table, and true would make one
            "hoodie.metadata.enable": str(has_metadata).lower(),
            "hoodie.compact.inline": str(config.getTableType().name() == "MERGE_ON_READ").lower(),
            # Else a key that comes with another partition's value would be there twice.
            **({} if set(by).issubset(commit.keys) else GLOBAL),
        }
    return {
        **options,
        "hoodie.table.name": commit.table.place.rpartition("/")[2],
        "hoodie.table.timeline.timezone": "UTC",  # commits are in order wherever their writers are
        "hoodie.metadata.enable": "false",
        **({"hoodie.datasource.write.recordkey.field": ",".join(commit.keys)} if commit.keys else {}),
        "hoodie.datasource.write.partitionpath.field": ",".join(commit.partition_by),
        "hoodie.datasource.write.hive_style_partitioning": "true",
    }
