"""Entries of Delta and Iceberg are read through their own formats."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparklet.data_catalog.glue import GlueCatalog
from sparklet.job import Job
from tests.functional.job.conftest import session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.stand_ins.glue import MemoryGlue, table_input

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    warehouse = tmp_path_factory.mktemp("warehouse")
    conf = {
        "spark.master": "local[2]",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",  # of 50, for a table of three rows
        "spark.sql.catalog.made": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.made.type": "hadoop",
        "spark.sql.catalog.made.warehouse": str(warehouse),
    }
    with session_here("formats", conf, {}, jvm_here) as session:
        yield session


@pytest.mark.parametrize("format_", ["delta", "iceberg"])
def test_rows_and_conditions_are_those_of_the_format(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    frame = spark.createDataFrame([(1, "a"), (2, "b"), (3, "b")], "id INT, day STRING")
    parameters = {"table_type": format_.upper()}
    if format_ == "delta":
        frame.write.format("delta").partitionBy("day").save(str(tmp_path))
        place = f"file://{tmp_path}"
    else:
        frame.writeTo("made.db.t").partitionedBy(frame.day).create()
        place = spark.conf.get("spark.sql.catalog.made.warehouse") or ""
        (metadata,) = Path(place, "db/t/metadata").glob("*.metadata.json")
        parameters["metadata_location"] = f"file://{metadata}"
    glue = MemoryGlue(table_input("t", place, Parameters=parameters))
    monkeypatch.setattr(GlueCatalog, "of_script", classmethod(lambda cls: glue.catalog))

    assert sorted(row.id for row in Job().table("db.t").collect()) == [1, 2, 3]
    assert sorted(row.id for row in Job().table("db.t", "day = 'b' AND id > 2").collect()) == [3]
