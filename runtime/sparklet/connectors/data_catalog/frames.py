"""``job.table``: the rows of a table as a DataFrame, as Athena reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparklet.connectors.data_catalog.conditions import NULL, Columns, matching
from sparklet.connectors.data_catalog.entries import CSV, DELIMITED, SELF_DESCRIBING, Entry
from sparklet.connectors.data_catalog.glue import THREADS, GlueCatalog, Place
from sparklet.job.event_objects import escaped
from sparklet.job.session import backquoted, hadoop_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType

LINE, NO_DELIMITER = "_sparklet_line", "\uffff"  # so that Spark reads a line as one column
# With OpenCSVSerde Athena reads these types from numbers.
CSV_CASTS = {
    "date": "date_from_unix_date(try_cast({} AS int))",
    "timestamp": "timestamp_millis(try_cast({} AS bigint))",
}


def read(job: Any, name: str, where: str, catalog: GlueCatalog | None = None) -> tuple[DataFrame, str]:
    """Return the rows of a table, and its format. In a run over the table only the shard's objects are read."""
    spark = job.spark()
    run_table = job.event.get("catalog_table") if isinstance(job.event, Mapping) else None
    if run_table and run_table["name"].lower() == name.lower():
        values = [tuple(partition) for partition in run_table["values"]]
        entry = Entry(**{key: value for key, value in run_table.items() if key != "values"})
        matching_places = [(job.inputs[index], values[index]) for index in matching(where, entry.keys, values)]
        return _frame(spark, entry, matching_places), entry.format
    entry, places = (catalog or GlueCatalog.of_script()).partitions(name, where)
    if entry.format in SELF_DESCRIBING:
        frame: DataFrame = spark.read.format(entry.format).load(entry.location)
        return (frame.where(where) if where else frame), entry.format

    def has_folder(place: Place) -> bool:
        folder, _ = place
        path, file_system = hadoop_path(spark, folder)
        return bool(file_system.exists(path))

    # A partition without a folder has no rows, and Spark would fail to read it.
    with ThreadPoolExecutor(THREADS) as pool:
        existing_places = [place for place, exists in zip(places, pool.map(has_folder, places)) if exists]
        return _frame(spark, entry, existing_places), entry.format


def _frame(spark: SparkSession, entry: Entry, places: Sequence[Place]) -> DataFrame:
    """Return the rows of files or folders.

    Those whose paths contain the partition values (``day=2026-01-01``) are read together, by their base folder. Others
    are read separately for each set of values.
    """
    groups: dict[Place, list[str]] = {}
    for path, values in places:
        # Below a base folder Spark itself takes the partition values from the paths.
        base = _base(path, entry.keys, values)
        groups.setdefault((base, () if base else values), []).append(escaped(path))
    if not groups:
        return spark.createDataFrame([], _ddl([*entry.columns, *entry.keys]))
    frames = [_rows(spark, entry, paths, *group) for group, paths in groups.items()]
    return reduce(lambda one, other: one.unionAll(other), frames)


def _base(path: str, keys: Columns, values: Sequence[str]) -> str:
    """Return BASE of ``BASE/day=2026-01-01/…``, below which Spark finds the values; "" if the path has others."""
    folders = path.split("/")[:-1]
    # Spark makes one character of each %XX. So if another tool has written é as %C3%A9, Spark reads another value from
    # the folder's name than the catalog has.
    pairs = [
        (key.lower(), unquote(value, "latin-1")) for key, _, value in (folder.partition("=") for folder in folders)
    ]
    expected_pairs = [(key, value) for (key, _), value in zip(keys, values)]
    for start in range(len(folders) if expected_pairs else 0):
        end = start + len(expected_pairs)
        # A deeper folder with = in its name would be one more column for Spark.
        if pairs[start:end] == expected_pairs and "=" not in "".join(folders[end:]):
            return "/".join(folders[:start])
    return ""


def _rows(spark: SparkSession, entry: Entry, paths: list[str], base: str, values: Sequence[str]) -> DataFrame:
    """Return the rows of one group. With ``base`` Spark reads the keys from the paths; else they are ``values``."""
    from pyspark.sql.functions import col, lit

    keys_in_paths, other_keys = (entry.keys, ()) if base else ((), entry.keys)
    # A recursive look-up makes no columns of folders like day=1, whose values differ from the catalog's here.
    options = {"basePath": base} if base else {"recursiveFileLookup": "true"}
    read_format = {"json": _json, DELIMITED: _text, CSV: _text}.get(entry.format, _columnar)
    frame = read_format(spark, entry, paths, options, keys_in_paths)
    for (key, type_), value in zip(other_keys, values):
        frame = frame.withColumn(key, lit(None if value == NULL else value).cast(_type(type_)))
    return frame.select(*(col(backquoted(name)) for name, _ in [*entry.columns, *entry.keys]))


Options = Mapping[str, str]


