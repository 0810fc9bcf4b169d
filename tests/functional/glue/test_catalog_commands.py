"""A command that would change a Glue table by its plain name is refused, and not done in Spark's own catalog."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from tests.functional.glue.test_glue_scripts import each_printed
from tests.functional.glue.test_glue_tables import COLUMNS, OF_DELTA, OF_PARQUET, PLAIN, REGION
from tests.functional.glue.test_glue_tables import bench as bench
from tests.functional.worker.conftest import Bench
from tests.spark_line import IS_SPARK_4
from tests.stand_ins.http_server import QuietHandler, serving

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

# {old} is a table in Glue, {new} a name without a table, {db} the database of both.
STATEMENTS = [
    "CREATE TABLE {new} (id BIGINT) USING parquet",
    "CREATE TABLE IF NOT EXISTS {new} (id BIGINT) USING parquet LOCATION 's3://lake/new'",
    "CREATE EXTERNAL TABLE {new} (id BIGINT) STORED AS PARQUET LOCATION 's3://lake/new'",
    "CREATE TABLE {new} USING parquet AS SELECT 1 AS id",
    "CREATE TABLE {new} USING delta AS SELECT 1 AS id",
    "CREATE TABLE IF NOT EXISTS {old} (id BIGINT) USING parquet",
    "CREATE TABLE {new} LIKE {old}",
    "CREATE TABLE {new} USING parquet AS WITH one AS (SELECT 1 AS id) SELECT * FROM one",
    "CREATE OR REPLACE TABLE {new} (id BIGINT) USING delta",
    "REPLACE TABLE {old} USING iceberg AS SELECT 1 AS id",
    "CREATE FUNCTION {db}.f AS 'a.B'",
    "CREATE VIEW {new} AS SELECT 1 AS id",
    "DROP TABLE IF EXISTS {new}",
    "DROP TABLE {old}",
    "DROP VIEW IF EXISTS {new}",
    "CREATE DATABASE {db}",
    "ALTER DATABASE {db} SET DBPROPERTIES ('a' = 'b')",
    "DROP DATABASE IF EXISTS {db} CASCADE",
    "INSERT INTO {old} VALUES (1, 2.0)",
    "INSERT OVERWRITE TABLE {old} PARTITION (day = 'a') SELECT 1, 2.0",
    "WITH one AS (SELECT 1L AS id, 2.0D AS price) INSERT INTO {old} SELECT * FROM one",
    "FROM VALUES (1L, 2.0D) INSERT INTO {old} SELECT * INSERT OVERWRITE {old} SELECT *",
    "LOAD DATA INPATH 's3://lake/in' INTO TABLE {old}",
    "DELETE FROM {old} WHERE id = 1",
    "UPDATE {old} SET price = 0",
    "MERGE INTO {old} AS t USING (SELECT 1L AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE",
    "ALTER TABLE {old} ADD COLUMNS (more INT)",
    "ALTER TABLE {old} ADD PARTITION (day = 'a')",
    "ALTER TABLE {old} RENAME TO {new}",
    "TRUNCATE TABLE {old}",
    "MSCK REPAIR TABLE {old}",
    "ANALYZE TABLE {old} COMPUTE STATISTICS",
    "ANALYZE TABLES IN {db} COMPUTE STATISTICS",
    "SHOW TABLES IN {db}",
    "SHOW TABLE EXTENDED IN {db} LIKE '*'",
    "SHOW VIEWS IN {db}",
    "SHOW PARTITIONS {old}",
    "DESCRIBE DATABASE {db}",
    "DESCRIBE {old}",
]
CALLS = [
    "df.write.saveAsTable('{new}')",
    "df.write.mode('append').option('path', 's3://lake/new').partitionBy('id').saveAsTable('{new}')",
    "df.write.mode('overwrite').format('delta').saveAsTable('{old}')",
    "df.write.mode('ignore').saveAsTable('{old}')",
    "df.write.insertInto('{old}', overwrite=True)",
    "df.writeTo('{new}').using('parquet').create()",
    "df.writeTo('{new}').using('iceberg').createOrReplace()",
    "df.writeTo('{old}').using('delta').replace()",
    "df.writeTo('{old}').append()",
    "df.writeTo('{old}').overwritePartitions()",
    "df.writeTo('{old}').overwrite(F.lit(True))",
    "spark.catalog.createTable('{new}', path='s3://lake/new', source='parquet', schema=df.schema)",
    "spark.catalog.createExternalTable('{new}', path='s3://lake/new', source='parquet', schema=df.schema)",
    "spark.catalog.recoverPartitions('{old}')",
    "spark.catalog.getTable('{old}')",
    "spark.sql('CREATE TABLE {new} USING parquet AS SELECT :x AS id', args={{'x': 1}})",
    "spark.sql('INSERT INTO {old} SELECT * FROM {{df}}', df=df)",
    "spark.readStream.format('rate').load().writeStream.option('checkpointLocation', '/tmp/x').toTable('{new}')",
    "df.mergeInto('{old}', F.expr('true')).whenNotMatched().insertAll().merge()",
]
# Each statement has a database of its own, of number ``{n}``; Spark knows nothing about the database before.
QUALIFIED = {"old": "db{n}.old", "new": "db{n}.new", "db": "db{n}"}
WAYS: Mapping[str, tuple[str, Mapping[str, str], str]] = {  # code to run before, names, and a statement's form
    "not yet asked for": ("", QUALIFIED, "{0}"),
    "read before": ("spark.table('db{n}.old')", QUALIFIED, "{0}"),
    "chosen": ("spark.sql('USE db{n}')", {"old": "old", "new": "new", "db": "db{n}"}, "{0}"),
    "chosen by the API": (
        "spark.catalog.setCurrentDatabase('db{n}')",
        {"old": "old", "new": "new", "db": "db{n}"},
        "{0}",
    ),
    "with the catalog": ("", {key: f"spark_catalog.{name}" for key, name in QUALIFIED.items()}, "{0}"),
    "in quotes": ("", {key: f"`{name.replace('.', '`.`')}`" for key, name in QUALIFIED.items()}, "{0}"),
    "in capitals": ("", {key: name.upper() for key, name in QUALIFIED.items()}, "{0}"),
    "with comments": ("", QUALIFIED, "-- again\n/* of */ {0} -- CREATE TABLE x.y"),
    "in another thread": ("spark.table('db{n}.old')", QUALIFIED, "{0}"),
    "in Iceberg's catalog": ("", QUALIFIED, "{0}"),
    "in another session": ("spark.table('db{n}.old')", QUALIFIED, "{0}"),
}
OF_ICEBERG = {
    "spark.sql.catalog.spark_catalog": "org.apache.iceberg.spark.SparkSessionCatalog",
    "spark.sql.catalog.spark_catalog.type": "hadoop",
    "spark.sql.catalog.spark_catalog.warehouse": "s3://lake",
}
TRY = """
import threading
def attempt(spark, n, before, call):
    spark.sql("USE default")
    df = spark.range(1).selectExpr("id", "1.0D AS price")
    try:
        exec(before)
        exec(call)
        outcome = "done"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    spark.sql("USE default")
    catalog = spark._jsparkSession.sessionState().catalog()
    created = catalog.databaseExists(f"db{n}") and catalog.listTables(f"db{n}").nonEmpty()
    print(json.dumps([call, outcome, created]))
