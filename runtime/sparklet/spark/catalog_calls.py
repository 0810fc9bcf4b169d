"""Lets PySpark's calls find tables of Glue's catalog: it is searched for each name that Spark does not find.

The search is in another package (``NAMES``), which is imported once Spark has not found a name.
"""

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparklet.job.outcome import EVENT

NAMES = "sparklet.connectors.data_catalog.spark_names"
NOT_FOUND = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND")
CALLS = {  # PySpark's methods that name tables and databases, by class
    "SparkSession": ("sql", "table"),
    "DataFrameReader": ("table",),
    "DataFrameWriter": ("insertInto", "saveAsTable"),
    "DataFrameWriterV2": ("append", "create", "createOrReplace", "overwrite", "overwritePartitions", "replace"),
    "DataStreamWriter": ("toTable",),
    "MergeIntoWriter": ("merge",),
    "Catalog": (
        *("cacheTable", "createTable", "functionExists", "getTable", "isCached", "listColumns"),
        *("listFunctions", "listTables", "recoverPartitions", "refreshTable", "setCurrentDatabase", "uncacheTable"),
    ),
}


def know_catalog_tables() -> None:
    """Change PySpark's calls in this process, before its script begins."""
    from pyspark import sql
    from pyspark.sql import streaming
    from pyspark.sql.catalog import Catalog

    event = os.environ.get(EVENT, "")
    if event.startswith("@"):  # read now, since later reads count as acts of the script
        event = Path(event[1:]).read_text(encoding="utf-8")
    names = functools.cache(lambda: importlib.import_module(NAMES).CatalogNames(event))
    table_exists, database_exists, get_database = Catalog.tableExists, Catalog.databaseExists, Catalog.getDatabase

    def has_table(self: Catalog, tableName: str, dbName: str | None = None) -> bool:  # noqa: N803 - PySpark's
        full_name = f"{dbName}.{tableName}" if dbName else tableName
        return bool(table_exists(self, tableName, dbName) or names().has(self._sparkSession, full_name))

    def has_database(self: Catalog, dbName: str) -> bool:  # noqa: N803 - PySpark's
        return bool(database_exists(self, dbName) or names().has_database(self._sparkSession, dbName))

    def checked_database(self: Catalog, dbName: str) -> Any:  # noqa: N803 - PySpark's
        database = get_database(self, dbName)
        if names.cache_info().currsize:
            names().refuse_database(self._sparkSession, database.name)
        return database

    classes: Any = {**vars(streaming), **vars(sql), "Catalog": Catalog}
    for class_name, calls in CALLS.items():
        for name in calls if class_name in classes else ():
            setattr(classes[class_name], name, _with_catalog(getattr(classes[class_name], name), names))
    Catalog.tableExists, Catalog.databaseExists, Catalog.getDatabase = has_table, has_database, checked_database


def _with_catalog(call: Callable[..., Any], names: Any) -> Callable[..., Any]:
    """A function that makes the call and, if Spark does not find a table that the catalog has, repeats it."""
    from pyspark.errors import AnalysisException, UnsupportedOperationException

    @functools.wraps(call)
    def call_again(self: Any, *values: Any, **named: Any) -> Any:
        # ``self`` is a reader, writer or frame, a catalog, or the session.
        spark = getattr(self, "_spark", None) or getattr(self, "_sparkSession", self)
        statement, tried_names = str(next(iter((*values, *named.values())), "")), set[str]()
        if names.cache_info().currsize:
            names().refresh(spark, statement)
        while True:
            try:
                return call(self, *values, **named)
            except AnalysisException as error:
                condition = getattr(error, "getCondition", error.getErrorClass)()
                if condition not in NOT_FOUND or not names().learn(spark, error, statement, tried_names):
                    raise
            except UnsupportedOperationException as error:
                if names.cache_info().currsize:
                    names().refuse(error)
                raise

    return call_again
