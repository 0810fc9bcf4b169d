"""Slices and odd names work with the real handler, Spark and S3A, and with scripts that do not use Sparklet."""

import base64
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from sparklet.job.event_objects import misread
from sparklet.model import InputObject, RunOptions, ShardRef, ShardState, Slice, SliceKind
from sparklet.planning.request import RunRequest
from tests.functional.worker.ledgered import BUCKET, Function
from tests.unit.worker.test_inputs import MISREAD, RIGHT

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

DATA = f"s3://{BUCKET}/data"
PLAIN_PY = f"s3://{BUCKET}/scripts/plain.py"
PLAIN = b"""
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession

text = sys.argv[sys.argv.index("--event") + 1]
event = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
spark = SparkSession.builder.getOrCreate()
params = event["params"]
reader = spark.read.options(**params.get("options", {}))
frame = reader.format(params.get("format", "text")).load(event["inputs"])
for where in params.get("filters", ["true"]):
    for row in frame.where(where).collect():
        print("ROW " + json.dumps([where, *row]))
"""
WRITE = b"""
import json, sys
from pyspark.sql import SparkSession

event = json.loads(sys.argv[sys.argv.index("--event") + 1])
spark = SparkSession.builder.getOrCreate()
rows = spark.range(12000).selectExpr(
    "id", "concat('key-', hash(id)) AS key", "concat('d', id % 7) AS day", "IF(id % 5 = 0, null, id / 3) AS third"
)
writer = rows.coalesce(1).write.mode("overwrite").option("compression", "zstd")
for name, value in {
    "parquet.block.size": 16384, "parquet.page.size": 1024, "parquet.page.row.count.limit": 200,
    "parquet.bloom.filter.enabled#key": "true", "parquet.enable.dictionary#key": "false",
    "parquet.bloom.filter.expected.ndv#key": 500,
}.items():
    writer = writer.option(name, value)
writer.parquet(event["to"])
"""


@pytest.fixture(scope="module", autouse=True)
def _script(function: Function) -> None:
    function.store.put(PLAIN_PY, PLAIN)
    function.skip_log()


def planned(function: Function, run_id: str, name: str, params: dict[str, Any], target_bytes: int) -> list[ShardRef]:
    """Plan one object, or a folder, in several slices for the plain script; return the shards."""
    script, output = PLAIN_PY, f"s3://{BUCKET}/out/{run_id}/"
    options = RunOptions(split="auto", target_bytes=target_bytes)
    return function.plan_request(
        RunRequest(script, (f"{DATA}/{name}",), output, run_id, params=params, options=options)
    )


def run(function: Function, run_id: str, name: str, params: dict[str, Any], target_bytes: int) -> list[list[Any]]:
    """Run all shards; return what the script has printed: lists of a filter and a row."""
    refs = planned(function, run_id, name, params, target_bytes)
    assert len(refs) >= 3
    function.skip_log()
    assert [function.deliver(ref) for ref in refs] == [[]] * len(refs)  # each in its own invocation
    assert {record.state for record in function.ledger.shards.list(run_id)} == {ShardState.SUCCEEDED}
    return seen(function)


def seen(function: Function) -> list[list[Any]]:
    log = function.new_log()
    assert b"org.apache.parquet" not in log  # Parquet only logs that it cannot read an index or a Bloom filter
    lines = log.splitlines()
    return [json.loads(line[4:]) for line in lines if line.startswith(b"ROW ")]


