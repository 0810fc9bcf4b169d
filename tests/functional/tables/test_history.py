"""Iceberg's tables are rolled back, and their snapshots expire: what is repeated then is in the table once."""

import time
from dataclasses import replace
from typing import Any

import pytest

from sparklet.connectors.tables import iceberg_history as history
from sparklet.connectors.tables.declaration import Commit
from sparklet.job.errors import CommitStateUnknownError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import make
from tests.functional.tables.sessions import spark_here
from tests.functional.tables.test_chains import deliver, ids_of

pytestmark = SESSION_HERE

DAY_S = 86400


@pytest.fixture
def ice(ice: Lake) -> Lake:
    """A table with one row, -1, in its first snapshot."""
    ice.create(rows_of(id=[-1]))
    return ice


def current(lake: Lake) -> int:
    return int(lake.iceberg().metadata.current_snapshot_id or 0)


def go_to(lake: Lake, snapshot_id: int) -> None:
    """Roll back, or forward again."""
    with lake.iceberg().manage_snapshots() as manage:
        manage.set_current_snapshot(snapshot_id)


def set_properties(lake: Lake, properties: dict[str, str]) -> None:
    with lake.iceberg().transaction() as change:
        change.set_properties(properties)


def one(lake: Lake, id_: int, name: str = "run/commit-0", **options: Any) -> Commit:
    return lake.commit(name, lake.stage(0, rows_of(id=[id_])), **options)


def test_a_commit_that_was_rolled_back_is_made_again(ice: Lake) -> None:
    before, planned = current(ice), one(ice, 1)
    make(planned)
    go_to(ice, before)

    assert [make(planned).already for _ in range(2)] == [False, True]
    assert ids_of(ice) == [1]


def test_what_was_taken_out_is_told_from_the_rest(ice: Lake) -> None:
    """Also when a commit was made since, and after the table has gone forward again."""
    first, lost, later = (one(ice, id_, f"run/commit-{id_}") for id_ in (1, 2, 3))
    make(first)
    before = current(ice)
    make(lost)
    there = current(ice)
    go_to(ice, before)
    make(later)

    assert [make(each).already for each in (first, lost, lost, later)] == [True, False, True, True]
    go_to(ice, there)
    assert [make(each).already for each in (first, later)] == [True, False]
    assert ids_of(ice) == [1, 2, 3]


def test_a_commit_is_known_after_its_snapshot_expired(ice: Lake) -> None:
    planned = one(ice, 1, fixed_at_s=time.time())
    make(planned)
    make(one(ice, 2, "sqs/0123456789abcdef/1"))
    ice.expire()

    assert make(replace(planned, writes=(ice.stage(0, rows_of(id=[1])),))).already
    assert ids_of(ice) == [1, 2]


def test_a_commit_of_which_nothing_is_left_is_refused(ice: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are kept for a time; what is older, and in no snapshot, may be in the table or not."""
    planned, now_s = one(ice, 1, "sqs/1/1", fixed_at_s=time.time()), time.time
    make(planned)
    monkeypatch.setattr(time, "time", lambda: now_s() + 16 * DAY_S)
    make(one(ice, 2, "sqs/2/1"))
    assert make(planned).already, "its snapshot is there"
    ice.expire()

    with pytest.raises(CommitStateUnknownError, match="does not hold the commit sqs/1/1, but it was due 16 days ago"):
        make(planned)
    assert not make(one(ice, 3, "sqs/3/1", fixed_at_s=now_s() + 15.5 * DAY_S)).already
    assert ids_of(ice) == [1, 2, 3]


def test_only_so_many_ids_are_kept(ice: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_KEPT", 3)
    start_s = time.time() - 600  # the JVM's clock goes on
    commits = [one(ice, number, f"sqs/{number}/1", fixed_at_s=start_s + 60 * number) for number in range(5)]
    for number, planned in enumerate(commits):
        monkeypatch.setattr(time, "time", lambda at_s=start_s + 60 * number + 1: at_s)
        make(planned)
    ice.expire()

    assert all(make(planned).already for planned in commits[2:])
    for planned in commits[:2]:
        with pytest.raises(CommitStateUnknownError):
            make(planned)


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_what_nobody_can_tell_is_refused(ice: Lake, is_confirmed: bool) -> None:
    """Others have written, and the snapshots between are gone: until an operator has looked."""
    deliver(ice, 1)
    planned = one(ice, 5)
    make(planned)
    for id_ in (-2, -3):
        ice.append(rows_of(id=[id_]))
    ice.expire()

    with pytest.raises(CommitStateUnknownError, match="write them with another label") as refused:
        deliver(ice, 1)
    with pytest.raises(CommitStateUnknownError):
        make(planned)
    assert deliver(ice, 2).rows == 1, "new records are none that were rolled back"
    with pytest.raises(CommitStateUnknownError):
        deliver(ice, 1)
    if is_confirmed:
        assert f"'{history.AT}' = '" in str(refused.value)
        set_properties(ice, {history.AT: str(current(ice))})
        assert deliver(ice, 1).rows == 0 and make(planned).already
    assert ids_of(ice) == [1, 2, 5]


def test_a_table_that_a_query_replaced_is_refused(ice: Lake) -> None:
    """The query may have kept the rows."""
    planned = one(ice, 1)
    make(planned)
    spark_here().sql("CREATE OR REPLACE TABLE iceberg.db.t USING iceberg AS SELECT * FROM iceberg.db.t")

    with pytest.raises(CommitStateUnknownError, match="SET TBLPROPERTIES"):
        make(planned)
    assert ids_of(ice) == [1]
