"""``GlueContext``: reads and writes of files in S3, and of the catalog's tables by their names."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import lack_error, refuse_import
from ._ways import NEW_PARTITIONS
from .data_sink import DataSink
from .dynamicframe import DynamicFrame
from .utils import this_job

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CATALOG, FRAMES = "sparklet.connectors.data_catalog.glue", "sparklet.connectors.data_catalog.frames"
FORMATS = ("avro", "csv", "json", "orc", "parquet")
SPARK_NAMES = {"separator": "sep", "quoteChar": "quote", "escaper": "escape", "withHeader": "header"}
SPARK_NAMES |= {"writeHeader": "header", "compression": "compression"}
SPARK_NAMES |= {"multiLine": "multiLine", "multiline": "multiLine"}
GLUE_OPTIONS = {"paths", "path", "recurse", "partitionKeys", "push_down_predicate", "catalogPartitionPredicate"}
# Options that are ignored: the rows are the same without them.
HINTS = {"blockSize", "groupFiles", "groupSize", "jobBookmarkKeys", "maxBand"}
HINTS |= {"jobBookmarkKeysSortOrder", "jobBookmarksKeysSortOrder"}  # Glue's guide has both spellings
HINTS |= {"maxFilesInBand", "optimizePerformance", "pageSize", "redshift_tmp_dir", "strictCheckForQuoting"}
HINTS |= {"transformation_ctx", "useGlueParquetWriter", "useS3ListImplementation"}
# In Glue the context is an SQLContext, and so it has these names of a session.
SESSION_NAMES = ("createDataFrame", "range", "read", "readStream", "sql", "table", "udf")
NO_QUOTE = ""
CSV_ESCAPE = {"escape": '"'}  # in Glue's CSV quotes are doubled; Spark by default escapes them by a backslash
SQL_OPERATORS = {"==": "=", "!=": "<>"}
__getattr__ = refuse_import
__all__ = ["DataSink", "DynamicFrame", "GlueContext"]


class _Methods(SimpleNamespace):
    """The methods ``from_options`` and ``from_catalog`` of ``create_dynamic_frame``, ``write_data_frame`` and so on."""

    def __getattr__(self, name: str) -> Any:
        raise lack_error(f"create_… or write_…frame.{name}")


class GlueContext:
    """Reads and writes DynamicFrames and DataFrames; ``spark_session`` is the session of ``job.spark()``."""

    def __init__(self, sparkContext: Any = None, **options: Any) -> None:
        from pyspark.sql import SparkSession

        self._job: Any = this_job(sys.argv)
        self._writes = 0  # the number of writes to folders outside the shard's output
        self.spark_session = self.sparkSession = SparkSession.getActiveSession() or self._job.spark()
        reads = {"from_options": self._read, "from_catalog": self._read_table}
        self.create_data_frame = _Methods(**{name: self._reader(read, False) for name, read in reads.items()})
        self.create_dynamic_frame = _Methods(**{name: self._reader(read, True) for name, read in reads.items()})
        self.write_data_frame = _Methods(from_options=self._write, from_catalog=self._write_table)
        self.write_dynamic_frame = self.write_data_frame

    def __getattr__(self, name: str) -> Any:
        if name in SESSION_NAMES and "spark_session" in vars(self):
            return getattr(self.spark_session, name)
        # create_dynamic_frame_from_options is another spelling of create_dynamic_frame.from_options.
        attribute, _, source = name.partition("_from_")
        if source and attribute in vars(self):
            return getattr(vars(self)[attribute], f"from_{source}")
        raise lack_error(f"GlueContext.{name}")

    def get_logger(self) -> logging.Logger:
        """Return Python's logger ``awsglue``, which writes to standard error."""
        logger = logging.getLogger("awsglue")
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False  # or a handler of the script would repeat each line
            vars(logger)["warn"] = logger.warning  # Python 3.13 has only ``warning``
        return logger

    def getSink(self, connection_type: str, format: Any = None, transformation_ctx: str = "", **options: Any) -> Any:
        """Return a sink for a folder of S3, which can be a table of the catalog."""
        return DataSink(self, connection_type, format, **options)

    def record_quality(self, context: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Add the outcomes of rules to the shard's answer and to the run's report."""
        self._job.outcome.judge(context, rules)

    def catalog_casts(self, database: Any, table_name: Any, columns: Sequence[str]) -> list[tuple[str, str]]:
        """Return specifications for ``resolveChoice`` that give the columns the types of a table."""
        entry, _ = import_module(CATALOG).GlueCatalog.of_script().partitions(f"{database}.{table_name}", "")
        return [(name, f"cast:{type_}") for name, type_ in [*entry.columns, *entry.keys] if name in columns]

    def write_cataloged(self, frame: Any, table: str, columns_too: bool, *args: Any, **kwargs: Any) -> None:
        """Write to a table's folder; also add the partitions, and if ``columns_too`` new columns, to the table.

        Without ``table`` only the rows are written.
        """
        format_, glue_options, _ = _files(*args, **kwargs)
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        path, keys = str(glue_options.get("path") or ""), glue_options.get("partitionKeys", [])
        # A shard's output is first written to a folder of the attempt, which is deleted after the attempt.
        if table and self._job.shard is not None and is_inside(path, self._job.output_path):
            raise lack_error(f"the update of {table}, which would show one attempt's folder", NEW_PARTITIONS)
        catalog = import_module(CATALOG).GlueCatalog.of_script() if table else None
        if catalog:
            # Spark has types that Hive's catalog does not know.
            hive_types = {"void": "string", "timestamp_ntz": "timestamp"}
            columns = [(name.lower(), hive_types.get(type_, type_)) for name, type_ in rows.dtypes]
            # The table is changed before the rows are written, so that a table of other types fails the script first.
            # Partitions are added after the rows, so that none is shown before its files exist.
            catalog.keep_table(table, path, format_, columns, [key.lower() for key in keys], change=columns_too)
        self._write(frame, *args, **kwargs)
        if catalog and keys:
            partitions = rows.selectExpr(*[f"CAST(`{key}` AS string)" for key in keys]).distinct().collect()
            catalog.keep_partitions(table, keys, [tuple(partition) for partition in partitions])

    def _reader(self, read: Callable[..., tuple[DataFrame, str]], dynamic: bool) -> Callable[..., Any]:
        """Return a function that reads a DynamicFrame, or else a DataFrame."""

        def read_frame(*args: Any, **kwargs: Any) -> Any:
            rows, format_ = read(*args, **kwargs)
            if not dynamic:
                return rows
            return DynamicFrame(rows, self, kwargs.get("transformation_ctx", ""), sparse=format_ == "json")

        return read_frame

    def _read(self, *args: Any, **kwargs: Any) -> tuple[DataFrame, str]:
        """Return the rows of files, and their format."""
        format_, glue_options, options = _files(*args, **kwargs)
        # Glue's guide has only "paths", but jobs also have "path".
        path_option, recursive = glue_options.get("paths", glue_options.get("path")), glue_options.get("recurse", False)
        paths = _root(path_option) if isinstance(path_option, str) else [_root(path) for path in path_option or ()]
        if format_ == "csv":
            options = {**CSV_ESCAPE, **options}
        elif format_ != "json" and recursive:
            # Folders such as day=1 are read to the bottom anyway, with a column day, which recursiveFileLookup would
            # leave out. Spark's text source shows whether there are such columns, without reading a row.
            recursive = self.spark_session.read.text(paths).columns == ["value"]
        reader = self.spark_session.read.format(format_).options(**options).option("recursiveFileLookup", recursive)
        frame = reader.load(paths)
        if format_ == "csv":
            frame = frame.na.fill("")  # Glue's reader knows no null
            if str(options.get("header")).lower() != "true":
                frame = frame.toDF(*[f"col{number}" for number in range(len(frame.columns))])
        if predicate := glue_options.get("push_down_predicate"):
            frame = frame.where(predicate)
        return frame, format_

    def _write(self, frame: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a frame to files, and return the frame."""
        format_, glue_options, options = _files(*args, **kwargs)
        if format_ == "csv":
            options = {"header": True, **CSV_ESCAPE, **options}
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        path, keys, mode = _root(glue_options.get("path") or ""), glue_options.get("partitionKeys", []), "append"
        if self._job.shard is not None and not is_inside(path, self._job.output_path):
            from pyspark.sql.functions import lit

            # Glue's writers append. Outside the shard's output a repeated attempt would add the rows again. So the
            # rows go to a partition of the shard and the write's number, which each attempt overwrites.
            self._writes += 1
            rows = rows.withColumn("shard", lit(f"{self._job.run_id}_{self._job.shard:06d}_{self._writes}"))
            # A static overwrite would delete the whole folder, with all other shards' rows.
            keys, mode, options = [*keys, "shard"], "overwrite", {"partitionOverwriteMode": "dynamic", **options}
        if format_ == "csv" and options.get("quote") == NO_QUOTE:
            rows, options = _unquoted(rows, keys, options)
        rows.write.format(format_).options(**options).mode(mode).partitionBy(*keys).save(path)
        return frame

    def _read_table(self, *args: Any, **kwargs: Any) -> tuple[DataFrame, str]:
        order = ("redshift_tmp_dir", "transformation_ctx", "push_down_predicate", "additional_options", "catalog_id")
        name, glue_options = _table(order, *args, **kwargs)
        conditions = (glue_options.get(name) for name in ("push_down_predicate", "catalogPartitionPredicate"))
        where = " AND ".join(f"({condition})" for condition in conditions if condition)
        # Spark's predicates can have == and !=, which Glue's grammar lacks. Within texts these are not replaced.
        where = re.sub("'[^']*'|==|!=", lambda match: SQL_OPERATORS.get(match[0], match[0]), where)
        frame, format_ = import_module(FRAMES).read(self._job, name, where)
        return frame, format_

    def _write_table(self, frame: Any, *args: Any, **kwargs: Any) -> Any:
        options = dict(kwargs.get("additional_options") or {})
        sink_options = {key: options.pop(key) for key in ("enableUpdateCatalog", "updateBehavior") if key in options}
        kwargs = {**kwargs, "additional_options": options} if options or sink_options else kwargs
        name, glue_options = _table(
            ("redshift_tmp_dir", "transformation_ctx", "additional_options", "catalog_id"), *args, **kwargs
        )
        entry, _ = import_module(CATALOG).GlueCatalog.of_script().partitions(name, "")
        if entry.format in ("json", "orc", "parquet"):
            folder_options = {
                "path": entry.location,
                "partitionKeys": glue_options.get("partitionKeys") or [key for key, _ in entry.keys],
            }
            sink = self.getSink("s3", entry.format, **sink_options, **folder_options)
            sink.setCatalogInfo(*name.split(".", 1))
            return sink.writeFrame(frame)
        if entry.format not in ("delta", "iceberg"):
            raise lack_error(f"writes to {name}, which is {entry.format}", "from_options with the table's folder")
        rows = frame.toDF() if isinstance(frame, DynamicFrame) else frame
        self._job.append(rows, f"{entry.format}:{name if entry.format == 'iceberg' else entry.location}")
        return frame


def _root(path: str) -> str:
    """Return a path as Hadoop needs it: the address of a whole bucket must end in a slash."""
    return f"{path}/" if re.fullmatch("s3[an]?://[^/]+", path) else path


def _unquoted(rows: DataFrame, keys: Sequence[str], options: Mapping[str, Any]) -> tuple[DataFrame, dict[str, Any]]:
    """Return the lines of a CSV file without quotes as rows of one column, and options to write it as it is.

    With an empty ``quote`` option Spark puts NUL characters around a value that has the separator or a line break.
    """
    from pyspark.sql.functions import explode, regexp_replace, split, struct, to_csv

    partition_names = {key.lower() for key in keys}
    names = [name for name in rows.columns if name.lower() not in partition_names]
    csv_options = {name: str(value) for name, value in {**options, "escape": "", "emptyValue": ""}.items()}
    columns = ["`" + name.replace("`", "``") + "`" for name in names]
    text = regexp_replace(to_csv(struct(*columns), csv_options), "\\x00", "")
    # The writer puts NULs around a text of several lines, too. So each line becomes a row.
    lines = rows.select(explode(split(text, "\n")).alias(str(options.get("sep", ",")).join(names)), *keys)
    return lines, {**options, "sep": "\x01", "emptyValue": ""}


def is_inside(path: str, folder: object) -> bool:
    """Whether a path is the folder or is in it. All schemes of S3 count as the same."""
    # Both get a slash at the end, or s3://b/out2 would be in s3://b/out.
    path, folder = (re.sub("^s3[an]:", "s3:", address).rstrip("/") + "/" for address in (path, str(folder)))
    return path.startswith(folder)


def _table(order: Sequence[str], *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]]:
    """Return a table's name, and the options in ``GLUE_OPTIONS``, from arguments in Glue's order."""
    arguments = {**dict(zip(("database", "table_name", *order), args, strict=False)), **kwargs}
    database = arguments.pop("database", None) or arguments.pop("name_space", None)
    if not (database and (table := arguments.pop("table_name", None))):
        raise TypeError(f"from_catalog needs database and table_name; it has {', '.join(arguments) or 'neither'}")
    glue_options, _ = _split_options(arguments.pop("additional_options", None), arguments)
    return f"{database}.{table}", glue_options