for n, (before, call) in enumerate(CASES):
    session = spark.newSession() if WAY == "in another session" else spark
    thread = threading.Thread(target=attempt, args=(session, n, before, call))
    if WAY == "in another thread":
        thread.start()
        thread.join()
    else:
        thread.run()
"""


@pytest.fixture(scope="module")
def databases(bench: Bench) -> Any:
    """A client of Glue, which has a database ``db{n}`` with a table ``old`` for each statement and call."""
    glue = boto3.client("glue", region_name=REGION)
    for number in range(len(STATEMENTS) + len(CALLS)):
        glue.create_database(DatabaseInput={"Name": f"db{number}"})
        storage = {"Columns": COLUMNS, "Location": f"s3://lake/old{number}/", **OF_PARQUET}
        table = {"Name": "old", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": storage}
        glue.create_table(DatabaseName=f"db{number}", TableInput=table)
    return glue


@pytest.mark.parametrize("way", WAYS)
def test_a_command_that_would_change_glues_tables_is_refused(bench: Bench, databases: Any, way: str) -> None:
    before, names, form = WAYS[way]
    calls = [f"spark.sql({json.dumps(form.format(text))})" for text in STATEMENTS]
    calls += [call for call in CALLS if IS_SPARK_4 or "mergeInto" not in call]
    calls = calls if way in ("not yet asked for", "chosen") else calls[::5]
    of_case = [{key: name.format(n=n, N=n) for key, name in names.items()} for n in range(len(calls))]
    cases = [(before.format(n=n), call.format(**of_case[n])) for n, call in enumerate(calls)]

    conf = OF_ICEBERG if way == "in Iceberg's catalog" else {}
    ran = bench.run(f"{PLAIN}CASES, WAY = {cases!r}, {way!r}{TRY}", conf=conf)

    outcomes = each_printed(ran)
    assert len(outcomes) == len(cases), ran.text("stderr")
    assert [call for call, outcome, created in outcomes if created or not outcome.startswith("TableError: ")] == []
    assert [call for call, outcome, _ in outcomes if " is in Glue's catalog" not in outcome] == []
    tables = [databases.get_tables(DatabaseName=f"db{n}")["TableList"] for n in range(len(cases))]
    assert {table["Name"] for of_database in tables for table in of_database} == {"old"}


HARMLESS = """
spark.sql("CREATE DATABASE IF NOT EXISTS db0")
spark.sql("/* a database of ours */ CREATE DATABASE own")
print(json.dumps(["db1, own, none exist", [spark.catalog.databaseExists(name) for name in ("db1", "own", "none")]]))
print(json.dumps(["name of own", spark.catalog.getDatabase("own").name]))
try:
    spark.catalog.getDatabase("db0")
