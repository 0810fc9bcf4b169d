"""Reads CSV files by a run's schema, and lets Spark infer that schema; headers are compared as Spark reads them."""

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

WIDER = {"int": "bigint", "void": "string"}  # files outside the sample may have greater numbers, or any value at all
ALONE = {"inferSchema": False, "recursiveFileLookup": True}  # without columns from folders' names
CASE_SENSITIVE = "spark.sql.caseSensitive"
MAX_CAUSE = 300  # characters


def read(spark: SparkSession, uris: Sequence[str], schema: str | None, options: Mapping[str, Any]) -> DataFrame:
    """Read CSV files by a schema; without a schema every column is text.

    If columns have no name, or share one, Spark generates names: ``_c0``, ``v1``, ``v2``. Spark's own check would
    then refuse the header from which it generated them. So files with such columns are checked here, one by one.
    """
    frame = spark.read.csv(list(uris), schema, **options)
    if not _is_true(options["header"]) or _is_true(options["enforceSchema"]) or not _has_generated_names(frame.columns):
        return frame
    # ``inputFiles`` gives encoded URIs; ``read`` takes plain paths, and patterns in them.
    files = [escaped(unquote(uri)) for uri in frame.inputFiles()]
    row = spark.read.csv(files[:1], **{**options, **ALONE, "header": False}).first() if files else ()
    if row and list(row) == frame.columns[: len(row)]:
        return frame  # these names are in the file itself, so Spark's check is right
    for uri in files:
        _refuse_other_header(spark, uri, frame.columns, options)
    return spark.read.csv(list(uris), frame.schema, **{**options, "enforceSchema": True})


def _is_true(option: Any) -> bool:
    return str(option).lower() == "true"


def _has_generated_names(columns: Sequence[str]) -> bool:
    """Whether Spark might have generated some of the names: ``_c0`` for the first, or ``v1``, ``v2`` for two ``v``."""
    stems = Counter(
        name.removesuffix(str(index)).lower() for index, name in enumerate(columns) if name.endswith(str(index))
    )
    return any(name == f"_c{index}" for index, name in enumerate(columns)) or max(stems.values(), default=0) > 1


def _refuse_other_header(spark: SparkSession, uri: str, columns: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise EventError, in Spark's words, if a file has another header. A file without lines has no header."""
    header = spark.read.csv(uri, **{**options, "inferSchema": False}).columns
    is_other = _comparable(spark, header) != _comparable(spark, columns)
    if is_other and spark.read.csv(uri, **{**options, **ALONE}).columns:
        # The worker finds the file and the kind of the error by these words (``script_output.root_cause``).
        raise EventError(
            f"Encountered error while reading file {quote(uri, safe=':/')}. CSV header does not conform to the schema: "
            f"it is {', '.join(header)}, not {', '.join(columns)}"
        )


def _comparable(spark: SparkSession, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names in a form in which they are equal if Spark treats them as equal."""
    return tuple(columns if is_case_sensitive(spark) else (name.lower() for name in columns))


def is_case_sensitive(spark: SparkSession) -> bool:
    """Whether Spark distinguishes the column ID from the column id."""
    return _is_true(spark.conf.get(CASE_SENSITIVE, "false"))


def infer_schema(spark: SparkSession, uris: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of a task that infers a schema: columns as DDL text, of types that fit the values of all files.

    Files that cannot be read, and files with another header than most, are left out. Their own shards report why, and
    fail if they cannot read them, either. EventError if no header is shared by more than half of the files.
    """
    schemas, left_out, errors = sample_schemas(
        uris, lambda uri: spark.read.csv(uri, **{**options, "inferSchema": True}).schema
    )
    headers = {uri: _comparable(spark, schema.names) for uri, schema in schemas.items() if schema.names}
    if not headers:
        raise errors[0] if errors else EventError(f"{', '.join(uris)}: none of them has a line, so there is no header")
    [(usual_header, count), *_] = Counter(headers.values()).most_common(1)
    usual_uris = [uri for uri, header in headers.items() if header == usual_header]
    for uri in headers.keys() - set(usual_uris):
        left_out[uri] = f"it has the columns {schemas[uri].names}, {usual_uris[0]} has {schemas[usual_uris[0]].names}"
        if 2 * count <= len(headers):
            raise EventError(f"no header is shared by more than half of the files; for example {uri}: {left_out[uri]}")
    report_left_out(left_out)
    schema = schemas[usual_uris[0]]
    if len({tuple(column.dataType for column in schemas[uri]) for uri in usual_uris}) > 1:
        # Without multiLine Spark drops only headers spelled like the first file's; it would read "id" or ID as a value.
        schema = spark.read.csv(usual_uris, **{**options, "inferSchema": True, "multiLine": True}).schema
    return {SCHEMA: ddl(schema, WIDER), LEFT_OUT: left_out}


def sample_schemas(
    uris: Sequence[str], schema_of: Callable[[str], StructType]
) -> tuple[dict[str, StructType], dict[str, str], list[Exception]]:
    """Return the schemas of the files that can be read; for all other files why they are left out, and the errors."""
    schemas: dict[str, StructType] = {}
    left_out: dict[str, str] = {}
    errors: list[Exception] = []
    for uri in uris:
        try:
            schemas[uri] = schema_of(uri)
        except Exception as error:  # noqa: BLE001 - of Spark, Java or Hadoop; other files may be good
            left_out[uri] = _cause(error)
            errors.append(error)
    return schemas, left_out, errors


def report_left_out(left_out: Mapping[str, str]) -> None:
    """Print which files are left out of a sample, and why."""
    for uri, why in left_out.items():
        print(f"{uri} is left out of the sample: {why}", file=sys.stderr)


def ddl(schema: StructType, wider: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the columns as DDL text; ``wider`` replaces types by wider types."""
    types = [(backquoted(column.name), _sql_type(column.dataType)) for column in schema]
    return ", ".join(f"{name} {wider.get(type_, type_)}" for name, type_ in types)


def _sql_type(type_: Any) -> str:
    """Return a type in SQL. Spark's own ``simpleString`` does not quote an inner name with a space."""
    if hasattr(type_, "fields"):
        fields = (f"{backquoted(column.name)}: {_sql_type(column.dataType)}" for column in type_.fields)
        return f"struct<{', '.join(fields)}>"
    if hasattr(type_, "elementType"):
        return f"array<{_sql_type(type_.elementType)}>"
    if hasattr(type_, "keyType"):
        return f"map<{_sql_type(type_.keyType)}, {_sql_type(type_.valueType)}>"
    return str(type_.simpleString())


def _cause(error: Any) -> str:
    """Return the first line of the innermost cause: Java's cause if the error comes from Java."""
    cause = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    lines = re.split(r"[\r\n]+", str(cause.toString() if cause is not None else error).strip())
    return lines[0][:MAX_CAUSE]
