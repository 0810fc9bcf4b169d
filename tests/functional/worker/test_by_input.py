"""Output per input: each output file is mapped to its input by Spark's tasks, or a job that mixes inputs is refused."""

import io
import json
import re
import uuid
from collections import Counter

import pyarrow.parquet as pq
import pytest

from sparklet.model import NAMES, RunOptions, ShardState, split_uri
from sparklet.planning.request import RunRequest
from tests.archives import zipped
from tests.functional.worker.ledgered import BUCKET, Function

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

FILES = 7
HEAD = """
from pyspark.sql import functions as F
from sparklet.job import Job
job = Job.from_args()
spark = job.spark()
rows = spark.read.csv(job.input_list(), header=True, schema="src string, k int, v int")
SMALL = spark.range(3).selectExpr("int(id) AS k", "id * 10 AS ten")
out = lambda frame, *by: frame.write.mode("append").partitionBy(*by).parquet(job.output)
"""
NATIVE = {  # for each script body, a function that returns the number of rows of input n
    "out(rows)": lambda n: 40 + n,
    "out(rows, 'k')": lambda n: 40 + n,
    "out(rows.sortWithinPartitions('v'))": lambda n: 40 + n,
    "out(rows.where('int(src) % 2 = 0'))": lambda n: 0 if n % 2 else 40 + n,
    "out(rows.join(F.broadcast(SMALL), 'k'))": lambda n: 40 + n,
    "out(rows.withColumn('u', F.udf(lambda x: x + '!')('src')))": lambda n: 40 + n,
    "out(rows.where('v < 5').union(rows.where('v < 3')))": lambda n: 8,
    "rows.write.option('maxRecordsPerFile', 9).json(job.output)": lambda n: 40 + n,
    "out(rows)\nrows.write.csv(job.output + '/more')": lambda n: 2 * (40 + n),
    "print(rows.count())\nout(rows.select('src', 'v'))": lambda n: 40 + n,
}
MIXED = {
    "out(rows.coalesce(2))": "coalesce",
    "out(rows.groupBy('src').count())": "groupBy",
    "out(rows.dropDuplicates())": "dropDuplicates",
    "out(rows.orderBy('v'))": "orderBy",
    "held = rows.cache()\nheld.count()\nout(held)": "cache",
    "out(rows.repartition(3))": "repartition",
    "out(spark.createDataFrame([('0', 1)], 'src string, k int'))": "createDataFrame",
    "out(rows)\nout(rows.where('v < 2').repartition(1))": "repartition",
}


@pytest.fixture(scope="module")
def folder(function: Function) -> str:
    folder = f"s3://{BUCKET}/in/{uuid.uuid4().hex[:8]}/"
    for n in range(FILES):
        lines = [f"{n},{row % 3},{row}" for row in range(40 + n)]
        function.store.put(f"{folder}day={n % 2}/f{n}.csv", "\n".join(["src,k,v", *lines, ""]).encode())
    return folder


def run(function: Function, folder: str, body: str, **options: object) -> tuple[str, str]:
    """Run one shard of all files; return the run's id and output."""
    run_id = f"run-{uuid.uuid4().hex[:8]}"
    function.store.put(script := f"s3://{BUCKET}/jobs/{run_id}.py", (HEAD + body).encode())
    output = f"s3://{BUCKET}/out/{run_id}/"
    chosen = RunOptions(output_per="input", max_attempts=1, **options)  # type: ignore[arg-type]
    [ref] = function.plan_request(RunRequest(script, (folder,), output, run_id, options=chosen))
    function.skip_log()
    function.deliver(ref)
    return run_id, output


def sources(name: str, body: bytes) -> Counter[str]:
    """Count the rows of a file by their input."""
    if name.endswith(".parquet"):
        return Counter(pq.read_table(io.BytesIO(body)).column("src").to_pylist())
    lines = body.decode().splitlines()
    return Counter(json.loads(line)["src"] if name.endswith(".json") else line.split(",")[0] for line in lines)


@pytest.mark.parametrize("body", NATIVE)
def test_rows_are_published_under_the_name_of_their_input(function: Function, folder: str, body: str) -> None:
    run_id, output = run(function, folder, body)
    record = function.ledger.shards.get(run_id, 0)
    assert record.state is ShardState.SUCCEEDED, record.error_message

    lines = function.store.get(f"s3://{BUCKET}/runs/{run_id}/{record.inputs_file}").splitlines()[1:]
    results = {each["input"].removeprefix(folder).removesuffix(".csv"): each for each in map(json.loads, lines)}
    expected = {f"day={n % 2}/f{n}": +Counter({str(n): NATIVE[body](n)}) for n in range(FILES)}  # without counts of 0
    assert {name: each["rows"] for name, each in results.items()} == {
        name: rows.total() for name, rows in expected.items()
    }
    for name, rows in expected.items():
        files = results[name]["outputs"]
        assert sum((sources(file, function.store.get(file)) for file in files), Counter[str]()) == rows
        assert all(
            re.fullmatch(rf"{name}(-\d{{5}})?\.(parquet|json)|{name}/(k=|more/).*", f[len(output) :]) for f in files
        )
    published = {file for each in results.values() for file in each["outputs"]}
    assert {i.uri for i in function.store.list(output) if not i.uri.startswith(output + NAMES)} == published