except Exception as error:
    print(json.dumps(["getDatabase of Glue's", type(error).__name__]))
def rows(name, frame):
    print(json.dumps([name, [row.asDict() for row in frame.collect()]]))
spark.range(2).write.saveAsTable("own.made")
spark.sql("USE own")
spark.sql("INSERT INTO made SELECT 7")
spark.sql("CREATE TABLE second USING parquet AS SELECT count(*) AS n FROM own.made")
spark.range(5).write.mode("overwrite").saveAsTable("made")
rows("counts of second, made", spark.sql("SELECT (SELECT n FROM second) AS n, count(*) AS m FROM own.made"))
rows("tables", spark.sql("SHOW TABLES IN own").select("tableName").orderBy("tableName"))
spark.sql("CACHE TABLE few AS SELECT * FROM db0.old")
spark.sql("CREATE OR REPLACE TEMPORARY VIEW less AS SELECT * FROM db0.old")
spark.table("db0.old").createOrReplaceGlobalTempView("least")
spark.sql("-- its files are new\\nREFRESH TABLE db0.old")
spark.catalog.refreshTable("db0.old")
spark.catalog.cacheTable("db0.old")
rows("views", spark.sql("SELECT count(*) AS n FROM few, less, global_temp.least"))
spark.sql("DROP TABLE IF EXISTS nowhere.none")
spark.sql("DROP DATABASE own CASCADE")
print(json.dumps(["own exists after DROP", spark.catalog.databaseExists("own")]))
"""


def test_a_scripts_own_databases_are_kept_in_sparks_catalog(bench: Bench, databases: Any) -> None:
    ran = bench.run(PLAIN + HARMLESS)
    assert ran.code == 0, ran.result.cause

    assert dict(each_printed(ran)) == {
        "db1, own, none exist": [True, True, False],
        "name of own": "own",
        "getDatabase of Glue's": "TableError",
        "counts of second, made": [{"n": 3, "m": 5}],
        "tables": [{"tableName": "made"}, {"tableName": "second"}],
        "views": [{"n": 0}],
        "own exists after DROP": False,
    }


def test_an_iceberg_table_is_refused_by_its_plain_name(bench: Bench, databases: Any) -> None:
    parameters = {"table_type": "ICEBERG", "metadata_location": "s3://lake/icy/metadata/v1.metadata.json"}
    table = {"Name": "icy", "TableType": "EXTERNAL_TABLE", "Parameters": parameters}
    databases.create_table(DatabaseName="db", TableInput={**table, "StorageDescriptor": {"Columns": COLUMNS}})
    code = """
spark.conf.set("spark.sql.catalog.ice", "org.apache.iceberg.spark.SparkCatalog")
spark.conf.set("spark.sql.catalog.ice.type", "hadoop")
spark.conf.set("spark.sql.catalog.ice.warehouse", "s3://lake")
spark.sql("CREATE TABLE ice.icy (id BIGINT, price DOUBLE) USING iceberg")
show(spark.table("db.icy"))
for statement in ("INSERT INTO db.icy VALUES (1, 2.0)", "DELETE FROM db.icy", "UPDATE db.icy SET id = 1",
    "MERGE INTO db.icy AS t USING (SELECT 1L AS id) AS s ON t.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (1)"):
    try:
        spark.sql(statement)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""

    ran = bench.run(PLAIN + code)

    rows, *refusals = each_printed(ran)
    assert (rows, len(refusals)) == ([], 4), ran.text("stderr")
    assert [text for text in refusals if not text.startswith("TableError: db.icy is in Glue's catalog")] == []


