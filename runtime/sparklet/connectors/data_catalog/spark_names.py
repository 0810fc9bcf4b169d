"""Tables of Glue's Data Catalog by their names in Spark's own calls: ``spark.table("db.t")``, ``spark.sql``.

Spark's session catalog has none of them. Where Spark finds no table of a name, Glue is asked: the rows of ``job.table``
become a global view, which ``CatalogNames.java`` puts in the place of the name, and Spark is called again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

from sparklet.connectors.data_catalog.entries import OF_THEIR_OWN
from sparklet.connectors.data_catalog.frames import read
from sparklet.connectors.data_catalog.glue import REFUSED, GlueCatalog
from sparklet.job import Job
from sparklet.job.errors import DatabaseError, EventError, TableError
from sparklet.job.outcome import EVENT
from sparklet.job.session import backquoted

if TYPE_CHECKING:
    from pyspark.errors import AnalysisException
    from pyspark.sql import SparkSession

VIEW = "glue "  # before DATABASE.TABLE, as CatalogNames.java has it
MISSING = "EntityNotFoundException"
OF_SPARK = ("default.", "global_temp.")  # databases that Spark itself has: their tables are not looked up
_WORD = re.compile("`((?:[^`]|``)+)`")
_USE = re.compile(r"(?i)\s*USE\s+(?:(?:DATABASE|SCHEMA|NAMESPACE)\s+)?`?(\w+)`?[\s;]*")


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
        """Make a view of the table that a call has not found; False if Glue has none to show: Spark's error stands.

        ``tried`` are the names that were made for this call. TableError if Glue's table is of a kind that cannot be
        read here, or if the call does more than read it.
        """
        if spark.catalog.currentCatalog() != "spark_catalog":
            return False
        if chosen := _USE.fullmatch(statement):
            return self._choose(spark, chosen[1], tried)
        # Java's map gives None for a key that it lacks.
        relation = (error.getMessageParameters() or {}).get("relationName") or ""
        words = [word.replace("``", "`") for word in _WORD.findall(relation)]
        name = _whole(spark, ".".join(words))
        if not words or not name:
            return False
        if name in tried:
            raise TableError(
                f"{name} is a table of Glue's catalog, and this statement is more than Spark can do with it here: read "
                "its rows by SELECT and spark.table, change them by job.append or getSink (Delta's also by DELETE, "
                "UPDATE and MERGE), and describe or change the table itself by Athena"
            )
        tried.add(name)
        return self._is_there(name, lambda: self._show(spark, name))

    def has(self, spark: SparkSession, name: str) -> bool:
        """Whether Glue has a table of this name, whether or not it can be read here."""
        if spark.catalog.currentCatalog() != "spark_catalog" or not (name := _whole(spark, name)):
            return False
        return self._is_there(name, lambda: self._catalog().refuse_missing(name))

    def _choose(self, spark: SparkSession, database: str, tried: set[str]) -> bool:
        """Let Spark look up names in a database of Glue's, whose tables are asked for as any other."""
        if database in tried:
            return False
        tried.add(database)
        if is_there := self._is_there(database, lambda: self._catalog().refuse_missing(database)):
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {backquoted(database)}")
        return is_there

    def _is_there(self, name: str, ask: Callable[[], None]) -> bool:
        """Whether Glue has what is asked for; False, too, where nobody here can ask it, as on a laptop."""
        try:
            if self._is_reachable:
                ask()
        except (TableError, DatabaseError) as error:
            self._is_reachable = not getattr(error, "unreachable", False)
            is_refused = isinstance(error, TableError) and any(code in str(error) for code in REFUSED)
            if self._is_reachable and not is_refused:
                raise  # Glue has the table, which nobody here can read; or it may answer another attempt
            # Spark's own error stands: scripts handle that, as where they make a table which is not there.
            if MISSING not in str(error):
                sys.stderr.write(f"sparklet: {name}: {error}\n")
            return False
        return self._is_reachable

    def _show(self, spark: SparkSession, name: str) -> None:
        # Not the job's own session, which would set options that the script has not asked for.
        source = SimpleNamespace(event=self._job.event, inputs=self._job.inputs, spark=lambda: spark)
        frame, self._formats[name] = read(source, name, "", self._catalog())
        frame.createOrReplaceGlobalTempView(backquoted(VIEW + name))


def _whole(spark: SparkSession, name: str) -> str:
    """A name as DATABASE.TABLE; "" if it is another catalog's, or of a database that Spark itself has."""
    words = name.lower().replace("`", "").split(".")
    if words[0] == "spark_catalog" and len(words) > 2:
        del words[0]
    if len(words) == 1:
        words.insert(0, spark.catalog.currentDatabase().lower())
    whole = ".".join(words)
    return "" if len(words) != 2 or whole.startswith(OF_SPARK) else whole
