"""CSV files by a run's schema, and that schema, inferred by Spark; headers are compared as one Spark job reads them."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from sparklet.job.errors import EventError
from sparklet.job.event_objects import escaped
from sparklet.job.fields import LEFT_OUT, SCHEMA
from sparklet.job.session import backquoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

WIDER = {"int": "bigint", "void": "string"}  # a sample has not seen the greatest number, nor all that may come
ALONE = {"inferSchema": False, "recursiveFileLookup": True}  # without the columns of partitions
CASE_SENSITIVE = "spark.sql.caseSensitive"
MAX_CAUSE = 300  # characters


def read(spark: SparkSession, uris: Sequence[str], schema: str | None, options: Mapping[str, Any]) -> DataFrame:
    """CSV files by a schema, or as text.

    Spark makes names for columns that have none, or have one together: ``_c0``, ``v1``, ``v2``. Its own check then
    refuses the very header of which it has made them. So files of such columns are checked here, one by one.
    """
    frame = spark.read.csv(list(uris), schema, **options)
    if not _true(options["header"]) or _true(options["enforceSchema"]) or not _has_made_names(frame.columns):
        return frame
    # ``inputFiles`` gives encoded URIs; ``read`` takes plain paths, and patterns in them.
    files = [escaped(unquote(uri)) for uri in frame.inputFiles()]
    row = spark.read.csv(files[:1], **{**options, **ALONE, "header": False}).first() if files else ()
    if row and list(row) == frame.columns[: len(row)]:
        return frame  # the names are in the files, so Spark's check holds
    for uri in files:
        _refuse_other_header(spark, uri, frame.columns, options)
    return spark.read.csv(list(uris), frame.schema, **{**options, "enforceSchema": True})


def _true(option: Any) -> bool:
    return str(option).lower() == "true"


def _has_made_names(columns: Sequence[str]) -> bool:
    """Whether Spark may have made some of these names: ``_c`` and the place, or a name of several and its place."""
    stems = Counter(
        name.removesuffix(str(index)).lower() for index, name in enumerate(columns) if name.endswith(str(index))
    )
    return any(name == f"_c{index}" for index, name in enumerate(columns)) or max(stems.values(), default=0) > 1


def _refuse_other_header(spark: SparkSession, uri: str, columns: Sequence[str], options: Mapping[str, Any]) -> None:
    """EventError, in Spark's words, if a file has another header; one without any line has none."""
    header = spark.read.csv(uri, **{**options, "inferSchema": False}).columns
    if _same(spark, header) != _same(spark, columns) and spark.read.csv(uri, **{**options, **ALONE}).columns:
        # By these words the worker knows the file and the kind of the error (``script_output.root_cause``).
        raise EventError(
            f"Encountered error while reading file {quote(uri, safe=':/')}. CSV header does not conform to the schema: "
            f"it is {', '.join(header)}, not {', '.join(columns)}"
        )


def _same(spark: SparkSession, columns: Sequence[str]) -> tuple[str, ...]:
    """Names that are equal where Spark takes them for equal."""
    return tuple(columns if is_case_sensitive(spark) else (name.lower() for name in columns))


def is_case_sensitive(spark: SparkSession) -> bool:
    """Whether ID is another column than id."""
    return _true(spark.conf.get(CASE_SENSITIVE, "false"))


def inferred(spark: SparkSession, uris: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a task that infers: the columns as DDL text, with types that hold what is in all files.

    Files that cannot be read, and those with another header than most, are left out: their own shards say why, and fail
    if these cannot read them, either. EventError if no header is that of more than half of the files.
    """
    schemas, left_out, unread = sampled(
        uris, lambda uri: spark.read.csv(uri, **{**options, "inferSchema": True}).schema
    )
    headers = {uri: _same(spark, schema.names) for uri, schema in schemas.items() if schema.names}
    if not headers:
        raise unread[0] if unread else EventError(f"{', '.join(uris)}: none of them has a line, so there is no header")
    [(most, count), *_] = Counter(headers.values()).most_common(1)
    good = [uri for uri, header in headers.items() if header == most]
    for uri in headers.keys() - set(good):
        left_out[uri] = f"it has the columns {schemas[uri].names}, {good[0]} has {schemas[good[0]].names}"
        if 2 * count <= len(headers):
            raise EventError(f"no header is that of most files: of {uri}, {left_out[uri]}")
    tell_left_out(left_out)
    schema = schemas[good[0]]
    if len({tuple(column.dataType for column in schemas[uri]) for uri in good}) > 1:
        # By lines Spark drops the headers that are written as the first file's, and takes "id" or ID for a value.
        schema = spark.read.csv(good, **{**options, "inferSchema": True, "multiLine": True}).schema
    return {SCHEMA: ddl(schema, WIDER), LEFT_OUT: left_out}


def sampled(
    uris: Sequence[str], schema_of: Callable[[str], StructType]
) -> tuple[dict[str, StructType], dict[str, str], list[Exception]]:
    """The schemas of the readable files; for the others the reasons, and the errors."""
    schemas: dict[str, StructType] = {}
    left_out: dict[str, str] = {}
    unread: list[Exception] = []
    for uri in uris:
        try:
            schemas[uri] = schema_of(uri)
        except Exception as error:  # noqa: BLE001 - Spark's, Java's, Hadoop's: the others may be good
            left_out[uri] = _cause(error)
            unread.append(error)
    return schemas, left_out, unread


def tell_left_out(left_out: Mapping[str, str]) -> None:
    """Name the files that are left out of a sample, and why."""
    for uri, why in left_out.items():
        print(f"{uri} is left out of the sample: {why}", file=sys.stderr)


def ddl(schema: StructType, wider: Mapping[str, str] = MappingProxyType({})) -> str:
    """The columns in SQL's words, some types as wider ones."""
    types = [(backquoted(column.name), _sql(column.dataType)) for column in schema]
    return ", ".join(f"{name} {wider.get(type_, type_)}" for name, type_ in types)


def _sql(type_: Any) -> str:
    """A type in SQL's words; ``simpleString`` does not quote an inner name with a space."""
    if hasattr(type_, "fields"):
        return f"struct<{', '.join(f'{backquoted(column.name)}: {_sql(column.dataType)}' for column in type_.fields)}>"
    if hasattr(type_, "elementType"):
        return f"array<{_sql(type_.elementType)}>"
    if hasattr(type_, "keyType"):
        return f"map<{_sql(type_.keyType)}, {_sql(type_.valueType)}>"
    return str(type_.simpleString())


def _cause(error: Any) -> str:
    """The first line of the innermost cause, Java's if there is one."""
    cause = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    lines = re.split(r"[\r\n]+", str(cause.toString() if cause is not None else error).strip())
    return lines[0][:MAX_CAUSE]
