"""A committer that is killed: run in a process of its own."""

import os
import signal
from typing import Any

from sparklet.job.fields import Table
from sparklet.tables import commit as committer
from sparklet.tables.declaration import Commit, StagedWrite

__all__ = ["Commit", "StagedWrite", "Table", "after", "before"]


def before(planned: Commit) -> None:
    """Die once the table is loaded."""
    load = committer.open_table

    def load_and_die(*args: Any) -> Any:
        load(*args)
        die()

    setattr(committer, "open_table", load_and_die)  # noqa: B010 - as a test's monkeypatch does
    committer.commit(planned, no_spark)


def after(planned: Commit) -> None:
    """Die once the table has the commit, before anybody hears of it."""
    committer.commit(planned, no_spark)
    die()


def no_spark() -> Any:
    raise AssertionError("this needs no Spark")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
