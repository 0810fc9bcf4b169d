"""Readers of JSON and Parquet by the schema of a run; they refuse what Spark would leave out in silence."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sparklet.job.csv_schema import ddl
from sparklet.job.errors import DriftError, EventError
from sparklet.job.fields import INFER, SCHEMA, JobFields

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MAX_NAMED = 10  # columns of a file


def read(
    job: JobFields, uris: list[str], spark: SparkSession, format_: str, schema: str | None, options: Mapping[str, Any]
) -> DataFrame:
    """See ``Job.read_json`` and ``Job.read_parquet``."""
    schema = schema or job.params.get(SCHEMA)
    reader = spark.read.format(format_).options(**options)
    if not schema and format_ == "json" and job.shard is not None:
        raise EventError("job.read_json has no schema, and a guess sees one shard alone: give the run's (--schema)")
    if not schema or schema == INFER:
        frame = reader.load(uris)
        if schema == INFER:
            job.outcome.answer({SCHEMA: ddl(frame.schema)})
            sys.exit()
        return frame
    frame = spark.read.format(format_).options(**options).schema(schema).load(uris)
    if format_ == "json":  # names alone: the reader itself refuses values that do not fit
        reader = reader.options(primitivesAsString=True, samplingRatio=1.0, mode="DROPMALFORMED")

    def differences(given: list[str]) -> list[str]:
        return list(_differences(reader.load(given).schema, frame.schema, format_))[:MAX_NAMED]

    if differences(uris):  # all at once first: each look is a job of Spark
        for place, name in enumerate(job.inputs):
            if found := differences([uris[place]]):
                named = f"while reading file {quote(name, safe='/:#')}. It has {'; '.join(found)}"
                why = f"columns other than the schema's were found {named}: extend it, or start with --allow-drift"
                of_run = job.event.get("sparklet") if isinstance(job.event, Mapping) else None
                if not (of_run or {}).get("allow_drift"):
                    raise DriftError(why)
                print(f"sparklet: {why}", file=sys.stderr, flush=True)
    return frame


def _differences(found: Any, wanted: Any, format_: str, name: str = "") -> Iterator[str]:
    """Names, and in Parquet types, that one type of Spark has inside and the other one has not."""
    if hasattr(found, "fields") and (hasattr(wanted, "fields") or hasattr(wanted, "valueType")):
        fold = str if format_ == "json" else str.lower  # Spark takes ID of JSON for another name than id
        known = {fold(each.name): each.dataType for each in getattr(wanted, "fields", ())}
        for each in found.fields:
            inner = getattr(wanted, "valueType", None) or known.get(fold(each.name))  # an object may be read as a map
            if inner is None:
                yield f"{name}{each.name}, which the schema lacks"
            else:
                yield from _differences(each.dataType, inner, format_, f"{name}{each.name}.")
        return
    insides = [inside for inside in ("elementType", "keyType", "valueType") if hasattr(found, inside)]
    if insides and all(hasattr(wanted, inside) for inside in insides):
        for inside in insides:
            yield from _differences(getattr(found, inside), getattr(wanted, inside), format_, name)
    elif format_ != "json" and found != wanted:
        yield f"{name[:-1]} as {found.simpleString()}, and the schema as {wanted.simpleString()}"
