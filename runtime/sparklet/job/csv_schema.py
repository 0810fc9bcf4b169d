"""The schema of CSV files, inferred by Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparklet.job.errors import EventError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WIDER = {"int": "bigint", "void": "string"}  # a sample has not seen the greatest number, nor all that may come


def inferred(spark: SparkSession, uris: Sequence[str], options: Mapping[str, Any]) -> str:
    """The columns of CSV files as DDL text, with types that hold what is in all of them.

    EventError if their headers differ: the types would be of columns that do not belong together.
    """
    columns = {uri: spark.read.csv(uri, **{**options, "inferSchema": False}).columns for uri in uris}
    first = uris[0]
    if other := next((uri for uri in uris if columns[uri] != columns[first]), ""):
        raise EventError(
            f"{other} has the columns {columns[other]}, {first} has {columns[first]}: no one schema is theirs"
        )
    schema = spark.read.csv(list(uris), **{**options, "inferSchema": True}).schema
    types = [(each.name.replace("`", "``"), each.dataType.simpleString()) for each in schema]
    return ", ".join(f"`{name}` {WIDER.get(type_, type_)}" for name, type_ in types)
