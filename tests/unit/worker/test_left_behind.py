"""Spark's output in a task's own folder, which is deleted: how it is found, and when the shard fails for it."""

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
        # files that Spark itself needs
        ("outcome.json tmp1/x.csv spark-0f3a/part-0 blockmgr-1/00/part-0 hadoop/s3a/part-0", []),
        ("ckpt/8d1c/rdd-3/part-00000 metastore_db/seg0/part-1 cache/_temporary/part-0 stream/offsets/0", []),
    ],
)
def test_only_tables_and_output_folders_are_found_left_behind(tmp_path: Path, names: str, found: list[str]) -> None:
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert left_behind_names(tmp_path) == found


def test_a_deleted_folder_or_empty_database_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "spark-warehouse").touch()
    (tmp_path / "closed.db").mkdir()

    assert left_behind_names(tmp_path) == left_behind_names(tmp_path / "gone") == []


def test_acts_are_read_from_every_complete_line(tmp_path: Path) -> None:
    """The last line may be cut off, if the disk was full; an address may have any character."""
    places = ["b/a\n1", "b/ä\u2028"]
    written = (json.dumps({"seen": "written", "place": place}) for place in places)
    lines = ['{"seen": "input"}', *written, '{"seen": "na']
    (tmp_path / "seen").write_text("\n".join(lines), encoding="utf-8")

    acts = Acts.read(tmp_path / "seen", Script(b""))

    assert (acts.has("input"), acts.has("named"), acts.places("written")) == (True, False, places)


def acts_of(text: str, *marks: str, **places: str) -> Acts:
    """The acts of a task that ran this script: ``marks`` have no places, ``places`` do."""
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
        ("sc.textFile('out/days').collect()\n", "", "", False),  # such a read is not observed
        ("pandas.read_parquet('out/days')\n", "", "", False),
        ("", "", "elsewhere", False),
        ("frame.write.jdbc(url, 'sales')\n", "", "", False),
    ],
)
def test_left_behind_work_is_lost_if_nothing_read_or_copied_it(
    tmp_path: Path, more: str, read: str, marks: str, lost: bool
) -> None:
    places = {"read": " ".join(f"{tmp_path}/{each}" for each in read.split())} if read else {}
    acts = acts_of(f"import os\n{SAVED}{more}", *marks.split(), **places)

    what, is_lost = left_behind_message(["out/days"], acts, tmp_path)

    assert is_lost is lost
    assert "wrote out/days (line 2) into the task's own folder" in what and "{output}" in what


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("out.parquet", "import os\nframe.write.format('parquet').save('out.parquet')\n", "out.parquet (line 2) into"),
        ("shop.people", "frame.write.saveAsTable('people')\n", "shop.people (line 1) into"),
        ("shop.people", "save(name)\n", "shop.people into"),  # a name that the script makes has no line
        ("shop.people", "def (\n", "shop.people into"),
    ],
)
def test_a_left_behind_folder_is_reported_with_its_line_of_code(
    tmp_path: Path, name: str, source: str, expected: str
) -> None:
    """The suffix of a folder's name is not treated as its format."""
    what, is_lost = left_behind_message([name], acts_of(source), tmp_path)

    assert is_lost and what.startswith(f"the script wrote {expected}")


@pytest.mark.parametrize("name", ["people", "shop.people"])
def test_a_warehouse_table_that_was_read_is_not_lost(tmp_path: Path, name: str) -> None:
    place = {"people": "people", "shop.people": "shop.db/people"}[name]
    acts = acts_of("", read=f"{tmp_path}/spark-warehouse/{place}")

    _, is_lost = left_behind_message([name], acts, tmp_path)

    assert not is_lost


@pytest.mark.parametrize(
    ("marks", "text", "has_asked", "expected"),
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
def test_a_script_that_writes_the_same_in_every_shard_is_refused(
    tmp_path: Path, marks: str, text: str, has_asked: bool, expected: str
) -> None:
    why, was_seen = repetition_message(acts_of(text, *marks.split()), has_read_event=has_asked)

    assert ("refused" if was_seen else "warned" if why else "") == expected


def test_read_arguments_count_only_if_they_name_the_shard(tmp_path: Path) -> None:
    acts = acts_of("", "arguments")

    assert [acts.has_read_event_or_output(in_arguments=each) for each in (True, False)] == [True, False]
    acts = acts_of("", "asked-output")
    assert acts.has_read_event_or_output(in_arguments=False) and not acts.has_read_event(in_arguments=False)


def test_changed_addresses_tell_whether_each_was_replaced(tmp_path: Path) -> None:
    acts = acts_of("", written="b/one b/two", deleted="b/two b/three")

    assert changed_addresses(acts) == {"b/one": False, "b/two": True, "b/three": True}


def test_a_streams_checkpoint_outside_the_task_is_reported(tmp_path: Path) -> None:
    """A failed attempt advances such a checkpoint, although its output is deleted."""
    places = "b/points/offsets b/points/commits b/points"

    assert checkpoint_message(acts_of("", written=places)) == ""  # the stream writes to another sink
    assert "s3://b/points," in checkpoint_message(acts_of("", "output", written=places))


def test_reading_another_shards_input_by_name_is_reported(tmp_path: Path) -> None:
    """Every shard would write the rows of such an input; objects that are no inputs may be read by all shards."""
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
def test_a_script_that_only_reads_and_computes_writes_nothing(tmp_path: Path, more: str) -> None:
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
def test_a_script_that_may_write_to_other_systems_is_recognized(tmp_path: Path, more: str, words: str) -> None:
    (helper := tmp_path / "helper.py").touch()

    assert Script(f"{READS}{more}\n".encode(), (helper,)).may_write_unobserved(words)
