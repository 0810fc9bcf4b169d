"""The scripts that write to tables and look after them, outside of runs; read back by others' libraries.

They run in one session of this process; ``test_with_spark.py`` starts one as a process.
"""

import json
import runpy
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import load_catalog
from pyspark.sql import SparkSession

from sparklet.job.outcome import CLAIMED, OUTCOME_FILE
from tests.functional.job.conftest import SESSION_HERE, session_here
from tests.functional.job.readers import hudi
from tests.functional.job.warm_jvm import SCRIPTS, WarmJvm
from tests.functional.tables.conftest import configure_catalog, sqlite

pytestmark = SESSION_HERE

PEOPLE = "id,name,born\n1,Ada,1815\n2,Émilie,1706\n3,,1906\n"
LATER = "id,name,born\n3,Grace,1906\n4,Alan,1912\n"
Rows = list[tuple[Any, ...]]


class Lake:
    """A folder of tables, and scripts that are run beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._outcomes = folder, count()

    def run(
        self, script: str, table: str, *inputs: str | Path, event: dict[str, Any] | None = None, **params: object
    ) -> Any:
        """Run a script to its good end, as on a laptop; its outcome. Texts among the inputs are files' contents."""
        arguments: list[object] = ["--table", self.name(table)]
        if event is not None:
            arguments = ["--event", json.dumps({**event, "table": self.name(table)})]
        for number, content in enumerate(inputs):
            path = content if isinstance(content, Path) else self.folder / f"{script}-{number}.csv"
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            arguments += ["--input", path]
        arguments += [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
        outcome = self.folder / f"outcome-{next(self._outcomes)}.json"
        self.call(SCRIPTS / script, *arguments, **{OUTCOME_FILE: str(outcome), CLAIMED: "1"})
        return json.loads(outcome.read_text())

    def call(self, script: Path, *arguments: object, **variables: str) -> str:
        """What a script prints."""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", [str(script), *map(str, arguments)])
            runpy.run_path(str(script), run_name="__main__")
        return printed.getvalue()

    def name(self, table: str) -> str:
        return table if table.startswith("iceberg:") else f"{table}:{self.folder}/rows"

    def append(self, table: str) -> None:
        """Append three rows; to Hudi with a script, for it has no other writer."""
        rows = pa.table({"id": [1, 2, 3], "name": ["Ada", "Émilie", "Grace"]})
        if table == "hudi":
            self.run("csv_to_iceberg.py", table, PEOPLE)
        elif table == "delta":
            write_deltalake(str(self.folder / "rows"), rows, mode="append")
        else:
            catalog = load_catalog("iceberg")
            catalog.create_namespace_if_not_exists("db")
            catalog.create_table_if_not_exists("db.people", rows.schema).append(rows)

    def rows(self, table: str, columns: str = "*") -> Rows:
        if table == "hudi":
            return hudi(self.folder / "rows", columns)
        if table.startswith("iceberg:"):
            found = load_catalog("iceberg").load_table(table.partition(":")[2]).scan().to_arrow()
        else:
            found = DeltaTable(str(self.folder / "rows")).to_pyarrow_table()  # noqa: F841 - duckdb finds it by its name
        return duckdb.sql(f"SELECT {columns} FROM found ORDER BY ALL").fetchall()


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session in this process, and a catalog, which pyiceberg knows, too."""
    folder = tmp_path_factory.mktemp("catalog")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("tables", conf, {}, jvm_here) as session:
            yield session


@pytest.fixture
def lake(tmp_path: Path, spark: SparkSession) -> Iterator[Lake]:
    """A folder and a catalog without tables."""
    yield Lake(tmp_path)
    catalog = load_catalog("iceberg")
    for table in catalog.list_tables("db") if catalog.namespace_exists("db") else ():
        catalog.drop_table(table)


def test_rows_are_appended_to_iceberg_in_partitions(lake: Lake) -> None:
    table, schema = "iceberg:db.people", "id INT, name STRING, born INT"
    for content in (PEOPLE, LATER):
        told = lake.run("csv_to_iceberg.py", table, content, schema=schema, partition_by="born")

    assert told["rows"] == 2
    assert [row[0] for row in lake.rows(table)] == [1, 2, 3, 3, 4]
    assert len(load_catalog("iceberg").load_table("db.people").snapshots()) == 2


def test_rows_replace_those_of_their_key_in_delta(lake: Lake) -> None:
    for content in (PEOPLE, LATER):
        lake.run("csv_upsert.py", "delta", content)

    assert lake.rows("delta") == [
        ("1", "Ada", "1815"),
        ("2", "Émilie", "1706"),
        ("3", "Grace", "1906"),
        ("4", "Alan", "1912"),
    ]


@pytest.mark.nightly
@pytest.mark.hudi
def test_hudi_keeps_a_metadata_table_that_is_there(lake: Lake) -> None:
    """A new table has none: half of a small commit would be spent on it. Whoever wants one makes it."""
    defaults = Path(__file__).with_name("hudi_defaults.py")

    def put_by_default(content: str) -> str:
        (lake.folder / "in.csv").write_text(content)
        return lake.call(defaults, "--input", lake.folder / "in.csv", "--output", lake.folder / "rows")

    lake.run("csv_upsert.py", "hudi", PEOPLE)
    assert not (lake.folder / "rows" / ".hoodie" / "metadata").exists()
    lake.run("csv_upsert.py", "hudi", LATER)
    assert lake.rows("hudi", "id, name") == [("1", "Ada"), ("2", "Émilie"), ("3", "Grace"), ("4", "Alan")]
    assert put_by_default(LATER) == "4\n"
    lake.run("csv_upsert.py", "hudi", "id,name,born\n5,Edsger,1930\n")
    assert put_by_default(LATER) == "5\n"  # the metadata table leads to every row


@pytest.mark.parametrize(
    ("script", "table", "mode"),
    [
        ("csv_to_iceberg.py", "iceberg:db.people", "append"),
        ("csv_upsert.py", "delta", "upsert"),
        ("csv_upsert.py", "hudi", "upsert"),
    ],
)
def test_in_a_run_the_same_script_only_declares(lake: Lake, script: str, table: str, mode: str) -> None:
    (lake.folder / "in.csv").write_text(PEOPLE)
    shard = {"run": "run-1", "shard": 0, "attempt": "a1", "generation": 0, "identity": "run-1_1"}
    event = {"sparklet": shard, "inputs": [f"file://{lake.folder}/in.csv"], "output_path": f"{lake.folder}/out"}
    told = lake.run(script, table, event=event)

    assert [(write["mode"], len(write["files"]) > 0) for write in told["writes"]] == [(mode, True)]
    assert not (lake.folder / "rows" / "_delta_log").exists() and not (lake.folder / "rows" / ".hoodie").exists()


def test_of_duplicates_the_newest_is_kept(lake: Lake) -> None:
    days = pa.table({"id": [1, 1, 2, 1, 2], "name": ["a", "b", "c", "d", "c"], "changed_at": [1, 3, 2, 2, 2]})
    for name, rows in (("1.parquet", days), ("2.parquet", days.slice(1, 2))):
        pq.write_table(rows, lake.folder / name)
    told = lake.run("deduplicate.py", "delta", lake.folder / "*.parquet", order_by="changed_at")

    assert lake.rows("delta") == [(1, "b", 3), (2, "c", 2)] and told["rows"] == 2


def test_a_new_column_comes_into_the_table_with_its_rows(lake: Lake) -> None:
    for content in ("id,name\n1,Ada\n", "id,born\n2,1706-12-17\n"):
        lake.run("evolve_schema.py", "iceberg:db.people", content, schema="id INT, born DATE")

    rows = lake.rows("iceberg:db.people", "id, name, born::VARCHAR")
    assert rows == [(1, "Ada", None), (2, None, "1706-12-17")]


@pytest.mark.parametrize("table", ["delta", pytest.param("iceberg:db.customers", marks=pytest.mark.nightly)])
def test_each_change_closes_the_row_before_it(lake: Lake, table: str) -> None:
    header, schema = "id,city,changed_at\n", "id INT, city STRING, changed_at TIMESTAMP"
    first = f"{header}1,Oslo,2020-01-01 00:00:00\n2,Rome,2020-01-01 00:00:00\n1,Bergen,2021-01-01 00:00:00\n"
    late = f"{header}1,Bodø,2020-06-01 00:00:00\n2,Rome,2022-01-01 00:00:00\n"
    for content in (first, first, late):
        lake.run("slowly_changing.py", table, content, schema=schema)

    columns = "id, city, strftime(valid_from, '%Y-%m'), strftime(valid_to, '%Y-%m'), is_current"
    assert lake.rows(table, columns) == [
        (1, "Bergen", "2021-01", None, True),
        (1, "Bodø", "2020-06", "2021-01", False),
        (1, "Oslo", "2020-01", "2020-06", False),
        (2, "Rome", "2020-01", None, True),
    ]


@pytest.mark.parametrize(
    "table", ["delta", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("iceberg:db.people", "hudi"))]
)
def test_small_files_are_compacted_and_old_versions_kept(lake: Lake, table: str) -> None:
    for _ in range(3):
        lake.append(table)
    before, rows = lake.run("file_sizes.py", table)["answer"][lake.name(table)], lake.rows(table, "id, name")

    fewer = lake.run("compact_tables.py", table)["answer"]
    after = lake.run("file_sizes.py", table)["answer"][lake.name(table)]
    kept = lake.run("expire_snapshots.py", table)["answer"]

    assert (before["files"], before["small_files"], after["files"]) == (3, 3, 1)
    assert after["bytes"] == after["largest_bytes"] == after["median_bytes"] > 0
    assert fewer == {lake.name(table): 2} and kept == {lake.name(table): 0}
    if table == "hudi":  # replaced files are still there, but not in the last version
        newest = max((lake.folder / "rows").glob("*.parquet"), key=lambda file: file.stem.rsplit("_", 1)[-1])
        found = duckdb.execute("SELECT id, name FROM read_parquet(?) ORDER BY ALL", [str(newest)]).fetchall()
    else:
        found = lake.rows(table, "id, name")
    assert found == rows and len(rows) == 9
