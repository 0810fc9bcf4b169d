"""Readers of JSON and Parquet by a run's schema; they refuse columns that Spark would silently leave out."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sparklet.job.csv_schema import CASE_SENSITIVE, ddl, is_case_sensitive, report_left_out, sample_schemas
from sparklet.job.errors import DriftError, EventError
from sparklet.job.fields import INFER, LEFT_OUT, SCHEMA, JobFields

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, SparkSession

MAX_NAMED = 10  # columns of a file that an error names


def read(
    job: JobFields, uris: list[str], spark: SparkSession, format_: str, schema: str | None, options: Mapping[str, Any]
) -> DataFrame:
    """See ``Job.read_json`` and ``Job.read_parquet``."""
    schema = schema or job.params.get(SCHEMA)
    reader = spark.read.format(format_).options(**options)
    if not schema and format_ == "json" and job.shard is not None:
        raise EventError("job.read_json has no schema, and each shard would infer another: start the run with --schema")
    if schema == INFER:
        job.outcome.answer(_infer_schema(spark, reader, uris, format_))
        sys.exit()
    if not schema:
        return reader.load(uris)
    frame = spark.read.format(format_).options(**options).schema(schema).load(uris)
    if format_ == "json":
        # All rows are read for their keys, since a single row may have another key. Values and broken rows do not
        # matter here: the read itself refuses those that do not fit.
        reader = reader.options(primitivesAsString=True, samplingRatio=1.0, mode="DROPMALFORMED")

    def differences(files: list[str]) -> list[str]:
        with _case_sensitive_names(spark):
            file_schema = reader.load(files).schema
        return list(_differences(file_schema, frame.schema, format_))[:MAX_NAMED]

    _refuse_drift(job, uris, differences)
    return frame


def _refuse_drift(job: JobFields, uris: list[str], differences: Callable[[list[str]], list[str]]) -> None:
    """Raise DriftError if a file has columns that the schema lacks; print warnings instead if drift is allowed."""
    try:  # all files at once, since each call is a Spark job
        has_drift = bool(differences(uris))
    except Exception:  # noqa: BLE001 - types that do not merge: the check of single files below names the file
        has_drift = True
    if not has_drift:
        return
    run_fields = job.event.get("sparklet") if isinstance(job.event, Mapping) else None
    for uri, name in zip(uris, job.inputs):  # noqa: B905 - Python 3.9
        if columns := differences([uri]):
            # In Spark's words, by which the worker finds the file in the cause (``script_output.root_cause``).
            location = f"while reading file {quote(name, safe='/:#')}. It has {'; '.join(columns)}"
            why = f"columns other than the schema's were found {location}: extend it, or start with --allow-drift"
            if not (run_fields or {}).get("allow_drift"):
                raise DriftError(why)
            print(f"sparklet: {why}", file=sys.stderr, flush=True)


def _infer_schema(spark: SparkSession, reader: DataFrameReader, uris: list[str], format_: str) -> dict[str, Any]:
    """Return the answer of a task that infers a schema, see ``csv_schema.infer_schema``: all columns of all good files.

    Spark's JSON parser finds a key only in one spelling. So files with another spelling than most are left out.
    """
    with _case_sensitive_names(spark):
        schemas, left_out, errors = sample_schemas(uris, lambda uri: reader.load(uri).schema)
    if format_ == "json" and not is_case_sensitive(spark):
        counts = Counter(name for schema in schemas.values() for name in _column_names(schema))
        # The most common spelling comes last, and so it stays; of equally common ones the first stays.
        usual_spelling = {name.lower(): name for name, _ in reversed(counts.most_common())}
        for uri, schema in schemas.items():
            if unusual_names := [name for name in _column_names(schema) if usual_spelling[name.lower()] != name]:
                left_out[uri] = f"it has {unusual_names[0]}, and more have {usual_spelling[unusual_names[0].lower()]}"
    if not (usual_uris := [uri for uri in uris if uri not in left_out]):
        raise errors[0] if errors else DriftError("; ".join(f"{uri}: {why}" for uri, why in left_out.items()))
    report_left_out(left_out)
    return {SCHEMA: ddl(reader.load(usual_uris).schema), LEFT_OUT: left_out}


@contextmanager
def _case_sensitive_names(spark: SparkSession) -> Iterator[None]:
    """Let Spark distinguish ID from id in this block; otherwise its JSON parser would find only one of the two."""
    old_value = spark.conf.get(CASE_SENSITIVE, "false")
    spark.conf.set(CASE_SENSITIVE, "true")
    try:
        yield
    finally:
        spark.conf.set(CASE_SENSITIVE, old_value)


def _column_names(type_: Any, name: str = "") -> Iterator[str]:
    """Yield the names of all columns; an inner column's name begins with the outer column's name and a dot."""
    for column in getattr(type_, "fields", ()):
        yield name + column.name
        yield from _column_names(column.dataType, f"{name}{column.name}.")
    if hasattr(type_, "elementType"):
        yield from _column_names(type_.elementType, name)


def _differences(file_type: Any, schema_type: Any, format_: str, name: str = "") -> Iterator[str]:
    """Yield what a file's type has and the schema's type lacks: names, and for Parquet also types."""
    if hasattr(file_type, "fields") and (hasattr(schema_type, "fields") or hasattr(schema_type, "valueType")):
        fold = str if format_ == "json" else str.lower  # in JSON the keys ID and id are two names for Spark
        types_by_name = {fold(field.name): field.dataType for field in getattr(schema_type, "fields", ())}
        for column in file_type.fields:
            # An object may be read as a map.
            inner_type = getattr(schema_type, "valueType", None) or types_by_name.get(fold(column.name))
            if inner_type is None:
                yield f"{name}{column.name}, which the schema lacks"
            else:
                yield from _differences(column.dataType, inner_type, format_, f"{name}{column.name}.")
        return
    attributes = [attribute for attribute in ("elementType", "keyType", "valueType") if hasattr(file_type, attribute)]
    if attributes and all(hasattr(schema_type, attribute) for attribute in attributes):
        for attribute in attributes:
            yield from _differences(getattr(file_type, attribute), getattr(schema_type, attribute), format_, name)
    elif format_ != "json" and file_type != schema_type:
        yield f"{name[:-1]} as {file_type.simpleString()}, and the schema as {schema_type.simpleString()}"