ADDRESSES = b"""
import json, os
from pyspark.sql import SparkSession, functions as F

spark = SparkSession.builder.getOrCreate()
path = os.environ["INPUT_PATH"]
base = path.partition("/dt=")[0]
ways = {
    "header": spark.read.csv(path, header=True),
    "base": spark.read.option("basePath", base).csv([path], header=True),
    "sql": spark.sql(f"SELECT * FROM csv.`{path}`"),
    "text": spark.read.text(path),
}
for name, frame in ways.items():
    files = sorted(row[0] for row in frame.select(F.input_file_name()).distinct().collect())
    print("ROW " + json.dumps([name, frame.dtypes[-2:], frame.count(), files]))
print("ROW " + json.dumps(["rdd", [], spark.sparkContext.textFile(path).count(), [path]]))
def by_record():
    hadoop = {"textinputformat.record.delimiter": ";"}
    classes = "org.apache.hadoop.mapreduce.lib.input.TextInputFormat", "org.apache.hadoop.io.LongWritable"
    return spark.sparkContext.newAPIHadoopFile(path, *classes, "org.apache.hadoop.io.Text", conf=hadoop)

def by_another_class():
    hadoop = spark._jvm.org.apache.hadoop
    conf = hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
    conf.set("fs.s3.impl", "org.apache.hadoop.fs.s3a.TaskS3A")
    return hadoop.fs.Path(path).getFileSystem(conf).getFileStatus(hadoop.fs.Path(path))

try:
    print("ROW " + json.dumps(["whole", [], str(by_another_class()), []]))
except Exception as error:
    print("ROW " + json.dumps(["whole", [], "is shown by a reader's options alone" in str(error), []]))
others = {
    "multiLine": lambda: spark.read.csv(path, multiLine=True),
    "wholetext": lambda: spark.read.text(path, wholetext=True),
    "lineSep": lambda: spark.read.option("ignoreCorruptFiles", True).csv(path, lineSep=","),
    "encoding": lambda: spark.read.csv(path, encoding="UTF-16LE"),
    "textinputformat.record.delimiter": by_record,
}
for name, read in others.items():
    try:
        read().count()
    except Exception as error:
        print("ROW " + json.dumps(["other", [], f"the option {name}: plan without --split" in str(error), []]))
"""


