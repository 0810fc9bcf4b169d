"""Commits to Hudi tables, with Spark. An instant is Hudi's entry for a commit in the table's timeline.

The metadata of a completed instant has the commit's id. It also has the last links of ``chains``: the commit of a
batch repeats those of all chains, so that the newest such instant has them.

Hudi lets two writers complete the same inserts, and its jars for Spark have no lock for S3. So Sparklet's writers take
turns by a lease in the table, and look for the commit's id again once they hold the lease. Meanwhile other programs
must not write.

A writer may be paused for longer than its lease, and then go on. So after its last file, and before it completes its
instant, each writer looks for instants of other writers: new ones, and ones that were pending when it took the lease
and are completed now. A writer puts its own instant on the timeline before its first file. So of two writers at least
one finds the other's instant, and refuses its own. A writer that begins rolls all pending instants back, which deletes
their files. If such an instant is completed all the same, it does not count once its rollback is planned. Hudi treats
files that are older than a timeline's first instant as committed, so a new table first gets an empty instant.
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
from sparklet.connectors.tables.columns import agreed_columns, without_hudi_columns
from sparklet.connectors.tables.declaration import DELETED, HUDI_DELETED, Commit, refuse_hudi
from sparklet.connectors.tables.lease import lease
from sparklet.job.errors import CommitConflictError, TableError
from sparklet.job.session import backquoted, hadoop_path, java_class, scala_object

COMMIT_ID, MAKER, CHAINS = "sparklet.commit-id", "sparklet.maker", "sparklet.chains"
OPERATION = "hoodie.datasource.write.operation"
GLOBAL = {"hoodie.index.type": "GLOBAL_SIMPLE", "hoodie.simple.index.update.partition.path": "true"}
OPERATIONS = {"append": "bulk_insert", "upsert": "upsert", "overwrite_partitions": "insert_overwrite"}


class HudiTable:
    """A table at a URI, which is read anew by each method. Hudi calls ``accept`` before it completes an instant."""

    def __init__(self, uri: str, spark: SparkSession) -> None:
        self._uri = self.root = uri
        self._spark = spark
        # The number of the last link by the chain's name (see ``chains``), as ``find_name`` first read it.
        self._chains: dict[str, int] | None = None
        self._seen_instants: dict[str, bool] = {}  # by instant: whether it was completed, as this writer last saw it
        self._refusal = ""  # why ``accept`` has refused an instant

    def find_name(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; the number of a chain is that of its last link, and its version is ""."""
        if name.startswith(CHAIN):
            self._chains = self._read_chains() if self._chains is None else self._chains
            return ("", self._chains[name]) if name in self._chains else None
        newest = self._newest_instant(lambda metadata: metadata.getMetadata(COMMIT_ID) == name)
        if newest is None:
            return None
        instant, metadata = newest
        return str(instant.requestedTime()), int(metadata.getMetadata(MAKER) or 0)

    def _read_chains(self) -> dict[str, int]:
        newest = self._newest_instant(lambda metadata: metadata.getMetadata(CHAINS) is not None)
        if newest is None:
            return {}
        _, metadata = newest
        return dict(json.loads(metadata.getMetadata(CHAINS)))

    def _newest_instant(self, condition: Callable[[Any], bool]) -> tuple[Any, Any] | None:
        """Return the newest completed instant whose metadata meet a condition, archived or not, and its metadata."""
        if (table := self._metadata()) is None:
            return None
        for archived in (False, True):
            timeline = table.getArchivedTimeline() if archived else table.getActiveTimeline()
            if archived:
                timeline.loadCompletedInstantDetailsInMemory()
            commits = timeline.getCommitsTimeline().filterCompletedInstants()
            for instant in reversed(list(commits.getInstants())):
                meets_condition = condition(metadata := commits.readCommitMetadata(instant))
                if meets_condition and str(instant.requestedTime()) not in _rolled_back(table):
                    return instant, metadata
        return None

    def write(self, commit: Commit, names: Mapping[str, int]) -> str:
        """Write the rows of the staged files in one instant; see ``OpenTable``."""
        with lease(f"{self._uri}/_sparklet_lease"):
            table, frame, by, has_delete_column = self._metadata(), None, list(commit.partition_by), False
            # Read before the commit is looked for: an instant that is completed in between counts as another writer's.
            self._seen_instants = _instants(table)
            instant_metadata = {COMMIT_ID: commit.commit_id}
            if commit.records:
                chains, before = self._read_chains(), self._chains or {}
                was_overtaken = any(chains.get(name) != before.get(name) for name in names)
                instant_metadata[CHAINS] = json.dumps({**chains, **names})
            else:
                was_overtaken = self.find_name(commit.commit_id) is not None
                instant_metadata[MAKER] = str(names[commit.commit_id])
            # The caller has looked for the commit without the lease, and another writer may have made it since.
            if was_overtaken:
                raise CommitConflictError(f"{commit.table}: another committer has committed first")
            if table is None:
                self._is_half_made(delete=True)
            else:
                frame = self._spark.read.format("hudi").load(self._uri)
                has_delete_column, frame = HUDI_DELETED in frame.columns, without_hudi_columns(frame)
                by = [str(name) for name in table.getTableConfig().getPartitionFields().orElse(None) or ()]
                properties = table.getTableConfig().getProps()
                refuse_hudi(commit.table, commit, {str(key): str(properties[key]) for key in properties})
                self._let_roll_back(table)
            rows = self.new_rows(commit, frame if frame and frame.columns else None, by)
            if has_delete_column and HUDI_DELETED not in rows.columns:
                rows = rows.withColumn(HUDI_DELETED, functions.lit(None).cast("boolean"))
            self.load_early()
            # If an empty instant is the first one, no file of a killed writer is older than the timeline.
            if not any(_instants(table).values()):
                self._save(rows.limit(0), {**_options(commit, table), OPERATION: "bulk_insert"})
                table = self._metadata()
                if len(instants := self._new_instants()) != 1:
                    raise CommitConflictError(f"{self._uri}: another writer has begun commits meanwhile: {instants}")
                self._seen_instants.update(instants)
            self._save(rows, {**_options(commit, table), **instant_metadata})
            version_and_number = self.find_name(commit.commit_id)
        # An instant can be completed although another writer has planned its rollback; then its rows do not count.
        if version_and_number is None:
            raise CommitConflictError(f"{self._uri}: another writer has rolled this commit back")
        version, _ = version_and_number
        return version

    def _save(self, rows: Any, options: dict[str, str]) -> None:
        """Write an instant, as ``rows.write`` does, and complete it if ``accept`` does not refuse it."""
        jvm: Any = self._spark._jvm
        let_java_call(self._spark.sparkContext._gateway)
        # In the old structure of Parquet's lists there are no nulls.
        self._spark._jsc.hadoopConfiguration().setIfUnset("parquet.avro.write-old-list-structure", "false")
        some, nothing, hudi = jvm.scala.Option.apply, jvm.scala.Option.empty(), jvm.org.apache.hudi
        # The last parameter is called before the instant is completed: this object's ``accept``.
        hooks = getattr(hudi, "HoodieSparkSqlWriter$StreamingWriteParams")(nothing, nothing, nothing, some(self))
        writer = scala_object(self._spark, "org.apache.hudi.HoodieSparkSqlWriter")
        scala_options = jvm.PythonUtils.toScalaMap({**options, "path": self._uri})
        mode = jvm.org.apache.spark.sql.SaveMode.Append
        context = self._spark._jsparkSession.sqlContext()
        try:
            answer = writer.write(context, mode, scala_options, rows._jdf, some(hooks), nothing, nothing)
        except (Py4JJavaError, PySparkException) as error:
            # An error of ``accept`` comes back as a Java error, so its reason is stored in this object. Any other error
            # may be the effect of another writer that has rolled this instant back, and deleted its files.
            if other := self._refusal or self.other_writer():
                raise CommitConflictError(other) from error
            raise
        finally:
            writer.cleanup()
        if not answer._1():
            raise TableError(f"{self._uri}: Hudi could not write all rows")

    def accept(self, client: Any, metadata: Any) -> None:
        """Refuse the instant by an error, and delete its files, if there was another writer."""
        files = [str(path) for path in metadata.getFileIdAndFullPaths(client.getBasePath()).values()]
        # Hudi's files are named FILE_TOKEN_INSTANT.parquet.
        instants = {name.rpartition("_")[2].partition(".")[0] for name in files if name.endswith(".parquet")}
        if other := self.other_writer(instants):
            storage = self._spark._jvm.org.apache.hudi.storage
            # A rollback might not delete them: if another writer has made it already, it missed files that came later.
            for path in files:
                client.getStorage().deleteFile(storage.StoragePath(path))
            self._refusal = other
            raise CommitConflictError(other)

    class Java:
        """The Java interfaces that py4j implements by this object."""

        implements = ("java.util.function.BiConsumer",)

    def other_writer(self, instants: Collection[str] = ()) -> str:
        """Return a message with the new instants if there was another writer; "" if there was none.

        There was none if exactly one instant is new, and it is pending: this writer's own. ``instants``: this writer's
        own instant, if its files show it; it is not a new one if another writer has rolled it back.
        """
        new = self._new_instants()
        # Chains are read from the newest instant, so the instant of a batch must be the newest by all writers' clocks.
        is_newest = self._chains is None or min(new, default="") > max(self._seen_instants, default="")
        is_own = list(new.values()) == [False] and new.keys() >= set(instants)
        return "" if is_own and is_newest else f"{self._uri}: another writer has begun commits meanwhile: {new}"

    def _new_instants(self) -> dict[str, bool]:
        """Return instants that are new since ``_seen_instants``, or completed since; without those rolled back."""
        instants = _instants(table := self._metadata())
        new = {
            time: is_completed
            for time, is_completed in instants.items()
            if self._seen_instants.get(time) != is_completed
        }
        rolled_back = _rolled_back(table) if self._seen_instants.keys() & new else ()
        return {time: is_completed for time, is_completed in new.items() if time not in rolled_back}

    def new_rows(self, commit: Commit, table_rows: DataFrame | None, by: Sequence[str]) -> DataFrame:
        """Return the rows to write. ``table_rows`` is None if the table has no columns yet."""
        # For an upsert only the keys of earlier writes are read.
        writes = [*commit.writes, *(commit.earlier if commit.mode == "overwrite_partitions" else ())]
        # The columns become nullable, since the staged rows may have the first nulls of a column.
        table = table_rows and StructType.fromJson(json.loads(table_rows._jdf.schema().asNullable().json()))
        columns = agreed_columns(commit, writes, table, staged_columns)

        rows = partial(staged_rows, self._spark)
        if commit.mode == "upsert":
            changes = self._changes(commit, upserted_rows(commit, columns, rows), table_rows)
            return changes.withColumnRenamed(DELETED, HUDI_DELETED)
        if commit.mode == "overwrite_partitions":
            return overwriting_rows(commit, columns, rows, list(map(backquoted, by)))
        return read_all(commit.writes, columns, rows).drop(FILE, ROW)

    def _changes(self, commit: Commit, newest: DataFrame, table_rows: DataFrame | None) -> DataFrame:
        """Return the rows without those that are older than the table's row of their key.

        Keys that Spark treats as equal to a key of the table become that key: Hudi compares keys as texts, and so
        distinguishes -0.0 from 0.0.
        """
        floats = [name for name, type_ in newest.dtypes if name in commit.keys and type_ in ("float", "double")]
        if floats and table_rows is not None:
            groups = [functions.col(name).alias(f"_sparklet_{name}") for name in commit.keys]
            table_keys = table_rows.groupBy(*groups).agg(
                *(functions.first(name).alias(f"_own_{name}") for name in floats)
            )
            same_keys = [newest[name] == table_keys[f"_sparklet_{name}"] for name in commit.keys]
            float_keys = {name: functions.coalesce(f"_own_{name}", newest[name]) for name in floats}
            columns = [float_keys.get(name, newest[name]).alias(name) for name in newest.columns]
            newest = newest.join(table_keys, same_keys, "left").select(*columns)
        if commit.order_by is None or table_rows is None or commit.order_by not in table_rows.columns:
            return newest
        old, new = table_rows[commit.order_by], newest[commit.order_by]
        is_older = functions.coalesce(old > new, old.isNotNull())
        same_keys = [table_rows[name] == newest[name] for name in commit.keys]
        return newest.join(table_rows, [*same_keys, is_older], "left_anti")

    def _metadata(self) -> Any | None:
        """Return Hudi's meta client of the table; None if the table does not exist."""
        path, file_system = hadoop_path(self._spark, f"{self._uri}/.hoodie")
        if not file_system.exists(path):  # Hudi itself would look for the table's properties for five seconds
            return None
        hudi = self._spark._jvm.org.apache.hudi
        conf = hudi.hadoop.fs.HadoopFSUtils.getStorageConf(self._spark._jsc.hadoopConfiguration())
        try:
            return hudi.common.table.HoodieTableMetaClient.builder().setConf(conf).setBasePath(self._uri).build()
        except Py4JJavaError as error:
            if java_class(error) != "TableNotFoundException" and not self._is_half_made():
                raise
            return None

    def _is_half_made(self, *, delete: bool = False) -> bool:
        """Whether a writer was killed after it had made the table's folders, but no file; ``delete`` deletes them."""
        path, file_system = hadoop_path(self._spark, f"{self._uri}/.hoodie")
        if not file_system.exists(path) or file_system.listFiles(path, True).hasNext():
            return False
        return bool(file_system.delete(path, True)) if delete else True

    def _let_roll_back(self, table: Any) -> None:
        """Give heartbeats to the pending instants, so that Hudi rolls them back even if later instants are completed.

        If a writer was stopped just before it made its instant, this instant can be older than instants that other
        writers have completed. Without a heartbeat Hudi would refuse to roll it back, and with it every later commit.
        """
        folder = self._spark._jvm.org.apache.hudi.common.table.HoodieTableMetaClient.getHeartbeatFolderPath(self._uri)
        pending = (instant for instant, is_completed in _instants(table).items() if not is_completed)
        for instant in {*pending, *_rolled_back(table, is_pending=True)}:
            path, file_system = hadoop_path(self._spark, f"{folder}/{instant}")
            file_system.create(path, True).close()

    def load_early(self) -> None:
        """Load a class that Hudi 1.2.0 may load too late: every tenth commit in a fresh JVM fails without it."""
        jvm: Any = self._spark._jvm
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        jvm.java.lang.Class.forName("org.apache.hudi.metadata.HoodieMetadataPayload", True, loader)


