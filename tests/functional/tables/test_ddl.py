"""The statements of `sparklet ddl` create a table with every row of the output in Spark with a Hive metastore."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparklet.app.opening import ddl
from tests.functional.job.conftest import session_here
from tests.world import World

pytestmark = [pytest.mark.spark, pytest.mark.slow]
OUT = "s3://data/out/"
HIVE = {
    "spark.sql.catalogImplementation": "hive",
    "spark.hadoop.javax.jdo.option.ConnectionURL": "jdbc:derby:memory:ddl;create=true",
    # With these, Spark reads files in folders below a table, as Athena does.
    "spark.hive.mapred.supports.subdirectories": "true",
    "spark.hadoop.mapreduce.input.fileinputformat.input.dir.recursive": "true",
    "spark.master": "local[2]",
}


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("hive")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # Derby writes its log to the working directory
        conf = {**HIVE, "spark.sql.warehouse.dir": str(folder / "warehouse")}
        with session_here("ddl", conf, {}) as session:
            yield session


@pytest.mark.parametrize(("by", "price"), [((), "DOUBLE"), (("day", "kind"), "DECIMAL(9, 2)")])
def test_the_table_has_every_row_of_the_output(
    spark: SparkSession, tmp_path: Path, by: Sequence[str], price: str
) -> None:
    # Spark's reader treats `shard=` as a column, which the table of one folder lacks; Hive's cannot read such decimals.
    spark.conf.set("spark.sql.hive.convertMetastoreParquet", str(bool(by)).lower())
    world = World()
    run = world.run(2)
    for number in range(2):
        rows = spark.range(number, 40, 2).selectExpr(
            "id AS Id",
            f"cast(id / 4 AS {price}) AS price",
            "if(id % 3 = 0, NULL, concat('it''s ', id % 3, '/\\\\%')) AS day",
            "id % 2 = 0 AS kind",
            "array(named_struct('n', id)) AS inner",
        )
        rows.write.partitionBy(*by).parquet(f"{tmp_path}/{run.shard_output(number).removeprefix(OUT)}")
    for path in tmp_path.rglob("*.parquet"):
        world.store.put(f"{OUT}{path.relative_to(tmp_path)}", path.read_bytes())
    world.work()
    world.check()

    (table,) = ddl(world.deployment, world.ledger.runs.get(run.run_id), f"t{len(by)}")
    for statement in table["statements"]:
        spark.sql(statement.replace(OUT, f"file://{tmp_path}/"))

    written = spark.read.parquet(str(tmp_path))
    columns = "id", "price", "day", "cast(kind AS string)", "inner"
    read = spark.table(f"t{len(by)}").selectExpr(*columns)
    assert read.count() == 40
    assert read.exceptAll(written.selectExpr(*columns)).count() == 0
