"""In the input folder of a run, the script of a shard sees only the shard's files, by whatever API Spark lists them."""

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparklet.model import RunOptions, ShardRecord, ShardState, split_uri
from sparklet.planning.request import RunRequest
from sparklet.runs.checker import check
from tests.archives import tarred, zipped
from tests.functional.worker.ledgered import BUCKET, DATA, Function

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SCRIPT = f"s3://{BUCKET}/jobs/job.py"
HEAD = b"""
import json, sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.getOrCreate()
"""
WAYS = b"""
sc, folder = spark.sparkContext, sys.argv[1]
fs = sc._jvm.org.apache.hadoop.fs.FileSystem.get(sc._jvm.java.net.URI(folder), sc._jsc.hadoopConfiguration())
path = sc._jvm.org.apache.hadoop.fs.Path

def files(iterator):
    while iterator.hasNext():
        status = iterator.next()
        if status.isFile():
            yield status.getPath().toString()

def tree(at):
    for status in fs.listStatus(at):
        yield from [status.getPath().toString()] if status.isFile() else tree(status.getPath())

def named(frame):
    return [row[0] for row in frame.select(F.input_file_name()).distinct().collect()]

frame = spark.read.csv(folder, header=True)
ways = {
    "csv": named(frame),
    "base": named(spark.read.option("basePath", folder).csv(folder + "/day=*")),
    "recursive": named(spark.read.option("recursiveFileLookup", True).text(folder)),
    "binary": [row[0] for row in spark.read.format("binaryFile").load(folder).select("path").collect()],
    "whole": [name for name, _ in sc.wholeTextFiles(folder + "/*").collect()],
    "text": ["/".join(["", *line.split(",")]) for line in sc.textFile(folder + "/*/*").collect() if line != "id,file"],
    "glob": [status.getPath().toString() for status in fs.globStatus(path(folder + "/*/*"))],
    "tree": list(tree(path(folder))),
    "files": list(files(fs.listFiles(path(folder), True))),
    "located": [name for day in fs.listStatus(path(folder)) for name in files(fs.listLocatedStatus(day.getPath()))],
    "iterated": [name for day in fs.listStatus(path(folder)) for name in files(fs.listStatusIterator(day.getPath()))],
}
found = {name: sorted(each.rpartition("/")[2] for each in seen) for name, seen in ways.items()}
print("WAYS " + json.dumps([sorted(frame.dtypes), found]))
counted = fs.getContentSummary(path(folder)).getFileCount()
assert counted == len(ways["tree"]), counted
"""


def run(
    function: Function,
    run_id: str,
    script: bytes,
    *inputs: str,
    args: tuple[str, ...] = ("{input}",),
    fails: bool = False,
    params: Mapping[str, Any] = {},
    py_files: tuple[str, ...] = (),
    **options: Any,
) -> list[ShardRecord]:
    """Run all shards, one after the other in one warm JVM; return their records. All must succeed unless ``fails``."""
    function.store.put(SCRIPT, script)
    output, limits = f"s3://{BUCKET}/out/{run_id}/", RunOptions(**options)
    request = RunRequest(
        SCRIPT, inputs, output, run_id=run_id, options=limits, args=args, params=params, py_files=py_files
    )
    refs = function.plan_request(request)
    function.skip_log()
    for ref in refs:
        assert function.deliver(ref) == [], function.new_log().decode()[-3000:]
    records = list(function.ledger.shards.list(run_id))
    assert fails or {record.state for record in records} == {ShardState.SUCCEEDED}, records[0].error_message
    return records


@pytest.mark.parametrize("split", ["", "auto"])
def test_a_folder_has_only_the_files_of_the_shard(function: Function, split: str) -> None:
    """Whole files, or slices if ``split``: each file is in one shard, and all APIs list the same files."""
    place = f"{DATA}/ways{split}"
    names = {f"day={day}/f{day}{number}.csv" for day in ("1", "2", "x") for number in (1, 2)}
    for name in names:
        function.store.put(f"{place}/{name}", b"id,file\n" + b"1,%s\n" % name.rpartition("/")[2].encode())
    function.store.put(f"{place}/day=1/_hidden/f.csv", b"id,file\n9,hidden\n")

    records = run(
        function, f"ways{split}", HEAD + WAYS, f"{place}/", max_objects=2, split=split, target_bytes=12 if split else 0
    )

    results = function.printed("WAYS")
    assert len(results) == len(records) >= 3
    types = [["day", "string"], ["file", "string"], ["id", "string"]]
    assert [shard_types for shard_types, _ in results] == [types] * len(results)
    shards = [ways for _, ways in results]
    for shard in shards:
        assert {name: set(seen) for name, seen in shard.items()} == {way: set(shard["tree"]) for way in shard}
    assert {name for shard in shards for name in shard["csv"]} == {name.rpartition("/")[2] for name in names}
    if not split:
        assert sum(len(shard["tree"]) for shard in shards) == len(names)


