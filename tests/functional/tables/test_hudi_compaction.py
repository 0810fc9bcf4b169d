"""Every tenth commit compacts the metadata table of a Hudi table first; also a process may that has just started."""

import os
from pathlib import Path

import duckdb
import pytest

from tests.functional.job.warm_jvm import SCRIPTS, WarmJvm, run_script

pytestmark = [pytest.mark.spark, pytest.mark.slow]

MADE_BY = 3  # commits to the metadata table so far: two that make it, and the one after them


def compactions(table: Path) -> int:
    return len(list((table / ".hoodie" / "metadata" / ".hoodie" / "timeline").glob("*.commit")))


def test_a_fresh_process_compacts_the_metadata_table_and_commits(
    table_jvm: WarmJvm, jars: list[Path], tmp_path: Path
) -> None:
    table, first, later = tmp_path / "table", tmp_path / "first.csv", tmp_path / "later.csv"
    first.write_text("id,name,born\n1,Ada,1815\n2,Grace,1906\n")
    later.write_text("id,name,born\n3,Alan,1912\n")
    made = table_jvm.run(str(Path(__file__).with_name("hudi_defaults.py")), "--input", first, "--output", table)
    assert made.returncode == 0, made.stderr
    assert compactions(table) == 0
    (tmp_path / "hudi-defaults.conf").write_text(f"hoodie.metadata.compact.max.delta.commits={MADE_BY}\n")

    env = {"SPARKLET_JARS": os.pathsep.join(map(str, jars)), "HUDI_CONF_DIR": str(tmp_path)}
    done = run_script(SCRIPTS / "csv_upsert.py", ["--input", later, "--table", f"hudi:{table}"], env)

    assert done.returncode == 0, done.stderr
    assert compactions(table) == 1
    newest = max(table.glob("*.parquet"), key=lambda file: file.stem.rsplit("_", 1)[-1])
    names = duckdb.execute("SELECT name FROM read_parquet(?) ORDER BY id", [str(newest)]).fetchall()
    assert names == [("Ada",), ("Grace",), ("Alan",)]
