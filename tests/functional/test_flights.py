"""The flights demo: its input files have the original's rows, its script runs on real Spark, its check finds damage."""

import json
import shutil
import zipfile
from io import StringIO
from pathlib import Path

import duckdb
import pytest
from rich.console import Console

from spark_scripts.demo.flights_check import Comparison, compare
from spark_scripts.demo.flights_data import FlightsData, find_original, make_flights, some_days
from tests.functional.job.warm_jvm import WarmJvm

ROWS = {"2013-01-01": 842, "2013-02-08": 930, "2013-12-31": 776}
"""The rows of three days; on the second day a snowstorm cancelled 472 flights."""


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return make_flights(tmp_path_factory.mktemp("year"))


@pytest.fixture(scope="module")
def data(year: FlightsData, tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return some_days(year, tmp_path_factory.mktemp("three days"), [f"{day}.csv" for day in ROWS])


# The data


def test_every_flight_is_in_exactly_one_day_file(year: FlightsData) -> None:
    with zipfile.ZipFile(find_original() / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").splitlines(keepends=True)

    files = {day.stem: day.read_bytes().splitlines(keepends=True) for day in year.days}

    assert len(files) == 365
    assert year.rows == len(lines) == 336_776
    assert all(content[0] == header for content in files.values())
    assert sorted(lines) == sorted(line for content in files.values() for line in content[1:])
    for name, content in files.items():
        y, m, d = (str(int(number)).encode() for number in name.split("-"))
        assert all(line.startswith(b",".join([y, m, d, b""])) for line in content[1:])


@pytest.mark.parametrize("damage", ["changed", "missing", "too many", "table"])
def test_damaged_input_files_are_made_again(data: FlightsData, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(data.folder, tmp_path / "copy"))
    day = folder / "flights" / "2013-01-01.csv"
    if damage == "changed":
        day.write_bytes(day.read_bytes().replace(b"UA", b"AU", 1))
    elif damage == "missing":
        day.unlink()
    elif damage == "too many":
        (folder / "flights" / "2014-01-01.csv").write_bytes(day.read_bytes())
    else:
        (folder / "planes.csv").write_text("")

    repaired = make_flights(folder, original=data.original)

    assert [path.name for path in repaired.days] == [path.name for path in data.days]
    assert all(new.read_bytes() == old.read_bytes() for new, old in zip(repaired.days, data.days, strict=True))
    assert repaired.planes.read_bytes() == data.planes.read_bytes()


# The script


def uri(path: Path) -> str:
    return f"file://{path}"  # spaces are not escaped, as in addresses of S3 objects


def shard_event(data: FlightsData, inputs: list[Path], output: Path, number: int = 0, **params: str) -> str:
    return json.dumps(
        {
            "sparklet": {"run": "run-1", "shard": number, "attempt": "a1", "generation": 0},
            "inputs": [uri(path) for path in inputs],
            "output_path": uri(output),
            "params": {"airlines": uri(data.airlines), "planes": uri(data.planes), **params},
        }
    )


@pytest.fixture(scope="module")
def output(jvm: WarmJvm, data: FlightsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of three shards; the first shard was done twice."""
    folder = tmp_path_factory.mktemp("three shards")
    for number, day in [(0, data.days[0]), *enumerate(data.days)]:
        report = folder.parent / "outcome.json"
        event = shard_event(data, [day], folder / f"shard={number:06d}", number)
        done = jvm.run("flights_daily.py", "--event", event, SPARKLET_OUTCOME_FILE=str(report))
        assert done.returncode == 0, done.stderr
        outcome = json.loads(report.read_text())
        assert outcome["rows"] == ROWS[day.stem]
        assert outcome["outputs"] == [uri(folder / f"shard={number:06d}")]
        assert outcome["output_bytes"] == sum(
            file.stat().st_size for file in folder.glob(f"shard={number:06d}/*.parquet")
        )
        report.unlink()
    return folder


def check(output: Path, data: FlightsData) -> tuple[Comparison, str]:
    printed = StringIO()
    comparison = compare(output, data, Console(file=printed, width=200))
    return comparison, printed.getvalue()


@pytest.mark.spark
def test_three_shards_are_what_duckdb_makes_of_the_original(output: Path, data: FlightsData) -> None:
    comparison, printed = check(output, data)

    assert comparison.ok, printed
    assert comparison.rows == sum(ROWS.values())
    assert printed.count("2,548") > 2
    assert len(list(output.rglob("*.parquet"))) == 3


# The check of the output


@pytest.fixture
def copy(output: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(output, tmp_path / "copy"))


def alter(file: Path, change: str) -> None:
    """Rewrite a Parquet file through an SQL ``SELECT``."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute("CREATE TABLE old AS FROM read_parquet(?)", [str(file)])
        db.execute(f"COPY ({change}) TO '{file}' (FORMAT parquet)")


def one_file(folder: Path) -> Path:
    return next((folder / "shard=000001").glob("*.parquet"))


def failed(output: Path, data: FlightsData) -> set[str]:
    comparison, printed = check(output, data)
    assert comparison.ok is ("✗" not in printed)
    return {check.name for check in comparison.checks if not check.ok}


@pytest.mark.spark
def test_a_lost_file_is_noticed(copy: Path, data: FlightsData) -> None:
    shutil.rmtree(copy / "shard=000001")

    assert {"flights", "flights and delays, by day", "lost or altered (original)"} <= failed(copy, data)


@pytest.mark.spark
def test_a_doubled_file_is_noticed(copy: Path, data: FlightsData) -> None:
    shutil.copytree(copy / "shard=000001", copy / "shard=000009")

    found = failed(copy, data)
    assert {"flights", "doubled or altered (original)"} <= found
    assert "lost or altered (original)" not in found


@pytest.mark.spark
def test_a_lost_and_a_doubled_flight_do_not_cancel_out(copy: Path, data: FlightsData) -> None:
    alter(one_file(copy), "(FROM old ORDER BY ALL OFFSET 1) UNION ALL (FROM old ORDER BY ALL DESC LIMIT 1)")

    found = failed(copy, data)
    assert "flights" not in found
    assert {"lost or altered (original)", "doubled or altered (original)"} <= found


@pytest.mark.spark
def test_a_column_that_is_missing_is_noticed(copy: Path, data: FlightsData) -> None:
    for file in copy.rglob("*.parquet"):
        alter(file, "SELECT * EXCLUDE (tailnum) FROM old")

    assert failed(copy, data) == {"columns"}


@pytest.mark.spark
def test_a_file_that_is_no_parquet_is_noticed(copy: Path, data: FlightsData) -> None:
    one_file(copy).write_bytes(b"half a file")

    assert failed(copy, data) == {"Parquet files"}