WRITERS = {  # the suffix of the files, and the content of the file of an input without rows; None if not compared
    "rows.write.csv(job.output, header=True)": ("csv", b"src,k,v,day\n"),
    "rows.write.csv(job.output)": ("csv", b""),
    "rows.write.json(job.output, compression='gzip')": ("json.gz", None),
    "rows.write.orc(job.output)": ("orc", None),
    "rows.write.parquet(job.output)": ("parquet", None),
    "rows.select('src').write.text(job.output)": ("txt", b""),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("empty_outputs", ["file", "none"])
def test_an_input_without_rows_has_an_empty_file_or_none(
    function: Function, folder: str, writer: str, empty_outputs: str
) -> None:
    """This holds for the first task, for which Spark always writes a file, and for others, for which it does not."""
    suffix, body = WRITERS[writer]
    job = "rows = rows.where('src in (1, 2)')\n" + writer

    run_id, output = run(function, folder, job, empty_outputs=empty_outputs)

    record = function.ledger.shards.get(run_id, 0)
    assert record.state is ShardState.SUCCEEDED, record.error_message
    names = {info.uri.removeprefix(output): info.uri for info in function.store.list(output)}
    shown = {name: uri for name, uri in names.items() if not name.startswith(NAMES)}
    numbers = (1, 2) if empty_outputs == "none" else range(FILES)
    assert set(shown) == {f"day={n % 2}/f{n}.{suffix}" for n in numbers}
    if empty_outputs == "file":
        empty = function.store.get(shown[f"day=0/f0.{suffix}"]), function.store.get(shown[f"day=1/f3.{suffix}"])
        assert body is None or empty == (body, body)
        if suffix == "parquet":
            columns = [pq.read_table(io.BytesIO(each)).schema.names for each in empty]
            assert columns == [["src", "k", "v", "day"]] * 2


def test_an_input_without_a_byte_has_an_empty_file(function: Function, folder: str) -> None:
    place = f"s3://{BUCKET}/in/{uuid.uuid4().hex[:8]}/"
    function.store.put(f"{place}a.csv", b"")
    function.store.put(f"{place}b.csv", b"src,k,v\nb,1,2\n")

    _, output = run(function, place, "rows.write.csv(job.output, header=True)", keep_empty=True)

    bodies = {info.uri.removeprefix(output): function.store.get(info.uri) for info in function.store.list(output)}
    assert {name: body for name, body in bodies.items() if not name.startswith(NAMES)} == {
        "a.csv": b"src,k,v\n",
        "b.csv": b"src,k,v\nb,1,2\n",
    }


def test_an_output_has_the_content_type_of_its_format(function: Function, folder: str) -> None:
    for body, subtype in (("out(rows)", "vnd.apache.parquet"), ("rows.write.json(job.output)", "x-ndjson")):
        _, output = run(function, f"{folder}day=1/f3.csv", body)
        [info] = (each for each in function.store.list(output) if not each.uri.startswith(output + NAMES))
        head = function.clients.s3.head_object(Bucket=BUCKET, Key=split_uri(info.uri)[1])
        assert (info.uri.rpartition("/")[2].partition(".")[0], head["ContentType"]) == ("f3", f"application/{subtype}")


def test_each_file_of_an_archive_has_a_result(function: Function) -> None:
    place = f"s3://{BUCKET}/in/{uuid.uuid4().hex[:8]}/"
    members = {f"{n}.csv": "\n".join(["src,k,v", *[f"{n},1,{row}" for row in range(n)], ""]).encode() for n in (2, 3)}
    function.store.put(f"{place}a.zip", zipped(members))
    function.store.put(f"{place}f.csv", members["2.csv"])

    run_id, output = run(function, place, "out(rows)")

    record = function.ledger.shards.get(run_id, 0)
    assert record.state is ShardState.SUCCEEDED, record.error_message
    lines = function.store.get(f"s3://{BUCKET}/runs/{run_id}/{record.inputs_file}").splitlines()[1:]
    assert {each["input"].removeprefix(place): (each["outputs"], each["rows"]) for each in map(json.loads, lines)} == {
        "a.zip#2.csv": ([f"{output}a/2.parquet"], 2),
        "a.zip#3.csv": ([f"{output}a/3.parquet"], 3),
        "f.csv": ([f"{output}f.parquet"], 2),
    }


@pytest.mark.parametrize("body", MIXED)
def test_a_job_that_mixes_inputs_is_refused_with_its_line(function: Function, folder: str, body: str) -> None:
    run_id, output = run(function, folder, body, strict=True)
    record = function.ledger.shards.get(run_id, 0)

    assert (record.state, record.error_class) == (ShardState.FAILED, "MixedInputsError")
    assert f"has {MIXED[body]}()" in record.error_message
    assert list(function.store.list(output)) == []


def test_a_shard_of_one_input_can_mix_its_rows(function: Function, folder: str) -> None:
    run_id, output = run(function, f"{folder}day=1/f3.csv", "out(rows.orderBy('v').coalesce(1))")

    record = function.ledger.shards.get(run_id, 0)
    assert record.state is ShardState.SUCCEEDED, record.error_message
    assert f"{output}f3.parquet" in [info.uri for info in function.store.list(output)]
