"""A commit is made once, however many committers try and whatever other writers do at the same time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest

from sparklet.connectors.tables import commit as committer
from sparklet.connectors.tables import iceberg
from sparklet.connectors.tables.declaration import Committed, Declaration
from sparklet.connectors.tables.delta import DeltaLakeTable
from sparklet.connectors.tables.iceberg import IcebergTable
from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import kill_committer, make, once_loaded
from tests.waiting import deadline_s

THREE_ROWS = [(1, "a"), (2, "b"), (3, None)]
THREE = rows_of(id=[1, 2, 3], day=["a", "b", None])
FOUR = rows_of(id=[4], day=["c"])


@pytest.mark.parametrize("exists", [True, False])
def test_all_shards_appear_in_one_version_and_once(lake: Lake, exists: bool) -> None:
    if exists:
        lake.create(THREE)
    before = lake.versions() if exists else 0
    planned = lake.commit("run/commit-0", *(lake.stage(shard, THREE, files=2) for shard in range(6)))

    first, second = make(planned), make(planned)

    assert (first.rows, first.files, first.already) == (18, 12, False)
    assert (second.rows, second.files, second.already) == (18, 12, True)
    assert lake.versions() == before + 1
    assert lake.rows("id", "day") == sorted(THREE_ROWS * (6 + exists))


def test_without_rows_nothing_is_committed(lake: Lake) -> None:
    lake.create(THREE)
    before = lake.versions()

    assert make(lake.planned(THREE.slice(0, 0), THREE.slice(0, 0))).rows == 0

    assert lake.versions() == before


def test_a_commit_is_made_once_in_s3_too(lake_in_s3: Lake) -> None:
    planned = lake_in_s3.planned(THREE, THREE)
    make(planned)
    another = lake_in_s3.planned(THREE, number=1)

    with once_loaded(lambda: make(another)):
        assert make(another).already
    assert make(planned).already
    assert len(lake_in_s3.rows()) == 9


def test_rows_and_partitions_in_s3_are_replaced(lake_in_s3: Lake) -> None:
    lake_in_s3.create(rows_of(id=[1, 2], day=["a", "b"]), by=["day"])

    make(lake_in_s3.planned(rows_of(id=[2, 3], day=["B", "c"]), mode="upsert", keys=("id",)))
    make(lake_in_s3.planned(rows_of(id=[9], day=["c"]), mode="overwrite_partitions", number=1))

    assert lake_in_s3.rows("id", "day") == [(1, "a"), (2, "B"), (9, "c")]


@pytest.mark.parametrize("exists", [True, False])
def test_of_two_committers_on_one_version_one_adds_the_rows(lake: Lake, exists: bool) -> None:
    if exists:
        lake.create(rows_of(id=[0], day=["z"]))
    planned = lake.planned(THREE)

    with once_loaded(lambda: make(planned)):
        assert make(planned).rows == 3
    assert [id_ for (id_,) in lake.rows("id") if id_] == [1, 2, 3]


def test_many_committers_at_once_all_add_their_rows_once(lake: Lake) -> None:
    lake.create(rows_of(id=[0], day=["z"]))
    planned = [
        lake.commit(f"run/{number}", lake.stage(number, rows_of(id=[number], day=["a"]))) for number in (1, 2, 3, 4)
    ]
    barrier = Barrier(8)

    def make_with_others(number: int) -> Committed:
        barrier.wait(deadline_s())
        return make(planned[number % 4])

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(make_with_others, range(8)))

    assert lake.rows("id") == [(0,), (1,), (2,), (3,), (4,)]
    assert [commit.rows for commit in done] == [1] * 8


@pytest.mark.parametrize(("mode", "ours"), [("append", 4), ("upsert", 9)])
def test_rows_of_another_writer_are_kept(lake: Lake, mode: str, ours: int) -> None:
    """An upsert sees the other writer's rows, too, and replaces the row with its key."""
    lake.create(THREE)
    planned = lake.planned(rows_of(id=[ours], day=["ours"]), mode=mode, keys=("id",) if mode == "upsert" else ())

    with once_loaded(lambda: lake.append(rows_of(id=[8, 9], day=["other", "other"]))):
        make(planned)

    others = [(8, "other"), (9, "other")] if mode == "append" else [(8, "other")]
    assert lake.rows() == sorted([*THREE_ROWS, *others, (ours, "ours")])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_committer_is_run_again(lake: Lake, moment: str) -> None:
    lake.create(THREE)
    planned = lake.planned(FOUR)

    kill_committer(moment, planned)

    assert make(planned).already == (moment == "after")
    assert lake.rows() == [*THREE_ROWS, (4, "c")]


STAGED_OTHERWISE: list[tuple[Callable[[Declaration], Any], str]] = [
    (lambda write: {"files": (*write.files, ("part-9.parquet", 10))}, "shard 7 staged .*part-9.parquet, which is not"),
    (
        lambda write: {"files": [(name, size + 1) for name, size in write.files]},
        r"shard 7 staged .* with \d+ bytes; now it has \d",
    ),
]