@contextmanager
def refusing(code: str) -> Iterator[dict[str, str]]:
    """The environment variables of a script whose requests to Glue are all refused with an error code."""

    class Refusing(QuietHandler):
        def do_POST(self) -> None:
            body = json.dumps({"__type": code, "message": "no"}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Refusing) as address:
        yield {"AWS_ENDPOINT_URL_GLUE": address, "AWS_MAX_ATTEMPTS": "1"}


UNSURE = ["spark.table('db.t')", "spark.catalog.tableExists('db.t')", "spark.catalog.databaseExists('db')"]
UNSURE += ["spark.sql('CREATE DATABASE db')", "spark.sql('DROP TABLE IF EXISTS db.t')", "df.write.saveAsTable('db.t')"]


@pytest.mark.parametrize(
    ("code", "error"), [("AccessDeniedException", "TableError"), ("ExpiredTokenException", "DatabaseError")]
)
def test_a_refusal_by_glue_does_not_count_as_a_missing_table(bench: Bench, code: str, error: str) -> None:
    with refusing(code) as env:
        cases = [("", call) for call in UNSURE]
        ran = bench.run(f"{PLAIN}CASES, WAY = {cases!r}, ''{TRY}", env=env)

    outcomes = each_printed(ran)
    assert len(outcomes) == len(UNSURE), ran.text("stderr")
    assert [text for _, text, _ in outcomes if not (text.startswith(f"{error}: ") and code in text)] == []


PATHS = """
from delta.tables import DeltaTable
spark.sql("CREATE TABLE delta.`s3://lake/paths` (id BIGINT) USING delta")
spark.sql("INSERT INTO delta.`s3://lake/paths` VALUES (1)")
spark.sql("CREATE OR REPLACE TABLE delta.`s3://lake/paths` USING delta AS SELECT 1L AS id")
spark.sql("MERGE INTO delta.`s3://lake/paths` AS t USING (SELECT 1L AS id) AS s ON t.id = s.id "
    "WHEN MATCHED THEN UPDATE SET id = 2")
spark.range(1).writeTo("delta.`s3://lake/paths`").append()
spark.sql("OPTIMIZE delta.`s3://lake/paths`")
DeltaTable.createIfNotExists(spark).location("s3://lake/built").addColumn("id", "BIGINT").execute()
spark.sql("CREATE TABLE paths USING delta AS SELECT * FROM delta.`s3://lake/paths`")
show(spark.sql("SELECT count(*) AS n FROM paths"))
spark.sql("DROP TABLE IF EXISTS default.paths")
"""


def test_paths_and_sparks_own_database_need_no_glue(bench: Bench) -> None:
    with refusing("AccessDeniedException") as env:
        ran = bench.run(PLAIN + PATHS, env=env, conf=OF_DELTA)

    assert ran.printed() == [{"n": 2}]


SCRIPT = """
spark.sql("CREATE TABLE own_rows (id INT) USING parquet")
for _ in range(2):
    try:
        spark.sql("-- rows\\n BEGIN INSERT INTO own_rows VALUES (1); SELECT * FROM db2.old; END")
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
print(json.dumps(spark.table("own_rows").count()))
"""


@pytest.mark.skipif(not IS_SPARK_4, reason="Spark 3.5 has no SQL scripts")
def test_an_sql_script_is_not_run_a_second_time(bench: Bench, databases: Any) -> None:
    refusal, rows = each_printed(bench.run(PLAIN + SCRIPT))

    assert (refusal.startswith("TableError: a script of SQL cannot be the first to name db2.old"), rows) == (True, 2)


def test_without_access_to_glue_databases_are_sparks(bench: Bench) -> None:
    code = """
spark.sql("CREATE DATABASE db")
spark.range(2).write.saveAsTable("db.t")
show(spark.sql("SELECT count(*) AS n FROM db.t"))
print(json.dumps([spark.catalog.tableExists("db.none"), spark.catalog.databaseExists("none")]))
spark.sql("DROP DATABASE db CASCADE")
"""
    env = {"AWS_ENDPOINT_URL_GLUE": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}

    ran = bench.run(PLAIN + code, env=env)
    assert ran.code == 0, ran.result.cause

    with refusing("UnrecognizedClientException") as env:  # the keys are for another store than AWS
        other = bench.run(PLAIN + code, env=env)

    assert each_printed(ran) == each_printed(other) == [[{"n": 2}], [False, False]]
