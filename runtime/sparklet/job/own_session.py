"""A session whose catalogs are the job's own, where one process does several jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import SparkSession

CATALOGS = "spark.sql.catalog."


def leave_other_catalogs(wanted: Mapping[str, str]) -> None:
    """Begin a new session of the same context if the one there is uses these catalogs elsewhere.

    A catalog stays where it was when it was first used, whatever is set afterwards: a job would write into the tables
    of the one before.

    Parameters
    ----------
    wanted
        Spark options; those of catalogs count.
    """
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is None:
        return
    used = session._jsparkSession.sessionState().catalogManager().listCatalogs(session._jvm.scala.Option.empty())
    for key, value in wanted.items():
        name = key[len(CATALOGS) :].partition(".")[0]
        if key.startswith(CATALOGS) and used.contains(name) and session.conf.get(key, None) != value:
            _become_the_default(session.newSession())
            return


def _become_the_default(session: SparkSession) -> None:
    """What ``getOrCreate`` gives from now on, here and in the JVM."""
    kind = type(session)
    kind._instantiatedSession = kind._activeSession = session
    companion = session._jvm.SparkSession
    companion.setDefaultSession(session._jsparkSession)
    companion.setActiveSession(session._jsparkSession)
