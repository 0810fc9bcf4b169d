"""A commit is made once, whoever makes it, however often, and whatever others do meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from sparklet.tables import commit as committer
from sparklet.tables.declaration import Committed
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.making import after_loading, make
from tests.waiting import deadline_s

__all__ = ["after_loading"]
THREE = rows_of(id=[1, 2, 3], day=["a", "b", None])


def test_the_same_commit_made_twice_adds_once(lake: Lake) -> None:
    planned = lake.commit("run/commit-0", lake.stage(0, THREE), lake.stage(1, rows_of(id=[4], day=["c"])))

    first, second = make(planned), make(planned)

    assert (first.rows, first.files, first.already) == (4, 2, False)
    assert (second.rows, second.files, second.already) == (4, 2, True)
    assert lake.rows("id") == [(1,), (2,), (3,), (4,)]


def test_without_rows_nothing_is_committed(lake: Lake) -> None:
    lake.create(THREE)
    before = lake.versions()

    assert (
        make(lake.commit("run/commit-0", lake.stage(0, THREE.slice(0, 0)), lake.stage(1, THREE.slice(0, 0)))).rows == 0
    )

    assert lake.versions() == before


def test_all_shards_appear_in_one_version(lake: Lake) -> None:
    lake.create(THREE)
    before = lake.versions()

    make(lake.commit("run/commit-0", *(lake.stage(shard, THREE, files=2) for shard in range(20))))

    assert lake.versions() == before + 1
    assert len(lake.rows()) == 63


def test_the_same_in_s3(lake_in_s3: Lake, after_loading: Callable[..., None]) -> None:
    planned = lake_in_s3.commit("run/commit-0", lake_in_s3.stage(0, THREE), lake_in_s3.stage(1, THREE))
    make(planned)
    another = lake_in_s3.commit("run/commit-1", lake_in_s3.stage(0, THREE))
    after_loading(lambda: make(another))

    assert make(another).already
    assert make(planned).already
    assert len(lake_in_s3.rows()) == 9


def test_replacing_in_s3(lake_in_s3: Lake) -> None:
    lake_in_s3.create(rows_of(id=[1, 2], day=["a", "b"]), by=["day"])
    upsert = lake_in_s3.stage(0, rows_of(id=[2, 3], day=["B", "c"]), mode="upsert")
    make(lake_in_s3.commit("run/commit-0", upsert, mode="upsert", keys=("id",)))
    overwrite = lake_in_s3.stage(0, rows_of(id=[9], day=["c"]), mode="overwrite_partitions")

    make(lake_in_s3.commit("run/commit-1", overwrite, mode="overwrite_partitions"))

    assert lake_in_s3.rows("id", "day") == [(1, "a"), (2, "B"), (9, "c")]


@pytest.mark.parametrize("exists", [True, False])
def test_two_committers_that_loaded_the_same_version(
    lake: Lake, after_loading: Callable[..., None], exists: bool
) -> None:
    if exists:
        lake.create(rows_of(id=[0], day=["z"]))
    planned = lake.commit("run/commit-0", lake.stage(0, THREE))
    after_loading(lambda: make(planned))

    assert make(planned).rows == 3
    assert [id_ for (id_,) in lake.rows("id") if id_] == [1, 2, 3]


def test_many_committers_at_once_each_with_its_rows(lake: Lake) -> None:
    lake.create(rows_of(id=[0], day=["z"]))
    planned = [
        lake.commit(f"run/{number}", lake.stage(number, rows_of(id=[number], day=["a"]))) for number in (1, 2, 3, 4)
    ]
    together = Barrier(8)

    def one(number: int) -> Committed:
        together.wait(deadline_s())
        return make(planned[number % 4])

    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(one, range(8)))

    assert lake.rows("id") == [(0,), (1,), (2,), (3,), (4,)]
    assert [one.rows for one in done] == [1] * 8


def test_the_commit_of_another_writer_stays(lake: Lake, after_loading: Callable[..., None]) -> None:
    lake.create(THREE)
    after_loading(lambda: lake.append(rows_of(id=[9], day=["z"])))

    make(lake.commit("run/commit-0", lake.stage(0, rows_of(id=[4], day=["c"]))))

    assert lake.rows("id") == [(1,), (2,), (3,), (4,), (9,)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_committer_is_run_again(lake: Lake, moment: str) -> None:
    lake.create(THREE)
    planned = lake.commit("run/commit-0", lake.stage(0, rows_of(id=[4], day=["c"])))

    killed = subprocess.run(
        [sys.executable, "-c", f"from tests.functional.tables.killed import *; {moment}({planned!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL
    assert make(planned).already == (moment == "after")
    assert lake.rows("id") == [(1,), (2,), (3,), (4,)]


def test_a_file_that_is_gone_stops_the_commit(lake: Lake) -> None:
    lake.create(THREE)
    write = lake.stage(7, THREE)
    lost = lake.commit("run/commit-0", type(write)(7, write.folder, (*write.files, ("part-9.parquet", 10))))

    with pytest.raises(TableError, match=r"shard 7 staged .*part-9.parquet, which is not there"):
        make(lost)

    assert lake.rows("id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("exists", [True, False])
def test_another_type_in_one_shard_is_refused(lake: Lake, exists: bool) -> None:
    if exists:
        lake.create(THREE)
    planned = lake.commit("run/commit-0", lake.stage(0, THREE), lake.stage(5, rows_of(id=["4"], day=["c"])))

    with pytest.raises(TableError, match=r"shard 5 has the column 'id' as string, .* as int64: cast it in the script"):
        make(planned)

    if exists:
        assert lake.rows() == [(1, "a"), (2, "b"), (3, None)]


def test_a_new_column_needs_merge_schema(lake: Lake) -> None:
    lake.create(THREE)
    writes = lake.stage(0, rows_of(id=[4], day=["c"])), lake.stage(3, rows_of(id=[5], day=["c"], late=[1.5]))

    with pytest.raises(TableError, match=r"shard 3 has the column 'late' .double., which the table .* has not"):
        make(lake.commit("run/commit-0", *writes))
    make(lake.commit("run/commit-0", *writes, merge_schema=True))

    assert lake.rows("id", "late") == [(1, None), (2, None), (3, None), (4, None), (5, 1.5)]


@pytest.mark.parametrize("by", [["day"], ["day", "kind"]])
def test_partitions_with_null_in_them(lake: Lake, by: list[str]) -> None:
    lake.create(rows_of(id=[0], day=["2013-01-01"], kind=[1]), by)
    rows = rows_of(id=[1, 2, 3, 4], day=["2013-01-01", None, "a b/c:%", None], kind=[1, 2, None, None])

    make(lake.commit("run/commit-0", lake.stage(0, rows, by), lake.stage(1, rows, by)))

    expected = [(1, "2013-01-01", 1), (2, None, 2), (3, "a b/c:%", None), (4, None, None)]
    assert lake.rows("id", "day", "kind") == sorted([(0, "2013-01-01", 1), *expected, *expected], key=str)


def test_conflicts_without_end_are_an_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.create(THREE)
    monkeypatch.setattr(committer, "MAX_CONFLICTS_S", 0.5)
    load = committer.open_table

    def always_late(*args: Any) -> Any:
        table = load(*args)
        monkeypatch.setattr(table, "write", refuse)
        return table

    def refuse(*_: Any) -> str:
        raise CommitConflictError("not the last version")

    monkeypatch.setattr(committer, "open_table", always_late)

    with pytest.raises(CommitConflictError) as refused:
        make(lake.commit("run/commit-0", lake.stage(0, THREE)))

    assert refused.value.retryable
    assert lake.rows("id") == [(1,), (2,), (3,)]


def test_an_answer_that_was_lost_is_looked_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.create(THREE)
    load = committer.open_table

    def answers_lost(*args: Any) -> Any:
        table = load(*args)
        write = table.write

        def lost(*args: Any) -> str:
            write(*args)
            raise CommitConflictError("the catalog did not answer")

        monkeypatch.setattr(table, "write", lost)
        return table

    monkeypatch.setattr(committer, "open_table", answers_lost)
    done = make(lake.commit("run/commit-0", lake.stage(0, rows_of(id=[4], day=["c"]))))

    assert not done.already, "the files are this committer's own"
    assert lake.rows("id") == [(1,), (2,), (3,), (4,)]


def test_a_commit_too_old_to_be_known_is_refused(local: Lake) -> None:
    local.format = "iceberg"
    local.create(THREE.slice(0, 0))
    local.append(THREE)
    table = local.catalog().load_table("db.t")
    table.maintenance.expire_snapshots().by_id(table.snapshots()[0].snapshot_id).commit()
    old = local.commit("run/commit-0", local.stage(0, THREE), fixed_at_s=time.time() - 5 * 86400)

    with pytest.raises(CommitStateUnknownError, match="does not hold the commit run/commit-0, but it was due 5 days"):
        make(old)

    assert len(local.rows()) == 3
