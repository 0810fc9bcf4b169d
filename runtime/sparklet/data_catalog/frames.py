"""``job.table``: the rows of a table as a DataFrame, as Athena reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparklet.data_catalog.conditions import NULL, Columns, matching
from sparklet.data_catalog.entries import CSV, DELIMITED, OF_THEIR_OWN, Entry
from sparklet.data_catalog.glue import THREADS, GlueCatalog, Place
from sparklet.job.event_objects import escaped
from sparklet.job.session import backquoted, hadoop_path

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType

LINE, NO_DELIMITER = "_sparklet_line", "\uffff"  # so that Spark takes a line for one column
OF_CSV = {"date": "date_from_unix_date(try_cast({} AS int))", "timestamp": "timestamp_millis(try_cast({} AS bigint))"}
"""Types that Athena reads from numbers with OpenCSVSerde."""


def read(job: Any, name: str, where: str) -> tuple[DataFrame, str]:
    """The rows of a table, and its format; those of the shard's objects if it is the run's input."""
    spark = job.spark()
    of_run = job.event.get("catalog_table") if isinstance(job.event, Mapping) else None
    if of_run and of_run["name"].lower() == name.lower():
        values = [tuple(each) for each in of_run["values"]]
        entry = Entry(**{key: value for key, value in of_run.items() if key != "values"})
        chosen = [(job.inputs[n], values[n]) for n in matching(where, entry.keys, values)]
        return _frame(spark, entry, chosen), entry.format
    entry, places = GlueCatalog.of_script().partitions(name, where)
    if entry.format in OF_THEIR_OWN:
        frame: DataFrame = spark.read.format(entry.format).load(entry.location)
        return (frame.where(where) if where else frame), entry.format

    def is_there(place: Place) -> bool:
        path, files = hadoop_path(spark, place[0])
        return bool(files.exists(path))

    with ThreadPoolExecutor(THREADS) as pool:  # Spark fails on a partition without a folder, which has no rows
        there = [place for place, there in zip(places, pool.map(is_there, places)) if there]
        return _frame(spark, entry, there), entry.format


def _frame(spark: SparkSession, entry: Entry, places: Sequence[Place]) -> DataFrame:
    """The rows of files or folders: one frame for all whose paths spell the values, else one for each partition."""
    groups: dict[Place, list[str]] = {}
    for place, values in places:
        base = _base(place, entry.keys, values)
        groups.setdefault((base, () if base else values), []).append(escaped(place))
    if not groups:
        return spark.createDataFrame([], _ddl([*entry.columns, *entry.keys]))
    frames = [_rows(spark, entry, paths, *group) for group, paths in groups.items()]
    return reduce(lambda one, other: one.unionAll(other), frames)


def _base(place: str, keys: Columns, values: Sequence[str]) -> str:
    """The folder below which Spark finds the values, ``BASE/day=2026-01-01/…``; "" if the path does not spell them."""
    folders = place.split("/")[:-1]
    spelled = [
        (key.lower(), unquote(value, "latin-1")) for key, _, value in (folder.partition("=") for folder in folders)
    ]
    wanted = [(key, value) for (key, _), value in zip(keys, values)]
    for start in range(len(folders) if wanted else 0):
        end = start + len(wanted)
        if spelled[start:end] == wanted and "=" not in "".join(folders[end:]):
            return "/".join(folders[:start])
    return ""


def _rows(spark: SparkSession, entry: Entry, paths: list[str], base: str, values: Sequence[str]) -> DataFrame:
    """The rows of one group; ``values`` are its partition's if there is no ``base``."""
    from pyspark.sql.functions import col, lit

    keys = entry.keys if base else ()
    options = {"basePath": base} if base else {"recursiveFileLookup": "true"}
    how = {"json": _json, DELIMITED: _text, CSV: _text}.get(entry.format, _columnar)
    frame = how(spark, entry, paths, options, keys)
    for (key, type_), value in zip(() if base else entry.keys, values):
        frame = frame.withColumn(key, lit(None if value == NULL else value).cast(_type(type_)))
    return frame.select(*(col(backquoted(name)) for name, _ in [*entry.columns, *entry.keys]))


Options = Mapping[str, str]


