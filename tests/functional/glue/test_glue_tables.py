"""Tables in Glue's catalog, which Glue scripts and plain Spark read and write by name."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from tests.functional.glue.test_glue_scripts import BEGIN, each_printed
from tests.functional.worker.conftest import SPARK, Bench, local_jars, make
from tests.stand_ins.ministack import ministack

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

REGION = "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
HIVE = "org.apache.hadoop.hive.ql.io"
OF_PARQUET = {
    "InputFormat": f"{HIVE}.parquet.MapredParquetInputFormat",
    "OutputFormat": f"{HIVE}.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {"SerializationLibrary": f"{HIVE}.parquet.serde.ParquetHiveSerDe"},
}
OF_CSV = {
    "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
    "OutputFormat": f"{HIVE}.HiveIgnoreKeyTextOutputFormat",
    "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.serde2.OpenCSVSerde"},
}
OF_JSON = {**OF_CSV, "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"}}
COLUMNS = [{"Name": "id", "Type": "bigint"}, {"Name": "price", "Type": "double"}]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with the warm runner, and a stand-in for AWS with a bucket ``lake`` and a database ``db``."""
    scratch = tmp_path_factory.mktemp("scratch")
    with ministack(tmp_path_factory.mktemp("aws")) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        boto3.client("s3", region_name=REGION).create_bucket(Bucket="lake")
        boto3.client("glue", region_name=REGION).create_database(DatabaseInput={"Name": "db"})
        runner = make("warm", scratch, **local_jars(), AWS_ENDPOINT_URL=endpoint, AWS_REGION=REGION)
        yield Bench(runner, scratch)
        runner.close()


def create(name: str, stored: dict[str, Any], *keys: str) -> Any:
    """Create an entry in the catalog whose folder is empty; return a client of Glue."""
    glue = boto3.client("glue", region_name=REGION)
    storage = {"Columns": COLUMNS, "Location": f"s3://lake/{name}/", **stored}
    partitions = [{"Name": key, "Type": "string"} for key in keys]
    table = {"Name": name, "TableType": "EXTERNAL_TABLE", "StorageDescriptor": storage, "PartitionKeys": partitions}
    glue.create_table(DatabaseName="db", TableInput=table)
    return glue


WRITE = """
df = spark.createDataFrame([(1, 70.0, "a"), (2, 80.0, "b"), (3, 90.0, "b")], "id long, price double, day string")
frame = DynamicFrame.fromDF(df, glue, "frame")
glue.write_dynamic_frame.from_catalog(frame=frame, database="db", table_name="{name}", transformation_ctx="x")
"""


def test_a_parquet_table_is_written_and_read_by_its_name(bench: Bench) -> None:
    glue = create("sales", OF_PARQUET, "day")
    wrote = bench.run(BEGIN + WRITE.format(name="sales"))
    assert wrote.code == 0, wrote.text("stderr")
    for day in "ab":
        storage = {"Columns": COLUMNS, "Location": f"s3://lake/sales/day={day}/", **OF_PARQUET}
        partition = {"Values": [day], "StorageDescriptor": storage}
        glue.create_partition(DatabaseName="db", TableName="sales", PartitionInput=partition)

    read = "found = glue.create_dynamic_frame.from_catalog(database='db', table_name='sales'%s)\nshow(found)"
    whole = bench.run(BEGIN + read % "").printed()
    chosen = bench.run(BEGIN + read % ", push_down_predicate=\"(day == 'b')\"").printed()
    in_order = "found = glue.create_dynamic_frame_from_catalog(%s, 'sales', '', 'ctx', \"(day == 'b')\")\nshow(found)"
    ordered = bench.run(BEGIN + in_order % "'db'").printed()
    spaced = bench.run(BEGIN + (read % "").replace("database=", "name_space=")).printed()

    assert sorted(row["id"] for row in whole) == [1, 2, 3]
    assert sorted((row["id"], row["day"]) for row in chosen) == [(2, "b"), (3, "b")]
    assert (ordered, spaced) == (chosen, whole)


def test_a_table_that_cannot_be_written_is_refused_by_name(bench: Bench) -> None:
    create("texts", OF_CSV)

    ran = bench.run(BEGIN + WRITE.format(name="texts"))

    assert ran.code == 1
    assert "db.texts" in ran.result.cause and "from_options" in ran.result.cause


def test_a_filter_of_a_json_table_drops_rows_that_lack_the_key(bench: Bench) -> None:
    create("consents", OF_JSON)
    boto3.client("s3", region_name=REGION).put_object(
        Bucket="lake", Key="consents/a.json", Body=b'{"id": 1, "price": 5}\n{"id": 2}\n'
    )
    code = "found = glue.create_dynamic_frame.from_catalog('db', 'consents').filter(lambda row: row['price'] != 0)"

    assert bench.run(f"{BEGIN}{code}\nshow(found)").printed() == [{"id": 1, "price": 5.0}]


