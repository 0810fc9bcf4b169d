"""What Spark wrote into a task's own folder, and what is said of it."""

import json
from pathlib import Path

import pytest

from sparklet.spark.script import Script
from sparklet.worker.left_behind import (
    Acts,
    changed_addresses,
    checkpoint_message,
    left_behind_message,
    left_behind_names,
    read_by_name_message,
    repetition_message,
)

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

    assert left_behind_names(tmp_path) == found


def test_a_folder_that_the_script_has_deleted_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "spark-warehouse").touch()
    (tmp_path / "closed.db").mkdir()

    assert left_behind_names(tmp_path) == left_behind_names(tmp_path / "gone") == []


def test_each_line_of_what_was_seen_counts(tmp_path: Path) -> None:
    """A line may be cut off, where there was no room; an address may have any character."""
    places = ["b/a\n1", "b/ä\u2028"]
    written = (json.dumps({"seen": "written", "place": place}) for place in places)
    lines = ['{"seen": "input"}', *written, '{"seen": "na']
    (tmp_path / "seen").write_text("\n".join(lines), encoding="utf-8")

    acts = Acts.read(tmp_path / "seen", Script(b""))

    assert (acts.has("input"), acts.has("named"), acts.places("written")) == (True, False, places)


def acts_of(text: str, *marks: str, **places: str) -> Acts:
    """Acts of a task: marks without and with places."""
    seen = {mark: places.get(mark, "").split() for mark in (*marks, *places)}
    return Acts(seen, Script(text.encode()))


@pytest.mark.parametrize(
    ("more", "read", "marks", "lost"),
    [
        ("", "", "", True),
        ("print('wrote out/days')\n", "", "", True),
        ("", "out/days", "", False),  # by Spark
        ("", "out/days/part-0.parquet", "", False),  # by Python
        ("", "out/days2 out/day", "", True),
        ("sc.textFile('out/days').collect()\n", "", "", False),  # nobody sees that
        ("pandas.read_parquet('out/days')\n", "", "", False),
        ("", "", "elsewhere", False),
        ("frame.write.jdbc(url, 'sales')\n", "", "", False),
    ],
)
def test_work_is_lost_that_is_neither_read_nor_written_elsewhere(
    tmp_path: Path, more: str, read: str, marks: str, lost: bool
) -> None:
    places = {"read": " ".join(f"{tmp_path}/{each}" for each in read.split())} if read else {}
    acts = acts_of(f"import os\n{SAVED}{more}", *marks.split(), **places)

    what, is_lost = left_behind_message(["out/days"], acts, tmp_path)

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
def test_a_name_has_its_line_where_the_script_says_it(tmp_path: Path, name: str, source: str, said: str) -> None:
    """A folder's suffix is not taken for its format."""
    what, is_lost = left_behind_message([name], acts_of(source), tmp_path)

    assert is_lost and what.startswith(f"the script wrote {said}")


@pytest.mark.parametrize("name", ["people", "shop.people"])
def test_a_table_that_is_read_in_the_warehouse_is_not_lost(tmp_path: Path, name: str) -> None:
    place = {"people": "people", "shop.people": "shop.db/people"}[name]
    acts = acts_of("", read=f"{tmp_path}/spark-warehouse/{place}")

    _, is_lost = left_behind_message([name], acts, tmp_path)

    assert not is_lost


@pytest.mark.parametrize(
    ("marks", "text", "asked", "what"),
    [
        ("written", "", False, "refused"),
        ("written deleted", "", False, "refused"),
        ("written", "", True, ""),
        ("written input", "", False, ""),
        ("written part", "", False, ""),
        ("written output", "", False, "warned"),  # as many times as there are shards
        ("output", "", False, "warned"),
        ("output input", "", False, ""),
        ("output", "", True, ""),
        ("written", "# by jdbc, mongo://x", False, "refused"),
        ("written elsewhere", "", False, "warned"),  # it may have read its inputs by boto3
        ("elsewhere", "", False, "warned"),  # a post, or a database, as often as there are shards
        ("written", "rows.foreach(send)", False, "warned"),
        ("", "", False, ""),
    ],
)
def test_a_script_repeats_work_if_that_was_seen(tmp_path: Path, marks: str, text: str, asked: bool, what: str) -> None:
    why, was_seen = repetition_message(acts_of(text, *marks.split()), has_read_event=asked)

    assert ("refused" if was_seen else "warned" if why else "") == what


def test_arguments_count_if_they_have_something_of_the_shard(tmp_path: Path) -> None:
    acts = acts_of("", "arguments")

    assert [acts.has_read_event_or_output(in_arguments=each) for each in (True, False)] == [True, False]
    acts = acts_of("", "asked-output")
    assert acts.has_read_event_or_output(in_arguments=False) and not acts.has_read_event(in_arguments=False)


def test_addresses_of_its_own_are_written_or_replaced(tmp_path: Path) -> None:
    acts = acts_of("", written="b/one b/two", deleted="b/two b/three")

    assert changed_addresses(acts) == {"b/one": False, "b/two": True, "b/three": True}


def test_a_streams_checkpoint_elsewhere_is_told(tmp_path: Path) -> None:
    """A failed attempt has moved it on, and its output is gone."""
    places = "b/points/offsets b/points/commits b/points"

    assert checkpoint_message(acts_of("", written=places)) == ""  # of another sink
    assert "s3://b/points," in checkpoint_message(acts_of("", "output", written=places))


def test_an_input_of_another_shard_read_by_its_name_is_told(tmp_path: Path) -> None:
    """Each shard that reads it writes its rows; what the run leaves out is for all to look things up in."""
    assert read_by_name_message(acts_of(""), lambda _: True) == ""
    acts = acts_of("", named="b/in/dim.csv b/in/f2.csv")
    assert read_by_name_message(acts, lambda _: False) == ""
    assert "s3://b/in/f2.csv by its name" in read_by_name_message(acts, lambda uri: "dim" not in uri)


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
        "print('{}'.format('x'))",
        "SparkSession.builder.master('spark://master:7077').getOrCreate()",
        "spark._jvm.org.apache.log4j.LogManager.getLogger('x').info('y')",
        "frame.count()  # not by jdbc, nor to kafka",
    ],
)
def test_what_only_reads_and_computes_writes_nothing(tmp_path: Path, more: str) -> None:
    (helper := tmp_path / "helper.py").touch()

    assert not Script(f"{READS}{more}\n".encode(), (helper,)).may_write_unobserved('{"day": "1"}')


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
def test_who_may_have_written_unseen_is_not_accused(tmp_path: Path, more: str, words: str) -> None:
    (helper := tmp_path / "helper.py").touch()

    assert Script(f"{READS}{more}\n".encode(), (helper,)).may_write_unobserved(words)
