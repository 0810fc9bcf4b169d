"""Delta's RESTORE takes rows out and leaves transactions as they are: what is repeated then is in the table once."""

import json
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from sparklet.job.errors import CommitStateUnknownError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make
from tests.functional.tables.test_chains import deliver, ids_of

pytestmark = SESSION_HERE


@pytest.fixture
def delta(delta: Lake) -> Lake:
    """A table with one row, -1, in version 0."""
    delta.create(rows_of(id=[-1]))
    return delta


def restore(lake: Lake, version: int) -> None:
    DeltaTable(lake.delta).restore(version)


def log_of(lake: Lake, version: int) -> Path:
    return Path(lake.delta, "_delta_log", f"{version:020d}.json")


def test_a_run_s_commit_that_was_taken_out_is_made_again(delta: Lake) -> None:
    kept, planned = (delta.planned(rows_of(id=[n]), number=n, fixed_at_s=time.time()) for n in (0, 1))
    make(kept)
    make(planned)
    restore(delta, 1)

    assert [make(each).already for each in (kept, planned, planned)] == [True, False, True]
    assert ids_of(delta) == [0, 1]


def test_what_the_log_does_not_tell_is_refused(delta: Lake) -> None:
    """The version that set the name is no longer in the log, or the version restored is not named."""
    planned = delta.planned(rows_of(id=[1]), fixed_at_s=time.time())
    make(planned)
    delta.append(rows_of(id=[2]))
    DeltaTable(delta.delta).create_checkpoint()
    for version in (0, 1):
        log_of(delta, version).unlink()
    assert make(planned).already, "there was no RESTORE"
    for id_ in (3, 4):
        delta.append(rows_of(id=[id_]))
    restore(delta, 3)

    with pytest.raises(CommitStateUnknownError, match="was restored by version 5"):
        make(planned)

    assert ids_of(delta) == [1, 2, 3]


def test_a_restore_by_time_is_refused_until_it_is_named(delta: Lake) -> None:
    deliver(delta, 1)
    deliver(delta, 2)
    restore(delta, 1)
    lines = [json.loads(line) for line in log_of(delta, 3).read_text().splitlines()]
    lines[0]["commitInfo"]["operationParameters"] = {"version": "null", "timestamp": '"2026-11-22 10:00:00"'}
    log_of(delta, 3).write_text("\n".join(map(json.dumps, lines)).replace(": ", ":"))

    with pytest.raises(CommitStateUnknownError, match=r"RESTORE it by a version.s number"):
        deliver(delta, 2)
    restore(delta, 1)

    assert deliver(delta, 1, 2).rows == 1
    assert ids_of(delta) == [1, 2]
