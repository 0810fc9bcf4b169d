"""A draft is the next state of an Iceberg table in this process's memory; Iceberg and Spark use it like any table.

A shard makes its data files for such a draft, and declares them in Iceberg's own text. The commit makes all its changes
in another draft, and then replaces the table's state with that draft, in one step. No other process sees a draft.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from py4j.java_gateway import JavaMember
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.connectors.tables.declaration import Partition, refuse
from sparklet.job.catalogs import AWS_BUNDLE, ICEBERG_CATALOG, in_table_bucket
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import frame_of_plan, has_class, java_class, scala_object

CATALOG = f"spark.sql.catalog.{ICEBERG_CATALOG}"
NO_CATALOG = (
    "name one for Spark and for the commit: --param warehouse=glue:s3://BUCKET/FOLDER or the ARN of a bucket of S3 "
    "Tables, or PYICEBERG_CATALOG__ICEBERG__TYPE (sql, rest, glue), __URI and __WAREHOUSE in the environment"
)
ENCRYPTED = "encryption.key-id"  # a property of tables whose files are encrypted
FILES_ONLY = "rewritten-file-scan-task-set-id"  # an option of Iceberg's compaction: write files without a commit
LINEAGE = ("_row_id", "_last_updated_sequence_number")  # columns of the format's version 3, null in new rows
LOGICAL = "org.apache.spark.sql.catalyst.plans.logical"
FLOATS = ("float", "double")


@dataclass(frozen=True)
class SeenTable:
    """The table as a shard saw it when it wrote, in Iceberg's JSON; it is stored in ``Declaration.seen``.

    ``uuid``: "" if no table existed. ``last``: the highest column id that the table had assigned; the commit adds the
    columns with higher ids. ``version``: the version of Iceberg's format. ``spec``: the partitioning.
    """

    uuid: str
    last: int
    version: int
    schema: Mapping[str, Any]
    spec: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> SeenTable:
        """Return the object that ``text`` has made into JSON."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """Return this as JSON, for ``parse``."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


