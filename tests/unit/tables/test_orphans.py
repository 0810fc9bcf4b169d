"""What killed attempts staged is found and deleted; nothing that a table or a run still needs."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction, create_table_with_add_actions
from pyiceberg.catalog import load_catalog
from pyiceberg.utils.config import Config

from sparklet.app.clean import clean, folders_of
from sparklet.errors import PlanError
from sparklet.job.fields import Table
from sparklet.model import Failure, ShardResult
from sparklet.tables.orphans import files_at, orphans
from tests.world import BUCKET, World

DAY_S = 24 * 3600.0
ROWS = pa.table({"id": [1, 2]})


def stage(world: World, run_id: str, attempt: str) -> str:
    uri = f"s3://{BUCKET}/staged/{run_id}/{attempt}/part-0.parquet"
    world.store.put(uri, b"123")
    return uri


def write(world: World, folder: Path, name: str, age_s: float = 8 * DAY_S) -> Path:
    """A Parquet file of two rows that was written so long ago."""
    path = folder / "sparklet" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(ROWS, path)
    os.utime(path, (world.clock.now_s() - age_s,) * 2)
    return path


def found(world: World, table: str = "", older_than_s: float = 7 * DAY_S) -> set[str]:
    each_of = orphans(world.at, Table.parse(table) if table else None, older_than_s)
    return {file for each in each_of for file in each.files}


def sweep(world: World, table: str = "") -> None:
    for each in list(orphans(world.at, Table.parse(table) if table else None, 7 * DAY_S)):
        files_at(world.at, each.folder).delete_all(each.files, each.folder)


def a_winner_whose_shard_failed(world: World) -> str:
    """A run that FAILED: shard 0 while its winner's files were being published. The winner's name."""
    world.run(2)
    for ref in world.bodies():
        attempt_id, _ = world.claim_ref(ref)
        if ref.shard == 0:
            world.ledger.attempts.renew("run-1", 0, attempt_id, 100.0, ShardResult(rows=1))
            world.ledger.attempts.fail("run-1", 0, attempt_id, Failure("S3", "denied", retryable=False))
            winner = attempt_id
        else:
            world.ledger.attempts.succeed("run-1", 1, attempt_id, ShardResult(rows=1))
    assert world.check().run.state.ended
    return winner


# --- the bucket ---


def test_an_ended_run_keeps_what_a_redrive_may_need(world: World) -> None:
    winner = a_winner_whose_shard_failed(world)
    killed = stage(world, "run-1", "000000-killed")
    stage(world, "run-1", f"000000-{winner}")
    stage(world, "run-1", "000001-declared")
    world.store.put(world.at.run_uri("run-1", "writes/000000001-declared.json"), b"{}")

    assert found(world) == set()
    world.clock.advance(8 * DAY_S)
    assert found(world) == {killed}
    sweep(world)
    assert found(world) == set() and len(world.keys(f"s3://{BUCKET}/staged/")) == 2


def test_an_open_run_keeps_everything(world: World) -> None:
    world.run(1)
    stage(world, "run-1", "000000-slow")
    world.clock.advance(99 * DAY_S)

    assert found(world) == set()


def test_what_a_deleted_run_left_is_an_orphan_when_it_is_old(world: World) -> None:
    left = stage(world, "long-gone", "000000-killed")
    world.clock.advance(6 * DAY_S)
    stage(world, "long-gone", "000001-killed-later")
    world.store.put(f"s3://{BUCKET}/staged/not-ours", b"")
    world.clock.advance(2 * DAY_S)

    assert found(world) == {left}


# --- Delta ---


@pytest.fixture
def delta(world: World, tmp_path: Path) -> Path:
    """A table of an append by shards, an overwrite of all rows, and a checkpoint that replaces the log before it."""
    root = tmp_path / "a lake"
    names = [
        "gone/000000-a/1/day=2013-01-01 00%3A00%3A00/x.parquet",
        "gone/000001-b/1/day=2013-01-02 00%3A00%3A00/x.parquet",
    ]
    actions = []
    for number, name in enumerate(names, start=1):
        path = write(world, root, name)
        day = f"2013-01-0{number} 00:00:00"
        actions.append(AddAction(f"sparklet/{name}", path.stat().st_size, {"day": day}, 0, True, '{"numRecords": 2}'))
    schema = DeltaTable.create(str(tmp_path / "like"), pa.schema([("id", pa.int64()), ("day", pa.string())])).schema()
    create_table_with_add_actions(str(root), schema, actions, mode="append", partition_by=["day"])
    table = pa.table({"id": [9], "day": ["2014"]})
    write_deltalake(str(root), table, mode="overwrite")
    DeltaTable(str(root)).create_checkpoint()
    write_deltalake(str(root), table, mode="append")
    return root


def test_a_delta_table_keeps_the_files_of_all_its_versions(world: World, delta: Path) -> None:
    left = write(world, delta, "gone/000002-killed/1/part.parquet")
    write(world, delta, "gone/000003-recent/1/part.parquet", age_s=DAY_S)
    name = f"delta:{delta}"

    assert found(world, name) == {f"file://{left}"}
    sweep(world, name)

    assert not left.exists()
    rows = [DeltaTable(str(delta), version=version).to_pyarrow_table().num_rows for version in range(3)]
    assert rows == [4, 1, 2]


def test_a_checkpoint_alone_tells_what_delta_refers_to(world: World, delta: Path) -> None:
    for version in (0, 1):
        (delta / "_delta_log" / f"{version:020d}.json").unlink()

    assert found(world, f"delta:{delta}") == set()


def test_a_table_in_s3_is_swept_by_its_log(world: World, delta: Path) -> None:
    write(world, delta, "gone/000002-killed/1/part.parquet")
    for path in filter(Path.is_file, delta.rglob("*")):
        world.store.put(f"s3://lake/t/{path.relative_to(delta).as_posix()}", path.read_bytes())
    world.clock.advance(8 * DAY_S)

    assert found(world, "delta:s3a://lake/t") == {"s3://lake/t/sparklet/gone/000002-killed/1/part.parquet"}


def test_a_run_that_may_still_commit_keeps_its_files(world: World, delta: Path) -> None:
    world.run(1)
    write(world, delta, "run-1/000000-slow/1/part.parquet")

    assert found(world, f"delta:{delta}") == set()


def test_an_uncommitted_declaration_is_kept_until_the_clean(world: World, delta: Path) -> None:
    world.run(1)
    world.work(lambda _: Failure("Wrong", "no", retryable=False))
    world.check()
    world.store.put(world.at.run_uri("run-1", "writes/000000000-won.json"), b"{}")
    declared = write(world, delta, "run-1/000000-won/1/part.parquet")

    assert found(world, f"delta:{delta}") == set()
    clean(world.at, world.ledger.runs.get("run-1"), folders_of(world.at, "run-1"))
    assert found(world, f"delta:{delta}") == {f"file://{declared}"}


# --- Iceberg ---


@pytest.fixture
def iceberg(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of an append by shards and of a deletion of all rows; its folder."""
    monkeypatch.setenv("PYICEBERG_CATALOG__ICEBERG__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__ICEBERG__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__ICEBERG__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # which it reads when it is imported
    catalog = load_catalog("iceberg")
    catalog.create_namespace("db")
    table = catalog.create_table("db.flights", ROWS.schema)
    folder = Path(table.location().removeprefix("file://"))
    table.add_files([str(write(world, folder / "data", f"gone/00000{n}-a/1/x.parquet")) for n in (0, 1)])
    table.overwrite(ROWS)
    return folder


def test_an_iceberg_table_keeps_the_files_of_all_its_snapshots(world: World, iceberg: Path) -> None:
    left = write(world, iceberg / "data", "gone/000002-killed/1/part.parquet")

    assert found(world, "iceberg:db.flights") == {f"file://{left}"}
    sweep(world, "iceberg:db.flights")

    assert not left.exists()
    table = load_catalog("iceberg").load_table("db.flights")
    rows = [table.scan(snapshot_id=shot.snapshot_id).to_arrow().num_rows for shot in table.snapshots()]
    assert rows[0] == 4 and rows[-1] == 2


def test_data_elsewhere_is_swept_where_it_is(world: World, iceberg: Path, tmp_path: Path) -> None:
    with load_catalog("iceberg").load_table("db.flights").transaction() as change:
        change.set_properties({"write.data.path": f"file:{tmp_path}/elsewhere"})
    left = write(world, tmp_path / "elsewhere", "gone/000000-killed/1/part.parquet")

    assert found(world, "iceberg:db.flights") == {f"file://{left}"}


# --- Hudi ---


def test_changes_that_were_staged_beside_a_table_are_found(world: World, tmp_path: Path) -> None:
    changes = write(world, tmp_path / "table", f"../_changes/direct/{'12ab' * 8}/1/part.parquet").resolve()

    assert found(world, f"hudi:{tmp_path}/table") == {f"file://{changes}"}


# --- refused ---


@pytest.mark.parametrize(
    ("table", "words"), [("delta:{}", "no Delta table"), ("iceberg:db.none", "db.none cannot be read")]
)
def test_a_table_that_cannot_be_read_is_refused(
    world: World, tmp_path: Path, iceberg: Path, table: str, words: str
) -> None:
    write(world, tmp_path, "gone/000000-a/1/part.parquet")

    with pytest.raises(PlanError, match=words):
        found(world, table.format(tmp_path))


@pytest.mark.parametrize(
    ("package", "table"), [("pyiceberg.exceptions", "iceberg:db.flights"), ("pyarrow.parquet", "delta:{}")]
)
def test_without_its_library_a_table_is_refused(
    world: World, delta: Path, monkeypatch: pytest.MonkeyPatch, package: str, table: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(PlanError, match=r"sparklet\[tables\]"):
        found(world, table.format(delta))