def _files(
    connection_type: str,
    connection_options: Any = None,
    format: Any = None,
    format_options: Any = None,
    *further: str,
    **more: Any,
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return Spark's format, the options in ``GLUE_OPTIONS``, and Spark's options, from arguments in Glue's order."""
    more |= dict(zip(("transformation_ctx", "push_down_predicate"), further, strict=False))
    # In Glue a format can also be the connection's type.
    spark_format = connection_type if connection_type in FORMATS else format or ""
    spark_format = spark_format.lower().replace("glueparquet", "parquet")
    if connection_type not in ("s3", "file", spark_format):
        raise lack_error(f"connection_type {connection_type!r}", "glueContext.spark_session.read or frame.toDF().write")
    if spark_format not in FORMATS:
        raise lack_error(f"format {spark_format!r}", f"{', '.join(FORMATS)}, or glueContext.spark_session.read")
    return spark_format, *_split_options(connection_options, format_options, more)


def _split_options(*options: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options in ``GLUE_OPTIONS``, and the options for Spark; AttributeError for an unknown option."""
    value_by_name = {name: value for mapping in options for name, value in (mapping or {}).items() if value is not None}
    if unknown := value_by_name.keys() - SPARK_NAMES.keys() - GLUE_OPTIONS - HINTS:
        raise lack_error(f"option {min(unknown)!r}", f"glueContext.spark_session.read.option({min(unknown)!r}, …)")
    spark_options = {SPARK_NAMES[name]: value for name, value in value_by_name.items() if name in SPARK_NAMES}
    if spark_options.get("quote") in (-1, "-1"):
        spark_options["quote"] = NO_QUOTE
    return {name: value_by_name[name] for name in GLUE_OPTIONS & value_by_name.keys()}, spark_options