BESIDE = b"""
folder, found = sys.argv[1], {}
conf = spark.sparkContext._jsc.hadoopConfiguration()
fs = spark._jvm.org.apache.hadoop.fs.FileSystem.get(spark._jvm.java.net.URI(folder), conf)
path = spark._jvm.org.apache.hadoop.fs.Path
found["inputs"] = spark.read.text(folder).count()
found["by name"] = spark.read.text(folder + "dim/names.txt").count()
found["hidden"] = len(fs.listStatus(path(folder + "_log/")))
found["exists"] = [fs.exists(path(folder + name)) for name in ("", "dim", "dim/names.txt", "nowhere")]
try:
    found["folder"] = spark.read.text(folder + "dim/").count()
except Exception as error:
    found["folder"] = "nothing in it is an input of this shard" in str(error)
own = folder + "written/by/" + __import__("uuid").uuid4().hex  # two shards that replace one address fail
spark.range(5).write.mode("overwrite").parquet(own)
found["written"] = spark.read.parquet(own).count()
found["inputs again"] = spark.read.text(folder).count()
print("BESIDE " + json.dumps(found))
"""


@pytest.mark.parametrize("place", [f"{DATA}/beside/", "s3://a-bucket-of-mine/"])
def test_other_files_of_the_folder_can_be_read_by_name(function: Function, place: str) -> None:
    """A listing has only the shard's inputs and what the task wrote; a folder without inputs is an error."""
    if place.startswith("s3://a-"):
        function.clients.s3.create_bucket(Bucket=split_uri(place)[0])
    for name in ("a.txt", "b.txt", "_log/0.json", "dim/names.txt"):
        function.store.put(place + name, b"one\ntwo\n")

    name = "beside" if place.startswith(DATA) else "bucket"
    records = run(function, name, HEAD + BESIDE, place, max_objects=1, exclude=("dim/**",))

    each_shard = {
        "inputs": 2,
        "by name": 2,
        "hidden": 1,
        "exists": [True, True, True, False],
        "folder": True,
        "written": 5,
        "inputs again": 2,
    }
    assert function.printed("BESIDE") == [each_shard, each_shard]
    assert not any("by its name" in record.warning for record in records)


def test_reading_an_input_of_another_shard_has_a_warning(function: Function) -> None:
    """A script that makes the names of all files by itself reads all files in each shard."""
    for number in (1, 2):
        function.store.put(f"{DATA}/numbered/f{number}.txt", b"one\n")
    script = b"""
for number in (1, 2):
    spark.read.text(f"{sys.argv[1]}/f{number}.txt").write.mode("append").text(sys.argv[2])
"""

    args = ("{input}", "{output}")
    several = run(function, "numbered", HEAD + script, f"{DATA}/numbered/", args=args, max_objects=1)
    one = run(function, "alone", HEAD + script, f"{DATA}/numbered/", args=args)

    for other, record in zip(("f2.txt", "f1.txt"), several, strict=True):
        assert f"/numbered/{other} by its name, an input of another shard" in record.warning
    assert [record.warning for record in one] == [""]


def test_a_shard_that_reads_only_inputs_of_others_fails(function: Function) -> None:
    for name in ("links.txt", "titles.txt"):
        function.store.put(f"{DATA}/graph/{name}", b"one\n")
    script = b"spark.read.text(sys.argv[1] + '/links.txt').write.mode('append').text(sys.argv[2])\n"

    links, titles = run(
        function, "graph", HEAD + script, f"{DATA}/graph/", args=("{input}", "{output}"), fails=True, max_objects=1
    )

    assert (links.state, links.warning) == (ShardState.SUCCEEDED, "")
    assert titles.state is ShardState.FAILED
    assert "/graph/links.txt by its name, an input of another shard" in titles.error_message


