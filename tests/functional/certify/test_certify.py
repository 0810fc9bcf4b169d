"""Scripts on Spark 3.5 and 4.1, in one stack a side: what is equal, what differs, what cannot be compared."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sparklet.certify.certificate import Certificate, certify
from sparklet.cli.console import Screen

OTHER = Path(sys.prefix).parent / ".venv-spark-4.1"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.stack,
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        Path(sys.prefix).name != ".venv" or not OTHER.exists(), reason="needs make venv STACK=spark-4.1, from .venv"
    ),
]

BEGIN = """
from pyspark.sql import functions as F
from sparklet.job import Job
job = Job.from_args()
table = job.spark().read.csv(job.input_list(), header=True)
"""
SAME = 'table.write.partitionBy("kind").parquet(job.output)\njob.answer({"rows": table.count()})\n'
KNOWN = 'table.select("id", (F.col("id") + 1).alias("next")).write.parquet(job.output)\n'
DECLARED = 'job.append(table, "delta:{folder}/table", label="people")\n'
SCRIPTS = {"same": SAME, "known": KNOWN, "declared": DECLARED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certified")


@pytest.fixture(scope="module")
def certified(folder: Path) -> Mapping[str, Certificate]:
    (folder / "in").mkdir()
    for name in "ab":
        (folder / "in" / f"{name}.csv").write_text("id,kind\n1,x\n2,y\n2,y\n")
    requests = []
    for name, code in SCRIPTS.items():
        script = folder / f"{name}.py"
        script.write_text(BEGIN + code.format(folder=folder) if name == "declared" else BEGIN + code)
        requests.append({"script": str(script), "inputs": [str(folder / "in")], "max_objects": 1})
    found = certify(requests, "spark-4.1", Screen(as_json=True), workers=1)
    return {Path(each.script).stem: each for each in found}


def test_folders_rows_and_answers_are_equal(certified: Mapping[str, Certificate]) -> None:
    same = certified["same"]

    assert (same.verdict, same.differences, same.not_comparable) == ("equal", (), ())
    assert [side["version"][:9] for side in same.sides] == ["Spark 3.5", "Spark 4.1"]
    assert all(side["seconds"] > 0 and side["memory_mb"] > 0 and side["cost_usd"] > 0 for side in same.sides)


def test_a_known_difference_is_found_in_each_shard(certified: Mapping[str, Certificate]) -> None:
    known = certified["known"]

    assert known.verdict == "different"
    assert [(each.kind, each.place, each.column, each.first, each.second) for each in known.differences] == [
        ("type", f"shard {number}, output", "next", "double", "bigint") for number in (0, 1)
    ]


def test_a_declared_write_is_compared_and_never_made(certified: Mapping[str, Certificate], folder: Path) -> None:
    assert certified["declared"].verdict == "equal"
    assert not (folder / "table" / "_delta_log").exists()
    assert not [*(folder / "table").rglob("*.parquet")]
