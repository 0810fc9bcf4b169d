"""The next state of an Iceberg table, in this process's memory: Iceberg and Spark work on it as on any table.

A shard makes its data files for such a draft, and declares them in Iceberg's own text. The commit changes another draft
until it is what the table is to be, and then replaces the table's state by it, in one step. Nobody else sees a draft.
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
FILES_ONLY = "rewritten-file-scan-task-set-id"  # how Iceberg's own compaction makes files that it commits later
LINEAGE = ("_row_id", "_last_updated_sequence_number")  # null: as for every new row of version 3
LOGICAL = "org.apache.spark.sql.catalyst.plans.logical"
FLOATS = ("float", "double")


@dataclass(frozen=True)
class Seen:
    """The table for which a shard has written, in Iceberg's JSON: ``Declaration.seen``.

    ``uuid``: "" if no table existed. ``last``: the last column id that the table had given; greater ids belong to
    columns that the commit adds.
    """

    uuid: str
    last: int
    version: int
    schema: Mapping[str, Any]
    spec: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> Seen:
        """Read ``text``."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)


class Draft:
    """A state of a table that nobody has committed.

    ``table``: Iceberg's own object, whose commits are the draft's. ``operations`` replace the state ``start`` of the
    real table, which is None if there is none.
    """

    def __init__(self, spark: SparkSession, name: str, transaction: Any, operations: Any, start: Any) -> None:
        self.spark, self.operations, self.start = spark, operations, start
        self._java, self._is_four = spark._jvm, spark.version.startswith("4")
        self.iceberg: Any = spark._jvm.org.apache.iceberg
        self.table = self.iceberg.BaseTable(transaction.table().operations(), name)

    @classmethod
    def of_state(cls, spark: SparkSession, name: str, operations: Any, start: Any) -> Draft:
        """Begin with a state; the catalog is not asked for a newer one."""
        iceberg: Any = spark._jvm.org.apache.iceberg
        transaction = iceberg.Transactions.replaceTableTransaction(name, operations, start)
        return cls(spark, name, transaction, operations, start)

    @classmethod
    def of_new_table(cls, spark: SparkSession, catalog: Any, name: str, schema: Any, by: Sequence[str]) -> Draft:
        """Begin with the table that the catalog would make of an Iceberg schema."""
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
        """The columns, as Spark has them."""
        return spark_columns(self.iceberg, self.table.schema())

    @property
    def fields(self) -> Sequence[Mapping[str, Any]]:
        """The columns in Iceberg's JSON."""
        fields: list[Any] = json.loads(self.iceberg.SchemaParser.toJson(self.table.schema()))["fields"]
        return fields

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitioning."""
        schema, fields = self.table.schema(), self.table.spec().fields()
        partitions = ((schema.findColumnName(field.sourceId()), field.transform().toString()) for field in fields)
        return tuple(Partition(*partition) for partition in partitions if partition[1] != "void")

    def seen(self) -> Seen:
        """What a shard tells of the draft that it wrote for."""
        parsers, state = self.iceberg, self.start
        schema = json.loads(parsers.SchemaParser.toJson(self.table.schema()))
        spec = json.loads(parsers.PartitionSpecParser.toJson(self.table.spec()))
        uuid, last = (str(state.uuid()), int(state.lastColumnId())) if state else ("", 0)
        return Seen(uuid, last, int(self.metadata.formatVersion()), schema, spec)

    def add_columns(self, schema: Any, names: Sequence[str]) -> None:
        """Add columns of another Iceberg schema, which get ids of this table; all of them may be null."""
        if names:
            update = self.table.updateSchema()
            for name in names:
                update = update.addColumn(None, name, schema.asStruct().field(name).type())
            update.commit()

    @contextmanager
    def _known_to_spark(self) -> Iterator[str]:
        """The path by which Spark's source ``iceberg`` finds the draft in the block."""
        key, cache = f"draft{uuid4().hex}", self._single("SparkTableCache")
        cache.add(key, self.table)
        try:
            yield key
        finally:
            cache.remove(key)

    def _relation(self) -> Any:
        """The draft in a plan of Spark's; its SQL finds tables in catalogs alone, and none has drafts."""
        of_spark, option = self.iceberg.spark.source.SparkTable, self._java.scala.Option
        table = of_spark(self.table) if self._is_four else of_spark(self.table, False)
        catalog = self.spark._jsparkSession.sessionState().catalogManager().catalog(ICEBERG_CATALOG)  # of functions
        create = scala_object(self.spark, "org.apache.spark.sql.execution.datasources.v2.DataSourceV2Relation").create
        return create(table, option.apply(catalog), option.empty())

    def rows(self) -> DataFrame:
        """The rows that the draft has."""
        return frame_of_plan(self.spark, self._relation())

    def merge(self, clauses: str) -> None:
        """``MERGE INTO`` the draft, as ``t``; ``clauses``: all that follows."""
        parsed = self.spark._jsparkSession.sessionState().sqlParser().parsePlan(f"MERGE INTO draft t {clauses}")
        target = scala_object(self.spark, f"{LOGICAL}.SubqueryAlias").apply("t", self._relation())
        source = parsed.children().apply(1)
        frame_of_plan(self.spark, parsed.withNewChildren(self._java.PythonUtils.toSeq([target, source])))

    def overwrite_partitions(self, rows: DataFrame) -> None:
        """``rows.writeTo(…).overwritePartitions()``."""
        command = scala_object(self.spark, f"{LOGICAL}.OverwritePartitionsDynamic")
        plan = rows._jdf.queryExecution().logical()
        frame_of_plan(self.spark, command.byName(self._relation(), plan, self._java.PythonUtils.toScalaMap({})))

    def _single(self, name: str) -> Any:
        """The one object of a class of Iceberg's; py4j stumbles over ``get()`` where ``get(key)`` is a method, too."""
        client = self.spark.sparkContext._gateway._gateway_client
        return JavaMember("get", None, f"z:org.apache.iceberg.spark.{name}", client)()

    def data_files(self, frame: DataFrame) -> list[Any]:
        """Have Spark's writer of Iceberg make files of the rows, which no snapshot has yet."""
        if self.metadata.formatVersion() > 2:  # such a write says which rows are old ones
            frame = frame.selectExpr("*", *(f"CAST(NULL AS BIGINT) AS {name}" for name in LINEAGE))
        coordinator = self._single("FileRewriteCoordinator")
        with self._known_to_spark() as key:
            try:
                frame.write.format("iceberg").mode("append").option(FILES_ONLY, key).save(key)
                return list(coordinator.fetchNewFiles(self.table, key))
            finally:
                # The coordinator is the JVM's, so it outlives the script.
                coordinator.clearRewrite(self.table, key)

    def described(self, files: Sequence[Any]) -> list[str]:
        """Iceberg's own text of each file.

        Iceberg puts NaN and infinity into quotes where a partition has them, and cannot read that.
        """
        parser, spec, texts = self.iceberg.ContentFileParser, self.table.spec(), list[str]()
        types = [field.type().toString() for field in spec.partitionType().fields()]
        for file in files:
            text = parser.toJson(file, spec)
            if set(types).intersection(FLOATS):
                document = json.loads(text)
                values = zip(document["partition"], types)  # noqa: B905 - Python 3.9
                exact = [float(value) if type_ in FLOATS and value is not None else value for value, type_ in values]
                text = json.dumps({**document, "partition": exact})
            texts.append(text)
        return texts

    def stage(self, frame: DataFrame, folder: str) -> tuple[int, tuple[tuple[str, int], ...], tuple[str, ...]]:
        """Write the rows below a folder: their number, the files with their sizes, and Iceberg's text of each file."""
        # In the draft alone: the table itself never hears of this folder.
        self.table.updateProperties().set("write.data.path", folder).commit()
        texts = self.described(self.data_files(frame))
        files = [json.loads(text) for text in texts]
        below = f"/{folder.rpartition('/')[2]}/"  # Hadoop's paths of files begin otherwise than the folder's
        named = [(file["file-path"].partition(below)[2] or file["file-path"], file) for file in files]
        stored = tuple((path, int(file["file-size-in-bytes"])) for path, file in named)
        return sum(int(file["record-count"]) for file in files), stored, tuple(texts)