def test_a_bucket_is_read_and_written_without_a_slash(function: Function) -> None:
    for bucket in ("a-whole-bucket", "another-bucket"):
        function.clients.s3.create_bucket(Bucket=bucket)
    function.store.put("s3://a-whole-bucket/a.txt", b"one\ntwo\n")
    script = b"""
import json, sys
from sparklet.job import Job
job = Job.from_args()
spark = job.spark()
read = spark.read.text(sys.argv[1].rstrip("/")).count()
spark.range(3).write.mode("append").parquet("s3://another-bucket")
print("BUCKET " + json.dumps([read, spark.read.parquet("s3a://another-bucket").count()]))
"""

    run(function, "whole", script, "s3://a-whole-bucket/")

    assert function.printed("BUCKET") == [[2, 3]]


@pytest.mark.parametrize("by", ["folder", "names"])
def test_a_shard_of_parquet_has_the_types_of_all_partitions(function: Function, by: str) -> None:
    """The value of another shard's partition makes the column a text."""
    table, place = pa.table({"id": [1, 2]}), f"{DATA}/typed-{by}"
    for name in ("key=1/a.parquet", "key=b/b.parquet"):
        pq.write_table(table, buffer := io.BytesIO())
        function.store.put(f"{place}/{name}", buffer.getvalue())
    script = b"""
import json
from sparklet.job import Job
job = Job.from_args()
frame = job.spark().read.parquet(*(job.event["input_folders"] if job.params["by"] == "folder" else job.input_list()))
print("TYPES " + json.dumps([frame.dtypes, frame.where("key is not null").count(), sorted(map(list, frame.collect()))]))
"""

    run(function, f"typed-{by}", script, f"{place}/", args=(), max_objects=1, params={"by": by})

    types = [["id", "bigint"], ["key", "string"]]
    assert function.printed("TYPES") == [[types, 2, [[1, key], [2, key]]] for key in ("1", "b")]


def test_files_that_a_pattern_finds_have_no_partitions(function: Function) -> None:
    """This is as in one job; with ``basePath``, or by names after a pattern, the files have their partitions."""
    for name in ("key=1/a[1].csv", "key=b/b.csv"):
        function.store.put(f"{DATA}/found/{name}", b"7\n")
    script = b"""
import json
from sparklet.job import Job
job = Job.from_args()
[folder] = job.event["input_folders"]
def columns(place, **options):
    return dict(job.spark().read.schema("id INT").options(**options).csv(place).dtypes)
found = [columns(folder + "*/*"), columns(folder + "*/*", basePath=folder), columns(folder + "*"),
         columns(job.input_list()), columns(folder), columns(folder + "key=*/*.csv")]
print("FOUND " + json.dumps(found))
"""

    run(function, "found", script, f"{DATA}/found/", args=(), max_objects=1)

    plain, partitioned = {"id": "int"}, {"id": "int", "key": "string"}
    assert function.printed("FOUND") == [[plain, partitioned, plain, partitioned, partitioned, plain]] * 2


def test_a_bad_file_of_an_archive_is_split_off(function: Function) -> None:
    """Spark names the file, as it names a bad object; the rest of the archive is read."""
    members = {"a.json": b'{"id": 1}\n', "b.json": b'{"id": \n', "c.json": b'{"id": 3}\n'}
    function.store.put(f"{DATA}/files/a.zip", zipped(members))
    script = b"""
from sparklet.job import Job
job = Job.from_args()
rows = job.spark().read.schema("id INT").option("mode", "FAILFAST").json(job.input_list())
print("READ " + __import__("json").dumps([job.inputs, job.event["origins"], sorted(row.id for row in rows.collect())]))
"""
    run(function, "files", script, f"{DATA}/files/", args=(), fails=True, isolate=True, max_attempts=1)

    assert function.ledger.shards.get("files", 0).split == "members 1"
    check(function.deployment, "files")
    for record in [*function.ledger.shards.list("files", ShardState.PENDING)]:
        function.deliver(record.ref)

    archive = f"{DATA}/files/a.zip"
    assert function.printed("READ") == [[[f"{archive}#a.json", f"{archive}#c.json"], [archive] * 2, [1, 3]]]
    _, bad, rest = function.ledger.shards.list("files")
    assert (bad.state, rest.state) == (ShardState.FAILED, ShardState.SUCCEEDED)
    assert f"{archive}#b.json" in bad.error_message


