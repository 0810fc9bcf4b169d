"""``GlueContext``: reads and writes of S3, and of the catalog's tables by their names."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import lacking, missing
from ._ways import NEW_PARTITIONS
from .data_sink import DataSink
from .dynamicframe import DynamicFrame
from .utils import this_job

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CATALOG, FRAMES = "sparklet.connectors.data_catalog.glue", "sparklet.connectors.data_catalog.frames"
FORMATS = ("avro", "csv", "json", "orc", "parquet")
SPARKS = {"separator": "sep", "quoteChar": "quote", "escaper": "escape", "withHeader": "header"}
SPARKS |= {"writeHeader": "header", "compression": "compression", "multiLine": "multiLine", "multiline": "multiLine"}
OWN = {"paths", "path", "recurse", "partitionKeys", "push_down_predicate", "catalogPartitionPredicate"}
HINTS = {"blockSize", "groupFiles", "groupSize", "jobBookmarkKeys", "maxBand"}
HINTS |= {"jobBookmarkKeysSortOrder", "jobBookmarksKeysSortOrder"}  # Glue's guide has both spellings
HINTS |= {"maxFilesInBand", "optimizePerformance", "pageSize", "redshift_tmp_dir", "strictCheckForQuoting"}
HINTS |= {"transformation_ctx", "useGlueParquetWriter", "useS3ListImplementation"}  # without them the rows are the same
OF_SESSION = ("createDataFrame", "range", "read", "readStream", "sql", "table", "udf")  # Glue's is an SQLContext
DOUBLED = {"escape": '"'}  # for Glue's CSV a doubled quote is a quote, and a backslash itself; Spark escapes by one
IN_SQL = {"==": "=", "!=": "<>"}  # Spark knows both
__getattr__ = missing
__all__ = ["DataSink", "DynamicFrame", "GlueContext"]


class _Ways(SimpleNamespace):
    """``create_dynamic_frame`` and its like: ``from_options`` and ``from_catalog``."""

    def __getattr__(self, name: str) -> Any:
        raise lacking(f"create_… or write_…frame.{name}")


class GlueContext:
    """Reads and writes DynamicFrames and DataFrames; ``spark_session`` is that of ``job.spark()``."""

    def __init__(self, sparkContext: Any = None, **options: Any) -> None:
        from pyspark.sql import SparkSession

        self._job: Any = this_job(sys.argv)
        self._writes = 0  # beside the shard's output
        self.spark_session = self.sparkSession = SparkSession.getActiveSession() or self._job.spark()
        reads = {"from_options": self._read, "from_catalog": self._read_table}
        self.create_data_frame = _Ways(**{name: self._reader(read, False) for name, read in reads.items()})
        self.create_dynamic_frame = _Ways(**{name: self._reader(read, True) for name, read in reads.items()})
        self.write_data_frame = _Ways(from_options=self._write, from_catalog=self._write_table)
        self.write_dynamic_frame = self.write_data_frame

    def __getattr__(self, name: str) -> Any:
        if name in OF_SESSION and "spark_session" in vars(self):
            return getattr(self.spark_session, name)
        what, _, source = name.partition("_from_")  # create_dynamic_frame_from_options, as it can be written, too
        if source and what in vars(self):
            return getattr(vars(self)[what], f"from_{source}")
        raise lacking(f"GlueContext.{name}")

    def get_logger(self) -> logging.Logger:
        """Python's logger ``awsglue``, which writes to standard error."""
        logger = logging.getLogger("awsglue")
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False  # else a script's own handler repeats it
            vars(logger)["warn"] = logger.warning  # Python 3.13 has no other
        return logger

    def getSink(self, connection_type: str, format: Any = None, transformation_ctx: str = "", **options: Any) -> Any:
        """A folder of S3 to write to, which can be a table of the catalog."""
        return DataSink(self, connection_type, format, **options)

    def record_quality(self, context: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Add these outcomes to the shard's answer and to the run's report."""
        self._job.outcome.judge(context, rules)

    def catalog_casts(self, database: Any, table_name: Any, columns: Sequence[str]) -> list[tuple[str, str]]:
        """Specifications that give columns the types of a table."""
        entry = import_module(CATALOG).GlueCatalog.of_script().partitions(f"{database}.{table_name}", "")[0]
        return [(name, f"cast:{type_}") for name, type_ in [*entry.columns, *entry.keys] if name in columns]

    def write_cataloged(self, frame: Any, table: str, columns_too: bool, *args: Any, **kwargs: Any) -> None:
        """Write to a table's folder: the table gets the frame's columns before, and the partitions afterwards."""
        kind, glue_options, _ = _files(*args, **kwargs)
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        path, keys = str(glue_options.get("path") or ""), glue_options.get("partitionKeys", [])
        # A shard's output is staged in its attempt's folder, which does not stay.
        if table and self._job.shard is not None and is_inside(path, self._job.output_path):
            raise lacking(f"the update of {table}, which would show one attempt's folder", NEW_PARTITIONS)
        catalog = import_module(CATALOG).GlueCatalog.of_script() if table else None
        if catalog:
            # Spark has types that Hive's catalog does not know.
            unlike = {"void": "string", "timestamp_ntz": "timestamp"}
            columns = [(name.lower(), unlike.get(type_, type_)) for name, type_ in rows.dtypes]
            # Before the rows, so that a table of other types fails the script before anything is written. Partitions
            # come after them, so none is shown before its files are there.
            catalog.keep_table(table, path, kind, columns, [key.lower() for key in keys], change=columns_too)
        self._write(frame, *args, **kwargs)
        if catalog and keys:
            partitions = rows.selectExpr(*[f"CAST(`{key}` AS string)" for key in keys]).distinct().collect()
            catalog.keep_partitions(table, keys, [tuple(partition) for partition in partitions])

    def _reader(self, read: Callable[..., tuple[DataFrame, str]], dynamic: bool) -> Callable[..., Any]:
        def frame(*args: Any, **named: Any) -> Any:
            rows, kind = read(*args, **named)
            return DynamicFrame(rows, self, named.get("transformation_ctx", ""), kind == "json") if dynamic else rows

        return frame

    def _read(self, *args: Any, **kwargs: Any) -> tuple[DataFrame, str]:
        """The rows, and their format."""
        kind, glue_options, options = _files(*args, **kwargs)
        # The guide has only "paths", and jobs have "path", too.
        path_option, recursive = glue_options.get("paths", glue_options.get("path")), glue_options.get("recurse", False)
        paths = _root(path_option) if isinstance(path_option, str) else [_root(path) for path in path_option or ()]
        if kind == "csv":
            options = {**DOUBLED, **options}
        elif kind != "json" and recursive:  # in folders such as day=1 Spark reads to the bottom, and the day, too
            # recursiveFileLookup forgets the partitions' columns. The source of texts shows whether there are any,
            # and reads no row for it.
            recursive = self.spark_session.read.text(paths).columns == ["value"]
        reader = self.spark_session.read.format(kind).options(**options).option("recursiveFileLookup", recursive)
        frame = reader.load(paths)
        if kind == "csv":
            frame = frame.na.fill("")  # Glue's reader knows no null
            if str(options.get("header")).lower() != "true":
                frame = frame.toDF(*[f"col{number}" for number in range(len(frame.columns))])
        return (
            frame.where(glue_options["push_down_predicate"]) if glue_options.get("push_down_predicate") else frame
        ), kind

    def _write(self, frame: Any, *args: Any, **kwargs: Any) -> Any:
        kind, glue_options, options = _files(*args, **kwargs)
        if kind == "csv":
            options = {"header": True, **DOUBLED, **options}
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        path, keys, mode = _root(glue_options.get("path") or ""), glue_options.get("partitionKeys", []), "append"
        if self._job.shard is not None and not is_inside(path, self._job.output_path):
            from pyspark.sql.functions import lit

            # Glue's writers append: outside of its output an attempt that is repeated would add its rows again.
            self._writes += 1  # the same in each attempt, which replaces what an earlier one has added
            rows = rows.withColumn("shard", lit(f"{self._job.run_id}_{self._job.shard:06d}_{self._writes}"))
            # Dynamic: a plain overwrite would delete the folder with all other shards' rows.
            keys, mode, options = [*keys, "shard"], "overwrite", {"partitionOverwriteMode": "dynamic", **options}
        rows.write.format(kind).options(**options).mode(mode).partitionBy(*keys).save(path)
        return frame

    def _read_table(self, *args: Any, **named: Any) -> tuple[DataFrame, str]:
        order = ("redshift_tmp_dir", "transformation_ctx", "push_down_predicate", "additional_options", "catalog_id")
        name, glue_options = _table(order, *args, **named)
        conditions = (glue_options.get(name) for name in ("push_down_predicate", "catalogPartitionPredicate"))
        where = " AND ".join(f"({condition})" for condition in conditions if condition)
        # Predicates of Spark may have == and !=, which Glue's grammar lacks; in texts they stay.
        where = re.sub("'[^']*'|==|!=", lambda match: IN_SQL.get(match[0], match[0]), where)
        frame, kind = import_module(FRAMES).read(self._job, name, where)
        return frame, kind

    def _write_table(self, frame: Any, *args: Any, **named: Any) -> Any:
        options = dict(named.get("additional_options") or {})
        sink = {key: options.pop(key) for key in ("enableUpdateCatalog", "updateBehavior") if key in options}
        named = {**named, "additional_options": options} if options or sink else named
        name, glue_options = _table(
            ("redshift_tmp_dir", "transformation_ctx", "additional_options", "catalog_id"), *args, **named
        )
        entry = import_module(CATALOG).GlueCatalog.of_script().partitions(name, "")[0]
        if entry.format in ("json", "orc", "parquet"):
            folder_options = {
                "path": entry.location,
                "partitionKeys": glue_options.get("partitionKeys") or [key for key, _ in entry.keys],
            }
            sink_of = self.getSink("s3", entry.format, **sink, **folder_options)
            sink_of.setCatalogInfo(*name.split(".", 1))
            return sink_of.writeFrame(frame)
        if entry.format not in ("delta", "iceberg"):
            raise lacking(f"writes to {name}, which is {entry.format}", "from_options with the table's folder")
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        self._job.append(rows, f"{entry.format}:{name if entry.format == 'iceberg' else entry.location}")
        return frame


def _root(path: str) -> str:
    """A folder as Hadoop takes it: a bucket's address must end in a slash."""
    return f"{path}/" if re.fullmatch("s3[an]?://[^/]+", path) else path


def is_inside(path: str, folder: object) -> bool:
    """Whether a path is a folder, or in it, by whatever scheme of S3."""
    # With a slash at their ends, or s3://b/out2 would be in s3://b/out.
    path, folder = (re.sub("^s3[an]:", "s3:", address).rstrip("/") + "/" for address in (path, str(folder)))
    return path.startswith(folder)


def _table(order: Sequence[str], *args: Any, **named: Any) -> tuple[str, dict[str, Any]]:
    """A table's name, and our own options, from arguments in Glue's order."""
    arguments = {**dict(zip(("database", "table_name", *order), args, strict=False)), **named}
    database = arguments.pop("database", None) or arguments.pop("name_space", None)
    if not (database and (table := arguments.pop("table_name", None))):
        raise TypeError(f"from_catalog needs database and table_name; it has {', '.join(arguments) or 'neither'}")
    glue_options, _ = _own_and_sparks(arguments.pop("additional_options", None), arguments)
    return f"{database}.{table}", glue_options


def _files(
    connection_type: str,
    connection_options: Any = None,
    format: Any = None,
    format_options: Any = None,
    *late: str,
    **more: Any,
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Spark's format, our own options, and Spark's options."""
    more |= dict(zip(("transformation_ctx", "push_down_predicate"), late, strict=False))
    # Glue also takes a format as the connection's type.
    kind = (connection_type if connection_type in FORMATS else format or "").lower().replace("glueparquet", "parquet")
    if connection_type not in ("s3", "file", kind):
        raise lacking(f"connection_type {connection_type!r}", "glueContext.spark_session.read or frame.toDF().write")
    if kind not in FORMATS:
        raise lacking(f"format {kind!r}", f"{', '.join(FORMATS)}, or glueContext.spark_session.read")
    return kind, *_own_and_sparks(connection_options, format_options, more)


def _own_and_sparks(*options: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options divided into our own and Spark's; AttributeError for any other."""
    value_by_name = {name: value for mapping in options for name, value in (mapping or {}).items() if value is not None}
    if unknown := value_by_name.keys() - SPARKS.keys() - OWN - HINTS:
        raise lacking(f"option {min(unknown)!r}", f"glueContext.spark_session.read.option({min(unknown)!r}, …)")
    sparks = {SPARKS[name]: value for name, value in value_by_name.items() if name in SPARKS}
    if sparks.get("quote") in (-1, "-1"):
        sparks["quote"] = ""
    return {name: value_by_name[name] for name in OWN & value_by_name.keys()}, sparks
