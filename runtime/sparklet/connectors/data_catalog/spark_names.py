"""Lets Spark's own calls, ``spark.table("db.t")`` and ``spark.sql``, find the tables of Glue's Data Catalog by name.

Spark's session catalog does not have these tables. If Spark finds no table of a name, Glue's is looked up: the rows of
``job.table`` become a global view, which ``CatalogNames.java`` puts in the place of the name, and Spark's call is made
again. If a command would make, fill or drop something in an unknown database, ``CatalogNames.java`` raises Spark's own
error, and so lets this module look up whether the database is Glue's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sparklet.connectors.data_catalog.entries import SELF_DESCRIBING
from sparklet.connectors.data_catalog.frames import read
from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.job import Job
from sparklet.job.errors import DatabaseError, EventError, TableError
from sparklet.job.outcome import EVENT
from sparklet.job.session import backquoted

if TYPE_CHECKING:
    from pyspark.errors import AnalysisException, UnsupportedOperationException
    from pyspark.sql import SparkSession

VIEW, OPTION, CATALOG = "glue ", "sparklet.glue.", "spark_catalog"  # as CatalogNames.java has them
MISSING = "EntityNotFoundException"
REFUSAL = (
    " is in Glue's catalog, where a plain name only reads the newest rows: write by job.append, job.upsert, getSink or "
    "df.write to a path, to Iceberg's tables as glue_catalog.DATABASE.TABLE; describe and change tables by Athena"
)
SPARK_DATABASES = ("default.", "global_temp.")  # Spark's own: their tables are not looked up in Glue
_WORD = re.compile("`((?:[^`]|``)+)`")
# The beginning of an SQL script, whose statements run one after the other.
_SCRIPT = re.compile(r"(?is)(\s|--[^\n]*\n|/\*.*?\*/)*([\w`]+\s*:\s*)?BEGIN\b")


class CatalogNames:
    """The tables of Glue that a script has named; ``event`` is the script's event, as text."""

    def __init__(self, event: str) -> None:
        try:
            self._job = Job.from_args([], {EVENT: event} if event else {})
        # The script itself may refuse such an event. It is not the event of a run over a table, so it is not needed.
        except EventError:
            self._job = Job.from_args([], {})
        self._formats = dict[str, str]()  # by DATABASE.TABLE
        self._catalog = cache(GlueCatalog.of_script)  # one client
        self._is_reachable = True

    def refresh(self, spark: SparkSession, statement: str) -> None:
        """Let the tables that a statement names, and all Delta and Iceberg tables, have their newest rows.

        A view of the script may use a Delta or Iceberg table without naming it in the statement, and Spark would read
        such a table anew at each query. For other formats Spark itself keeps the list of files.
        """
        from pyspark.errors import PySparkException

        for name, format_ in list(self._formats.items()):
            is_named = re.search(rf"\b{re.escape(name.partition('.')[2])}\b", statement, re.IGNORECASE)
            if format_ in SELF_DESCRIBING or is_named:
                try:
                    self._make_view(spark, name)
                # The table is forgotten, and looked up again when a statement needs it.
                except (TableError, DatabaseError, PySparkException):
                    self._formats.pop(name, None)
                    spark.catalog.dropGlobalTempView(VIEW + name)

    def learn(self, spark: SparkSession, error: AnalysisException, statement: str, tried: set[str]) -> bool:
        """Make the table or database that a call has not found known to Spark. False if Glue does not have it, either.

        ``tried`` are the names that were looked up for this call. TableError if Glue's table cannot be read here, or
        if the call does more than read the table, or cannot be made again.
        """
        # Java's map gives None for a key that it lacks.
        parameters: Any = error.getMessageParameters() or {}
        missing_name = parameters.get("relationName") or parameters.get("schemaName") or ""
        words = [word.replace("``", "`") for word in _WORD.findall(missing_name)]
        in_session_catalog = spark.catalog.currentCatalog() == CATALOG
        if parameters.get("schemaName"):
            name = words[-1].lower()
            in_session_catalog = words[:-1] == [CATALOG] or (in_session_catalog and len(words) == 1)
            is_known = in_session_catalog and self._learn_database(spark, name, tried)
        else:
            name = _full_name(spark, ".".join(words)) if in_session_catalog and words else ""
            if name in tried:
                raise TableError(name + REFUSAL)
            tried.add(name)
            is_known = bool(name) and self._exists(name, lambda: self._make_view(spark, name))
        if is_known and _SCRIPT.match(statement):  # the script's first statements have run already
            raise TableError(
                f"a script of SQL cannot be the first to name {name}, and has stopped: before it name the table's "
                "database by USE, or the table by spark.table"
            )
        return is_known

    def refuse(self, error: UnsupportedOperationException) -> None:
        """Raise TableError, after which a shard is not tried again, if ``CatalogNames.java`` has refused a call."""
        if REFUSAL in str(error):
            raise TableError(str(error)) from None

    def refuse_database(self, spark: SparkSession, name: str) -> None:
        """Raise TableError for a Glue database: Spark's empty one of that name has neither its place nor its tables."""
        if refusal := _hadoop(spark).get(OPTION + name.lower()):
            raise TableError(name + refusal)

    def has(self, spark: SparkSession, name: str) -> bool:
        """Whether Glue has a table of this name, whether or not it can be read here."""
        if spark.catalog.currentCatalog() != CATALOG or not (name := _full_name(spark, name)):
            return False
        return self._exists(name, lambda: self._catalog().refuse_missing(name))

    def has_database(self, spark: SparkSession, name: str) -> bool:
        """Whether Glue has a database of this name."""
        words = name.replace("`", "").split(".")
        catalog = spark.catalog.currentCatalog() if len(words) == 1 else words[0]
        return catalog == CATALOG and self._exists(name, lambda: self._catalog().refuse_missing(words[-1]))

    def _learn_database(self, spark: SparkSession, database: str, tried: set[str]) -> bool:
        """Store for Java whether a database is Glue's; if so, make an empty one in Spark for USE. False if tried."""
        if database in tried:
            return False
        tried.add(database)
        exists = self._exists(database, lambda: self._catalog().refuse_missing(database))
        _hadoop(spark).set(OPTION + database, REFUSAL if exists else "")
        if exists:
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {CATALOG}.{backquoted(database)}")
        return True

    def _exists(self, name: str, look_up: Callable[[], None]) -> bool:
        """Whether Glue has what ``look_up`` looks for; False also if Glue cannot be reached from here, as on a laptop.

        All other errors are raised: if a script reads "does not exist", it may create a table, or its rows, anew.
        """
        try:
            if self._is_reachable:
                look_up()
        except (TableError, DatabaseError) as error:
            if MISSING in str(error):
                return False
            self._is_reachable = not getattr(error, "unreachable", False)
            if self._is_reachable:
                raise
            sys.stderr.write(f"sparklet: {name}: {error}\n")
        return self._is_reachable

    def _make_view(self, spark: SparkSession, name: str) -> None:
        """Make the global view of a table's newest rows, and store the table's format for Java."""
        # The script's session is used, since the job's own would set options that the script has not asked for.
        source = SimpleNamespace(event=self._job.event, inputs=self._job.inputs, spark=lambda: spark)
        frame, self._formats[name] = read(source, name, "", self._catalog())
        _hadoop(spark).set(OPTION + name, self._formats[name])
        _hadoop(spark).set(OPTION + name.partition(".")[0], REFUSAL)
        frame.createOrReplaceGlobalTempView(backquoted(VIEW + name))


def _hadoop(spark: SparkSession) -> Any:
    """Return Hadoop's configuration, whose options all sessions and threads of the script have."""
    return spark.sparkContext._jsc.hadoopConfiguration()


def _full_name(spark: SparkSession, name: str) -> str:
    """Return a name as DATABASE.TABLE; "" if it is in another catalog, or in one of Spark's own databases."""
    words = name.lower().replace("`", "").split(".")
    if words[0] == "spark_catalog" and len(words) > 2:
        del words[0]
    if len(words) == 1:
        words.insert(0, spark.catalog.currentDatabase().lower())
    full_name = ".".join(words)
    return "" if len(words) != 2 or full_name.startswith(SPARK_DATABASES) else full_name