ROWS = b"id,v\n" + b"".join(b"%d,\xc3\xa9\n" % number for number in range(500))
MISNAMED = {
    "a.csv": gzip.compress(ROWS),
    "b": zipped({"x.csv": ROWS}),
    "c.txt": tarred({"y.csv": ROWS}),
    "d.csv.gz": gzip.compress(tarred({"z.csv": ROWS})),
    "e.csv.bz2": gzip.compress(ROWS),
    "f.csv": ROWS.decode().encode("utf-16"),
    "g.zip": zipped({"g.csv": codecs.BOM_UTF32_BE + ROWS.decode().encode("utf-32-be")}),
}
"""The content of the files by name; ``NAMES`` has the names that Spark has for the unpacked files."""
NAMES = {
    "a.csv#a.csv",
    "b#x.csv",
    "c.txt#y.csv",
    "d.csv.gz#z.csv",
    "e.csv.bz2#e.csv",
    "f.csv",
    "g.zip#g.csv",
    "right.csv",
    "right.csv.gz",
    "right.csv.bz2",
}


def test_misnamed_files_are_detected_by_their_first_bytes(function: Function) -> None:
    """All these files are in one shard, together with files whose names are right."""
    right = {"right.csv": ROWS, "right.csv.gz": gzip.compress(ROWS), "right.csv.bz2": bz2.compress(ROWS)}
    for name, body in (MISNAMED | right).items():
        function.store.put(f"{DATA}/misnamed/{name}", body)
    script = b"""
frame = spark.read.option("header", True).schema("id STRING, v STRING").csv(sys.argv[1])
files = frame.groupBy(F.input_file_name(), "v").count().collect()
lines = spark.sparkContext.textFile(sys.argv[1]).filter(lambda line: line == "499,\xc3\xa9").count()
whole = sum(text.count("\xc3\xa9") for _, text in spark.sparkContext.wholeTextFiles(sys.argv[1]).collect())
found = [[name.rpartition("/")[2].replace("%23", "#"), v, count] for name, v, count in files]
print("SAW " + json.dumps([sorted(found), lines, whole]))
"""

    run(function, "misnamed", HEAD + script, f"{DATA}/misnamed/")

    assert function.printed("SAW") == [[[[name, "\u00e9", 500] for name in sorted(NAMES)], 10, 5000]]


def test_a_reader_of_bytes_gets_them_unchanged(function: Function) -> None:
    """A reader that names an encoding gets the bytes unchanged, too, also after another reader of the file."""
    place = f"{DATA}/bytes/"
    for name in ("a.csv", "f.csv"):
        function.store.put(place + name, MISNAMED[name])
    script = b"""
read = spark.read
if sys.argv[1].endswith(".csv"):
    encoded = read.options(header=True, encoding="UTF-16", multiLine=True).csv(sys.argv[1])
    print("SAW", encoded.where("v = '\xc3\xa9'").count())
else:
    files = read.format("binaryFile").load(sys.argv[1]).select("path", "length").collect()
    print("SAW " + json.dumps({path.rpartition("/")[2]: length for path, length in files}))
"""

    for run_id, address, result in (
        ("bytes", place, {name: len(MISNAMED[name]) for name in ("a.csv", "f.csv")}),
        ("encoded", f"{place}f.csv", 500),
    ):
        run(function, run_id, HEAD + script, address, args=(address,))
        assert function.printed("SAW") == [result]


def test_a_misnamed_file_that_is_not_unpacked_fails_the_shard(function: Function) -> None:
    for name in ("in/a.txt", "beside/b.json", "other/c.csv"):
        function.store.put(f"{DATA}/loud/{name}", b"x\n" if name.endswith("txt") else gzip.compress(b"{}\n"))
    function.store.put(f"{DATA}/loud/other/c.csv", b"PAR1\x15\x04\x15")
    script = b"""
spark.read.text("s3://other-data/loud/%s").write.format("noop").mode("append").save()
"""

    for name, folder in (("beside/b.json", "in/"), ("other/", "other/")):
        [record] = run(
            function, f"loud-{name[:5]}", HEAD + script % name.encode(), f"{DATA}/loud/{folder}", args=(), fails=True
        )

        assert (record.state, record.error_class, record.attempts) == (ShardState.FAILED, "InvalidFileTypeException", 1)
        assert f"loud/{name.replace('other/', 'other/c.csv')} is not what its name says" in record.error_message


