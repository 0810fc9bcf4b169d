"""``job.table`` with Spark's own readers returns the rows that Athena would show."""

import csv
import io
import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import orc, parquet
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.data_catalog.conditions import NULL
from sparklet.connectors.data_catalog.entries import entry_of
from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.job import Job
from tests.functional.job.conftest import session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.stand_ins.glue import MemoryGlue, partition_input, table_input

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    conf = {
        "spark.master": "local[2]",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",  # instead of 50, for a table of three rows
        "spark.sql.catalog.made": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.made.type": "hadoop",
        "spark.sql.catalog.made.warehouse": str(tmp_path_factory.mktemp("warehouse")),
    }
    with session_here("tables", conf, {}, jvm_here) as session:
        yield session


@pytest.fixture
def glue(monkeypatch: pytest.MonkeyPatch, spark: SparkSession) -> MemoryGlue:
    glue = MemoryGlue()
    monkeypatch.setattr(GlueCatalog, "of_script", classmethod(lambda cls: glue.catalog))
    return glue


def rows(frame: DataFrame) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in frame.collect()), key=str)


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def put_parquet(folder: Path, name: str, **columns: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), folder / name)
    return folder / name


def uri(path: Path) -> str:
    return f"file://{path}"


def read(glue: MemoryGlue, table: dict[str, Any], where: str = "") -> DataFrame:
    glue.tables = {table["Name"]: table}
    frame: DataFrame = Job().table(f"db.{table['Name']}", where)
    return frame


# --- partitions ---


OF_DAYS = "id int;text varchar(9)"


def days(folder: Path) -> dict[str, Any]:
    return table_input("t", uri(folder), OF_DAYS, "day date;hour int")


@pytest.mark.parametrize("hive_names", [True, False])
def test_values_of_partitions_are_columns_of_their_types(glue: MemoryGlue, tmp_path: Path, hive_names: bool) -> None:
    table = days(tmp_path)
    for n, (day, hour) in enumerate([("2026-01-01", "7"), ("2026-01-02", "08"), ("2026-01-03", "9")]):
        folder = tmp_path / (f"day={day}/hour={hour}" if hive_names else f"folder [{n}]")
        glue.partitions.append(partition_input(table, [day, hour], uri(folder)))
        put_parquet(folder / "deeper", "a b.parquet", ID=pa.array([n], pa.int32()), more=["x"])
    glue.partitions.append(partition_input(table, ["2026-01-04", "1"], uri(tmp_path / "never written")))

    found = read(glue, table, "day >= '2026-01-02' AND hour < 9")

    assert found.columns == ["id", "text", "day", "hour"]
    assert rows(found) == [(1, None, date(2026, 1, 2), 8)]
    assert len(rows(read(glue, table))) == 3


ODD = {"a/b:%c": "a%2Fb%3A%25c", "é %": "%C3%A9 %25", "ü": "ü", "1=2": "1%3D2", "x y+z": "x y+z"}


@pytest.mark.parametrize("form", ["parquet", "orc", "json", "csv"])
def test_each_row_has_the_partition_values_of_the_catalog(glue: MemoryGlue, tmp_path: Path, form: str) -> None:
    """Folders' names do not matter: as Hive writes them, by other rules, without values, or outside the table's."""
    table = table_input("t", uri(tmp_path / "in"), "id int;text string;late double", "day date;name string", form)
    expected: list[tuple[Any, ...]] = []
    for n, (value, in_path) in enumerate(ODD.items()):
        for folder in (tmp_path / "in" / "day=2026-01-01" / f"name={in_path}", tmp_path / f"out {n}"):
            glue.partitions.append(partition_input(table, ["2026-01-01", value], uri(folder)))
            expected.append((len(expected), "x", None, date(2026, 1, 1), value))
            put_rows(folder, form, expected[-1][0])
    for folder in (tmp_path / "in" / f"day={NULL}" / f"name={NULL}", tmp_path / "of none"):
        glue.partitions.append(partition_input(table, [NULL, NULL], uri(folder)))
        expected.append((len(expected), "x", None, None, None))
        put_rows(folder, form, expected[-1][0])
    put(tmp_path / "no rows", "_SUCCESS", b"")
    glue.partitions.append(partition_input(table, ["2026-01-02", "x"], uri(tmp_path / "no rows")))

    assert sorted(map(tuple, read(glue, table).collect())) == expected
    assert rows(read(glue, table, "day IS NULL")) == expected[-2:]


def put_rows(folder: Path, form: str, n: int) -> None:
    """Write a file with one row, without the last column."""
    table, file = pa.table({"id": pa.array([n], pa.int32()), "text": ["x"]}), put(folder, f"1 [{n}].{form}", b"")
    {
        "parquet": lambda: parquet.write_table(table, file),
        "orc": lambda: orc.write_table(table, file),
        "json": lambda: file.write_text(f'{{"ID": {n}, "text": "x"}}'),
        "csv": lambda: file.write_text(f'"{n}",x'),
    }[form]()