SINK = """
df = spark.createDataFrame({rows}, "{columns}")
sink = glue.getSink(path="s3://lake/{name}", connection_type="s3", updateBehavior="{behavior}",
    partitionKeys={keys}, enableUpdateCatalog=True, transformation_ctx="sink")
sink.setCatalogInfo(catalogDatabase="db", catalogTableName="{name}")
sink.setFormat("{kind}")
sink.writeFrame(DynamicFrame.fromDF(df, glue, "frame"))
"""
OLD = {"rows": [(1, "a/b", None)], "columns": "id long, Day string, Old double", "keys": ["Day"]}
NEW = {"rows": [(2, "c", "x"), (3, "c", None)], "columns": "id long, Day string, new string", "keys": ["Day"]}
UPDATE = "UPDATE_IN_DATABASE"


@pytest.mark.parametrize("kind", ["json", "glueparquet"])
def test_a_sink_creates_its_table_and_adds_rows_and_columns(bench: Bench, kind: str) -> None:
    name = f"made_{kind}"
    for part in (OLD, NEW, NEW):
        ran = bench.run(BEGIN + SINK.format(name=name, kind=kind, behavior=UPDATE, **part))
        assert ran.code == 0, ran.text("stderr")

    found = bench.run(f"{BEGIN}show(glue.create_dynamic_frame.from_catalog('db', '{name}'))").printed()
    assert sorted((row["id"], row["day"], row["old"], row["new"]) for row in found) == [
        (1, "a/b", None, None),
        *[(2, "c", None, "x")] * 2,
        *[(3, "c", None, None)] * 2,
    ]


def test_a_table_with_other_types_or_format_is_not_changed(bench: Bench) -> None:
    bench.run(BEGIN + SINK.format(name="kept", kind="json", behavior=UPDATE, **OLD))
    code = {"name": "kept", "kind": "json", "rows": [("x", "c")], "columns": "id string, day string", "keys": ["day"]}

    refused = bench.run(BEGIN + SINK.format(behavior=UPDATE, **code))
    logged = bench.run(BEGIN + SINK.format(behavior="LOG", **{**code, "columns": "id string, day string"}))
    elsewhere = bench.run(BEGIN + SINK.format(behavior=UPDATE, **OLD, name="kept", kind="orc"))
    texts = bench.run(BEGIN + SINK.format(behavior=UPDATE, **OLD, name="new", kind="csv"))

    assert (refused.code, refused.result.cause_class) == (1, "TableError")
    assert "db.kept has columns of other types" in refused.result.cause
    assert (logged.code, "has json" in elsewhere.result.cause, "json, orc" in texts.result.cause) == (0, True, True)
    found = boto3.client("glue", region_name=REGION).get_table(DatabaseName="db", Name="kept")["Table"]
    assert [(each["Name"], each["Type"]) for each in found["StorageDescriptor"]["Columns"]] == [
        ("id", "bigint"),
        ("old", "double"),
    ]


def test_a_write_by_name_adds_the_partitions(bench: Bench) -> None:
    create("parts", OF_JSON, "day")
    options = "additional_options={'enableUpdateCatalog': True, 'updateBehavior': 'LOG', 'partitionKeys': ['day']}"
    wrote = bench.run(BEGIN + WRITE.format(name="parts").replace('transformation_ctx="x"', options))
    assert wrote.code == 0, wrote.text("stderr")

    found = bench.run(f"{BEGIN}show(glue.create_dynamic_frame.from_catalog('db', 'parts'))").printed()

    assert sorted((row["id"], row["day"]) for row in found) == [(1, "a"), (2, "b"), (3, "b")]


ICEBERG = """
spark.sql("CREATE TABLE glue_catalog.db.ice (id INT) USING iceberg LOCATION 's3://lake/ice'")
spark.range(1, 3).selectExpr("CAST(id AS INT) AS id").writeTo("glue_catalog.db.ice").append()
show(glue.create_dynamic_frame.from_catalog("db", "ice"))
show(DynamicFrame.fromDF(spark.sql("SELECT count(*) AS n FROM glue_catalog.db.ice"), glue))
"""


def test_the_iceberg_catalog_glue_catalog_needs_no_setting(bench: Bench) -> None:
    ran = bench.run(BEGIN + ICEBERG)
    if "jdk/net/Sockets" in ran.text("stderr"):
        pytest.skip("Iceberg's client of Glue needs a Java with jdk.net, which this one lacks")

    by_name, counted = each_printed(ran)
    assert (sorted(row["id"] for row in by_name), counted) == ([1, 2], [{"n": 2}])


PLAIN = f"""{SPARK}
import json
from pyspark.errors import AnalysisException
def show(frame):
    print(json.dumps([row.asDict() for row in frame.collect()]))
"""
IN_SQL = """
show(spark.table("db.cities").orderBy("id"))
show(spark.read.table("spark_catalog.DB.cities").where("day = 'b'"))
show(spark.sql("SELECT c.id, db.words.price FROM db.cities AS c JOIN db.words ON c.id = words.id WHERE c.id IN "
    "(SELECT id FROM db.cities WHERE day = 'a')"))
spark.sql("CREATE TEMPORARY VIEW few AS WITH those AS (SELECT * FROM db.cities) SELECT max(id) AS id FROM those")
show(spark.table("few"))
spark.sql("USE db")
show(spark.sql("SELECT count(DISTINCT db.cities.id) AS n FROM cities JOIN cities AS two USING (id)"))
tables = [{"tableName": "cities"}, {"tableName": "cities", "dbName": "db"}, {"tableName": "db.none"}]
print(json.dumps([spark.catalog.tableExists(**names) for names in tables]))
spark.sql("REFRESH TABLE db.cities")
spark.catalog.setCurrentDatabase(dbName="default")
try:
    spark.catalog.setCurrentDatabase("none")
except AnalysisException as error:
    print(json.dumps(error.getErrorClass()))
spark.table("db.none")
"""


