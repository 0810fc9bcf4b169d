"""The scripts of docs/guide/migrate.md and of the README run, and pairs of lines do the same."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sparklet.events import parse_event
from sparklet.events.sqs import joined
from sparklet.pytest_plugin import SparkletJob
from tests.functional.job.conftest import end_jvm
from tests.functional.job.warm_jvm import WarmJvm
from tests.unit.events import samples

pytestmark = [pytest.mark.spark, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guide" / "migrate.md").read_text()
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SALES = "shop,amount\nnorth,11\nsouth,0\n"
BEFORE = "import argparse\nfrom pyspark.sql import SparkSession\n"  # what the left column leaves out


@pytest.fixture(scope="module", autouse=True)
def no_jvm_afterwards() -> Iterator[None]:
    yield
    end_jvm()


def written(tmp_path: Path, text: str) -> Path:
    script = tmp_path / "script.py"
    script.write_text(text)
    return script


def of(origin: str) -> str:
    [script] = [each for each in SCRIPTS if origin in each]
    return script


@pytest.mark.nightly
def test_the_readmes_script_counts_while_it_writes(sparklet_job: SparkletJob, tmp_path: Path) -> None:
    [text] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    job = sparklet_job(written(tmp_path, text), {"a.csv": SALES, "b.csv": "shop,amount\neast,1\n"})

    assert (job.rows, len(job.output())) == (3, 3)


def test_a_script_of_spark_on_aws_lambda_runs_unchanged(sparklet_job: SparkletJob, tmp_path: Path) -> None:
    place = {"INPUT_PATH": str(tmp_path / "in.csv"), "OUTPUT_PATH": str(tmp_path / "out")}
    (tmp_path / "in.csv").write_text(SALES)

    sparklet_job(written(tmp_path, of("INPUT_PATH")), event={}, env=place)

    assert rows_in(tmp_path / "out") == [("north", "11"), ("south", "0")]


def test_a_script_that_loops_over_records_gets_them_all(sparklet_job: SparkletJob, tmp_path: Path) -> None:
    """As spark-on-aws-lambda's script for Kinesis does."""
    place, bodies = {"OUTPUT_PATH": str(tmp_path / "out")}, [f'{{"shop": "{shop}", "amount": 1}}' for shop in "abc"]
    records = [samples.kinesis(str(n), base64.b64encode(body.encode()).decode()) for n, body in enumerate(bodies)]
    messages = [samples.sqs(str(n), body) for n, body in enumerate(bodies)]
    script = written(tmp_path, of('event["Records"]'))

    sparklet_job(script, event={"Records": records}, env=place)
    (task,) = joined(parse_event({"Records": messages}))
    sparklet_job(script, event=task.event, env=place)

    assert rows_in(tmp_path / "out") == [(1, shop) for shop in "aabbcc"]


def test_a_script_of_glue_runs_unchanged(sparklet_job: SparkletJob, tmp_path: Path) -> None:
    job = sparklet_job(written(tmp_path, of("awsglue")), {"a.csv": SALES})

    assert sorted(row["shop"] for row in job.output()) == ["north", "south"]


def test_each_line_of_a_script_of_emr_does_what_its_pair_does(jvm: WarmJvm, tmp_path: Path) -> None:
    table = PAGE.partition("| a script there | here |\n|---|---|\n")[2].partition("\n\n")[0]
    pairs = [re.fullmatch(r"\| `(.+?)` \| (?:`(.+?)`|–) \|", row) for row in table.splitlines()]
    (tmp_path / "in.csv").write_text(SALES)

    assert len(pairs) == 8 and None not in pairs
    for number in (1, 2):
        lines = [pair[number] for pair in pairs if pair and pair[number]]
        script = written(tmp_path, (BEFORE if number == 1 else "") + "\n".join(lines))
        output = tmp_path / f"out{number}"
        done = jvm.run(str(script), "--input", tmp_path / "in.csv", "--output", output)
        assert done.returncode == 0, done.stderr
        assert rows_in(output) == [("north", "11")]


def rows_in(folder: Path) -> list[tuple[Any, ...]]:
    return duckdb.execute("FROM read_parquet(?) ORDER BY ALL", [f"{folder}/*.parquet"]).fetchall()