def test_a_script_can_read_archives_itself(function: Function) -> None:
    function.store.put(f"{DATA}/own/a.csv.xz", packed := lzma.compress(b"id\n1\n"))
    script = b"""
# sparklet: unpack=no
rows = spark.read.format("binaryFile").load(sys.argv[1]).collect()
print("OWN " + json.dumps([[row.path, row.length] for row in rows]))
"""

    run(function, "own", HEAD + script, f"{DATA}/own/")

    assert function.printed("OWN") == [[[f"{DATA}/own/a.csv.xz", len(packed)]]]


def test_a_folder_read_by_anything_but_spark_fails(function: Function) -> None:
    function.store.put(f"{DATA}/pandas/a.txt", b"one\n")

    script = b"import sys, urllib.request\nprint(sys.argv[1])\n"
    [record] = run(function, "pandas", script, f"{DATA}/pandas/", fails=True)

    assert (record.state, record.error_class) == (ShardState.FAILED, "PlanError")
    assert "did not read it by Spark" in record.error_message


def test_a_name_with_brackets_means_itself(function: Function) -> None:
    """Escaped or not, whole or cut; Spark alone would read a1.csv for a[1].csv. A name that matches others fails."""
    names = ("a[1].csv", "{3f2504e0}.csv", "c[2.csv", "d\\e.csv")
    for place in ("brackets/", "ambiguous/"):
        for name in (*names, "a1.csv"):
            function.store.put(f"{DATA}/{place}{name}", b"7\n8\n")
    script = b"""
import json
from urllib.parse import unquote
from sparklet.job import Job
job, found = Job.from_args(), []
for places in (job.event["inputs"], job.input_list()):
    read = job.spark().read.schema("id INT").csv(places).select("id", "_metadata.file_path")
    found.append(sorted([row.id, unquote(row.file_path).rpartition("/")[2]] for row in read.collect()))
print("FOUND " + json.dumps(found))
"""

    expected = sorted([number, name] for number in (7, 8) for name in names)
    run(function, "brackets", script, f"{DATA}/brackets/", args=(), exclude=("a1.csv",))
    assert function.printed("FOUND") == [[expected, expected]]
    run(function, "cut", script, f"{DATA}/brackets/", args=(), exclude=("a1.csv",), split="lines", target_bytes=2)
    shards = function.printed("FOUND")
    assert [sorted(row for shard in shards for row in shard[way]) for way in (0, 1)] == [expected, expected]
    [failed] = run(function, "ambiguous", script, f"{DATA}/ambiguous/", args=(), fails=True)
    assert failed.attempts == 1 and "a[1].csv is an input of this shard and a pattern that" in failed.error_message


@pytest.mark.parametrize(
    ("read", "options", "cause"),
    [
        ("csv(sys.argv[1], multiLine=True)", {"split": "lines", "target_bytes": 9}, "InvalidRequestException"),
        ("schema('id INT').parquet(sys.argv[1])", {}, "SchemaColumnConvertNotSupportedException"),
    ],
)
def test_an_error_that_no_retry_can_change_is_tried_once(
    function: Function, read: str, options: Mapping[str, Any], cause: str
) -> None:
    pq.write_table(pa.table({"id": ["x"]}), text := io.BytesIO())
    place = f"{DATA}/once-{'csv' if options else 'parquet'}/"
    function.store.put(f"{place}a", b"id\n" + b"1\n" * 8 if options else text.getvalue())

    records = run(
        function, place.split("/")[-2], HEAD + f"spark.read.{read}.show()".encode(), place, fails=True, **options
    )

    assert {(record.state, record.attempts, record.error_class) for record in records} == {
        (ShardState.FAILED, 1, cause)
    }


