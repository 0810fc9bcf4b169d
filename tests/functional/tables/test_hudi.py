"""Commits to Hudi tables: Spark writes them, and their ids are found in active and archived instants."""

import fcntl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from sparklet.connectors.tables import hudi as committer
from sparklet.connectors.tables.commit import commit
from sparklet.connectors.tables.declaration import Commit, Committed
from sparklet.connectors.tables.hudi import HudiTable
from sparklet.job import Job
from sparklet.job.errors import TableError
from sparklet.job.event_objects import escaped
from tests.functional.job.conftest import SESSION_HERE, session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables import called_from_java
from tests.functional.tables.lakes import Lake, rows_of, table_of
from tests.functional.tables.making import once_loaded
from tests.functional.tables.with_spark import answers
from tests.waiting import deadline_s, eventually

pytestmark = [*SESSION_HERE, pytest.mark.hudi]
dated = partial(table_of, pa.schema([("id", pa.int64()), ("day", pa.string()), ("version", pa.int64())]))


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, aws: str) -> Iterator[SparkSession]:
    """A session in this process for Hudi and S3; it runs two tasks at once, since one can wait for another commit."""
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "2"}
    with session_here("hudi", conf, {}, jvm_here) as session:
        yield session


@dataclass
class HudiLake(Lake):
    """A Hudi table, which only Spark reads and writes."""

    spark: SparkSession

    @property
    def folder(self) -> Path:
        return Path(self.table.place.removeprefix("file://"))

    def make(self, planned: Commit) -> Committed:
        return commit(planned, self.spark)

    def read(self) -> pa.Table:
        rows = self.spark.read.format("hudi").load(self.table.place).collect()
        return pa.Table.from_pylist([row.asDict() for row in rows])


@pytest.fixture
def hudi(local: Lake, spark: SparkSession) -> HudiLake:
    return HudiLake("hudi", local.place, {}, spark)


def test_appends_are_made_once(hudi: HudiLake) -> None:
    first = hudi.planned(rows_of(id=[1, 2], day=["a", None]), rows_of(id=[3], day=["c"]))
    second = hudi.planned(rows_of(id=[4], day=["d"]), number=1)
    other = hudi.commit("run/commit-2", hudi.stage(6, rows_of(id=["5"], day=["d"])))

    done, again = hudi.make(first), hudi.make(first)

    assert [(commit.rows, commit.already) for commit in (done, again)] == [(3, False), (3, True)]
    assert done.version == again.version
    with once_loaded(lambda: hudi.make(second)):
        assert hudi.make(second).already
    with pytest.raises(TableError, match=r"(?s)shard 6: .*Cannot safely cast `id`"):
        hudi.make(other)
    assert hudi.rows("id", "day") == [(1, "a"), (2, None), (3, "c"), (4, "d")]


def test_java_calls_the_last_of_many_scripts(jvm: WarmJvm) -> None:
    """If Java collects an object of an earlier script, it reports this to the script that is connected at that time."""
    scripts = [jvm.run(called_from_java.__file__) for _ in range(3)]

    assert [script.stdout for script in scripts] == ["called\n" * called_from_java.TIMES] * 3, scripts[-1].stderr


def test_a_table_is_written_after_its_first_writer_died(hudi: HudiLake) -> None:
    hudi.make(hudi.planned(rows_of(id=[0])))
    for file in (*(hudi.folder / ".hoodie" / "timeline").iterdir(), *hudi.folder.rglob("*.parquet")):
        if file.is_file():
            file.unlink()

    hudi.make(hudi.planned(rows_of(id=[1]), number=1))

    assert hudi.rows("id") == [(1,)]


@pytest.mark.nightly
def test_a_table_with_only_folders_is_created(hudi: HudiLake) -> None:
    """The first writer of the table was killed before it had written the table's properties."""
    (hudi.folder / ".hoodie" / "timeline" / "history").mkdir(parents=True)

    hudi.make(hudi.planned(rows_of(id=[1])))

    assert hudi.rows("id") == [(1,)]


