"""The command that shows a run's result: for DuckDB if the files are local, else for Spark or pyiceberg."""

from dataclasses import replace

import pytest

from sparklet.app import opening
from sparklet.app.opening import how_to_open, table_text
from sparklet.model import Failure, Run, RunState
from sparklet.runs.summary import summarize
from tests.world import World

OUT = "/home/u/out"
SQLITE = {
    "PYICEBERG_CATALOG__ICEBERG__TYPE": "sql",
    "PYICEBERG_CATALOG__ICEBERG__URI": "sqlite:////home/u/out/c.sqlite",
}


def ended(world: World, *names: str, state: RunState = RunState.SUCCEEDED) -> Run:
    """An ended run whose first shard has published these files."""
    run = replace(world.run(1), state=state)
    for name in names:
        world.store.put(f"{run.shard_output(0)}/{name}", b"rows")
    world.store.put(f"{run.output_uri}other.csv", b"not this run's")
    return run


@pytest.fixture(autouse=True)
def _duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "which", lambda command: f"/usr/bin/{command}")


@pytest.mark.parametrize(
    ("name", "folder", "line"),
    [
        ("day=1/part-0.snappy.parquet", OUT, f"""duckdb -c "FROM '{OUT}/**/*.parquet' LIMIT 10\""""),
        ("part-0.csv.gz", OUT, f"""duckdb -c "FROM '{OUT}/**/*.csv.gz' LIMIT 10\""""),
        ("part-0.orc", OUT, f'spark.read.format("orc").load("{OUT}")'),
        ("part-0.json", "s3://data/out", 'spark.read.format("json").load("s3://data/out")'),
        ("model.pickle", OUT, ""),
    ],
)
def test_an_output_is_opened_by_the_names_of_its_files(world: World, name: str, folder: str, line: str) -> None:
    assert how_to_open(world.deployment, ended(world, "_SUCCESS", name), folder) == line


@pytest.mark.parametrize(
    ("has_package", "line"),
    [
        (True, f"""python -c "import duckdb; duckdb.sql(\\"FROM '{OUT}/**/*.csv' LIMIT 10\\").show()\""""),
        (False, f'spark.read.format("csv").load("{OUT}")'),
    ],
)
def test_a_command_that_is_not_installed_is_not_named(
    world: World, monkeypatch: pytest.MonkeyPatch, has_package: bool, line: str
) -> None:
    monkeypatch.setattr(opening, "which", lambda command: None)
    monkeypatch.setattr(opening, "find_spec", lambda name: has_package or None)

    assert how_to_open(world.deployment, ended(world, "part-0.csv"), OUT) == line


def test_an_open_run_and_one_that_wrote_nothing_show_no_line(world: World) -> None:
    run = ended(world)

    assert how_to_open(world.deployment, run, OUT) == ""
    assert how_to_open(world.deployment, replace(run, state=RunState.RUNNING), OUT) == ""
    assert how_to_open(world.deployment, replace(run, table="delta:file:///t", state=RunState.FAILED), OUT) == ""


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("delta:file:///lake/t", """duckdb -c "FROM delta_scan('/lake/t') LIMIT 10\""""),
        ("delta:s3://b/t", 'spark.read.format("delta").load("s3://b/t")'),
        ("hudi:file:///t", 'spark.read.format("hudi").load("file:///t")'),
        ("iceberg:db.t", 'spark.table("iceberg.db.t")'),
    ],
)
def test_a_table_is_opened_by_its_format(world: World, table: str, line: str) -> None:
    run = replace(ended(world), table=table)

    assert (table_text(run), how_to_open(world.deployment, run, OUT)) == (table, line)


def test_an_iceberg_table_beside_the_output_names_its_catalog(world: World) -> None:
    run = replace(ended(world), table="iceberg:db.t", env=SQLITE)

    assert table_text(run) == "iceberg:db.t in the catalog sqlite:////home/u/out/c.sqlite"
    line = how_to_open(world.deployment, run, OUT)
    assert "load_catalog('it', uri='sqlite:////home/u/out/c.sqlite').load_table('db.t')" in line


def test_the_result_shows_waiting_and_working_time_apart(world: World) -> None:
    world.run(1)
    world.clock.advance(9)
    message = world.receive()
    assert message
    attempt_id, _ = world.claim(message)
    world.clock.advance(4)
    world.ledger.attempts.fail("run-1", 0, attempt_id, Failure("ValueError", "bad", retryable=False))

    summary = summarize(world.deployment, world.ledger.runs.get("run-1"))

    assert (summary.waited_s, summary.task_s, summary.duration_s) == (9.0, 4.0, 13.0)
