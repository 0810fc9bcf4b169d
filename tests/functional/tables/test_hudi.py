"""Commits to Hudi tables: Spark writes them, the id is found in active and archived instants."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.tables.declaration import Commit
from tests.functional.job.conftest import session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables.called_from_java import TIMES
from tests.functional.tables.lakes import Lake, rows_of
from tests.functional.tables.with_spark import tell

# pyspark leaves its sockets to the garbage collector.
pytestmark = [
    pytest.mark.spark,
    pytest.mark.hudi,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SCRIPT = str(Path(__file__).with_name("with_spark.py"))


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, aws: str) -> Iterator[SparkSession]:
    """A session in this process that knows Hudi, and S3; two tasks at once, since one may wait for another commit."""
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "2"}
    with session_here("hudi", conf, {}, jvm_here) as session:
        yield session


def steps(spark: SparkSession, *planned: tuple[Any, ...]) -> list[Any]:
    """What this process was told of each step."""
    return list(json.loads(json.dumps(tell(Job(), spark, json.loads(_document(*planned))))))


def in_a_process(jvm: WarmJvm, *planned: tuple[Any, ...]) -> list[Any]:
    """The same, as another worker does it: with a JVM of its own."""
    done = jvm.run(SCRIPT, _document(*planned))
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def _document(*planned: tuple[Any, ...]) -> str:
    return json.dumps([[kind, *map(_plain, arguments)] for kind, *arguments in planned])


def _plain(argument: Any) -> Any:
    return asdict(argument) if isinstance(argument, Commit) else argument


@pytest.fixture
def hudi(local: Lake) -> Lake:
    local.format = "hudi"
    return local


def test_appends_are_made_once(spark: SparkSession, hudi: Lake) -> None:
    shards = rows_of(id=[1, 2], day=["a", None]), rows_of(id=[3], day=["c"])
    first = hudi.commit("run/commit-0", *(hudi.stage(number, rows) for number, rows in enumerate(shards)))
    second = hudi.commit("run/commit-1", hudi.stage(0, rows_of(id=[4], day=["d"])))
    other = hudi.commit("run/commit-2", hudi.stage(6, rows_of(id=["5"], day=["d"])))

    told = steps(
        spark,
        ("commit", first),
        ("commit", first),
        ("race", second),
        ("commit", other),
        ("read", "hudi", hudi.table.place, "true", "id", "day"),
    )

    assert [(one["rows"], one["already"]) for one in told[:3]] == [(3, False), (3, True), (1, True)]
    assert "TableError" in told[3] and "shard 6 has the column 'id' as string" in told[3]
    assert sorted(told[4]) == [[1, "a"], [2, None], [3, "c"], [4, "d"]]
    assert told[0]["version"] == told[1]["version"]


def test_java_calls_the_last_of_many_scripts(jvm: WarmJvm) -> None:
    """Java reports an object of an earlier script that it has collected to whoever is connected then."""
    called = [jvm.run(str(Path(SCRIPT).with_name("called_from_java.py"))) for _ in range(3)]

    assert [done.stdout for done in called] == ["called\n" * TIMES] * 3, called[-1].stderr


def test_a_table_whose_first_writer_died_is_written(spark: SparkSession, hudi: Lake) -> None:
    died, next_ = (hudi.commit(f"run/commit-{number}", hudi.stage(0, rows_of(id=[number]))) for number in (0, 1))
    steps(spark, ("commit", died))
    folder = Path(hudi.place.removeprefix("file://"), "t")
    for file in (*(folder / ".hoodie" / "timeline").iterdir(), *folder.rglob("*.parquet")):
        if file.is_file():
            file.unlink()

    told = steps(spark, ("commit", next_), ("read", "hudi", hudi.table.place, "true", "id"))

    assert told[1] == [[1]]


@pytest.mark.nightly
def test_a_table_of_folders_alone_is_made(spark: SparkSession, hudi: Lake) -> None:
    """Its first writer was killed before it had written the table's properties."""
    Path(hudi.place.removeprefix("file://"), "t", ".hoodie", "timeline", "history").mkdir(parents=True)
    first = hudi.commit("run/commit-0", hudi.stage(0, rows_of(id=[1])))

    told = steps(spark, ("commit", first), ("read", "hudi", hudi.table.place, "true", "id"))

    assert told[1] == [[1]]


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
def test_a_stopped_committer_adds_nothing(spark: SparkSession, hudi: Lake, method: str, *, exists: bool) -> None:
    """Stopped before its instant is on the timeline, before its files are there, before and after its look round."""
    before = hudi.commit("run/commit-0", hudi.stage(0, rows_of(id=[1])))
    ours = hudi.commit("run/commit-1", hudi.stage(0, rows_of(id=[2, 3])))
    after = hudi.commit("run/commit-2", hudi.stage(0, rows_of(id=[4])))

    told = steps(
        spark,
        *((("commit", before),) if exists else ()),
        ("stopped", method, ours),
        ("read", "hudi", hudi.table.place, "true", "id"),
        ("commit", after),
        ("read", "hudi", hudi.table.place, "true", "id"),
    )[exists:]

    assert (told[0]["already"], told[0]["rows"]) == (True, 2)
    there = [[1]] if exists else []
    assert sorted(told[1]) == [*there, [2], [3]]
    assert sorted(told[3]) == [*there, [2], [3], [4]]
    files = Path(hudi.place.removeprefix("file://"), "t").glob("*.parquet")
    assert sum(pq.read_metadata(file).num_rows for file in files) == len(told[3]), "files of no instant were left"