class Draft:
    """A state of a table that nobody has committed.

    ``table``: Iceberg's table object, whose commits change only the draft. ``operations``: Iceberg's object that
    replaces the real table's state. ``start``: the real table's state at the beginning; None without a table.
    """

    def __init__(self, spark: SparkSession, name: str, transaction: Any, operations: Any, start: Any) -> None:
        self.spark, self.operations, self.start = spark, operations, start
        self._java, self._is_spark_4 = spark._jvm, spark.version.startswith("4")
        self.iceberg: Any = spark._jvm.org.apache.iceberg
        self.table = self.iceberg.BaseTable(transaction.table().operations(), name)

    @classmethod
    def of_state(cls, spark: SparkSession, name: str, operations: Any, start: Any) -> Draft:
        """Return a draft that begins with this state; a newer state is not loaded from the catalog."""
        iceberg: Any = spark._jvm.org.apache.iceberg
        transaction = iceberg.Transactions.replaceTableTransaction(name, operations, start)
        return cls(spark, name, transaction, operations, start)

    @classmethod
    def of_new_table(cls, spark: SparkSession, catalog: Any, name: str, schema: Any, by: Sequence[str]) -> Draft:
        """Return a draft that begins with the table that the catalog would make of an Iceberg schema."""
        iceberg: Any = spark._jvm.org.apache.iceberg
        builder = catalog.buildTable(iceberg.catalog.TableIdentifier.parse(name), schema)
        transaction = builder.withPartitionSpec(partition_spec(iceberg, schema, by)).createTransaction()
        return cls(spark, name, transaction, transaction.underlyingOps(), None)

    @property
    def metadata(self) -> Any:
        """Iceberg's TableMetadata of the draft."""
        return self.table.operations().current()

    @property
    def columns(self) -> StructType:
        """The columns as Spark's types."""
        return spark_columns(self.iceberg, self.table.schema())

    @property
    def fields(self) -> Sequence[Mapping[str, Any]]:
        """The columns in Iceberg's JSON."""
        fields: list[Any] = json.loads(self.iceberg.SchemaParser.toJson(self.table.schema()))["fields"]
        return fields

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The columns that the table is partitioned by, with their transforms."""
        schema, fields = self.table.schema(), self.table.spec().fields()
        partitions = ((schema.findColumnName(field.sourceId()), field.transform().toString()) for field in fields)
        return tuple(Partition(column, transform) for column, transform in partitions if transform != "void")

    def seen(self) -> SeenTable:
        """Return what a shard declares about the draft that it wrote for."""
        state = self.start
        schema = json.loads(self.iceberg.SchemaParser.toJson(self.table.schema()))
        spec = json.loads(self.iceberg.PartitionSpecParser.toJson(self.table.spec()))
        uuid, last = (str(state.uuid()), int(state.lastColumnId())) if state else ("", 0)
        return SeenTable(uuid, last, int(self.metadata.formatVersion()), schema, spec)

    def add_columns(self, schema: Any, names: Sequence[str]) -> None:
        """Add columns of another Iceberg schema, as nullable columns with ids of this table."""
        if names:
            update = self.table.updateSchema()
            for name in names:
                update = update.addColumn(None, name, schema.asStruct().field(name).type())
            update.commit()

    @contextmanager
    def _spark_path(self) -> Iterator[str]:
        """Yield a path by which Spark's source ``iceberg`` finds the draft within the block."""
        key, cache = f"draft{uuid4().hex}", self._singleton("SparkTableCache")
        cache.add(key, self.table)
        try:
            yield key
        finally:
            cache.remove(key)

    def _relation(self) -> Any:
        """Return the draft as a node of a Spark plan: SQL finds only tables in catalogs, and no catalog has drafts."""
        spark_table, option = self.iceberg.spark.source.SparkTable, self._java.scala.Option
        table = spark_table(self.table) if self._is_spark_4 else spark_table(self.table, False)
        # The catalog is needed for its functions.
        catalog = self.spark._jsparkSession.sessionState().catalogManager().catalog(ICEBERG_CATALOG)
        create = scala_object(self.spark, "org.apache.spark.sql.execution.datasources.v2.DataSourceV2Relation").create
        return create(table, option.apply(catalog), option.empty())

    def rows(self) -> DataFrame:
        """Return the draft's rows."""
        return frame_of_plan(self.spark, self._relation())

    def merge(self, clauses: str) -> None:
        """Execute ``MERGE INTO`` the draft; ``clauses``: what follows the draft's alias ``t`` in the statement."""
        parsed = self.spark._jsparkSession.sessionState().sqlParser().parsePlan(f"MERGE INTO draft t {clauses}")
        target = scala_object(self.spark, f"{LOGICAL}.SubqueryAlias").apply("t", self._relation())
        source = parsed.children().apply(1)
        frame_of_plan(self.spark, parsed.withNewChildren(self._java.PythonUtils.toSeq([target, source])))

    def overwrite_partitions(self, rows: DataFrame) -> None:
        """Do what ``rows.writeTo(TABLE).overwritePartitions()`` does, on the draft."""
        command = scala_object(self.spark, f"{LOGICAL}.OverwritePartitionsDynamic")
        plan = rows._jdf.queryExecution().logical()
        frame_of_plan(self.spark, command.byName(self._relation(), plan, self._java.PythonUtils.toScalaMap({})))

    def _singleton(self, name: str) -> Any:
        """Return an Iceberg class's only object, by ``get()``; py4j fails to call it if there is also ``get(key)``."""
        client = self.spark.sparkContext._gateway._gateway_client
        return JavaMember("get", None, f"z:org.apache.iceberg.spark.{name}", client)()

    def data_files(self, frame: DataFrame) -> list[Any]:
        """Let Iceberg's writer in Spark make files of the rows. Return the files, which no snapshot has yet."""
        if self.metadata.formatVersion() > 2:  # a compaction writes these columns, too, for the old rows
            frame = frame.selectExpr("*", *(f"CAST(NULL AS BIGINT) AS {name}" for name in LINEAGE))
        coordinator = self._singleton("FileRewriteCoordinator")
        with self._spark_path() as key:
            try:
                frame.write.format("iceberg").mode("append").option(FILES_ONLY, key).save(key)
                return list(coordinator.fetchNewFiles(self.table, key))
            finally:
                # The coordinator belongs to the JVM, which can outlive the script.
                coordinator.clearRewrite(self.table, key)

    def described(self, files: Sequence[Any]) -> list[str]:
        """Return Iceberg's own description of each file, as JSON.

        If a partition's value is NaN or infinity, Iceberg writes it in quotes, and then cannot read it. So such values
        are written without quotes here.
        """
        parser, spec, texts = self.iceberg.ContentFileParser, self.table.spec(), list[str]()
        types = [field.type().toString() for field in spec.partitionType().fields()]
        for file in files:
            text = parser.toJson(file, spec)
            if set(types).intersection(FLOATS):
                document = json.loads(text)
                values = zip(document["partition"], types)  # noqa: B905 - Python 3.9
                unquoted = [float(value) if type_ in FLOATS and value is not None else value for value, type_ in values]
                text = json.dumps({**document, "partition": unquoted})
            texts.append(text)
        return texts

    def stage(self, frame: DataFrame, folder: str) -> tuple[int, tuple[tuple[str, int], ...], tuple[str, ...]]:
        """Write the rows below a folder. Return their number, the files with their sizes, and ``described``."""
        # This property is set only in the draft, never in the table itself.
        self.table.updateProperties().set("write.data.path", folder).commit()
        texts = self.described(self.data_files(frame))
        files = [json.loads(text) for text in texts]
        # The files' paths may have another scheme than the folder, so they are cut after the folder's name.
        folder_name = f"/{folder.rpartition('/')[2]}/"
        paths = [file["file-path"].partition(folder_name)[2] or file["file-path"] for file in files]
        sizes = [int(file["file-size-in-bytes"]) for file in files]
        rows = sum(int(file["record-count"]) for file in files)
        return rows, tuple(zip(paths, sizes)), tuple(texts)  # noqa: B905 - Python 3.9