def _columnar(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """Read Parquet with columns matched by name, or ORC by position; if the table's properties say so, ORC by name."""
    by_position = entry.properties.get("orc.column.index.access", "true").lower()
    reader = spark.read.schema(_ddl([*entry.columns, *keys])).options(**options)
    return reader.option("orc.force.positional.evolution", by_position).format(entry.format).load(paths)


def _json(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """Read JSON Lines. Keys match in any case: since Spark compares them exactly, their spelling is read first."""
    from pyspark.errors import AnalysisException
    from pyspark.sql.functions import col

    is_lenient = entry.properties.get("ignore.malformed.json", "").lower() == "true"
    # By default Spark makes nulls of a malformed line; here only if the table's properties allow it, as in Athena.
    options = {**options, "mode": "PERMISSIVE" if is_lenient else "FAILFAST"}
    table_schema: Any = spark.createDataFrame([], _ddl([*entry.columns, *keys])).schema
    file_schema = table_schema
    with suppress(AnalysisException):  # there is no file
        file_schema = _with_spelling(table_schema, spark.read.options(**options).json(paths).schema)
    frame = spark.read.schema(file_schema).options(**options).json(paths)
    pairs = zip(file_schema, table_schema)
    return frame.select(
        *(col(backquoted(file_field.name)).cast(field.dataType).alias(field.name) for file_field, field in pairs)
    )


def _with_spelling(table_type: DataType, data_type: DataType) -> Any:
    """Return the table's type with its fields' names spelled as in the data."""
    from pyspark.sql.types import ArrayType, StructField, StructType

    if isinstance(table_type, ArrayType) and isinstance(data_type, ArrayType):
        return ArrayType(_with_spelling(table_type.elementType, data_type.elementType))
    if not (isinstance(table_type, StructType) and isinstance(data_type, StructType)):
        return table_type
    field_by_name = {field.name.lower(): field for field in data_type}
    pairs = ((field, field_by_name.get(field.name.lower(), field)) for field in table_type)
    return StructType(
        [StructField(spelled.name, _with_spelling(field.dataType, spelled.dataType)) for field, spelled in pairs]
    )


def _text(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """Read lines, and cut them as the SerDes do. A text that does not fit its type is null; a blank line is no row."""
    from pyspark.sql.functions import col, concat, expr, get, lit, regexp_extract_all

    # Spark's CSV reader only finds lines and leaves out headers: it knows no escaped delimiter outside quotes.
    no_quotes = {"header": str(entry.has_header).lower(), "sep": NO_DELIMITER, "quote": "", "escape": ""}
    reader = spark.read.schema(_ddl([(LINE, "string"), *keys])).options(**options, **no_quotes, mode="FAILFAST")
    properties, is_csv = entry.properties, entry.format == CSV
    if is_csv:
        names = {"separatorChar": ",", "quoteChar": '"', "escapeChar": "\\"}
        separator, quote, escape = ((properties.get(name) or usual)[0] for name, usual in names.items())
    else:
        separator, quote = _character(properties.get("field.delim") or properties.get("serialization.format", "1")), ""
        escape = _character(properties.get("escape.delim", ""))
    key_columns = [col(backquoted(name)) for name, _ in keys]
    # With a separator also before the first field, one pattern fits all fields.
    fields = regexp_extract_all(concat(lit(separator), col(LINE)), lit(_field(separator, quote, escape)), lit(1))
    lines = reader.csv(paths).select(fields.alias(LINE), *key_columns)
    null = None if is_csv else properties.get("serialization.null.format", "\\N")
    # ``get`` gives null where a line is too short; an index would fail in ANSI mode, Spark 4's default.
    texts = (
        _unescaped(get(col(LINE), lit(n)), quote, escape, null).alias(name) for n, (name, _) in enumerate(entry.columns)
    )
    cast_by_type = CSV_CASTS if is_csv else {}
    casts = ((name, cast_by_type.get(type_, f"try_cast({{}} AS {_type(type_)})")) for name, type_ in entry.columns)
    typed = (expr(cast.format(backquoted(name))).alias(name) for name, cast in casts)
    return lines.select(*texts, *key_columns).select(*typed, *key_columns)


def _field(separator: str, quote: str, escape: str) -> str:
    """Return the pattern of a separator and a field. It is possessive, or long texts would overflow Java's stack."""
    s, q, e = (f"\\u{ord(character):04x}" if character else "" for character in (separator, quote, escape))
    escaped_or = f"{e}.|" if e and e != q else ""
    quoted = f"|{q}(?:{escaped_or}{q}{q}|[^{q}{e}]++)*+(?:{q}|$)" if q else ""
    return f"(?s){s}((?:{escaped_or}[^{s}{q}{e}]++{quoted})*+)"


def _unescaped(field: Column, quote: str, escape: str, null: str | None) -> Column:
    """Return a field's text without quotes around it and without escape characters; null where it equals ``null``."""
    from pyspark.sql.functions import regexp_replace, when

    q, e = (f"\\u{ord(character):04x}" if character else "" for character in (quote, escape))
    inner = regexp_replace(field, f"(?s)^{q}(.*){q}$", "$1") if q else field
    pairs = ([f"{e}(.)"] if e and e != q else []) + ([f"{q}({q})"] if q else [])
    # Java refuses a reference to a group that the pattern lacks.
    references = "$1$2" if len(pairs) > 1 else "$1"
    text = regexp_replace(inner, f"(?s){'|'.join(pairs)}", references) if pairs else inner
    # The field is compared as it is in the file: if a backslash escapes, Hive's \N would have become N in ``text``.
    return text if null is None else when(field != null, text)


def _character(delimiter: str) -> str:
    """Return a delimiter as Hive reads it: the byte of a number, or else the first character."""
    return chr(int(delimiter) % 256) if re.fullmatch(r"-?\d{1,3}", delimiter) else delimiter[:1]


def _ddl(columns: Columns) -> str:
    return ", ".join(f"{backquoted(name)} {_type(type_)}" for name, type_ in columns)


def _type(hive: str) -> str:
    """Return a Hive type as Spark's readers know it: char and varchar are strings."""
    return re.sub(r"\b(var)?char\s*\(\d+\)", "string", hive)