def test_a_slice_has_the_address_and_partition_of_its_object(function: Function) -> None:
    """This holds however a script names the object. Without ``header`` only the first slice has the header as a row."""
    body = b"id,v\n" + b"".join(b"%d,x\n" % n for n in range(300))
    name = "hive/dt=2026-01-01/shop=7/big.csv"
    function.store.put(f"{DATA}/{name}", body)
    function.store.put(f"{DATA}/hive/dt=2026-01-02/shop=a/empty.csv", b"")
    function.store.put(PLAIN_PY, ADDRESSES)
    try:
        rows = run(function, "addresses", name.partition("/")[0] + "/", {}, len(body) // 3 + 1)
    finally:
        function.store.put(PLAIN_PY, PLAIN)

    counts = {way: sum(row[2] for row in rows if row[0] == way) for way in ("header", "base", "sql", "text", "rdd")}
    assert counts == {"header": 300, "base": 300, "sql": 301, "text": 301, "rdd": 301}
    columns = [["dt", "date"], ["shop", "string"]]  # a string, as Spark also sees shop=a of the empty object
    assert all(row[1] == columns for row in rows if row[0] in ("header", "base", "sql"))
    files = {file.replace("s3a://", "s3://") for row in rows for file in row[3] if row[0] != "rdd"}
    assert files == {f"{DATA}/{name}"}
    assert [row[2] for row in rows if row[0] == "whole"] == [True] * 4
    assert [row[2] for row in rows if row[0] == "other"] == [True] * 4 * 5  # five readers are refused in each slice


def test_a_slice_read_by_anything_but_spark_fails(function: Function) -> None:
    """Other readers would see the whole object in every shard."""
    body = b"id,v\n" * 100
    etag = function.store.put(f"{DATA}/whole.csv", body)
    item = InputObject(f"{DATA}/whole.csv", 40, etag, slice=Slice(SliceKind.LINES, 5, 45, 5))
    ref = function.plan(b"import sys, urllib.request\nprint(sys.argv[-1])\n", [item])

    function.deliver(ref)

    record = function.shard(ref)
    assert (record.state, record.error_class) == (ShardState.FAILED, "PlanError")
    assert f"did not read {DATA}/whole.csv by Spark" in record.error_message


def written_by_spark(function: Function, whole: Path) -> str:
    function.store.put(script := f"s3://{BUCKET}/scripts/write.py", WRITE)
    to = f"{DATA}/written"
    event = {"sparklet": {"script": script}, "to": to}
    assert function.invoke(event)["answer"]["state"] == "SUCCEEDED"
    (written,) = [each.uri for each in function.store.list(f"{to}/") if each.uri.endswith(".parquet")]
    function.store.download(written, whole)
    assert pq.read_metadata(whole).row_group(0).column(0).has_column_index
    return written.removeprefix(f"{DATA}/")


def written_by_duckdb(function: Function, whole: Path) -> str:
    with duckdb.connect() as db:
        rows = "range AS id, 'key-' || range % 900 AS key, 'd' || range % 7 AS day"
        third = "CASE WHEN range % 5 > 0 THEN range / 3 END AS third"
        db.execute(f"COPY (SELECT {rows}, {third} FROM range(16000)) TO '{whole}' (ROW_GROUP_SIZE 2048)")
    function.store.put(f"{DATA}/by_duckdb.parquet", whole.read_bytes())
    return "by_duckdb.parquet"


@pytest.mark.parametrize(("writer", "parts"), [(written_by_spark, 3), (written_by_duckdb, 9)])
def test_sliced_parquet_equals_the_whole_with_any_filter(
    function: Function, tmp_path: Path, writer: Callable[[Function, Path], str], parts: int
) -> None:
    """The files have column indexes, Bloom filters and dictionaries; filters use all; some slices have no row group."""
    whole = tmp_path / "whole.parquet"
    name = writer(function, whole)
    assert pq.read_metadata(whole).num_row_groups > 5
    filters = ["true", "id BETWEEN 4990 AND 5010", "day = 'd3' AND id < 200", "third IS NULL AND id > 11900"]
    with duckdb.connect() as db:
        keys = db.execute(f"SELECT key FROM '{whole}' WHERE id IN (7, 6000)").fetchall()
        filters += [f"key = '{key}'" for (key,) in keys] + ["key = 'nobody'"]
        expected = [
            [where, *row]
            for where in filters
            for row in db.execute(f"SELECT * FROM '{whole}' WHERE {where}").fetchall()
        ]
        blooms = db.execute(f"SELECT count(bloom_filter_offset) FROM parquet_metadata('{whole}')").fetchall()
    assert blooms[0][0] > 5

    params = {"format": "parquet", "filters": filters}
    rows = run(function, writer.__name__.replace("_", "-"), name, params, whole.stat().st_size // parts)

    assert sorted(rows, key=repr) == sorted(expected, key=repr)


class _Keys(encryption.KmsClient):  # type: ignore[misc]
    """A key service that does not encrypt keys."""

    def __init__(self, config: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)


def test_a_part_of_parquet_with_a_signed_footer_fails(function: Function) -> None:
    """Sparklet has no key with which it could sign a footer with fewer row groups."""
    columns = encryption.EncryptionConfiguration(footer_key="f", column_keys={"k": ["id"]}, plaintext_footer=True)
    factory = encryption.CryptoFactory(_Keys)
    keys = factory.file_encryption_properties(encryption.KmsConnectionConfig(), columns)
    pq.write_table(pa.table({"id": [1, 2], "v": [3, 4]}), file := io.BytesIO(), 1, encryption_properties=keys)
    size = len(file.getvalue())
    etag = function.store.put(f"{DATA}/signed.parquet", file.getvalue())
    item = InputObject(f"{DATA}/signed.parquet", 10, etag, slice=Slice(SliceKind.ROW_GROUPS, 0, size // 2))

    ref = function.plan(PLAIN.replace(b'"text"', b'"parquet"'), [item])
    function.deliver(ref)

    record = function.shard(ref)
    assert record.error_class and "its footer signed: plan without --split" in record.error_message


def test_objects_with_odd_names_are_each_read_once(function: Function) -> None:
    """Spark alone would misread some of the names; the script does not use Sparklet.

    Two names are patterns that other names match, and have their own shards.
    """
    keys = [key for key in (*RIGHT, *MISREAD) if "\x01" not in key]
    uris = [f"{DATA}/odd/{key}" for key in keys]
    for number, uri in enumerate(uris):
        function.store.put(uri, b"%04d" % number)
    function.store.put(f"{DATA}/odd/axb.csv", b"what a*b.csv and a?b.csv would match")

    patterns = [uri for uri in uris if uri.endswith(("a*b.csv", "a?b.csv"))]
    refs = [function.plan(PLAIN, each) for each in ([uri for uri in uris if uri not in patterns], *zip(patterns))]
    function.skip_log()
    assert function.deliver(*refs) == []

    assert {function.shard(ref).state for ref in refs} == {ShardState.SUCCEEDED}
    numbers = sorted(int(row[1]) for row in seen(function))
    assert [keys[number] for number in numbers] == keys
    assert len([uri for uri in uris if misread(uri)]) == len(MISREAD) - 1


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet"])
def test_a_slice_of_a_replaced_object_never_reaches_the_script(function: Function, name: str) -> None:
    """This holds for a redrive, too, although a redrive reads whole objects that were replaced."""
    runs, run_id, kind = function.ledger.runs, f"changing-{name[2:]}", name[2:].removesuffix("l")
    uri = f"{DATA}/changing/{name}"
    function.store.put(uri, _content(name, 1))
    refs = planned(function, run_id, f"changing/{name}", {"format": kind}, 500)
    function.store.put(uri, _content(name, 2))

    function.skip_log()
    function.deliver(*refs)

    records = list(function.ledger.shards.list(run_id))
    assert len(records) > 1
    assert {(r.state, r.error_class) for r in records} == {(ShardState.FAILED, "RemoteFileChangedException")}
    assert all(uri[5:] in r.error_message for r in records)
    runs.start_generation(run_id, 1, runs.get(run_id).scripts[0])
    function.ledger.attempts.redrive(run_id, 0, 1)
    function.deliver(replace(refs[0], generation=1))
    assert function.shard(refs[0]).state is ShardState.FAILED
    assert seen(function) == []


REPLACING = b"""
import json, sys
import boto3, pandas
from pyspark.sql import SparkSession

event = json.loads(sys.argv[sys.argv.index("--event") + 1])
spark, params, uri = SparkSession.builder.getOrCreate(), event["params"], event["inputs"][0]
bucket, key = params["uri"].removeprefix("s3://").split("/", 1)
s3 = boto3.client("s3")


def rows():
    if params["reader"] == "spark":
        return [row[0] for row in spark.read.text(uri).collect()]
    if params["reader"] == "pandas":
        source = uri[7:] if uri.startswith("file://") else s3.get_object(Bucket=bucket, Key=key)["Body"]
        return list(pandas.read_csv(source, header=None, compression="infer" if uri.startswith("file") else None)[0])
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode().split()


before = rows() if params["when"] == "after" else None
s3.put_object(Bucket=bucket, Key=key, Body=bytes.fromhex(params["new"]))
spark.createDataFrame([(row,) for row in before or rows()], "v STRING").write.text(event["output_path"])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("reader", "name"), [*((r, "a.txt") for r in ("spark", "boto3", "pandas")), ("spark", "a.TXT.GZ")]
)
def test_an_incremental_shard_succeeds_on_planned_rows(function: Function, reader: str, name: str, when: str) -> None:
    """GIVEN an object that is replaced during the run, before or after a reader, which may bypass Spark, reads it.

    The shard fails if Sparklet cannot be sure that the reader has seen the planned object.
    """
    run_id = f"replaced-{reader}-{when}-{name[2:].replace('.', '').lower()}"
    uri, script = f"{DATA}/{run_id}/{name}", f"s3://{BUCKET}/scripts/replacing.py"
    pack: Callable[[bytes], bytes] = gzip.compress if name.endswith("GZ") else bytes
    function.store.put(script, REPLACING)
    function.store.put(uri, pack(b"old\n"))
    (ref,) = function.plan_request(
        RunRequest(
            script,
            (uri,),
            output := f"s3://{BUCKET}/out/{run_id}/",
            run_id=run_id,
            name=run_id,
            params={"uri": uri, "new": pack(b"new\n").hex(), "reader": reader, "when": when},
            options=RunOptions(incremental=True, max_attempts=1),
        )
    )

    function.deliver(ref)

    rows = b"".join(function.store.get(info.uri) for info in function.store.list(output))
    record, is_sure = function.shard(ref), reader == "spark" and (when == "after" or name.endswith("GZ"))
    assert record.state is (ShardState.SUCCEEDED if is_sure else ShardState.FAILED)
    assert rows == b"old\n" * is_sure
    assert is_sure or record.error_class in ("ObjectChangedError", "RemoteFileChangedException")


def _content(name: str, number: int) -> bytes:
    if name.endswith("l"):
        return b'{"n": %d}\n' % number * 100
    pq.write_table(pa.table({"n": [number * 1000 + n for n in range(100)]}), file := io.BytesIO(), 10)
    return file.getvalue()