@pytest.mark.parametrize(("change", "why"), STAGED_OTHERWISE, ids=["gone", "another size"])
def test_staged_files_that_have_changed_stop_the_commit(lake: Lake, change: Callable[..., Any], why: str) -> None:
    lake.create(THREE)
    write = lake.stage(7, THREE)

    with pytest.raises(TableError, match=why):
        make(lake.commit("run/commit-0", replace(write, **change(write))))

    assert lake.rows() == THREE_ROWS


@pytest.mark.parametrize("exists", [True, False])
def test_another_type_in_one_shard_is_refused(lake: Lake, exists: bool) -> None:
    if exists:
        lake.create(THREE)
    why = "shard 5 has the column 'id' as string, shard 0 as bigint: cast it in the script"
    if exists:  # staging fails in the shard itself, or in this test in the commit that reads its rows
        why = r"(?s)(shard 5|db.t): .*Cannot safely cast `id` .*cast them in the script"

    with pytest.raises(TableError, match=why):
        make(lake.commit("run/commit-0", lake.stage(0, THREE), lake.stage(5, rows_of(id=["4"], day=["c"]))))

    if exists:
        assert lake.rows() == THREE_ROWS


def test_column_names_that_differ_in_case_are_one_column(lake: Lake) -> None:
    lake.create(rows_of(id=[0]))
    shards = [rows_of(id=[n], **{"Note" if n % 2 else "note": [f"n{n}"]}) for n in range(4)]

    make(lake.planned(*shards, merge_schema=True))

    (name,) = [name for name in lake.read().column_names if name != "id"]
    assert lake.rows("id", name) == [(0, None), (0, "n0"), (1, "n1"), (2, "n2"), (3, "n3")]


def test_a_new_column_needs_merge_schema(lake: Lake) -> None:
    lake.create(THREE)
    writes = lake.stage(0, FOUR), lake.stage(3, rows_of(id=[5], day=["c"], late=[1.5]))
    planned = lake.commit("run/commit-0", *writes)

    with pytest.raises(TableError, match=r"shard 3 has the column 'late', which others lack: .*merge_schema=True"):
        make(planned)
    make(replace(planned, merge_schema=True))

    assert lake.rows("id", "late") == [(1, None), (2, None), (3, None), (4, None), (5, 1.5)]


@pytest.mark.parametrize("by", [["day"], ["day", "kind"]])
def test_rows_with_null_in_partition_columns_are_kept(lake: Lake, by: list[str]) -> None:
    lake.create(rows_of(id=[0], day=["2013-01-01"], kind=[1]), by)
    rows = rows_of(id=[1, 2, 3, 4], day=["2013-01-01", None, "a b/c:%", None], kind=[1, 2, None, None])

    make(lake.commit("run/commit-0", lake.stage(0, rows, by), lake.stage(1, rows, by)))

    expected = [(1, "2013-01-01", 1), (2, None, 2), (3, "a b/c:%", None), (4, None, None)]
    assert lake.rows("id", "day", "kind") == sorted([(0, "2013-01-01", 1), *expected, *expected], key=str)


def test_repeated_conflicts_end_in_a_retryable_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.create(THREE)

    def refuse(*_: Any) -> str:
        raise CommitConflictError("not the last version")

    monkeypatch.setattr(committer, "MAX_CONFLICTS_S", 0.5)
    for each in (DeltaLakeTable, IcebergTable):
        monkeypatch.setattr(each, "write", refuse)

    with pytest.raises(CommitConflictError) as refused:
        make(lake.planned(THREE))

    assert refused.value.retryable
    assert lake.rows() == THREE_ROWS


def test_a_restore_removes_rows_but_no_commit_ids(lake: Lake) -> None:
    """So a redrive or a repeated event does not write the removed rows again."""
    lake.create(THREE)
    before = lake.version()
    planned = lake.planned(FOUR)
    make(planned)
    lake.restore(before)

    assert make(planned).already
    assert make(lake.planned(rows_of(id=[5], day=["d"]), number=1)).rows == 1
    assert lake.rows() == [*THREE_ROWS, (5, "d")]


def test_recent_commit_ids_are_kept_when_snapshots_expire(ice: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are kept up to a number and an age; an older commit whose id is not found is refused."""
    monkeypatch.setattr(iceberg, "MAX_KEPT", 3)
    day_s, start_s = 86400, time.time()
    commits = [
        ice.commit(f"sqs/{number}/1", ice.stage(0, rows_of(id=[number])), fixed_at_s=start_s + 60 * number)
        for number in range(7)
    ]

    def commit_at(number: int, at_s: float) -> Committed:
        monkeypatch.setattr(time, "time", lambda: at_s)
        return make(commits[number])

    for number in range(5):
        assert not commit_at(number, start_s + 60 * number + 1).already
    ice.expire()
    assert all(commit_at(number, start_s + 600).already for number in (2, 3, 4))
    commit_at(5, start_s + 16 * day_s)
    for number, why in ((1, "sqs/1/1, but it was due 16 days ago"), (4, "knows its commits of the last 15.0 days")):
        with pytest.raises(CommitStateUnknownError, match=why):
            make(commits[number])
    with pytest.raises(CommitStateUnknownError):
        make(commits[6])

    assert ice.rows("id") == [(number,) for number in range(6)]
