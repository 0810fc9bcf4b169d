"""What Spark wrote into a task's own folder, and what is said of it."""

from pathlib import Path

import pytest

from sparklet.worker.left_behind import left_behind, told

SAVED = "spark.range(3).write.parquet('out/days')\n"


def written(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_tables_and_folders_of_spark_are_found(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        *("spark-warehouse/shop.db/people/part-0.parquet", "spark-warehouse/days/part-0.parquet"),
        *("out/days/_SUCCESS", "lake/t/_delta_log/0.json", "plain/part-00000"),
    )

    assert left_behind(folder) == ["days", "shop.people", "lake/t", "out/days", "plain"]


def test_what_spark_itself_needs_there_is_not(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        *("outcome.json", "tmp1/x.csv", "spark-0f3a/part-0", "blockmgr-1/00/part-0", "hadoop/s3a/part-0"),
        *("ckpt/8d1c/rdd-3/part-00000", "metastore_db/seg0/part-1", "cache/_temporary/part-0", "stream/offsets/0"),
    )

    assert left_behind(folder) == []


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


def test_a_folder_with_a_suffix_is_not_taken_for_its_format() -> None:
    source = "import os\nframe.write.format('parquet').save('out.parquet')\n"

    what, is_lost = told(["out.parquet"], source)

    assert is_lost and "wrote out.parquet (line 2)" in what
    assert told(["shop.people"], "frame.write.saveAsTable('people')\n")[0].startswith(
        "the script wrote shop.people (line 1)"
    )


def test_a_name_that_the_script_makes_has_no_line() -> None:
    assert told(["shop.people"], "save(name)\n")[0].startswith("the script wrote shop.people into")
    assert told(["shop.people"], "def (\n")[1]
