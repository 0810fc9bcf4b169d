"""Tables of Glue's Data Catalog by their names in Spark's own calls: ``spark.table("db.t")``, ``spark.sql``.

Spark's session catalog has none of them. Where Spark finds no table of a name, Glue is asked: the rows of ``job.table``
become a global view, which ``CatalogNames.java`` puts in the place of the name, and Spark is called again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from sparklet.connectors.data_catalog.entries import OF_THEIR_OWN
from sparklet.connectors.data_catalog.frames import read
from sparklet.connectors.data_catalog.glue import REFUSED
from sparklet.job import Job
from sparklet.job.errors import DatabaseError, TableError
from sparklet.job.session import backquoted

if TYPE_CHECKING:
    from pyspark.errors import AnalysisException
    from pyspark.sql import SparkSession

VIEW = "glue "  # before DATABASE.TABLE, as CatalogNames.java has it
MISSING = "EntityNotFoundException"
OF_SPARK = ("default.", "global_temp.")  # databases that Spark itself has: their tables are not looked up
_WORD = re.compile("`((?:[^`]|``)+)`")
_USE = re.compile(r"(?i)\s*USE\s+(?:(?:DATABASE|SCHEMA|NAMESPACE)\s+)?`?(\w+)`?\s*")


class CatalogNames:
    """The tables that a script has named; ``argv`` and ``env`` are its own, with the event."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._job = Job.from_args(argv, env)
        self._formats = dict[str, str]()  # by DATABASE.TABLE

    def refresh(self, spark: SparkSession) -> None:
        """Let each table of Delta and Iceberg have its newest rows, as Spark does for each query.

        Of other tables Spark, too, keeps the list of files.
        """
        for name, kind in list(self._formats.items()):
            if kind in OF_THEIR_OWN:
                self._show(spark, name)

    def learn(self, spark: SparkSession, error: AnalysisException, statement: str, tried: set[str]) -> bool:
        """Make a view of the table that a call has not found; False if Glue has none to show: Spark's error stands.

        ``tried`` are the names that were made for this call. TableError if Glue's table is of a kind that cannot be
        read here, or if the call does more than read it.
        """
        chosen = _USE.fullmatch(statement)
        if error.getErrorClass() == "SCHEMA_NOT_FOUND" and chosen and chosen[1] not in tried:
            # Spark looks up names in the database from now on; what it lacks there is asked for as any other table.
            spark.sql(f"CREATE DATABASE IF NOT EXISTS {backquoted(chosen[1])}")
            tried.add(chosen[1])
            return True
        if error.getErrorClass() != "TABLE_OR_VIEW_NOT_FOUND":
            return False
        # Java's map gives None for a key that it lacks.
        relation = (error.getMessageParameters() or {}).get("relationName") or ""
        words = [word.replace("``", "`") for word in _WORD.findall(relation)]
        if not words:
            return False
        if words[0] == "spark_catalog":
            del words[0]
        return self.add(spark, ".".join(words), tried)

    def add(self, spark: SparkSession, name: str, tried: set[str]) -> bool:
        """Make a view of DATABASE.TABLE, or of a table of the session's database; see ``learn``."""
        name = name.lower() if "." in name else f"{spark.catalog.currentDatabase()}.{name}".lower()
        if name.count(".") != 1 or name.startswith(OF_SPARK):
            return False
        if name in tried:
            raise TableError(
                f"{name} is a table of Glue's catalog, whose rows scripts read by SELECT and spark.table; change them "
                "by job.append or getSink, and the table itself by Athena (ALTER TABLE, MSCK REPAIR TABLE)"
            )
        tried.add(name)
        try:
            self._show(spark, name)
        except (TableError, DatabaseError) as error:
            if isinstance(error, TableError) and not any(code in str(error) for code in REFUSED):
                raise  # Glue has the table, which nobody here can read
            # Spark's own error stands: scripts handle that, as where they make a table which is not there.
            if MISSING not in str(error):
                sys.stderr.write(f"sparklet: {error}\n")
            return False
        return True

    def _show(self, spark: SparkSession, name: str) -> None:
        # Not the job's own session, which would set options that the script has not asked for.
        source = SimpleNamespace(event=self._job.event, inputs=self._job.inputs, spark=lambda: spark)
        frame, self._formats[name] = read(source, name, "")
        frame.createOrReplaceGlobalTempView(backquoted(VIEW + name))