def test_a_table_without_partitions_has_all_columns_and_no_row(glue: MemoryGlue, tmp_path: Path) -> None:
    found = read(glue, days(tmp_path))

    assert found.columns == ["id", "text", "day", "hour"] and rows(found) == []


def test_a_shard_reads_its_own_objects(spark: SparkSession, glue: MemoryGlue, tmp_path: Path) -> None:
    table = days(tmp_path)
    folders = [tmp_path / "day=2026-01-01/hour=7", tmp_path / "x", tmp_path / "day=2026-01-01/hour=8"]
    files = [put_parquet(folder, "a.parquet", id=pa.array([n], pa.int32())) for n, folder in enumerate(folders)]
    put_parquet(folders[0], "of another shard.parquet", id=pa.array([9], pa.int32()))
    entry = vars(entry_of("db.t", table))
    values = [["2026-01-01", "7"], ["2026-01-02", "7"], ["2026-01-01", "8"]]
    event = json.loads(json.dumps({"inputs": list(map(uri, files)), "catalog_table": {**entry, "values": values}}))
    job = Job.from_args(["--event", json.dumps(event)], {})

    first, second = date(2026, 1, 1), date(2026, 1, 2)
    assert rows(job.table("db.t")) == [(0, None, first, 7), (1, None, second, 7), (2, None, first, 8)]
    assert rows(job.table("db.t", "hour = 7")) == [(0, None, first, 7), (1, None, second, 7)]
    assert not glue.asked


# --- Parquet, ORC, JSON ---


def test_parquet_columns_match_by_name_and_orcs_by_position(glue: MemoryGlue, tmp_path: Path) -> None:
    b_then_a = pa.table({"b": ["x"], "a": ["y"]})
    parquet.write_table(b_then_a, put(tmp_path / "p", "1.parquet", b""))
    orc.write_table(b_then_a, put(tmp_path / "o", "1.orc", b""))
    of = "a string;b string"

    assert rows(read(glue, table_input("p", uri(tmp_path / "p"), of))) == [("y", "x")]
    assert rows(read(glue, table_input("o", uri(tmp_path / "o"), of, form="orc"))) == [("x", "y")]
    by_name = {"orc.column.index.access": "false"}
    assert rows(read(glue, table_input("o", uri(tmp_path / "o"), of, form="orc", serde=by_name))) == [("y", "x")]


def test_keys_of_json_match_in_any_case(glue: MemoryGlue, tmp_path: Path) -> None:
    lines = [{"Id": 1, "Who": {"Name": "a", "Tags": [{"Key": "k"}]}, "At": "2026-01-01 10:00:00"}, {"Who": None}]
    put(tmp_path, "1.json", "\n".join(map(json.dumps, lines)).encode())
    of = "id int;who struct<name:string,tags:array<struct<key:string>>>;at timestamp;later decimal(5,2)"

    found = read(glue, table_input("t", uri(tmp_path), of, form="json"))

    assert found.columns == ["id", "who", "at", "later"]
    assert found.selectExpr("id", "who.name", "who.tags[0].key", "cast(at as string)", "later").collect() == [
        (1, "a", "k", "2026-01-01 10:00:00", None),
        (None,) * 5,
    ]


def test_malformed_json_fails_unless_the_table_ignores_it(glue: MemoryGlue, tmp_path: Path) -> None:
    put(tmp_path, "1.json", b'{"id": 1}\n{"id": \n')
    table = table_input("t", uri(tmp_path), "id int", form="json")

    with pytest.raises(Exception, match=r"(?i)malformed"):
        rows(read(glue, table))

    lenient = table_input("t", uri(tmp_path), "id int", form="json", serde={"ignore.malformed.json": "TRUE"})
    assert rows(read(glue, lenient)) == [(1,), (None,)]


# --- Delta and Iceberg, through their own formats ---


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["delta", "iceberg"])
def test_rows_and_conditions_are_those_of_the_format(
    spark: SparkSession, glue: MemoryGlue, tmp_path: Path, format_: str
) -> None:
    frame = spark.createDataFrame([(1, "a"), (2, "b"), (3, "b")], "id INT, day STRING")
    parameters, place = {"table_type": format_.upper()}, uri(tmp_path)
    if format_ == "delta":
        frame.write.format("delta").partitionBy("day").save(str(tmp_path))
    else:
        frame.writeTo("made.db.t").partitionedBy(frame.day).create()
        place = spark.conf.get("spark.sql.catalog.made.warehouse") or ""
        (metadata,) = Path(place, "db/t/metadata").glob("*.metadata.json")
        parameters["metadata_location"] = uri(metadata)
    table = table_input("t", place, Parameters=parameters)

    assert sorted(row.id for row in read(glue, table).collect()) == [1, 2, 3]
    assert sorted(row.id for row in read(glue, table, "day = 'b' AND id > 2").collect()) == [3]


# --- text ---


HEADER = {"skip.header.line.count": "1"}


