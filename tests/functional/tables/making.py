"""Run a committer in a test, and let other things happen while it works."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
from pyspark.sql import SparkSession

from sparklet.connectors.tables import commit as committer
from sparklet.connectors.tables.commit import commit
from sparklet.connectors.tables.declaration import Commit, Committed
from sparklet.job.fields import Table
from tests.functional.tables.sessions import spark_here
from tests.waiting import deadline_s
from tests.world import KilledError


def session() -> SparkSession:
    """Return the session that the fixture of the format has started."""
    return SparkSession.active()


def make(planned: Commit) -> Committed:
    return commit(planned, session_for(planned.table))


def session_for(table: Table) -> SparkSession:
    """Return the session in which a committer of the table works."""
    return spark_here() if table.format == "iceberg" else session()


@contextmanager
def once_loaded(action: Callable[[], object]) -> Iterator[None]:
    """Let the next committer in the block call ``action`` after it has loaded the table and before it commits."""
    load = committer.open_table

    def load_and_act(*args: Any) -> Any:
        patch.undo()  # the action may be a commit, too
        table = load(*args)
        action()
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committer, "open_table", load_and_act)
        yield


def kill_committer(moment: str, planned: Commit) -> None:
    """Run a committer that dies ``before`` its commit, or ``after`` it, before it can report the commit.

    For Delta and Iceberg an exception stands for the kill: the JVM keeps no state between the calls that commit. Other
    formats commit in a new process, which is killed.
    """
    if planned.table.format in ("delta", "iceberg"):
        with pytest.raises(KilledError), once_loaded(_raise_killed if moment == "before" else lambda: None):
            _make_and_raise_killed(planned)
        return
    process = get_context("spawn").Process(target=_make_and_be_killed, args=(moment, planned))
    process.start()
    process.join(deadline_s())
    assert process.exitcode == -signal.SIGKILL


def _make_and_raise_killed(planned: Commit) -> None:
    make(planned)
    _raise_killed()


def _raise_killed() -> None:
    raise KilledError


def _make_and_be_killed(moment: str, planned: Commit) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with once_loaded(die if moment == "before" else lambda: None):
        make(planned)
    die()