def stop_at(method: str, patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call ``action`` once, before a committer's method or, if ``method`` ends with ``!``, after it."""
    name, waiting = method.rstrip("!"), [action]
    call_method = getattr(HudiTable, name)

    def act_once() -> None:
        if waiting:
            waiting.pop()()

    def act_before(*args: Any) -> Any:
        act_once()
        return call_method(*args)

    def act_after(*args: Any) -> Any:
        result = call_method(*args)
        act_once()
        return result

    patch.setattr(HudiTable, name, act_before if method == name else act_after)


def stop_in_spark(folder: Path, patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call ``action`` once, while a committer's Spark job reads the rows that it is to write."""
    read, begun, go_on = HudiTable.new_rows, folder / "begun", folder / "go-on"

    def wait(batches: Iterator[Any]) -> Iterator[Any]:
        begun.touch()
        with go_on.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield from batches

    def act() -> None:
        with held:
            eventually(begun.exists)
            action()

    def read_slowly(*args: Any) -> Any:
        rows = read(*args)
        if not waiting:
            return rows
        waiting.pop().start()
        return rows.mapInPandas(wait, rows.schema)

    held, waiting = go_on.open("w"), [Thread(target=act)]
    fcntl.flock(held, fcntl.LOCK_EX)
    patch.setattr(HudiTable, "new_rows", read_slowly)


def without_lock(patch: pytest.MonkeyPatch) -> None:
    """Remove Hudi's lock: committers in one process would wait for each other's lock."""
    write_options, lock = committer._options, "hoodie.write.lock.provider"
    patch.setattr(
        committer, "_options", lambda *args: {key: each for key, each in write_options(*args).items() if key != lock}
    )


@pytest.mark.parametrize(
    ("method", "exists"),
    [
        ("files", True),
        *(
            pytest.param(*stop, marks=pytest.mark.nightly)
            for stop in (("load_early", False), ("files", False), ("other_writer", True), ("other_writer!", False))
        ),
    ],
)
def test_a_paused_committer_adds_nothing_after_another_committed(
    hudi: HudiLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, exists: bool
) -> None:
    """A committer pauses before it begins an instant, before it writes files, or before or after it looks for others.

    Meanwhile its lease expires, and another committer makes the same commit. Then the first one must add nothing.
    """
    without_lock(monkeypatch)
    if exists:
        hudi.make(hudi.planned(rows_of(id=[1])))
    ours = hudi.planned(rows_of(id=[2, 3]), number=1)

    def commit_as_another() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(committer, "lease", lambda _uri: nullcontext())
            hudi.make(ours)

    if method == "files":
        stop_in_spark(tmp_path, monkeypatch, commit_as_another)
    else:
        stop_at(method, monkeypatch, commit_as_another)

    result = hudi.make(ours)

    before = [(1,)] if exists else []
    assert (result.already, result.rows) == (True, 2)
    assert hudi.rows("id") == [*before, (2,), (3,)]
    hudi.make(hudi.planned(rows_of(id=[4]), number=2))
    rows = hudi.rows("id")
    assert rows == [*before, (2,), (3,), (4,)]
    stored = sum(pq.read_metadata(file).num_rows for file in hudi.folder.glob("*.parquet"))
    assert stored == len(rows), "files were left that belong to no instant"


def both_make(hudi: HudiLake, patch: pytest.MonkeyPatch, first_stops: str, second_stops: str) -> list[bool]:
    """Let two committers make one commit: the second starts where the first stops, and waits until the first is done.

    Return whether the second committer has found the commit made; an empty list if it failed.
    """
    hudi.make(hudi.planned(rows_of(id=[1])))
    ours, stopped, ended = hudi.planned(rows_of(id=[2, 3]), number=1), Event(), Event()

    def wait() -> None:
        stopped.set()
        assert ended.wait(deadline_s(60))

    def overtake() -> None:
        patch.setattr(committer, "lease", lambda _uri: nullcontext())
        stop_at(second_stops, patch, wait)
        second.start()
        assert stopped.wait(deadline_s(60))

    stop_at(first_stops, patch, overtake)
    already = list[bool]()
    second = Thread(target=lambda: already.append(hudi.make(ours).already))
    try:
        hudi.make(ours)
    finally:
        ended.set()
        second.join()
    return already


def test_an_instant_that_is_completed_after_the_check_counts(hudi: HudiLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a committer that has checked for others, WHEN a second one checks, THEN the first instant is pending."""
    assert both_make(hudi, monkeypatch, "other_writer!", "load_early") == [True]
    assert hudi.rows("id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("method", ["accept", "other_writer!"])
def test_a_rolled_back_committer_leaves_one_set_of_rows(
    hudi: HudiLake, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A committer stops before or after it checks for others; a second one rolls it back, and checks after it."""
    without_lock(monkeypatch)

    with suppress(IllegalArgumentException):  # Hudi itself completes no instant that was rolled back
        both_make(hudi, monkeypatch, method, "accept")

    assert hudi.rows("id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize("ended", [True, False])
def test_a_rolled_back_commit_counts_as_not_made(hudi: HudiLake, ended: bool) -> None:
    """GIVEN a writer that completed its instant after another writer had begun to roll it back."""
    timeline = hudi.folder / ".hoodie" / "timeline"
    ours, theirs = (hudi.planned(rows_of(id=[number]), number=number) for number in (1, 2))
    hudi.make(hudi.planned(rows_of(id=[0])))
    files = set(timeline.iterdir())
    instant = hudi.make(ours).version
    kept = {path: path.read_bytes() for path in {*timeline.iterdir()} - files if path.is_file()}
    next(path for path in kept if path.suffix == ".commit").unlink()
    hudi.make(theirs)
    for path, content in kept.items():
        path.write_bytes(content)
    for path in hudi.folder.glob(f"*_{instant}.parquet"):  # a rollback finds them by markers, which no longer exist
        path.unlink()
    if not ended:
        next(timeline.glob("*.rollback")).unlink()

    again = hudi.make(ours)

    assert not again.already
    assert hudi.rows("id") == [(0,), (1,), (2,)]


def test_an_old_pending_instant_stops_no_later_commit(hudi: HudiLake) -> None:
    """GIVEN a pending instant that is older than a completed one, which Hudi would not roll back by itself."""
    commits = [hudi.planned(rows_of(id=[number]), number=number) for number in range(3)]
    old = hudi.make(commits[0]).version
    hudi.make(commits[1])
    next((hudi.folder / ".hoodie" / "timeline").glob(f"{old}_*.commit")).unlink()

    hudi.make(commits[2])

    assert hudi.rows("id") == [(1,), (2,)]


@pytest.mark.nightly
def test_an_archived_commit_is_found(hudi: HudiLake) -> None:
    ours = hudi.planned(rows_of(id=[1], day=["a"]))
    theirs = hudi.spark.read.parquet(escaped(hudi.stage(0, rows_of(id=[2], day=["b"])).folder))
    archiving = {
        "hoodie.table.name": "t",
        "hoodie.datasource.write.operation": "bulk_insert",
        "hoodie.metadata.enable": "false",
        "hoodie.clean.commits.retained": "1",
        "hoodie.keep.min.commits": "2",
        "hoodie.keep.max.commits": "3",
    }
    made = hudi.make(ours)
    for _ in range(4):
        theirs.write.format("hudi").options(**archiving).mode("append").save(hudi.table.place)
    assert not list((hudi.folder / ".hoodie" / "timeline").glob(f"{made.version}*.commit")), "not archived yet"

    again = hudi.make(ours)

    assert (again.already, again.version) == (True, made.version)
    assert hudi.rows("id") == [(1,), (2,), (2,), (2,), (2,)]


@pytest.mark.nightly
def test_rows_removed_by_a_savepoint_are_committed_again(hudi: HudiLake) -> None:
    kept, lost = (hudi.planned(rows_of(id=[number]), number=number) for number in (0, 1))
    instant = hudi.make(kept).version
    hudi.spark.sql(f"CALL create_savepoint(path => '{hudi.table.place}', commit_time => '{instant}')").collect()
    hudi.make(lost)
    hudi.spark.sql(f"CALL rollback_to_savepoint(path => '{hudi.table.place}', instant_time => '{instant}')").collect()

    assert [hudi.make(each).already for each in (kept, lost, lost)] == [True, False, True]
    assert hudi.rows("id") == [(0,), (1,)]


def test_upserts_and_overwrites_replace_rows_once(hudi: HudiLake) -> None:
    keyed: dict[str, Any] = {"mode": "upsert", "keys": ("id",), "order_by": "version", "partition_by": ("day",)}
    by_day: dict[str, Any] = {"mode": "overwrite_partitions", "partition_by": ("day",)}
    columns = "id", "day", "version"
    hudi.make(hudi.planned(dated((1, "a", 1), (2, "a", 1), (3, "b", 1)), **keyed))
    merge = hudi.planned(dated((2, "a", 3), (4, "b", 1)), dated((2, "a", 2), (4, "b", 2)), number=1, **keyed)

    with once_loaded(lambda: hudi.make(merge)):
        hudi.make(merge)
    assert hudi.rows(*columns) == [(1, "a", 1), (2, "a", 3), (3, "b", 1), (4, "b", 2)]
    with pytest.raises(TableError, match="the key id=2 is twice in shard 0 and shard 1: pass order_by="):
        hudi.make(replace(merge, commit_id="run/commit-2", order_by=None))

    overwrite = hudi.planned(dated((9, "b", 9)), number=3, **by_day)
    assert [hudi.make(overwrite).already for _ in range(2)] == [False, True]
    assert hudi.rows(*columns) == [(1, "a", 1), (2, "a", 3), (9, "b", 9)]

    late = hudi.commit("run/commit-4", hudi.stage(7, dated((2, "a", 2), (1, "a", 4)), mode="upsert"), **keyed)
    hudi.make(late)
    assert hudi.rows(*columns) == [(1, "a", 4), (2, "a", 3), (9, "b", 9)], "the table's is greater"
    with pytest.raises(TableError, match="is twice in shard 7"):
        hudi.make(replace(late, commit_id="run/commit-6", earlier=late.writes, order_by=None))

    hudi.make(replace(hudi.planned(dated((10, "b", 10)), **by_day), commit_id="another/commit-0"))
    hudi.make(hudi.planned(dated((8, "a", 8)), number=5, earlier=overwrite.writes, **by_day))
    assert hudi.rows(*columns) == [(8, "a", 8), (10, "b", 10)], "the redrive has left b alone"


def test_a_key_in_another_partition_is_moved(hudi: HudiLake) -> None:
    """A row moves to the partition of the new row with its key, unless the partition column is a part of the key."""
    keyed: dict[str, Any] = {"mode": "upsert", "keys": ("id",), "partition_by": ("day",)}
    hudi.make(hudi.planned(dated((1, "a", 1), (2, "a", 1)), **keyed))

    hudi.make(hudi.planned(dated((1, "b", 2), (3, "b", 2)), number=1, **keyed))
    assert hudi.rows("id", "day", "version") == [(1, "b", 2), (2, "a", 1), (3, "b", 2)]

    hudi.make(hudi.planned(dated((2, "b", 3)), number=2, **{**keyed, "keys": ("id", "day")}))
    assert hudi.rows("id", "day", "version") == [(1, "b", 2), (2, "a", 1), (2, "b", 3), (3, "b", 2)]


def test_the_precombine_field_of_a_table_is_not_ignored(hudi: HudiLake) -> None:
    """Without any message, Hudi would drop a new row whose precombine field is less."""
    options = {"hoodie.table.name": "t", "hoodie.datasource.write.recordkey.field": "id"}
    options |= {"hoodie.datasource.write.precombine.field": "version", "hoodie.metadata.enable": "false"}
    rows = hudi.spark.sql("SELECT 1L AS id, 'a' AS day, 5L AS version")
    rows.write.format("hudi").options(**options).save(hudi.table.place)
    older = dated((1, "new", 4))
    keyed: dict[str, Any] = {"mode": "upsert", "keys": ("id",)}

    refused_options: list[dict[str, Any]] = [{}, {"order_by": "day"}]
    for refused in refused_options:
        with pytest.raises(TableError, match=r"has the precombine field version, .* pass order_by='version'"):
            hudi.make(hudi.planned(older, **keyed, **refused))
        with pytest.raises(TableError, match="has the precombine field version"):
            Job().upsert(hudi.spark.sql("SELECT 1L AS id, 'a' AS day"), str(hudi.table), keys="id", **refused)
    hudi.make(hudi.planned(older, **keyed, order_by="version"))
    assert hudi.rows("id", "day", "version") == [(1, "a", 5)]
    hudi.make(hudi.planned(dated((1, "new", 6)), number=1, **keyed, order_by="version"))
    assert hudi.rows("id", "day", "version") == [(1, "new", 6)]
    with pytest.raises(TableError, match="has the record key id: pass keys="):
        hudi.make(hudi.planned(older, number=2, mode="upsert", keys=("day",), order_by="version"))


def test_hudi_columns_and_the_case_of_names_are_ignored(hudi: HudiLake) -> None:
    """Rows read from a Hudi table can be appended; ``ID`` is the column ``id``, and ``note`` is the column ``Note``."""
    Job().append(hudi.spark.sql("SELECT 1L AS id, 'a' AS Note"), str(hudi.table), label="first")
    Job().append(hudi.spark.read.format("hudi").load(hudi.table.place), str(hudi.table), label="again")

    hudi.make(hudi.planned(rows_of(ID=[2], note=["b"]), rows_of(id=[3], more=["c"]), merge_schema=True))

    assert hudi.rows("id", "Note", "more") == [(1, "a", None), (1, "a", None), (2, "b", None), (3, None, "c")]


def test_times_keep_their_types_and_intervals_are_refused(hudi: HudiLake) -> None:
    written = hudi.spark.sql(
        "SELECT 1L AS id, timestamp_ntz'2026-03-08 02:30:00' AS local, timestamp'2026-01-15' AS at"
    )

    for label in ("made", "there"):
        Job().append(written, str(hudi.table), label=label)

    read = hudi.spark.read.format("hudi").load(hudi.table.place).select("id", "local", "at")
    assert read.dtypes == written.dtypes
    assert read.collect() == 2 * written.collect()
    with pytest.raises(TableError, match="cannot have the column 'span' of the frame, an interval"):
        Job().append(hudi.spark.sql("SELECT 1L AS id, INTERVAL '1' YEAR AS span"), str(hudi.table))


@pytest.mark.parametrize(("old", "new"), [(0.0, -0.0), (-0.0, 0.0)])
def test_keys_that_are_equal_in_spark_are_one_key(hudi: HudiLake, old: float, new: float) -> None:
    hudi.make(hudi.planned(rows_of(k=[old, float("nan"), 1.0], v=["a", "a", "a"]), mode="upsert", keys=("k",)))

    changes = rows_of(k=[new, float("nan"), 2.0], v=["b", "b", "b"])
    hudi.make(hudi.planned(changes, number=1, mode="upsert", keys=("k",)))

    assert sorted(map(repr, hudi.rows("k", "v"))) == sorted(
        map(repr, [(old, "b"), (float("nan"), "b"), (1.0, "a"), (2.0, "b")])
    )
    with pytest.raises(TableError, match=r"the key k=.* is twice"):
        hudi.make(hudi.planned(rows_of(k=[0.0, -0.0], v=["c", "c"]), number=2, mode="upsert", keys=("k",)))


def test_a_row_deletes_the_row_with_the_same_key(hudi: HudiLake) -> None:
    """Deletes use a Hudi column. A new table gets the column; an existing table only with ``merge_schema``."""

    def upsert(label: str, values: str, **options: Any) -> None:
        frame = hudi.spark.sql(f"SELECT * FROM VALUES {values} AS t(id, v, op)")
        arguments = {"keys": "id", "order_by": "v", "delete": "op = 'd'", **options}
        Job().upsert(frame, str(hudi.table), label=label, **arguments)

    upsert("old", "(1L, 1L, 'u'), (2L, 1L, 'u'), (3L, 3L, 'u')", delete=None)
    with pytest.raises(TableError, match=r"lacks the column _hoodie_is_deleted, .* pass merge_schema=True"):
        upsert("refused", "(1L, 2L, 'd')")
    upsert("added", "(1L, 2L, 'd'), (2L, 2L, 'd'), (2L, 3L, 'u'), (3L, 2L, 'd'), (4L, 1L, 'd')", merge_schema=True)
    assert hudi.rows("id", "v") == [(2, 3), (3, 3)]
    upsert("again", "(3L, 4L, 'd'), (5L, 1L, 'u')")
    upsert("plain", "(6L, 1L, 'u')", delete=None)

    assert hudi.rows("id", "v") == [(2, 3), (5, 1), (6, 1)]


def test_nulls_are_written_as_spark_writes_them(hudi: HudiLake) -> None:
    """Nulls in a list, and in a column that had no nulls before, are kept."""
    options = {"hoodie.table.name": "t", "hoodie.metadata.enable": "false"}
    hudi.spark.sql("SELECT 1L AS id, 5 AS v").write.format("hudi").options(**options).save(hudi.table.place)

    Job().append(
        hudi.spark.sql("SELECT 2L AS id, CAST(NULL AS INT) AS v, array(1, NULL) AS list"),
        str(hudi.table),
        merge_schema=True,
    )

    assert hudi.rows("id", "v", "list") == [(1, 5, None), (2, None, [1, None])]


def test_two_workers_write_at_once(hudi: HudiLake, jvm: WarmJvm) -> None:
    both = hudi.planned(rows_of(id=[1]))
    theirs, ours = (hudi.commit(f"direct/{number}", hudi.stage(number, rows_of(id=[number]))) for number in (2, 3))

    with ThreadPoolExecutor(1) as worker:
        other = worker.submit(answers, jvm, ("commit", both), ("commit", theirs))
        already = [hudi.make(ours).already, hudi.make(both).already]
        already += [commit["already"] for commit in other.result()]

    assert sorted(already) == [False, False, False, True]
    assert hudi.rows("id") == [(1,), (2,), (3,)]
