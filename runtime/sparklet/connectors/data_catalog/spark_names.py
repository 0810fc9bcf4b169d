"""Tables of Glue's Data Catalog by their names in Spark's own calls: ``spark.table("db.t")``, ``spark.sql``.

Spark's session catalog has none of them. Where Spark finds no table of a name, Glue is asked: the rows of ``job.table``
become a global view, which ``CatalogNames.java`` puts in the place of the name, and Spark is called again. That class
also asks, by Spark's own error, whose a database is in which a command would make, fill or drop something.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sparklet.connectors.data_catalog.entries import OF_THEIR_OWN
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
OF_SPARK = ("default.", "global_temp.")  # databases that Spark itself has: their tables are not looked up
_WORD = re.compile("`((?:[^`]|``)+)`")
_SCRIPT = re.compile(r"(?is)(\s|--[^\n]*\n|/\*.*?\*/)*([\w`]+\s*:\s*)?BEGIN\b")  # whose statements run one by one


class CatalogNames:
    """The tables that a script has named; ``event`` is its event, as text."""

    def __init__(self, event: str) -> None:
        try:
            self._job = Job.from_args([], {EVENT: event} if event else {})
        except EventError:  # it is for the script to say so; no shard of a run over a table has such an event
            self._job = Job.from_args([], {})
        self._formats = dict[str, str]()  # by DATABASE.TABLE
        self._catalog = cache(GlueCatalog.of_script)  # one client
        self._is_reachable = True

    def refresh(self, spark: SparkSession, statement: str) -> None:
        """Let tables have their newest rows: those that a statement names, and all of Delta and Iceberg.

        A view may stand for the latter, which Spark reads anew at each query; of others Spark, too, keeps the files.
        """
        from pyspark.errors import PySparkException

        for name, kind in list(self._formats.items()):
            is_named = re.search(rf"\b{re.escape(name.partition('.')[2])}\b", statement, re.IGNORECASE)
            if kind in OF_THEIR_OWN or is_named:
                try:
                    self._show(spark, name)
                except (TableError, DatabaseError, PySparkException):  # it is looked up anew where a statement needs it
                    self._formats.pop(name, None)
                    spark.catalog.dropGlobalTempView(VIEW + name)

    def learn(self, spark: SparkSession, error: AnalysisException, statement: str, tried: set[str]) -> bool:
        """Make what a call has not found known to Spark; False if that is Spark's own matter: its error stands.

        ``tried`` are the names that were asked for in this call. TableError if Glue's table is of a kind that cannot
        be read here, or if the call does more than read it or cannot be made again.
        """
        # Java's map gives None for a key that it lacks.
        parameters: Any = error.getMessageParameters() or {}
        named = parameters.get("relationName") or parameters.get("schemaName") or ""
        words = [word.replace("``", "`") for word in _WORD.findall(named)]
        is_of_spark = spark.catalog.currentCatalog() == CATALOG
        if parameters.get("schemaName"):
            name = words[-1].lower()
            is_of_spark = words[:-1] == [CATALOG] or (is_of_spark and len(words) == 1)
            is_known = is_of_spark and self._learn_database(spark, name, tried)
        else:
            name = _whole(spark, ".".join(words)) if is_of_spark and words else ""
            if name in tried:
                raise TableError(name + REFUSAL)
            tried.add(name)
            is_known = bool(name) and self._is_there(name, lambda: self._show(spark, name))
        if is_known and _SCRIPT.match(statement):  # a part of it is done
            raise TableError(f"name {name} before a script of SQL does, as by USE or spark.table: this one has stopped")
        return is_known

    def refuse(self, error: UnsupportedOperationException) -> None:
        """TableError, which no attempt repeats, if ``CatalogNames.java`` has refused a call."""
        if REFUSAL in str(error):
            raise TableError(str(error)) from None

    def refuse_database(self, spark: SparkSession, name: str) -> None:
        """TableError for a database of Glue's: of its place and tables, Spark's empty one of that name says nothing."""
        if refusal := _hadoop(spark).get(OPTION + name.lower()):
            raise TableError(name + refusal)

    def has(self, spark: SparkSession, name: str) -> bool:
        """Whether Glue has a table of this name, whether or not it can be read here."""
        if spark.catalog.currentCatalog() != CATALOG or not (name := _whole(spark, name)):
            return False
        return self._is_there(name, lambda: self._catalog().refuse_missing(name))

    def has_database(self, spark: SparkSession, name: str) -> bool:
        """Whether Glue has such a database."""
        words = name.replace("`", "").split(".")
        is_of_spark = spark.catalog.currentCatalog() == CATALOG if len(words) == 1 else words[0] == CATALOG
        return is_of_spark and self._is_there(name, lambda: self._catalog().refuse_missing(words[-1]))

    def _learn_database(self, spark: SparkSession, database: str, tried: set[str]) -> bool:
        """Tell Java whether a database is Glue's; Spark gets an empty one of its name, which it can choose."""
        if database in tried:
            return False
        tried.add(database)
        is_there = self._is_there(database, lambda: self._catalog().refuse_missing(database))
        _hadoop(spark).set(OPTION + database, REFUSAL if is_there else "")
        if is_there:
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {CATALOG}.{backquoted(database)}")
        return True

    def _is_there(self, name: str, ask: Callable[[], None]) -> bool:
        """Whether Glue has what is asked for; False, too, where nobody here can ask it, as on a laptop.

        Raises all other errors: scripts take "there is none" for a reason to make a table, or its rows, anew.
        """
        try:
            if self._is_reachable:
                ask()
        except (TableError, DatabaseError) as error:
            if MISSING in str(error):
                return False
            self._is_reachable = not getattr(error, "unreachable", False)
            if self._is_reachable:
                raise
            sys.stderr.write(f"sparklet: {name}: {error}\n")
        return self._is_reachable

    def _show(self, spark: SparkSession, name: str) -> None:
        # Not the job's own session, which would set options that the script has not asked for.
        source = SimpleNamespace(event=self._job.event, inputs=self._job.inputs, spark=lambda: spark)
        frame, self._formats[name] = read(source, name, "", self._catalog())
        _hadoop(spark).set(OPTION + name, self._formats[name])
        _hadoop(spark).set(OPTION + name.partition(".")[0], REFUSAL)
        frame.createOrReplaceGlobalTempView(backquoted(VIEW + name))


def _hadoop(spark: SparkSession) -> Any:
    """Options that all sessions and threads of the script have."""
    return spark.sparkContext._jsc.hadoopConfiguration()


def _whole(spark: SparkSession, name: str) -> str:
    """A name as DATABASE.TABLE; "" if it is another catalog's, or of a database that Spark itself has."""
    words = name.lower().replace("`", "").split(".")
    if words[0] == "spark_catalog" and len(words) > 2:
        del words[0]
    if len(words) == 1:
        words.insert(0, spark.catalog.currentDatabase().lower())
    whole = ".".join(words)
    return "" if len(words) != 2 or whole.startswith(OF_SPARK) else whole