def let_java_call(gateway: Any) -> None:
    """Let Java call objects of this process, with numbers that no earlier script of a warm JVM has used.

    Otherwise, when Java's garbage collector frees an object of an earlier script, py4j would make this process forget
    its own object of the same number.
    """
    ensure_callback_server_started(gateway)
    gateway.gateway_property.pool.next_id = time.time_ns()


def _instants(table: Any | None) -> dict[str, bool]:
    """Return for each commit on the timeline whether it is completed."""
    if table is None:
        return {}
    timeline = table.getActiveTimeline().getCommitsTimeline()
    return {str(instant.requestedTime()): bool(instant.isCompleted()) for instant in timeline.getInstants()}


def _rolled_back(table: Any, *, is_pending: bool = False) -> set[str]:
    """Return the instants that rollbacks undo, by the rollbacks' plans: a plan is stored before a file is deleted.

    ``is_pending``: only for rollbacks that have not ended.
    """
    timeline, instants = table.getActiveTimeline().getRollbackTimeline(), table.getInstantGenerator()
    timeline = timeline.filterInflightsAndRequested() if is_pending else timeline
    plans = map(timeline.readRollbackPlan, map(instants.getRollbackRequestedInstant, timeline.getInstants()))
    return {str(plan.getInstantToRollback().getCommitTime()) for plan in plans}


def _options(commit: Commit, table: Any | None) -> dict[str, str]:
    """Return the options of one write. Options of the table are only set for a new table, which then has them."""
    options = {
        OPERATION: OPERATIONS[commit.mode],
        "hoodie.datasource.write.row.writer.enable": "false",  # it would not call ``accept``
        "hoodie.datasource.write.commitmeta.key.prefix": "sparklet.",
        # For each time stamp Hudi sleeps this long (default: 200 ms), for concurrent writers with unequal clocks.
        "hoodie.time.generator.max_expected_clock_skew_ms": "20",
        # The lease is the lock, and pending instants are deleted. The worker's defaults are for other writers.
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
            # The same as in the table: false would delete its metadata table, and true would make one.
            "hoodie.metadata.enable": str(has_metadata).lower(),
            "hoodie.compact.inline": str(config.getTableType().name() == "MERGE_ON_READ").lower(),
            # Without these options a key that comes with another partition's value would be in the table twice.
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
