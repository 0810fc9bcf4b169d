"""Every example script in the image, on S3 through S3A; tables are read back by Spark and by other libraries."""

import json
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from spark_scripts.demo.flights_data import find_original
from tests.aggregated import AWS_MADE, AWS_MADE_OF
from tests.container.account import EXAMPLES, Account
from tests.container.container import Container
from tests.functional.job.conftest import FORMATS
from tests.functional.job.readers import Rows, delta, hudi, parquet
from tests.unit.events import samples

APPEND_TO_ICEBERG = Path(__file__).with_name("append_to_iceberg")
READ_TABLES = Path(__file__).with_name("read_tables.py")
PEOPLE: Rows = [("1", "Ada", "1815"), ("2", "Émilie", "1706"), ("3", None, "1906")]
CSV = "id,name,born\n1,Ada,1815\n2,Émilie,1706\n3,,1906\n"


@pytest.fixture(scope="module")
def inputs(account: Account) -> dict[str, str]:
    """The addresses of input objects, by the names of their contents."""
    original = find_original()
    with zipfile.ZipFile(original / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").splitlines(keepends=True)
    day = b"".join([header, *(line for line in lines if line.startswith(b"2013,1,1,"))])
    tables = {name: account.put(f"input/{name}.csv", (original / f"{name}.csv").read_bytes()) for name in AIRCRAFT}
    people = account.put("input/people.csv", CSV)
    return {"people": people, "day": account.put("input/2013-01-01.csv", day), **tables}


AIRCRAFT = ("airlines", "planes")
# Their calls are covered by the other examples, or need a catalog that the stand-in does not have.
NOT_HERE = {"csv_to_iceberg", "deduplicate", "evolve_schema", "slowly_changing"}
NOT_HERE |= {"compact_tables", "expire_snapshots", "file_sizes", "stream_windows"}
NOT_HERE |= {"check_output", "compact", "wordcount"}


def ran(account: Account, function: Container, name: str, args: Sequence[str] = (), **event: Any) -> Any:
    """Run an example as a task of its own; return its answer."""
    whole_event = account.event_for(EXAMPLES / f"{name}.py", **event)
    whole_event["sparklet"]["args"] = list(args)
    return function.succeeds(whole_event)


def written(account: Account, folder: Path, output: str) -> Path:
    return account.download(account.uri(output), folder)


# Files


def test_hello(account: Account, function: Container) -> None:
    ran(account, function, "hello")

    assert "hello from Spark" in function.logs()
    assert ": 1000 rows counted" in function.logs()


def test_csv_to_parquet(account: Account, function: Container, inputs: dict[str, str], tmp_path: Path) -> None:
    event: dict[str, Any] = {"inputs": [inputs["people"]], "params": {"schema": "id INT, name STRING, born INT"}}
    ran(account, function, "csv_to_parquet", output_path=account.uri("out/people"), **event)

    rows = parquet(written(account, tmp_path, "out/people"))
    assert rows == [(1, "Ada", 1815), (2, "Émilie", 1706), (3, None, 1906)]


def test_flights_daily(account: Account, function: Container, inputs: dict[str, str], tmp_path: Path) -> None:
    event: dict[str, Any] = {"inputs": [inputs["day"]], "params": {name: inputs[name] for name in AIRCRAFT}}
    answer = ran(account, function, "flights_daily", output_path=account.uri("out/day"), **event)

    day = tmp_path / "day.csv"
    day.write_bytes(account.deployment.store.get(inputs["day"]))
    query = "SELECT year, month, day, dep_time, carrier, flight, tailnum, origin, dest FROM {} ORDER BY ALL"
    input_rows = duckdb.execute(query.format("read_csv(?, nullstr='NA')"), [str(day)]).fetchall()
    output = written(account, tmp_path / "out", "out/day")
    assert duckdb.execute(query.format("read_parquet(?)"), [f"{output}/*.parquet"]).fetchall() == input_rows
    assert answer["rows"] == len(input_rows) == 842


# Tables: written by three tasks, read back by a fourth, and by libraries without Spark


@pytest.fixture(scope="module")
def tables(account: Account, function: Container, inputs: dict[str, str]) -> dict[str, str]:
    """The addresses of tables with the people, one of each format."""
    outputs: dict[str, str] = {format_: account.uri(f"out/{format_}") for format_ in FORMATS}
    scripts = {"delta": "csv_upsert", "iceberg": str(APPEND_TO_ICEBERG), "hudi": "csv_upsert"}
    for format_, output in outputs.items():
        event = {"inputs": [inputs["people"]], "output_path": output}
        args = () if format_ == "iceberg" else ("--table", f"{format_}:{output}")
        answer = ran(account, function, scripts[format_], args, **event)
        assert answer["rows"] == len(PEOPLE)
    return outputs


def test_tables_of_each_format_are_read_back_through_s3a(
    account: Account, function: Container, tables: dict[str, str]
) -> None:
    params = {**tables, "iceberg": "lake.rows", "warehouse": tables["iceberg"]}

    answer = function.succeeds(account.event_for(READ_TABLES, params=params))["answer"]

    assert set(answer) == set(FORMATS)
    for format_, rows in answer.items():
        assert [tuple(row) for row in rows] == PEOPLE, format_


def test_csv_upsert(account: Account, tables: dict[str, str], tmp_path: Path) -> None:
    assert delta(account.download(tables["delta"], tmp_path / "delta")) == PEOPLE
    if "hudi" in tables:
        assert hudi(account.download(tables["hudi"], tmp_path / "hudi"), "id, name, born") == PEOPLE


def test_append_to_iceberg(account: Account, tables: dict[str, str]) -> None:
    """Iceberg's metadata has the objects' addresses, so the table is read in the bucket, not downloaded."""
    from pyiceberg.table import StaticTable

    table = f"{tables['iceberg']}/lake/rows"
    version = account.deployment.store.get(f"{table}/metadata/version-hint.text").decode().strip()
    access = {
        "s3.endpoint": account.endpoint,
        "s3.access-key-id": account.env["AWS_ACCESS_KEY_ID"],
        "s3.secret-access-key": account.env["AWS_SECRET_ACCESS_KEY"],
        "s3.region": account.env["AWS_REGION"],
    }
    metadata = f"{table}/metadata/v{version}.metadata.json"
    found = StaticTable.from_metadata(metadata, access).scan().to_arrow()  # noqa: F841 - duckdb finds it by its name
    assert duckdb.sql("SELECT * FROM found ORDER BY ALL").fetchall() == PEOPLE


# Streams: a batch names no script, so the default script runs; the record was aggregated by AWS's own library


BATCH = {"Records": [samples.kinesis("1", b64encode(AWS_MADE).decode())]}
ROWS: Rows = [(*json.loads(data).values(), None) for _, data in AWS_MADE_OF]


def test_stream_to_table(account: Account, function: Container, tmp_path: Path) -> None:
    """Each record is in the table once, though delivered twice. tests/functional has the test with Iceberg."""
    account.put("scripts/default.py", (EXAMPLES / "stream_to_table.py").read_bytes())
    for format_ in set(FORMATS) - {"iceberg"}:
        output = account.uri(f"out/stream_to_{format_}")
        for _ in range(2):
            answer = function.invoke({**BATCH, "params": {"table": f"{format_}:{output}"}})
            assert answer.document == {"batchItemFailures": []}, f"{answer}\n{function.logs()[-5000:]}"
        read = {"delta": delta, "hudi": hudi}[format_]
        assert read(account.download(output, tmp_path / format_), "sensor, celsius, taken") == sorted(ROWS)


def test_no_example_is_forgotten() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}

    assert {script.stem for script in EXAMPLES.glob("*.py")} - NOT_HERE <= tested


@pytest.fixture(scope="module", autouse=True)
def memory(function: Container, conditions: Any, observed: list[str]) -> Iterator[None]:
    """Report the memory that all examples together took."""
    yield
    peak_mb = function.peak_memory_bytes() >> 20
    observed.append(
        f"examples, memory: {conditions.memory_mb} MB, peak of the container {peak_mb} MB (with /tmp and cache)"
    )
