"""`sparklet ddl` prints the statements with which Athena reads a run's output and tables."""

import json
from io import BytesIO
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sparklet.app.opening import PARTITIONS_PER_STATEMENT
from sparklet.model import Failure, Run, ShardResult
from sparklet.planning.commit_files import commit_uri
from tests.unit.cli.conftest import RUN, Terminal

ROWS = pa.table(
    {
        "Id": pa.array([1, 2], pa.int64()),
        "price": pa.array([None, None], pa.decimal128(9, 2)),
        "at": pa.array([0, 1], pa.timestamp("us", "UTC")),
        "tags": pa.array([[], ["a"]], pa.list_(pa.string())),
        "of": pa.array([{"a": 1.5}, None], pa.struct([("a", pa.float32())])),
        "counts": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    }
)


def stored(rows: pa.Table) -> bytes:
    parquet.write_table(rows, file := BytesIO())
    return file.getvalue()


def run_with_files(
    terminal: Terminal, files: dict[int, dict[str, bytes]], shards: int = 2, fails: tuple[int, ...] = ()
) -> Run:
    """Make an ended run whose shards have published ``files`` (by shard's number, then by name)."""
    run = terminal.world.run(shards)
    for number, named in files.items():
        for name, body in named.items():
            terminal.world.store.put(f"{run.shard_output(number)}/{name}", body)
    bad = Failure("ValueError", "bad", retryable=False)
    terminal.world.work(lambda number: bad if number in fails else ShardResult(rows=2))
    terminal.world.check()
    return terminal.world.ledger.runs.get(RUN)


def found(terminal: Terminal, *words: str) -> Any:
    """The command's document of the only table."""
    told = terminal.types("ddl", RUN, "--json", *words)
    assert told.code == 0, told.err
    (only,) = told.document
    return only


def refused(terminal: Terminal, *words: str) -> str:
    told = terminal.types("ddl", RUN, *words)
    assert told.code == 1 and told.out == ""
    return told.err


def test_parquet_files_of_shards_are_one_external_table(terminal: Terminal) -> None:
    run = run_with_files(
        terminal, {n: {"part-0.snappy.parquet": stored(ROWS), "_hidden/x.txt": b"x"} for n in range(2)}
    )

    (statement,) = found(terminal, "--name", "Lake.my-flights")["statements"]

    assert statement == (
        "CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`my_flights` (\n"
        "  `id` bigint,\n  `price` decimal(9,2),\n  `at` timestamp,\n  `tags` array<string>,\n"
        "  `of` struct<a:float>,\n  `counts` map<string,int>\n)\n"
        f"STORED AS PARQUET\nLOCATION '{run.output_uri}'"
    )


def test_every_partition_is_added_by_its_name(terminal: Terminal) -> None:
    days = [f"day={number:03d}" for number in range(PARTITIONS_PER_STATEMENT)]
    odd = ["day=it's%2Fnot", "day=__HIVE_DEFAULT_PARTITION__"]
    body = stored(ROWS.select(["Id"]))
    twice = ({f"{day}/{file}.parquet": body for day in names for file in "ab"} for names in (days, odd))
    run = run_with_files(terminal, dict(enumerate(twice)))

    create, *adding = found(terminal)["statements"]

    assert "(\n  `id` bigint\n)\nPARTITIONED BY (`shard` string, `day` string)\n" in create
    assert [statement.count("PARTITION (") for statement in adding] == [PARTITIONS_PER_STATEMENT, 2]
    shard = run.shard_output(1)
    name = shard.rpartition("shard=")[2]
    assert rf"PARTITION (`shard`='{name}', `day`='it\'s/not') LOCATION '{shard}/day=it\'s%2Fnot/'" in adding[1]
    assert "`day`='__HIVE_DEFAULT_PARTITION__'" in adding[1]


def test_a_long_parquet_footer_is_read(terminal: Terminal) -> None:
    wide = pa.table({f"a_rather_long_name_of_a_column_{number}": [number] for number in range(2_000)})
    run_with_files(terminal, {0: {"part-0.parquet": stored(wide)}})

    assert found(terminal)["statements"][0].count(" bigint") == 2_000


def test_a_column_that_only_some_files_have_is_in_the_table(terminal: Terminal) -> None:
    some = {number: ROWS.select(columns) for number, columns in enumerate((["Id"], ["Id", "at"]))}
    run_with_files(terminal, {number: {"a.parquet": stored(rows)} for number, rows in some.items()})

    assert "`at` timestamp" in found(terminal)["statements"][0]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"a.parquet": stored(pa.table({"Id": ["x"]}))}, "do not agree"),
        ({"a.parquet": stored(pa.table({"Id": pa.array([1], pa.uint64())}))}, "do not agree"),
        ({"day=1/a.parquet": stored(ROWS)}, "cannot be one table"),
        ({"errors/a.parquet": stored(ROWS)}, "cannot be one table"),
        ({"a.orc": b"ORC"}, "only for Parquet"),
        ({"a.parquet": b"no Parquet"}, "do not agree"),
        # Athena has no such type.
        ({"a.parquet": stored(pa.table({"n": pa.array([1], pa.uint64())}))}, "cast the column"),
    ],
)
def test_files_without_a_common_schema_are_refused(terminal: Terminal, other: dict[str, bytes], why: str) -> None:
    run_with_files(terminal, {0: {"a.parquet": stored(ROWS)}, 1: other})

    assert why in refused(terminal)


def test_an_open_run_is_refused(terminal: Terminal) -> None:
    terminal.world.run(2)

    assert "wait for its end" in refused(terminal)


def test_a_run_that_wrote_nothing_is_refused(terminal: Terminal) -> None:
    run_with_files(terminal, {})

    assert "no file and no table" in refused(terminal)


def test_ddl_of_a_failed_run_covers_its_published_files(terminal: Terminal) -> None:
    run_with_files(terminal, {0: {"a.parquet": stored(ROWS)}}, fails=(1,))

    told = terminal.types("ddl", RUN)

    assert told.code == 2  # the exit code of a failed run
    assert told.out.startswith("-- s3://data/out/") and told.out.rstrip().endswith(";")


def test_tables_that_a_run_committed_to_get_statements_or_a_note(terminal: Terminal) -> None:
    tables = ("iceberg:db.flights", "delta:s3://lake/w/db.db/days", "delta:s3://lake/other", "hudi:s3://lake/h")
    run_with_files(terminal, {})
    lines = [{"commit": 0}, {"shard": 0, "writes": [{"table": table} for table in tables]}]
    body = "\n".join(map(json.dumps, lines)).encode()
    world = terminal.world
    world.store.put(commit_uri(world.deployment, world.ledger.runs.get(RUN), 0), body)

    told = terminal.types("ddl", RUN, "--json")

    made = {each["of"]: (each["statements"], bool(each["note"])) for each in told.document}
    create, delta = "CREATE EXTERNAL TABLE IF NOT EXISTS", "TBLPROPERTIES ('table_type'='DELTA')"
    days = f"{create} `db`.`days`\nLOCATION 's3://lake/w/db.db/days/'\n{delta}"
    other = f"{create} `other`\nLOCATION 's3://lake/other/'\n{delta}"
    assert made == {
        "iceberg:db.flights": ([], True),
        "hudi:s3://lake/h": ([], True),
        "delta:s3://lake/w/db.db/days": ([days], False),
        "delta:s3://lake/other": ([other], False),
    }
    assert "--name names one" in refused(terminal, "--name", "db.t")