@pytest.mark.nightly
def test_an_archived_commit_is_found(spark: SparkSession, hudi: Lake) -> None:
    ours = hudi.commit("run/commit-0", hudi.stage(0, rows_of(id=[1], day=["a"])))
    theirs = hudi.stage(0, rows_of(id=[2], day=["b"]))
    archiving = {
        "hoodie.table.name": "t",
        "hoodie.datasource.write.operation": "bulk_insert",
        "hoodie.metadata.enable": "false",
        "hoodie.clean.commits.retained": "1",
        "hoodie.keep.min.commits": "2",
        "hoodie.keep.max.commits": "3",
    }

    told = steps(
        spark,
        ("commit", ours),
        ("hudi", hudi.table.place, theirs.folder, archiving, 4),
        ("commit", ours),
        ("read", "hudi", hudi.table.place, "true", "id"),
    )

    instants = [path.name for path in Path(hudi.place.removeprefix("file://"), "t/.hoodie/timeline").glob("*.commit")]
    assert not [name for name in instants if name.startswith(told[0]["version"])], "not archived yet"
    assert (told[1]["already"], told[1]["version"]) == (True, told[0]["version"])
    assert sorted(told[2]) == [[1], [2], [2], [2], [2]]


@pytest.mark.nightly
def test_what_a_savepoint_takes_out_is_committed_again(spark: SparkSession, hudi: Lake) -> None:
    kept, lost = (hudi.commit(f"run/commit-{n}", hudi.stage(0, rows_of(id=[n]))) for n in (0, 1))

    told = steps(
        spark,
        ("commit", kept),
        ("savepoint", hudi.table.place, ""),
        ("commit", lost),
        ("savepoint", hudi.table.place, "restored"),
        *(("commit", each) for each in (kept, lost, lost)),
        ("read", "hudi", hudi.table.place, "true", "id"),
    )

    assert [one["already"] for one in told[4:7]] == [True, False, True]
    assert sorted(told[7]) == [[0], [1]]


def test_upserts_and_overwritten_partitions(spark: SparkSession, hudi: Lake) -> None:
    keyed: dict[str, Any] = {"mode": "upsert", "keys": ("id",), "order_by": "version", "partition_by": ("day",)}
    first = rows_of(id=[1, 2, 3], day=["a", "a", "b"], version=[1, 1, 1])
    again = rows_of(id=[2, 4], day=["a", "b"], version=[3, 1]), rows_of(id=[2, 4], day=["a", "b"], version=[2, 2])
    make = hudi.commit("run/commit-0", hudi.stage(0, first), **keyed)
    merge = hudi.commit("run/commit-1", *(hudi.stage(number, rows) for number, rows in enumerate(again)), **keyed)
    twice = hudi.commit("run/commit-2", *merge.writes, **{**keyed, "order_by": None})
    overwrite = hudi.stage(0, rows_of(id=[9], day=["b"], version=[9]))
    replaced = hudi.commit("run/commit-3", overwrite, mode="overwrite_partitions", partition_by=("day",))
    late = hudi.commit("run/commit-4", hudi.stage(7, rows_of(id=[2, 1], day=["a", "a"], version=[2, 4])), **keyed)
    redriven = hudi.stage(1, rows_of(id=[8], day=["a"], version=[8]))
    correction = hudi.stage(2, rows_of(id=[10], day=["b"], version=[10]))
    both = replace(replaced, commit_id="run/commit-5", writes=(redriven,), earlier=(overwrite,))
    columns = "id", "day", "version"

    told = steps(
        spark,
        ("commit", make),
        ("race", merge),
        ("read", "hudi", hudi.table.place, "true", *columns),
        ("commit", twice),
        ("commit", replaced),
        ("commit", replaced),
        ("read", "hudi", hudi.table.place, "true", *columns),
        ("commit", late),
        ("read", "hudi", hudi.table.place, "true", *columns),
        ("commit", replace(merge, commit_id="run/commit-6", earlier=late.writes, writes=late.writes, order_by=None)),
        ("commit", replace(replaced, commit_id="another/commit-0", writes=(correction,))),
        ("commit", both),
        ("read", "hudi", hudi.table.place, "true", *columns),
    )

    assert sorted(told[2]) == [[1, "a", 1], [2, "a", 3], [3, "b", 1], [4, "b", 2]]
    assert "the key id=2 is twice in shard 0 and shard 1: pass order_by=" in told[3]
    assert [one["already"] for one in told[4:6]] == [False, True]
    assert sorted(told[6]) == [[1, "a", 1], [2, "a", 3], [9, "b", 9]]
    assert sorted(told[8]) == [[1, "a", 4], [2, "a", 3], [9, "b", 9]], "the table's is greater"
    assert "is twice in shard 7" in told[9]
    assert sorted(told[12]) == [[8, "a", 8], [10, "b", 10]], "the redrive has left b alone"


def test_two_workers_write_at_once(spark: SparkSession, jvm: WarmJvm, hudi: Lake) -> None:
    both = hudi.commit("run/commit-0", hudi.stage(0, rows_of(id=[1])))
    ones = [hudi.commit(f"direct/{number}", hudi.stage(number, rows_of(id=[number]))) for number in (2, 3)]

    with ThreadPoolExecutor(2) as workers:
        other = workers.submit(in_a_process, jvm, ("commit", both), ("commit", ones[0]))
        told = steps(spark, ("commit", ones[1]), ("commit", both))
        told += other.result()

    assert sorted(one["already"] for one in told) == [False, False, False, True]
    assert sorted(steps(spark, ("read", "hudi", hudi.table.place, "true", "id"))[0]) == [[1], [2], [3]]