def _columnar(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """Parquet by name; ORC by position, unless the table says otherwise."""
    by_position = entry.properties.get("orc.column.index.access", "true").lower()
    reader = spark.read.schema(_ddl([*entry.columns, *keys])).options(**options)
    return reader.option("orc.force.positional.evolution", by_position).format(entry.format).load(paths)


def _json(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """JSON Lines. Keys match in any case: Spark, which compares them exactly, first reads how they are spelled."""
    from pyspark.errors import AnalysisException
    from pyspark.sql.functions import col

    lenient = entry.properties.get("ignore.malformed.json", "").lower() == "true"
    options = {**options, "mode": "PERMISSIVE" if lenient else "FAILFAST"}
    wanted: Any = spark.createDataFrame([], _ddl([*entry.columns, *keys])).schema
    spelled = wanted
    with suppress(AnalysisException):  # there is no file
        spelled = _as_spelled(wanted, spark.read.options(**options).json(paths).schema)
    frame = spark.read.schema(spelled).options(**options).json(paths)
    renamed = zip(spelled, wanted)
    return frame.select(*(col(backquoted(own.name)).cast(each.dataType).alias(each.name) for own, each in renamed))


def _as_spelled(wanted: DataType, found: DataType) -> Any:
    """A type with its fields' names as the data spell them."""
    from pyspark.sql.types import ArrayType, StructField, StructType

    if isinstance(wanted, ArrayType) and isinstance(found, ArrayType):
        return ArrayType(_as_spelled(wanted.elementType, found.elementType))
    if not (isinstance(wanted, StructType) and isinstance(found, StructType)):
        return wanted
    there = {each.name.lower(): each for each in found}
    pairs = ((each, there.get(each.name.lower(), each)) for each in wanted)
    return StructType([StructField(own.name, _as_spelled(each.dataType, own.dataType)) for each, own in pairs])


def _text(spark: SparkSession, entry: Entry, paths: list[str], options: Options, keys: Columns) -> DataFrame:
    """Lines cut as the SerDes do. A text that does not fit its type is null; a blank line is no row."""
    from pyspark.sql.functions import col, concat, expr, get, lit, regexp_extract_all

    no_quotes = {"header": str(entry.has_header).lower(), "sep": NO_DELIMITER, "quote": "", "escape": ""}
    reader = spark.read.schema(_ddl([(LINE, "string"), *keys])).options(**options, **no_quotes, mode="FAILFAST")
    given, is_csv = entry.properties, entry.format == CSV
    if is_csv:
        names = {"separatorChar": ",", "quoteChar": '"', "escapeChar": "\\"}
        separator, quote, escape = ((given.get(name) or usual)[0] for name, usual in names.items())
    else:
        separator, quote = _character(given.get("field.delim") or given.get("serialization.format", "1")), ""
        escape = _character(given.get("escape.delim", ""))
    kept = [col(backquoted(name)) for name, _ in keys]
    fields = regexp_extract_all(concat(lit(separator), col(LINE)), lit(_field(separator, quote, escape)), lit(1))
    lines = reader.csv(paths).select(fields.alias(LINE), *kept)
    null = None if is_csv else given.get("serialization.null.format", "\\N")
    texts = (
        _unescaped(get(col(LINE), lit(n)), quote, escape, null).alias(name) for n, (name, _) in enumerate(entry.columns)
    )
    own = OF_CSV if is_csv else {}
    casts = ((name, own.get(type_, f"try_cast({{}} AS {_type(type_)})")) for name, type_ in entry.columns)
    typed = (expr(cast.format(backquoted(name))).alias(name) for name, cast in casts)
    return lines.select(*texts, *kept).select(*typed, *kept)


def _field(separator: str, quote: str, escape: str) -> str:
    """The pattern of a field behind its separator; possessive, since Java's would overflow its stack on long texts."""
    s, q, e = (f"\\u{ord(each):04x}" if each else "" for each in (separator, quote, escape))
    escaped_or = f"{e}.|" if e and e != q else ""
    quoted = f"|{q}(?:{escaped_or}{q}{q}|[^{q}{e}]++)*+(?:{q}|$)" if q else ""
    return f"(?s){s}((?:{escaped_or}[^{s}{q}{e}]++{quoted})*+)"


def _unescaped(field: Column, quote: str, escape: str, null: str | None) -> Column:
    """A field's text: without the quotes around it and the characters that escape others; None for ``null``."""
    from pyspark.sql.functions import regexp_replace, when

    q, e = (f"\\u{ord(each):04x}" if each else "" for each in (quote, escape))
    inner = regexp_replace(field, f"(?s)^{q}(.*){q}$", "$1") if q else field
    pairs = ([f"{e}(.)"] if e and e != q else []) + ([f"{q}({q})"] if q else [])
    text = regexp_replace(inner, f"(?s){'|'.join(pairs)}", "$1$2"[: 2 * len(pairs)]) if pairs else inner
    return text if null is None else when(field != null, text)


def _character(given: str) -> str:
    """A delimiter as Hive reads it: the number of a byte, or the first character."""
    return chr(int(given) % 256) if re.fullmatch(r"-?\d{1,3}", given) else given[:1]


def _ddl(columns: Columns) -> str:
    return ", ".join(f"{backquoted(name)} {_type(type_)}" for name, type_ in columns)


def _type(hive: str) -> str:
    """Hive's type as Spark's readers know it: without lengths of texts."""
    return re.sub(r"\b(var)?char\s*\(\d+\)", "string", hive)
