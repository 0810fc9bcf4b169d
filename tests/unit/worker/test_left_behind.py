"""What Spark wrote into a task's own folder, and what is said of it."""

from pathlib import Path

import pytest

from sparklet.worker.left_behind import left_behind, may_write_unseen, told

SAVED = "spark.range(3).write.parquet('out/days')\n"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            "spark-warehouse/shop.db/people/part-0.parquet spark-warehouse/days/part-0.parquet"
            " out/days/_SUCCESS lake/t/_delta_log/0.json plain/part-00000",
            ["days", "shop.people", "lake/t", "out/days", "plain"],
        ),
        # what Spark itself needs there
        ("outcome.json tmp1/x.csv spark-0f3a/part-0 blockmgr-1/00/part-0 hadoop/s3a/part-0", []),
        ("ckpt/8d1c/rdd-3/part-00000 metastore_db/seg0/part-1 cache/_temporary/part-0 stream/offsets/0", []),
    ],
)
def test_only_tables_and_folders_of_spark_are_found(tmp_path: Path, names: str, found: list[str]) -> None:
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert left_behind(tmp_path) == found


def test_a_folder_that_the_script_has_deleted_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "spark-warehouse").touch()
    (tmp_path / "closed.db").mkdir()

    assert left_behind(tmp_path) == left_behind(tmp_path / "gone") == []


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        ("", True),
        ("print('days are saved')\n", False),  # perhaps it reads them
        ("spark.read.parquet('out/days').show()\n", False),
        ("print('holidays')\n", True),
        ("import boto3\n", False),
        ("frame.write.jdbc(url, 'sales')\n", False),
    ],
)
def test_work_is_lost_that_is_neither_read_nor_written_elsewhere(more: str, lost: bool) -> None:
    what, is_lost = told(["out/days"], f"import os\n{SAVED}{more}")

    assert is_lost is lost
    assert "wrote out/days (line 2) into the task's own folder" in what and "{output}" in what


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("out.parquet", "import os\nframe.write.format('parquet').save('out.parquet')\n", "out.parquet (line 2) into"),
        ("shop.people", "frame.write.saveAsTable('people')\n", "shop.people (line 1) into"),
        ("shop.people", "save(name)\n", "shop.people into"),  # a name that the script makes has no line
        ("shop.people", "def (\n", "shop.people into"),
    ],
)
def test_a_name_has_its_line_where_the_script_says_it(name: str, source: str, said: str) -> None:
    """A folder's suffix is not taken for its format."""
    what, is_lost = told([name], source)

    assert is_lost and what.startswith(f"the script wrote {said}")


READS = "from pyspark.sql import SparkSession\nframe = SparkSession.builder.getOrCreate().read.csv('x')\n"


@pytest.mark.parametrize(
    "more",
    [
        "print(frame.count())",
        "frame.write.mode('overwrite')",  # nothing is saved
        "frame.write.format('noop').mode('overwrite').save()",
        "frame.filter('price > 3').write.parquet(target) if frame.count() else None",
        "import os, sys, json\nopen('report.json', 'w').write(json.dumps(frame.count()))",
        "frame.toPandas().to_csv('report.csv')",
        "spark.read.csv('s3://in/x.csv').count()",
        "from helper import total\nprint(total(frame))",
        '"""Import the days, and see https://spark.apache.org."""',
        "print('created tables from {}'.format(frame))",
    ],
)
def test_what_only_reads_and_computes_writes_nothing(more: str) -> None:
    assert not may_write_unseen(f"{READS}{more}\n", '{"day": "1"}', ["helper"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("import requests", ""),
        ("import os, httpx.auth as auth", ""),
        ("def main():\n    from google.cloud import storage", ""),
        ("import boto3", ""),
        ("import subprocess", ""),
        ("from urllib.request import urlopen", ""),
        ("os.system('aws s3 cp x s3://b/')", ""),
        ("frame.foreachPartition(send)", ""),
        ("frame.write.format('redshift').save()", ""),
        ('frame.write.format("bigquery").save()', ""),
        ("frame.writeTo('glue_catalog.db.t').append()", ""),
        ("spark.sql('INSERT  INTO glue_catalog.db.t SELECT 1')", ""),
        ('spark.sql("""create or replace table db.t AS SELECT 1""")', ""),
        ("spark.sql('UPDATE db.t SET x = 1')", ""),
        ("frame.write.parquet('gs://b/out')", ""),
        ("frame.write.parquet(target)", '["abfss://x@y/out"]'),
        ("frame.toPandas().to_csv('s3://b/x.csv')", ""),
        ("frame.toPandas().to_csv(target)", '["s3://b/x.csv"]'),
        ("spark._jvm.com.me.Send.all()", ""),
    ],
)
def test_who_may_have_written_unseen_is_not_accused(more: str, words: str) -> None:
    assert may_write_unseen(f"{READS}{more}\n", words, ["helper"])