def test_files_are_filtered_by_their_own_names(function: Function) -> None:
    """Names that Spark alone would read as patterns work; if a file has another name here, a filter can fail."""
    for name in ("sales_[1].csv", "sales_2.csv", "other.csv", "st*r.csv", "x\ty.csv"):
        function.store.put(f"{DATA}/filtered/{name}", b"1\n")
    script = b"""
import json
from sparklet.job import Job
job = Job.from_args()
def count(glob, names):
    try:
        return job.spark().read.schema("id INT").csv(names, pathGlobFilter=glob).count()
    except Exception as error:
        return "x\\ty.csv has another name here" in str(error) and "refused"
found = {glob: [count(glob, job.event["input_folders"]), count(glob, job.input_list())] for glob in job.params["globs"]}
print("SAW " + json.dumps(found))
"""

    counts = {"*": 5, "*.csv": 5, "sales_*.csv": 2, "*_[12].csv": 1, "o*": 1, "*]*": 1, r"*\**": 1, "x\t*": "refused"}
    run(function, "filtered", script, f"{DATA}/filtered/", args=(), params={"globs": [*counts]})

    assert function.printed("SAW") == [{glob: [count, count] for glob, count in counts.items()}]


STREAM = b"""
import json
from sparklet.job import Job

job, counts = Job.from_args(), []
spark = job.spark()
lines = spark.readStream.text(job.event["input_folders"][0])
writer = lines.writeStream.foreachBatch(lambda frame, _: counts.append(frame.count())).trigger(availableNow=True)
writer.option("checkpointLocation", f"s3://other-data/checkpoints/{job.run_id}-{job.shard}").start().awaitTermination()
print("STREAM " + json.dumps(counts))
"""


def test_a_stream_reads_the_folder_with_its_checkpoint_in_s3(function: Function) -> None:
    for name in ("a.txt", "b.txt"):
        function.store.put(f"{DATA}/stream/{name}", b"one\ntwo\nthree\n")

    run(function, "stream", STREAM, f"{DATA}/stream/", args=(), max_objects=1)

    assert function.printed("STREAM") == [[3], [3]]
    assert any("/offsets/" in each.uri for each in function.store.list(f"{DATA}/checkpoints/"))


OWN_PLACES = b"""
# sparklet run own_places.py: a comment asks for nothing
import os
from pyspark.sql import SparkSession
%s

delta = {"extensions": "io.delta.sql.DeltaSparkSessionExtension"}
delta["catalog.spark_catalog"] = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
spark = SparkSession.builder.config(map={f"spark.sql.{key}": value for key, value in delta.items()}).getOrCreate()
rows = %s
output_path = "s3://other-data/%s"
rows.write.mode("%s").format("%s").save(output_path)
"""
TIDIES = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
name = spark.read.text("s3://other-data/tidied/").first()[0]
Path, table = spark._jvm.org.apache.hadoop.fs.Path, "%s"
s3 = Path(table).getFileSystem(spark._jsc.hadoopConfiguration())
s3.create(Path(f"{table}/%s/{name}")).close()
s3.delete(Path(f"{table}/day=1/{name}.parquet"), False)
"""
READ_FIXED = b'spark.read.text("s3://other-data/fixed/")'
TEMPORARY = (
    READ_FIXED
    + b"""
there = "s3://other-data/tmp/" + rows.first()[0][3]
rows.write.parquet(there)
path = spark._jvm.org.apache.hadoop.fs.Path(there)
path.getFileSystem(spark._jsc.hadoopConfiguration()).delete(path, True)
"""
)
BOTH = "both wrote s3://other-data/{name}, an address of the script's own, and one has replaced what the other wrote"
DYNAMIC = b'overwrite parquet").partitionBy("day").option("partitionOverwriteMode", "dynamic'
NONE_READ = "none of the shard's inputs was read, so each shard does the same"


def test_shards_that_read_no_input_have_a_warning(function: Function) -> None:
    put_all = b"import os\nfrom pyspark.sql import SparkSession\nspark = SparkSession.builder.getOrCreate()\n%s"
    write = b"spark.range(3).write.parquet(os.environ['OUTPUT_PATH'])"
    for file in ("a.txt", "b.txt"):
        function.store.put(f"{DATA}/alike/{file}", b"x\n")

    for run_id, reads in (("alike", b""), ("apart", b"print(os.environ['INPUT_PATH'])\n")):
        records = run(function, run_id, put_all % (reads + write), f"{DATA}/alike/", args=(), max_objects=1)

        assert [NONE_READ in record.warning for record in records] == [not reads] * 2


@pytest.mark.parametrize(("log", "fails"), [("log", True), (".hoodie", False), ("_delta_log", False)])
def test_each_shard_can_delete_files_only_in_a_table_format(function: Function, log: str, fails: bool) -> None:
    """The log of a table records what is replaced; in other folders a deleted file can be another shard's output."""
    table = f"s3://other-data/lake-{len(log)}"
    for name in ("a", "b"):
        function.store.put(f"{DATA}/tidied/{name}.txt", name.encode())
        function.store.put(f"{table}/day=1/{name}.parquet", b"of an attempt that was killed")

    records = run(
        function,
        f"tidied-{len(log)}",
        (TIDIES % (table, log)).encode(),
        f"{DATA}/tidied/",
        args=(),
        fails=fails,
        max_objects=1,
    )

    assert any(BOTH.format(name=f"lake-{len(log)}") in record.error_message for record in records) is fails
    assert not [info.uri for info in function.store.list(table) if info.uri.endswith(".parquet")]