def partition_spec(iceberg: Any, schema: Any, by: Sequence[str]) -> Any:
    """The partitioning of a new table."""
    builder = iceberg.PartitionSpec.builderFor(schema)
    for name in by:
        builder = builder.identity(name)
    return builder.build()


def spark_columns(iceberg: Any, schema: Any) -> StructType:
    """A schema of Iceberg's as Spark has it in Python."""
    return StructType.fromJson(json.loads(iceberg.spark.SparkSchemaUtil.convert(schema).json()))


def iceberg_columns(spark: SparkSession, columns: str) -> Any:
    """Spark's columns, as JSON, as a schema of Iceberg's, all of which may be null; TableError if it lacks a type."""
    java: Any = spark._jvm
    schema = java.org.apache.spark.sql.types.DataType.fromJson(columns).asNullable()
    try:
        return java.org.apache.iceberg.spark.SparkSchemaUtil.convert(schema)
    except PySparkException as error:  # UnsupportedOperationException
        raise TableError(f"Iceberg cannot have a column of the frame: {error}") from error


def root_of(table: Any) -> str:
    """Where a table's data files are."""
    return str(table.properties().get("write.data.path") or f"{table.location().rstrip('/')}/data")


def catalog_of(spark: SparkSession, name: str) -> Any:
    """Iceberg's catalog of the session; TableError if it has none in which a commit can be made."""
    if spark.conf.get(CATALOG, None) is None:
        raise TableError(f"there is no Iceberg catalog {ICEBERG_CATALOG!r} for {name}: {NO_CATALOG}")
    kind, signed = (spark.conf.get(f"{CATALOG}.{key}", None) for key in ("type", "rest.sigv4-enabled"))
    if kind == "hadoop":
        raise TableError(f"the Iceberg catalog of {name} is of type hadoop, which allows one writer: {NO_CATALOG}")
    if kind == "rest" and not has_class(spark._jvm, "jdk.net.Sockets"):  # of jdk.net, which a cut-down Java may lack
        raise TableError(
            f"the REST catalog of {name} needs a whole Java, and this one has no module jdk.net: install a Java 17 "
            "or 21, and set JAVA_HOME to it"
        )
    if (kind == "glue" or signed == "true") and not has_class(spark._jvm, AWS_BUNDLE):
        raise TableError(f"the Iceberg catalog of {name} needs the jar iceberg-aws-bundle on Spark's class path")
    iceberg: Any = spark._jvm.org.apache.iceberg
    return iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, ICEBERG_CATALOG)


def is_in_bucket(spark: SparkSession) -> bool:
    """Whether the catalog's tables are in S3 Tables, which makes no table that is not committed."""
    return in_table_bucket(spark.conf.get(f"{CATALOG}.warehouse", "") or "")


def load_table(spark: SparkSession, catalog: Any, name: str) -> Any | None:
    """The table as it is now; None if it does not exist. TableError if no commit can write to it."""
    identifier: Any = spark._jvm.org.apache.iceberg.catalog.TableIdentifier
    try:
        table = catalog.loadTable(identifier.parse(name))
    except Py4JJavaError as error:
        if java_class(error) != "NoSuchTableException":
            raise
        of, _, part = name.rpartition(".")
        if "." in of and catalog.tableExists(identifier.parse(of)):
            raise TableError(
                f"{part} is a part of the table {of}, and a commit changes main: name the table"
            ) from error
        return None
    if table.properties().get(ENCRYPTED):
        refuse(Table("iceberg", name), ENCRYPTED, "make it anew without")
    return table
