"""Glue scripts with real Spark, in a worker's runners."""

import json
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.functional.worker.conftest import Bench, Ran
from tests.functional.worker.conftest import bench as bench

pytestmark = pytest.mark.spark

GLUE_JOB = Path(__file__).with_name("glue_job.py")
BEGIN = """
import json, sys
from pyspark.context import SparkContext
from awsglue.context import GlueContext
from awsglue.dynamicframe import DynamicFrame
glue = GlueContext(SparkContext.getOrCreate())
spark = glue.spark_session
def show(frame):
    print(json.dumps([row.asDict(recursive=True) for row in frame.toDF().collect()]))
"""


def rows(bench: Bench, code: str) -> Any:
    """Run a script that sets ``found`` to a frame; return the frame's rows."""
    return bench.run(f"{BEGIN}{code}\nshow(found)").printed()


def each_printed(ran: Ran) -> list[Any]:
    """The JSON values that a script printed, one per line."""
    return [json.loads(line) for line in ran.text("stdout").splitlines()]


def test_a_generated_job_runs_as_it_is(bench: Bench, tmp_path: Path) -> None:
    (homes := tmp_path / "homes").mkdir()
    (homes / "a.csv").write_text("id;price;city\n1;70;Ulm\n2;80;Bonn\n3;;Köln\n")
    arguments = ["--event", json.dumps({"params": {"least": 75}}), "--region", "eu"]
    env = {"input_path": str(homes), "output_path": str(tmp_path / "out")}

    ran = bench.run(GLUE_JOB.read_text(), arguments, env=env)

    assert ran.code == 0, ran.text("stderr")
    found = duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path}/out/*/*.parquet')")
    assert (found.columns, found.types, found.fetchall()) == (
        ["id", "price", "region"],
        ["BIGINT", "DOUBLE", "VARCHAR"],
        [(2, 80.0, "eu")],  # the row without a price does not pass the filter
    )


def test_csv_is_read_with_glues_columns_and_quotes(warm: Bench, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, dict[str, str]]] = [
        # Without a header the columns have numbers, and are texts.
        ({"separator": ";"}, "1;70;Ulm", {"col0": "1", "col1": "70", "col2": "Ulm"}),
        ({}, '"a ""b"" c"', {"col0": 'a "b" c'}),
        ({}, '"C:\\"', {"col0": "C:\\"}),
        ({"quoteChar": -1}, '"a"', {"col0": '"a"'}),
        ({"escaper": "\\"}, '"a\\"b"', {"col0": 'a"b'}),
        ({"quoteChar": "'"}, "'a,b'", {"col0": "a,b"}),
    ]
    reads = []
    for number, (options, line, _) in enumerate(cases):
        (tmp_path / f"{number}.csv").write_text(f"{line}\n")
        read = f"'s3', {{'paths': ['{tmp_path}/{number}.csv']}}, 'csv', {options}"
        reads.append(f"show(glue.create_dynamic_frame_from_options({read}))")

    ran = warm.run(BEGIN + "\n".join(reads))

    assert each_printed(ran) == [[row] for *_, row in cases], ran.text("stderr")


QUOTED = 'a "b, c" \\ d\\'


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "orc"])
def test_written_rows_are_read_again(warm: Bench, tmp_path: Path, kind: str) -> None:
    code = f"""
kind, place = "{kind}", {{"path": "{tmp_path}/out"}}
frame = spark.createDataFrame([("x", {QUOTED!r}), ("y", "c")], "key string, value string")
glue.write_data_frame.from_options(frame, "s3", place, kind)
glue.write_dynamic_frame_from_options(DynamicFrame.fromDF(frame, glue, "f"), "s3", place, kind)
header = {{"withHeader": True}} if kind == "csv" else {{}}
read = glue.create_data_frame.from_options("s3", {{"paths": [place["path"]]}}, kind, header)
found = DynamicFrame.fromDF(read, glue, "found")
"""
    found = rows(warm, code)

    # The second write appends.
    assert sorted((row["key"], row["value"]) for row in found) == [("x", QUOTED)] * 2 + [("y", "c")] * 2


def test_csv_without_quotes_is_written_as_it_is(warm: Bench, tmp_path: Path) -> None:
    values = [("k", 1, 'a;b "c"', None), ("k", 2, "two\nlines", ""), ("k", None, "plain", "d")]
    code = f"""
frame = spark.createDataFrame({values!r}, "key string, id int, `a.b` string, last string").coalesce(1)
options = {{"path": "{tmp_path}/out", "partitionKeys": ["KEY"]}}
glue.write_dynamic_frame.from_options(DynamicFrame.fromDF(frame, glue, "f"), "s3", options, "csv",
                                      {{"quoteChar": -1, "separator": ";"}})
"""
    ran = warm.run(BEGIN + code)

    assert ran.code == 0, ran.text("stderr")
    [file] = (tmp_path / "out").glob("*=k/*.csv")
    assert file.read_text() == 'id;a.b;last\n1;a;b "c";\n2;two\nlines;\n;plain;d\n'


@pytest.mark.parametrize("kind", ["json", "csv", "parquet", "orc"])
def test_subfolders_are_read_only_with_recurse(warm: Bench, tmp_path: Path, kind: str) -> None:
    code = f"""
for number, place in enumerate(["in", "in/deep", "in/deep/er"]):
    writer = spark.range(number, number + 1).write.mode("append").option("header", True)
    writer.format("{kind}").save(f"{tmp_path}/{{place}}")
for recurse in (False, True):
    options = {{"paths": ["{tmp_path}/in"], "recurse": recurse}}
    show(glue.create_dynamic_frame.from_options("s3", options, "{kind}", {{"withHeader": True}}))
"""
    top, all_ = each_printed(warm.run(BEGIN + code))

    assert ([int(row["id"]) for row in top], sorted(int(row["id"]) for row in all_)) == ([0], [0, 1, 2])


def test_folders_of_partitions_stay_columns_with_recurse(warm: Bench, tmp_path: Path) -> None:
    code = f"""
spark.range(2).selectExpr("id", "id + 5 day").write.partitionBy("day").parquet("{tmp_path}/in")
options = {{"paths": ["{tmp_path}/in"], "recurse": True}}
found = glue.create_dynamic_frame.from_options("s3", options, "parquet")
"""
    assert sorted((row["id"], row["day"]) for row in rows(warm, code)) == [(0, 5), (1, 6)]


def test_empty_fields_of_csv_are_empty_texts(warm: Bench, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,name,age\n1,,7\n2,"",\n')
    code = f"""
frame = glue.create_dynamic_frame.from_options("s3", {{"paths": ["{tmp_path}/a.csv"]}}, "csv", {{"withHeader": True}})
show(frame)
show(frame.apply_mapping([("name", "string", "name", "string"), ("age", "string", "age", "long")]))
"""
    read, mapped = each_printed(warm.run(BEGIN + code))

    assert read == [{"id": "1", "name": "", "age": "7"}, {"id": "2", "name": "", "age": ""}]
    assert mapped == [{"name": "", "age": 7}, {"name": "", "age": None}]


JSON_LINES = """
{"id": 1, "consent": 5, "at": {"day": "a"}}
{"id": 2}
{"id": 3, "consent": 0, "at": {}}
"""
FILTERS = {
    "not (row['consent'] == 0)": [1],
    "not (row.consent == 0)": [1],
    "row['consent'] is None": [],
    "'consent' not in row": [2],
    "row.get('consent', 7) != 0": [1, 2],
    "row['at']['day'] != 'b'": [1],
    "row.at.day != 'b'": [1],
    "row['none'] or True": [],
}


def test_a_filter_drops_rows_that_lack_the_key(warm: Bench, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(JSON_LINES.lstrip())
    read = f"frame = glue.create_dynamic_frame.from_options('s3', {{'paths': ['{tmp_path}/in.json']}}, 'json')\n"

    ran = warm.run(BEGIN + read + "\n".join(f"show(frame.filter(lambda row: {code}))" for code in FILTERS))

    kept = [[row["id"] for row in rows] for rows in each_printed(ran)]
    assert kept == list(FILTERS.values()), ran.text("stderr")


FRAME = """
import gs_derived  # Studio writes this import for the method
df = spark.createDataFrame([(1, (2, "x"), 3), (4, (5, "y"), None)], "a int, s struct<b int, c string>, `d.e` int")
frame = DynamicFrame.fromDF(df, glue, "frame")
"""
METHODS: dict[str, list[dict[str, Any]]] = {
    "select_fields(['a'])": [{"a": 1}, {"a": 4}],
    "select_fields('d.e')": [{"d.e": 3}, {"d.e": None}],
    "select_fields(paths=['`d.e`'], transformation_ctx='x')": [{"d.e": 3}, {"d.e": None}],
    "drop_fields(['s', 'd.e'], 'ctx', 'info', 0, 0)": [{"a": 1}, {"a": 4}],
    "gs_derived(colName='a', expr='a + s.b').gs_derived('half', 'a / 2').select_fields(['a', 'half'])": [
        {"a": 3, "half": 1.5},
        {"a": 9, "half": 4.5},
    ],
    "rename_field('`d.e`', 'f').select_fields(['f'])": [{"f": 3}, {"f": None}],
    "filter(lambda row: row['s']['c'] == 'y').select_fields(['a'])": [{"a": 4}],
    "filter(lambda row: row['d.e'] > 0).select_fields(['a'])": [{"a": 1}],
    "filter(lambda row: row['missing'] > 0)": [],
    "filter(lambda row: row['d.e'] is None).select_fields(['a'])": [{"a": 4}],  # a null is not a missing key
    "apply_mapping([('s.c', 'string', 'c', 'string'), ('a', 'int', 'a', 'string')])": [
        {"c": "x", "a": "1"},
        {"c": "y", "a": "4"},
    ],
    "apply_mapping([('s', 'struct', 't', 'struct')]).toDF().select('t.b')": [{"b": 2}, {"b": 5}],
    "apply_mapping([('a', 'int', 'x.y.z', 'long'), ('s.c', 'string', 'x.c', 'string'), ('d.e', '', '`d.e`', 'int')])": [
        {"x": {"y": {"z": 1}, "c": "x"}, "d.e": 3},
        {"x": {"y": {"z": 4}, "c": "y"}, "d.e": None},
    ],
    "map(lambda row: {**row, 's': {'b': row['s']['b'] + 1, 'day': ['m']}, 'new': row.a * 2})": [
        {"a": 1, "s": {"b": 3, "day": ["m"]}, "d.e": 3, "new": 2},
        {"a": 4, "s": {"b": 6, "day": ["m"]}, "d.e": None, "new": 8},
    ],
    "map(lambda row: {'a': None, 'b': 1} if row.a == 1 else {'c': 'x'}).drop_null_fields()": [
        {"b": 1, "c": None},
        {"b": None, "c": "x"},
    ],
    "select_fields(['a', 'd.e']).join('a', ['a'], frame).select_fields(['a', '`.a`', 's', '`.d.e`'])": [
        {"a": 1, ".a": 1, "s": {"b": 2, "c": "x"}, ".d.e": 3},
        {"a": 4, ".a": 4, "s": {"b": 5, "c": "y"}, ".d.e": None},
    ],
    "join(['a', 'd.e'], ['a', 'd.e'], frame).select_fields(['d.e'])": [{"d.e": 3}],
    "select_fields(['a']).union(frame.select_fields('d.e')).coalesce(1)": [
        {"a": 1, "d.e": None},
        {"a": 4, "d.e": None},
        {"a": None, "d.e": 3},
        {"a": None, "d.e": None},
    ],
    "resolveChoice(specs=[('a', 'cast:string'), ('d.e', 'project:double')]).select_fields(['a', 'd.e'])": [
        {"a": "1", "d.e": 3.0},
        {"a": "4", "d.e": None},
    ],
    "resolveChoice([('a', 'make_cols'), ('`d.e`', 'make_struct')], '').select_fields('a')": [{"a": 1}, {"a": 4}],
    "resolveChoice(choice='cast:long', transformation_ctx='x').select_fields('a')": [{"a": 1}, {"a": 4}],
    "unnest()": [{"a": 1, "s.b": 2, "s.c": "x", "d.e": 3}, {"a": 4, "s.b": 5, "s.c": "y", "d.e": None}],
}


def test_transforms_accept_the_arguments_of_glues_scripts(warm: Bench, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"id": 1, "gone": null}\n{"id": 2, "day": "b"}\n')
    code = f"""
from awsglue import *
from awsglue.transforms import *
glue = GlueContext()
left = glue.create_dynamic_frame.from_options("s3", {{"paths": ["{tmp_path}/in.json"]}}, "json", {{}}, "a_name")
right = DynamicFrame.fromDF(glue.sql("SELECT 2L AS id, 'x' AS name, 1 AS key"), glue)
show(DropNullFields.apply(frame=left, transformation_ctx="x"))
show(Join.apply(left.drop_fields("gone"), right, "id", "id", transformation_ctx="x"))
show(Join.apply(frame1=right, frame2=left.select_fields("id"), keys1=["id"], keys2=["id"]))
show(Map.apply(frame=right, f=lambda row: {{"name": row["name"].upper()}}))
show(ApplyMapping.apply(frame=right, mappings=[("name", "string", "to.name", "string")]))
show(Map.apply(frame=Filter.apply(right, lambda row: False), f=lambda row: row))
"""
    assert each_printed(warm.run(BEGIN + code)) == [
        [{"id": 1, "day": None}, {"id": 2, "day": "b"}],
        [{"id": 2, "day": "b", ".id": 2, "name": "x", "key": 1}],
        [{"id": 2, "name": "x", "key": 1, ".id": 2}],
        [{"name": "X"}],
        [{"to": {"name": "x"}}],
        [],
    ]


NESTED = """
from awsglue.transforms import *
row = '{"id": 7, "at": {"day": "a"}, "tags": ["x", "y"], "sales": [{"n": 1, "of": [5]}, {"n": 2}]}'
df = spark.read.json(spark.sparkContext.parallelize([row, '{"id": 8}']))
found = Relationalize.apply(frame=DynamicFrame.fromDF(df, glue), staging_path="s3://tmp/", name="root")
print(json.dumps(list(found.keys())))
root = found.select("root").toDF()
show(DynamicFrame.fromDF(root.selectExpr("id", "`at.day`", "tags IS NULL AS none").orderBy("id"), glue))
for name, column in (("root_tags", "tags"), ("root_sales", "sales")):
    joined = Join.apply(found.select("root"), found.select(name), column, "id").toDF()
    kept = [each for each in joined.columns if each in ("id", "index") or each.startswith(f"{column}.val")]
    show(DynamicFrame.fromDF(joined.select(*[f"`{each}`" for each in kept]).orderBy("index"), glue))
show(found["root_sales.val.of"].select_fields("`sales.val.of.val`"))
"""


def test_relationalize_makes_a_frame_of_each_array(warm: Bench) -> None:
    ran = warm.run(BEGIN + NESTED)
    assert ran.code == 0, ran.text("stderr")
    names, root, tags, sales, inner = each_printed(ran)

    assert names == ["root", "root_sales", "root_sales.val.of", "root_tags"]
    assert root == [{"id": 7, "at.day": "a", "none": False}, {"id": 8, "at.day": None, "none": True}]
    assert tags == [{"id": 7, "index": 0, "tags.val": "x"}, {"id": 7, "index": 1, "tags.val": "y"}]
    assert [(row["id"], row["sales.val.n"]) for row in sales] == [(7, 1), (7, 2)]
    assert inner == [{"sales.val.of.val": 5}]


STUDIO = """
import sys
from awsglue.transforms import *
from awsglue.gluetypes import *
from awsglue.job import Job
from awsgluedq.transforms import EvaluateDataQuality
read = glue.create_dynamic_frame.from_options(format_options={{"multiLine": "false"}}, connection_type="s3",
    format="json", connection_options={{"paths": ["{place}/in"], "recurse": True, "jobBookmarksKeysSortOrder": "asc"}})
assert isinstance(read.schema(), StructType) and read.schema()["id"].dataType == LongType()
EvaluateDataQuality().process_rows(frame=read, ruleset="Rules = [ ColumnCount > 0 ]")
if read.count() >= 1:
    read = read.coalesce(1)
sink = glue.getSink(path="{place}/out", connection_type="s3", updateBehavior="LOG", partitionKeys=["day"],
    enableUpdateCatalog=False, transformation_ctx="sink")
sink.setCatalogInfo(catalogDatabase="db", catalogTableName="t")
sink.setFormat({format})
sink.writeFrame(read)
show(DynamicFrame.fromDF(spark.read.format("{kind}").option("header", True).load("{place}/out").orderBy("id"), glue))
"""


@pytest.mark.parametrize("written", ['"json"', '"glueparquet", compression="snappy"', '"csv"'])
def test_a_sink_writes_its_format(warm: Bench, tmp_path: Path, written: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text('{"id": 1, "day": "a"}\n{"id": 2, "day": "b"}\n')
    kind = written.split('"')[1].replace("glue", "")

    ran = warm.run(BEGIN + STUDIO.format(place=tmp_path, format=written, kind=kind))

    assert [(int(row["id"]), row["day"]) for row in ran.printed()] == [(1, "a"), (2, "b")]
    assert sorted(each.name for each in (tmp_path / "out").glob("day=*")) == ["day=a", "day=b"]


@pytest.mark.parametrize("name", ["paths", "path"])
def test_one_path_is_read_as_a_list_of_one(warm: Bench, tmp_path: Path, name: str) -> None:
    """The options have both spellings of a bookmark hint in Glue's guide."""
    (tmp_path / "a.json").write_text('{"id": 1}\n')
    options = {name: str(tmp_path), "jobBookmarkKeys": ["id"], "jobBookmarkKeysSortOrder": "asc"}

    ran = warm.run(f"{BEGIN}show(glue.create_dynamic_frame.from_options('s3', {options}, 'json'))\n")

    assert [row["id"] for row in ran.printed()] == [1]


def test_a_function_of_map_that_fails_fails_the_script(warm: Bench) -> None:
    for function, cause in (("row.none", "none"), ("None", "the function of Map returned a NoneType, not a record")):
        ran = warm.run(f"{BEGIN}{FRAME}frame.map(lambda row: {function})")
        assert ran.code == 1
        assert cause in ran.result.cause


def test_the_logger_writes_to_standard_error(warm: Bench) -> None:
    code = "log = glue.get_logger()\nlog.info('one')\nglue.get_logger().warn('two %')\nlog.error('three')"

    ran = warm.run(BEGIN + code)

    assert ran.code == 0
    lines = [line.split(" ", 2)[2] for line in ran.text("stderr").splitlines() if "awsglue" not in line]
    assert lines[-3:] == ["INFO one", "WARNING two %", "ERROR three"]


def test_methods_of_frames_return_what_glues_do(warm: Bench) -> None:
    calls = [
        f"DynamicFrame.fromDF(frame.{each}, glue, 'x')" if ".toDF()" in each else f"frame.{each}" for each in METHODS
    ]

    ran = warm.run(f"{BEGIN}{FRAME}" + "\n".join(f"show({call})" for call in calls))

    assert each_printed(ran) == list(METHODS.values()), ran.text("stderr")


REFUSED = {  # calls, each with the refused name and a word of the remedy in the message
    "frame.mergeDynamicFrame(frame, ['a'])": ("DynamicFrame.mergeDynamicFrame", "left_anti"),
    "frame.resolveChoice(specs=[('a', 'split')])": ("resolveChoice by split", "cast:type"),
    "frame.drop_fields(['s.b'])": ("s.b", "dropFields()"),
    "glue.getSink(connection_type='redshift')": ("redshift", "jdbc"),
    "glue.getSink(connection_type='s3').setAccumulableSize(1)": ("DataSink.setAccumulableSize", "setFormat"),
    "glue.create_dynamic_frame.from_rdd(None, 'x')": ("from_rdd", "createDataFrame"),
    "glue.create_dynamic_frame.from_options('mysql', {'url': 'x'})": ("mysql", "jdbc"),
    "glue.create_dynamic_frame.from_options('s3', {'paths': ['x']}, 'xml')": ("xml", "spark-xml"),
    "glue.create_dynamic_frame.from_options('s3', {'paths': ['x']}, 'delta')": ("delta", "job.append"),
    "glue.create_dynamic_frame.from_options('s3', {'paths': ['x'], 'exclusions': '[]'}, 'csv')": (
        "exclusions",
        "--exc",
    ),
    "glue.create_dynamic_frame.from_options('s3', {'paths': ['x'], 'other': '[]'}, 'csv')": ("other", "option('other'"),
    "glue.create_dynamic_frame.from_catalog('db', 't', catalog_id='123456789012')": ("catalog_id", "this account"),
}


def test_an_unsupported_call_is_refused_with_a_remedy(warm: Bench) -> None:
    tried = "\n".join(
        f"try:\n    {call}\nexcept AttributeError as error:\n    print(json.dumps(str(error)))" for call in REFUSED
    )

    ran = warm.run(f"{BEGIN}{FRAME}{tried}\n{next(iter(REFUSED))}")

    printed = each_printed(ran)
    assert len(printed) == len(REFUSED), ran.text("stderr")
    pairs = zip(REFUSED.values(), printed, strict=True)
    assert all(name in cause and way in cause.partition(": use ")[2] for (name, way), cause in pairs), printed
    assert (ran.code, ran.result.cause_class, ran.result.cause) == (1, "AttributeError", printed[0])


def test_a_scripts_own_awsglue_package_is_used_first(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "awsglue").mkdir()
    (tmp_path / "awsglue" / "__init__.py").write_text("REAL = 'Glue'")
    with zipfile.ZipFile(tmp_path / "glue.zip", "w") as package:
        package.write(tmp_path / "awsglue" / "__init__.py", "awsglue/__init__.py")

    code = "import json, awsglue\nprint(json.dumps(awsglue.REAL))"

    assert bench.run(code, py_files=[tmp_path / "glue.zip"]).printed() == "Glue"