def text_rows(glue: MemoryGlue, folder: Path, of: str, content: str, form: str, **entry: Any) -> list[tuple[Any, ...]]:
    """The rows of a table with one text file; ``entry`` has further settings of the table's entry."""
    put(folder, "1.txt", content.encode())
    return [tuple(row) for row in read(glue, table_input("t", uri(folder), of, form=form, **entry)).collect()]


def test_delimited_text_is_parsed_like_lazy_simple_serde(glue: MemoryGlue, tmp_path: Path) -> None:
    content = 'a\\,b,,1,2.50\n\\N,"q",x,\\N\n\nshort\nlong,b,3,4,5\n\\\\,\\x,-7,1e2\n'
    of, serde = "one string;two varchar(5);three int;four decimal(5,2)", {"field.delim": ",", "escape.delim": "\\"}

    found = text_rows(glue, tmp_path, of, content, "delimited", serde=serde)

    assert found == [
        ("a,b", "", 1, Decimal("2.50")),  # an empty text is not null
        (None, '"q"', None, None),  # quotes have no meaning; a value that is not of its type is null
        ("short", None, None, None),
        ("long", "b", 3, Decimal("4.00")),
        ("\\", "x", -7, Decimal("100.00")),
    ]


@pytest.mark.parametrize(
    ("serde", "separator"),
    [({}, "\x01"), ({"field.delim": "\t"}, "\t"), ({"field.delim": "124"}, "|"), ({"serialization.format": ";"}, ";")],
)
def test_delimiters_and_nulls_are_those_of_the_entry(
    glue: MemoryGlue, tmp_path: Path, serde: dict[str, str], separator: str
) -> None:
    properties = {"serialization.null.format": "NULL", **serde}
    lines = ["n", "t"], ["1", "NULL", "2026-01-01 10:00:00.5", "2026-01-02", "TRUE"]
    content = "".join(f"{separator.join(line)}\n" for line in lines)
    of = "n int;t string;at timestamp;on date;yes boolean"

    found = text_rows(glue, tmp_path, of, content, "delimited", serde=properties, Parameters=HEADER)

    assert [row[:2] + row[3:] for row in found] == [(1, None, date(2026, 1, 2), True)]
    assert found[0][2].replace(tzinfo=None).microsecond == 500_000


CSV_ROWS = [
    (r'"a ""b"" c",plain', ('a "b" c', "plain")),
    (r'"a \"b\" c","d,e"', ('a "b" c', "d,e")),
    (r'"","x"', ("", "x")),
    (r",", ("", "")),
    (r'"\\",y', ("\\", "y")),
    (r"it's,a b", ("it's", "a b")),
    (r'"""q""",z', ('"q"', "z")),
    (r'say "hi",z', ('say "hi"', "z")),
    ("alone", ("alone", None)),
]


def test_csv_is_parsed_like_open_csv_serde(glue: MemoryGlue, tmp_path: Path) -> None:
    content = "\n".join(["One,Two", *(line for line, _ in CSV_ROWS)])

    found = text_rows(glue, tmp_path, "one string;two string", content, "csv", Parameters=HEADER)

    assert found == [row for _, row in CSV_ROWS]


def test_csv_characters_are_those_of_the_entry(glue: MemoryGlue, tmp_path: Path) -> None:
    serde = {"separatorChar": "|", "quoteChar": "'", "escapeChar": "^"}
    assert text_rows(glue, tmp_path / "1", "a string;b int", "'x|^'y'|7", "csv", serde=serde) == [("x|'y", 7)]
    same = {"separatorChar": ",", "quoteChar": '"', "escapeChar": '"'}
    assert text_rows(glue, tmp_path / "2", "a string;b int", '"x ""y"", \\",7', "csv", serde=same) == [('x "y", \\', 7)]


def test_dates_of_csv_are_numbers_as_in_athena(glue: MemoryGlue, tmp_path: Path) -> None:
    found = text_rows(glue, tmp_path, "on date;at timestamp;n double", "18262,1579059880000,1.5\n,,\n", "csv")

    at = datetime(2020, 1, 15, 3, 44, 40, tzinfo=UTC)
    assert found[0][0] == date(2020, 1, 1) and found[0][1].timestamp() == at.replace(tzinfo=None).timestamp()
    assert found[0][2] == 1.5 and found[1] == (None, None, None)


def test_csv_that_python_writes_is_read_unchanged(glue: MemoryGlue, tmp_path: Path) -> None:
    """The texts have any characters; a long text does not overflow the stack of the regular expression."""
    choose = random.Random(7)
    texts = ["".join(choose.choices("ab ,\"\t'|é", k=choose.randrange(12))) for _ in range(600)]
    written = [("x", f'{"long " * 20_000}"{"q" * 5}"'), *zip(texts[::2], texts[1::2], strict=True)]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(written)

    assert text_rows(glue, tmp_path, "a string;b string", buffer.getvalue(), "csv") == written