def test_plain_spark_reads_the_catalogs_tables_by_name(bench: Bench) -> None:
    glue, s3 = create("cities", OF_JSON, "day"), boto3.client("s3", region_name=REGION)
    for number, day in enumerate("aab"):
        key = f"cities/day={day}/{number}.json"
        s3.put_object(Bucket="lake", Key=key, Body=f'{{"ID": {number}, "price": {number}.5}}\n'.encode())
    for day in "ab":
        storage = {"Columns": COLUMNS, "Location": f"s3://lake/cities/day={day}/", **OF_JSON}
        partition = {"Values": [day], "StorageDescriptor": storage}
        glue.create_partition(DatabaseName="db", TableName="cities", PartitionInput=partition)
    create("words", OF_CSV)
    s3.put_object(Bucket="lake", Key="words/a.csv", Body=b'"1","70"\n"2","80"\n')

    ran = bench.run(PLAIN + IN_SQL)

    whole, chosen, joined, view, count, exist, no_database = each_printed(ran)
    cities = [{"id": n, "price": n + 0.5, "day": day} for n, day in enumerate("aab")]
    assert (whole, chosen) == (cities, cities[2:])
    assert (joined, view, count, exist) == ([{"id": 1, "price": 70.0}], [{"id": 2}], [{"n": 3}], [True, True, False])
    assert no_database == "SCHEMA_NOT_FOUND"
    assert "[TABLE_OR_VIEW_NOT_FOUND]" in ran.result.cause and "db`.`none" in ran.result.cause
    # The next script in this JVM sees none of the views.
    assert bench.run(f"{PLAIN}show(spark.sql('SHOW VIEWS IN global_temp'))").printed() == []


def test_other_errors_of_spark_are_not_changed(bench: Bench) -> None:
    ran = bench.run(f"{PLAIN}spark.sql('SELECT no_such_column')")

    assert (ran.code, ran.result.cause_class) == (1, "AnalysisException")
    assert "UNRESOLVED_COLUMN" in ran.result.cause


WHERE_NONE_IS = """
try:
    spark.table("db.none")
except AnalysisException:
    print(json.dumps("made anew"))
"""


def test_a_script_that_expects_no_table_goes_on(bench: Bench) -> None:
    """Also if Glue cannot be reached, and with any arguments and any event."""
    env = {"AWS_ENDPOINT_URL_GLUE": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
    event = {"SPARKLET_EVENT": json.dumps({"inputs": ["s3://lake/in/a.csv"], "output_path": "s3://lake/out"})}

    unreached = bench.run(PLAIN + WHERE_NONE_IS, env=env)
    with_event = bench.run(PLAIN + WHERE_NONE_IS, ["--input", "s3://lake/in/", "--param", "x"], env=event)
    odd = bench.run(PLAIN + WHERE_NONE_IS, env={"SPARKLET_EVENT": '{"inputs": 7}'})

    assert [ran.printed() for ran in (unreached, with_event, odd)] == ["made anew"] * 3
    assert "Glue's catalog gives no answer about db.none" in unreached.text("stderr")


OF_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
FRESH = """
spark.range(3).write.format("delta").save("s3://lake/fresh")
show(spark.sql("SELECT count(*) AS n FROM db.fresh"))
spark.range(4).write.format("delta").mode("append").save("s3://lake/fresh")
show(spark.sql("SELECT count(*) AS n FROM db.fresh"))
spark.sql("DELETE FROM db.fresh WHERE id = 0")
spark.sql("UPDATE db.fresh SET id = id + 10 WHERE id = 1")
spark.sql("MERGE INTO db.fresh AS t USING (SELECT 2L AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE")
show(spark.sql("SELECT count(*) AS n, sum(id) AS ids FROM delta.`s3://lake/fresh`"))
"""


def test_a_delta_table_is_read_and_changed_by_its_name(bench: Bench) -> None:
    parameters = {"spark.sql.sources.provider": "delta", "table_type": "delta"}
    stored = {"Columns": COLUMNS, "Location": "s3://lake/fresh", **OF_JSON}
    table = {"Name": "fresh", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": stored, "Parameters": parameters}
    boto3.client("glue", region_name=REGION).create_table(DatabaseName="db", TableInput=table)

    ran = bench.run(PLAIN + FRESH, conf=OF_DELTA)
    assert ran.code == 0, ran.result.cause

    assert each_printed(ran) == [[{"n": 3}], [{"n": 7}], [{"n": 3, "ids": 25}]]