def partition_spec(iceberg: Any, schema: Any, by: Sequence[str]) -> Any:
    """Return the partition spec of a new table."""
    builder = iceberg.PartitionSpec.builderFor(schema)
    for name in by:
        builder = builder.identity(name)
    return builder.build()


def spark_columns(iceberg: Any, schema: Any) -> StructType:
    """Return an Iceberg schema as PySpark's type."""
    return StructType.fromJson(json.loads(iceberg.spark.SparkSchemaUtil.convert(schema).json()))


def iceberg_columns(spark: SparkSession, columns: str) -> Any:
    """Return Spark's columns (JSON) as an Iceberg schema of nullable columns; TableError if Iceberg lacks a type."""
    java: Any = spark._jvm
    schema = java.org.apache.spark.sql.types.DataType.fromJson(columns).asNullable()
    try:
        return java.org.apache.iceberg.spark.SparkSchemaUtil.convert(schema)
    except PySparkException as error:  # UnsupportedOperationException
        raise TableError(f"Iceberg cannot have a column of the frame: {error}") from error


def data_folder(table: Any) -> str:
    """Return the folder of a table's data files."""
    return str(table.properties().get("write.data.path") or f"{table.location().rstrip('/')}/data")


def catalog_of(spark: SparkSession, name: str) -> Any:
    """Return the session's Iceberg catalog. TableError if it has none, or one in which only one writer can commit.

    TableError also if a jar or a Java module that the catalog needs is missing.
    """
    if spark.conf.get(CATALOG, None) is None:
        raise TableError(f"there is no Iceberg catalog {ICEBERG_CATALOG!r} for {name}: {NO_CATALOG}")
    catalog_type, uses_sigv4 = (spark.conf.get(f"{CATALOG}.{key}", None) for key in ("type", "rest.sigv4-enabled"))
    if catalog_type == "hadoop":
        raise TableError(f"the Iceberg catalog of {name} is of type hadoop, which allows one writer: {NO_CATALOG}")
    # A reduced Java may lack the module jdk.net, which this class is in.
    if catalog_type == "rest" and not has_class(spark._jvm, "jdk.net.Sockets"):
        raise TableError(
            f"the REST catalog of {name} needs a whole Java, and this one has no module jdk.net: install a Java 17 "
            "or 21, and set JAVA_HOME to it"
        )
    if (catalog_type == "glue" or uses_sigv4 == "true") and not has_class(spark._jvm, AWS_BUNDLE):
        raise TableError(f"the Iceberg catalog of {name} needs the jar iceberg-aws-bundle on Spark's class path")
    iceberg: Any = spark._jvm.org.apache.iceberg
    return iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, ICEBERG_CATALOG)


def is_in_bucket(spark: SparkSession) -> bool:
    """Whether the catalog's tables are in S3 Tables, where a table cannot first be a draft: it is made at once."""
    return in_table_bucket(spark.conf.get(f"{CATALOG}.warehouse", "") or "")


def load_table(spark: SparkSession, catalog: Any, name: str) -> Any | None:
    """Return the table as it is now; None if it does not exist. TableError if no commit can write to the table."""
    identifier: Any = spark._jvm.org.apache.iceberg.catalog.TableIdentifier
    try:
        table = catalog.loadTable(identifier.parse(name))
    except Py4JJavaError as error:
        if java_class(error) != "NoSuchTableException":
            raise
        # The last part of the name can be a branch or a tag of an existing table.
        table_name, _, part = name.rpartition(".")
        if "." in table_name and catalog.tableExists(identifier.parse(table_name)):
            message = f"{part} is a part of the table {table_name}, and a commit changes main: name the table"
            raise TableError(message) from error
        return None
    if table.properties().get(ENCRYPTED):
        refuse(Table("iceberg", name), ENCRYPTED, "make it anew without")
    return table
