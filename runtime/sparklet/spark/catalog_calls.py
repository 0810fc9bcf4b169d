"""Lets Spark's calls that read tables find those of Glue's catalog, which is asked once Spark has found none.

The looking up is an annex's, which is imported with the first name that Spark lacks.
"""

import functools
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparklet.job.outcome import EVENT

NAMES = "sparklet.connectors.data_catalog.spark_names"
NOT_FOUND = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND")
_REFRESH = re.compile(r"(?i)\s*REFRESH\s+TABLE\b")


def know_catalog_tables() -> None:
    """Change PySpark's calls of this process, before its script begins."""
    from pyspark.sql import DataFrameReader, DataFrameWriter, SparkSession
    from pyspark.sql.catalog import Catalog

    event = os.environ.get(EVENT, "")
    if event.startswith("@"):  # read now: what is read later counts as the script's own act
        event = Path(event[1:]).read_text(encoding="utf-8")
    names = functools.cache(lambda: importlib.import_module(NAMES).CatalogNames(event))
    exists = Catalog.tableExists

    def exists_there(self: Catalog, tableName: str, dbName: str | None = None) -> bool:  # noqa: N803 - PySpark's
        whole = f"{dbName}.{tableName}" if dbName else tableName
        return bool(exists(self, tableName, dbName) or names().has(self._sparkSession, whole))

    for kind, name in ((SparkSession, "sql"), (SparkSession, "table"), (DataFrameReader, "table")):
        setattr(kind, name, _finding(getattr(kind, name), names))
    DataFrameWriter.insertInto = _finding(DataFrameWriter.insertInto, names)
    Catalog.refreshTable = _finding(Catalog.refreshTable, names, "REFRESH TABLE ")
    Catalog.setCurrentDatabase = _finding(Catalog.setCurrentDatabase, names, "USE ")
    Catalog.tableExists = exists_there


def _finding(call: Callable[..., Any], names: Any, verb: str = "") -> Callable[..., Any]:
    """A call that is made again once the names that it lacks are known; ``verb`` makes its argument a statement."""
    from pyspark.errors import AnalysisException

    @functools.wraps(call)
    def call_again(self: Any, *values: Any, **named: Any) -> Any:
        # Of a session itself, a reader or writer, and a catalog.
        spark = getattr(self, "_spark", None) or getattr(self, "_sparkSession", self)
        statement, tried = verb + str(next(iter((*values, *named.values())), "")), set[str]()
        if names.cache_info().currsize:
            names().refresh(spark, statement)
        while True:
            try:
                return call(self, *values, **named)
            except AnalysisException as error:
                condition = getattr(error, "getCondition", error.getErrorClass)()
                if condition not in NOT_FOUND or not names().learn(spark, error, statement, tried):
                    raise
                if _REFRESH.match(statement):  # as the next statement that names the table does
                    return spark.range(0)

    return call_again
