"""The scripts that write to tables and maintain them, outside of runs; other libraries read the results.

The scripts run in one session of this process; ``test_with_spark.py`` starts one as a process.
"""

import json
import runpy
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import NoSuchTableError
from pyspark.sql import SparkSession

from sparklet.job.outcome import CLAIMED, OUTCOME_FILE
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.job.readers import hudi
from tests.functional.job.warm_jvm import SCRIPTS
from tests.functional.tables.lakes import Lake

pytestmark = SESSION_HERE

PEOPLE = "id,name,born\n1,Ada,1815\n2,Émilie,1706\n3,,1906\n"
LATER = "id,name,born\n3,Grace,1906\n4,Alan,1912\n"


class ScriptLake(Lake):
    """A table, and methods that run scripts on it."""

    @property
    def folder(self) -> Path:
        return Path(self.place)

    def run(self, script: str, *inputs: str | Path, event: dict[str, Any] | None = None, **params: object) -> Any:
        """Run a script as on a laptop and return its outcome. A text among the inputs is the content of a file."""
        arguments: list[object] = ["--table", self.table]
        if event is not None:
            arguments = ["--event", json.dumps({**event, "table": str(self.table)})]
        for number, content in enumerate(inputs):
            path = content if isinstance(content, Path) else self.folder / f"{script}-{number}.csv"
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            arguments += ["--input", path]
        arguments += [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
        outcome = self.folder / f"outcome-{uuid4().hex}.json"  # reports to the same file would be added up
        self.call(SCRIPTS / script, *arguments, **{OUTCOME_FILE: str(outcome), CLAIMED: "1"})
        return json.loads(outcome.read_text())

    def call(self, script: Path, *arguments: object, **variables: str) -> str:
        """Run a script and return what it prints."""
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr("sys.argv", [str(script), *map(str, arguments)])
            runpy.run_path(str(script), run_name="__main__")
        return printed.getvalue()

    def select(self, columns: str = "*") -> list[tuple[Any, ...]]:
        if self.format == "hudi":
            return hudi(self.folder / "t", columns)
        rows = self.read()  # noqa: F841 - duckdb finds the variable by its name
        return duckdb.sql(f"SELECT {columns} FROM rows ORDER BY ALL").fetchall()


@pytest.fixture
def lake(request: pytest.FixtureRequest, tmp_path: Path, spark: SparkSession) -> Iterator[ScriptLake]:
    """A table of the format that the test names; the table does not exist yet."""
    lake = ScriptLake(request.param, str(tmp_path), {})
    yield lake
    with suppress(NoSuchTableError):
        lake.catalog().drop_table("db.t")


def in_formats(*formats: Any) -> Any:
    """Return the mark by which a test runs once for each format."""
    return pytest.mark.parametrize("lake", formats, indirect=True)


@in_formats("iceberg")
def test_rows_are_appended_to_iceberg_in_partitions(lake: ScriptLake) -> None:
    schema = "id INT, name STRING, born INT"
    for content in (PEOPLE, LATER):
        outcome = lake.run("csv_to_iceberg.py", content, schema=schema, partition_by="born")

    assert outcome["rows"] == 2
    assert lake.rows("id") == [(1,), (2,), (3,), (3,), (4,)]
    assert lake.versions() == 2


@in_formats("delta")
def test_rows_replace_rows_with_the_same_key_in_delta(lake: ScriptLake) -> None:
    for content in (PEOPLE, LATER):
        lake.run("csv_upsert.py", content)

    assert lake.rows() == [
        ("1", "Ada", "1815"),
        ("2", "Émilie", "1706"),
        ("3", "Grace", "1906"),
        ("4", "Alan", "1912"),
    ]


@pytest.mark.nightly
@pytest.mark.hudi
@in_formats("hudi")
def test_the_metadata_table_of_hudi_is_kept_if_it_exists(lake: ScriptLake) -> None:
    """Sparklet creates none for a new table, as it would take half the time of a small commit; others can create it."""
    defaults = Path(__file__).with_name("hudi_defaults.py")

    def put_by_default(content: str) -> str:
        (lake.folder / "in.csv").write_text(content)
        return lake.call(defaults, "--input", lake.folder / "in.csv", "--output", lake.folder / "t")

    lake.run("csv_upsert.py", PEOPLE)
    assert not (lake.folder / "t" / ".hoodie" / "metadata").exists()
    lake.run("csv_upsert.py", LATER)
    assert lake.select("id, name") == [("1", "Ada"), ("2", "Émilie"), ("3", "Grace"), ("4", "Alan")]
    assert put_by_default(LATER) == "4\n"
    lake.run("csv_upsert.py", "id,name,born\n5,Edsger,1930\n")
    assert put_by_default(LATER) == "5\n"  # the metadata table leads to every row


@pytest.mark.parametrize(
    ("lake", "script", "mode"),
    [
        ("iceberg", "csv_to_iceberg.py", "append"),
        ("delta", "csv_upsert.py", "upsert"),
        ("hudi", "csv_upsert.py", "upsert"),
    ],
    indirect=["lake"],
)
def test_in_a_run_a_script_only_declares_its_writes(lake: ScriptLake, script: str, mode: str) -> None:
    (lake.folder / "in.csv").write_text(PEOPLE)
    shard = {"run": "run-1", "shard": 0, "attempt": "a1", "generation": 0, "identity": "run-1_1"}
    event = {"sparklet": shard, "inputs": [f"file://{lake.folder}/in.csv"], "output_path": f"{lake.folder}/out"}
    outcome = lake.run(script, event=event)

    assert [(write["mode"], len(write["files"]) > 0) for write in outcome["writes"]] == [(mode, True)]
    assert not (lake.folder / "t" / "_delta_log").exists() and not (lake.folder / "t" / ".hoodie").exists()


@in_formats("delta")
def test_the_newest_of_duplicate_rows_is_kept(lake: ScriptLake) -> None:
    days = pa.table({"id": [1, 1, 2, 1, 2], "name": ["a", "b", "c", "d", "c"], "changed_at": [1, 3, 2, 2, 2]})
    for name, rows in (("1.parquet", days), ("2.parquet", days.slice(1, 2))):
        pq.write_table(rows, lake.folder / name)
    outcome = lake.run("deduplicate.py", lake.folder / "*.parquet", order_by="changed_at")

    assert lake.rows() == [(1, "b", 3), (2, "c", 2)] and outcome["rows"] == 2


@in_formats("iceberg")
def test_a_new_column_is_added_to_the_table_with_its_rows(lake: ScriptLake) -> None:
    for content in ("id,name\n1,Ada\n", "id,born\n2,1706-12-17\n"):
        lake.run("evolve_schema.py", content, schema="id INT, born DATE")

    assert lake.rows("id", "name", "born") == [(1, "Ada", None), (2, None, date(1706, 12, 17))]


@in_formats("delta", pytest.param("iceberg", marks=pytest.mark.nightly))
def test_each_change_closes_the_row_before_it(lake: ScriptLake) -> None:
    header, schema = "id,city,changed_at\n", "id INT, city STRING, changed_at TIMESTAMP"
    first = f"{header}1,Oslo,2020-01-01 00:00:00\n2,Rome,2020-01-01 00:00:00\n1,Bergen,2021-01-01 00:00:00\n"
    late = f"{header}1,Bodø,2020-06-01 00:00:00\n2,Rome,2022-01-01 00:00:00\n"
    for content in (first, first, late):
        lake.run("slowly_changing.py", content, schema=schema)

    columns = "id, city, strftime(valid_from, '%Y-%m'), strftime(valid_to, '%Y-%m'), is_current"
    assert lake.select(columns) == [
        (1, "Bergen", "2021-01", None, True),
        (1, "Bodø", "2020-06", "2021-01", False),
        (1, "Oslo", "2020-01", "2020-06", False),
        (2, "Rome", "2020-01", None, True),
    ]


@in_formats("delta", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("iceberg", "hudi")))
def test_small_files_are_compacted_and_old_versions_kept(lake: ScriptLake) -> None:
    people = pa.table({"id": [1, 2, 3], "name": ["Ada", "Émilie", "Grace"]})
    for add in (lake.create, lake.append, lake.append):
        if lake.format == "hudi":  # only Spark writes Hudi tables
            lake.run("csv_to_iceberg.py", PEOPLE)
        else:
            add(people)
    table, rows = str(lake.table), lake.select("id, name")
    before = lake.run("file_sizes.py")["answer"][table]

    fewer = lake.run("compact_tables.py")["answer"]
    after = lake.run("file_sizes.py")["answer"][table]
    kept = lake.run("expire_snapshots.py")["answer"]

    assert (before["files"], before["small_files"], after["files"]) == (3, 3, 1)
    assert after["bytes"] == after["largest_bytes"] == after["median_bytes"] > 0
    assert fewer == {table: 2} and kept == {table: 0}
    if lake.format == "hudi":  # replaced files still exist, but do not belong to the last version
        newest = max((lake.folder / "t").glob("*.parquet"), key=lambda file: file.stem.rsplit("_", 1)[-1])
        rows_after = duckdb.execute("SELECT id, name FROM read_parquet(?) ORDER BY ALL", [str(newest)]).fetchall()
    else:
        rows_after = lake.select("id, name")
    assert rows_after == rows and len(rows) == 9