@pytest.mark.parametrize(
    ("name", "rows", "mode", "cause"),
    [
        ("nothing", b"spark.range(3)", b"append", NONE_READ),
        ("with a helper", b"spark.range(doubled(3))", b"append", NONE_READ),
        ("overwrites", READ_FIXED, b"overwrite", BOTH),
        ("asks and overwrites", READ_FIXED + b"\nprint(os.environ['INPUT_PATH'])", b"overwrite", BOTH),
        ("deltas", READ_FIXED, b"overwrite delta", BOTH),
        ("one day", READ_FIXED + b".withColumn('day', F.lit(1))", DYNAMIC, BOTH.replace("{name}", "{name}/day=1")),
        ("a day each", READ_FIXED + b".withColumn('day', F.substring('value', 4, 1))", DYNAMIC, ""),
        ("appends", READ_FIXED, b"append", ""),
        ("apart", READ_FIXED + b".withColumn('day', F.substring('value', 4, 1))", b"overwrite", ""),
        ("temporary", TEMPORARY, b"append", ""),
        ("alone", b"spark.range(3)", b"overwrite", ""),
    ],
)
def test_a_script_with_addresses_of_its_own_repeats_no_work(
    function: Function, name: str, rows: bytes, mode: bytes, cause: str
) -> None:
    """Scripts for EMR and Glue have such addresses; a script that reads the run's input sees its shard's part."""
    for file in ("a.txt", "b.txt"):
        function.store.put(f"{DATA}/fixed/{file}", f"of {file}\n".encode())
    function.store.put(helper := f"s3://{BUCKET}/scripts/helper.py", b"def doubled(n):\n    return 2 * n\n")
    if name == "a day each":  # replaced, each by its shard
        for day in ("a", "b"):
            function.store.put(f"{DATA}/a-day-each/day={day}/old", b"")
    own, shards = name.replace(" ", "-").encode(), 1 if name == "alone" else 2
    address = own + b'/" + rows.first()[0][3] + "' if name == "apart" else own
    mode, _, form = mode.partition(b" ")
    imports = b"from helper import doubled" if "helper" in name else b"from pyspark.sql import functions as F"
    script = OWN_PLACES % (imports, rows, address, mode, form or b"parquet")
    cause = cause.format(name=own.decode())

    records = run(
        function,
        f"fixed-{own.decode()}",
        script,
        f"{DATA}/fixed/",
        args=(),
        py_files=(helper,) if "helper" in name else (),
        fails=bool(cause),
        max_objects=3 - shards,
    )

    assert len(records) == shards
    assert {record.error_class for record in records if record.state is ShardState.FAILED} == (
        {"PlanError"} if cause else set()
    )
    assert all(cause[:150] in record.error_message for record in records if record.error_class)
    if name == "a day each":
        assert not [info.uri for info in function.store.list(f"{DATA}/a-day-each/") if info.uri.endswith("/old")]
    if name == "appends":
        files = [info.uri for info in function.store.list(f"{DATA}/{name}/") if info.uri.endswith(".parquet")]
        tables = [pq.read_table(io.BytesIO(function.store.get(uri))) for uri in files]
        assert sorted(value for table in tables for value in table["value"].to_pylist()) == ["of a.txt", "of b.txt"]
