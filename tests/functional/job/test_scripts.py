"""Example scripts do what their documentation says; tests of the worker cover the runners' isolation."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache
from sparklet.settings import spark_settings
from sparklet.spark import spark_options
from sparklet.spark.spark_options import process_env
from tests.functional.job.conftest import STACK
from tests.functional.job.judged import figures_of, shards_of
from tests.functional.job.warm_jvm import SCRIPTS, WarmJvm, reported, run_script, warm_jvm

pytestmark = pytest.mark.spark
DEEQU = SCRIPTS.parent / "examples" / "check_with_deequ.py"


def event(file: Path, output: Path, **params: str) -> dict[str, Any]:
    """The event of a shard with this input file."""
    names = {"run": "run-1", "shard": 0, "attempt": "a1", "generation": 0}
    return {"sparklet": names, "inputs": [f"file://{file}"], "output_path": str(output), "params": params}


def conversion(folder: Path, contents: dict[str, str], *more: str) -> list[str]:
    """Write files with these contents; return the arguments of csv_to_parquet for them."""
    for name, content in contents.items():
        (folder / name).write_text(content)
    inputs = [word for name in contents for word in ("--input", str(folder / name))]
    return ["csv_to_parquet.py", *inputs, "--output", str(folder / "out"), *more]


INFER = ("--param", "schema=infer")


def rows_of(folder: Path) -> list[tuple[Any, ...]]:
    return duckdb.execute("FROM read_parquet(?) ORDER BY ALL", [f"{folder}/*.parquet"]).fetchall()


# A script by itself, as on a laptop: python, the script and its arguments


def test_csv_to_parquet_runs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("id,name,born\n1,Ada,1815\n2,Émilie,1706\n3,,1906\n", encoding="utf-8")

    done = run_script(SCRIPTS / "csv_to_parquet.py", ["--input", "people.csv", "--output", "out"], {})

    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out") == [("1", "Ada", "1815"), ("2", "Émilie", "1706"), ("3", None, "1906")]
    assert reported(done.stderr) == {"rows": 3, "output_bytes": None, "outputs": ["out"]}


# csv_to_parquet


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("id,name,born\n1,Ada,1815\n2,x,y\n", "MALFORMED_RECORD"),
        ("id,name,born\n1,Ada\n", "MALFORMED_RECORD"),
        ("name,id,born\nAda,1,1815\n", "header does not conform"),
    ],
)
def test_rows_that_violate_the_schema_fail(jvm: WarmJvm, tmp_path: Path, content: str, cause: str) -> None:
    (file := tmp_path / "in.csv").write_text(content)
    shard_event = event(file, tmp_path / "out", schema="id INT, name STRING, born INT")

    done = jvm.run("csv_to_parquet.py", "--event", json.dumps(shard_event))

    assert done.returncode == 1
    assert cause in done.stderr


def test_a_schema_is_inferred_and_nothing_is_written(jvm: WarmJvm, tmp_path: Path) -> None:
    arguments = conversion(tmp_path, {"in.csv": "id;a `b;none;large\n1;2.5;;3000000000\n"}, "--param", "separator=;")

    done = jvm.run(*arguments, *INFER)
    assert done.returncode == 0, done.stderr
    schema = "`id` bigint, `a ``b` double, `none` string, `large` bigint"
    assert reported(done.stderr)["answer"] == {"schema": schema, "left_out": {}} and not (tmp_path / "out").exists()

    done = jvm.run(*arguments, "--param", f"schema={schema}")
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out") == [(1, 2.5, None, 3_000_000_000)]


TIMES = """
import json, sys
from sparklet.job import Job

job = Job.from_args()
spark, results = job.spark(), {}
for number, value in enumerate(job.params["values"]):
    with open(f"{job.output}-{number}.csv", "w") as file:
        file.write(f"id,at\\n1,{value}\\n")
    one = Job.from_args(["--input", f"{job.output}-{number}.csv"])
    results[value] = []
    for type_ in ("DATE", "TIMESTAMP"):
        try:
            results[value].append(str(one.read_csv(spark, f"id INT, at {type_}").first().at))
        except Exception as error:
            results[value].append("error" if any(each in str(error) for each in job.params["errors"]) else str(error))
    inferred = spark.read.csv(one.input_list(), **{**sys.modules["sparklet.job.arguments"].STRICT, "inferSchema": True})
    results[value].append(inferred.dtypes[1][1])
print("TIMES " + json.dumps(results))
"""


def test_a_date_or_time_of_another_format_is_an_error(jvm: WarmJvm, tmp_path: Path) -> None:
    (tmp_path / "times.py").write_text(TIMES)
    midnight, later = "2026-01-02 00:00:00", "2026-01-02 13:45:59"
    read = {  # as DATE, as TIMESTAMP, and the type that is inferred
        "2026-01-02": ["2026-01-02", midnight, "date"],
        "2026-1-2": ["2026-01-02", midnight, "date"],
        "2026-01-02 13:45": ["error", "2026-01-02 13:45:00", "timestamp"],
        "2026-01-02T13:45:59": ["error", later, "timestamp"],
        "2026-01-02 13:45:59.25": ["error", f"{later}.250000", "timestamp"],
        "2026-01-02T13:45:59Z": ["error", later, "timestamp"],
        "2026-01-02T15:45:59.000001+02:00": ["error", f"{later}.000001", "timestamp"],
        "12345": ["error", "error", "int"],
        "12:30": ["error", "error", "string"],
        "02/01/2026": ["error", "error", "string"],
        "20260102": ["error", "error", "int"],
        "2026-13-02": ["error", "error", "string"],
    }
    params = {"values": list(read), "errors": ["MALFORMED_RECORD", "PARSE_DATETIME_BY_NEW_PARSER"]}
    event = json.dumps({"output_path": str(tmp_path / "in"), "params": params})

    done = jvm.run(str(tmp_path / "times.py"), "--event", event)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("TIMES ")[2]) == read


MADE = {  # headers, each with the columns that Spark makes of it
    ",city,n": "`_c0` bigint, `city` string, `n` bigint",
    "id,v,v": "`id` bigint, `v1` string, `v2` bigint",
    "ID,x,iD": "`ID0` bigint, `x` string, `iD2` bigint",
}


@pytest.mark.parametrize("header", MADE)
def test_columns_without_own_names_are_inferred_and_read(jvm: WarmJvm, tmp_path: Path, header: str) -> None:
    """They are read with the inferred schema and without one; a file with another header is refused."""
    files = {"a.csv": f"{header}\n1,Ulm,2\n", "b.csv": "\n", "c.csv": f"{header.lower()}\n3,Bonn,4\n"}
    arguments = conversion(tmp_path, files)

    done = jvm.run(*arguments, *INFER)
    assert done.returncode == 0 and reported(done.stderr)["answer"]["schema"] == MADE[header], done.stderr

    texts = [("1", "Ulm", "2"), ("3", "Bonn", "4")]
    with_schema = ["--param", f"schema={MADE[header]}"]
    for schema, rows in (([], texts), (with_schema, [(int(a), b, int(c)) for a, b, c in texts])):
        done = jvm.run(*arguments, *schema)
        assert done.returncode == 0, done.stderr
        assert rows_of(tmp_path / "out") == rows

    (tmp_path / "c.csv").write_text("city,n,other\nUlm,1,2\n")
    done = jvm.run(*arguments, *with_schema)
    assert done.returncode == 1 and f"reading file file://{tmp_path}/c.csv. " in done.stderr, done.stderr


def test_a_sample_leaves_out_files_that_do_not_fit(jvm: WarmJvm, tmp_path: Path) -> None:
    files = {"a.csv": "id,n\n1,2\n", "b.csv": "ID,n\n1,2.5\n", "c.csv": "n,id\n1,2\n", "d.csv": "\n"}

    done = jvm.run(*conversion(tmp_path, {**files, "e.csv.gz": "no gzip"}, *INFER))

    assert done.returncode == 0, done.stderr
    answer = reported(done.stderr)["answer"]
    assert answer["schema"].lower() == "`id` bigint, `n` double"
    left_out = {Path(uri).name: why for uri, why in answer["left_out"].items()}
    assert left_out.keys() == {"c.csv", "e.csv.gz"}
    assert "['n', 'id']" in left_out["c.csv"] and "EOFException" in left_out["e.csv.gz"]


def test_no_schema_is_inferred_if_headers_differ(jvm: WarmJvm, tmp_path: Path) -> None:
    done = jvm.run(*conversion(tmp_path, {"a.csv": "id,amount\n1,2.5\n", "b.csv": "amount,id\n7,2\n"}, *INFER))

    assert done.returncode == 1 and "b.csv: it has the columns ['amount', 'id']" in done.stderr


# A check script


@pytest.mark.parametrize(
    ("required", "cause"), [("id", ""), ("id,name", "ExpectationError: name has no value in 1 of 3 rows")]
)
def test_a_run_is_checked_by_its_output(jvm: WarmJvm, tmp_path: Path, required: str, cause: str) -> None:
    output = shards_of(tmp_path / "out", "(1, 'Ada'), (2, 'Grace')", "(2, NULL)")
    params = {"least_rows": "3", "required": required, "unique": "id, name"}
    check_event = event(figures_of(tmp_path, output, rows=3), tmp_path / "none", **params)
    check_event["input_path"] = check_event["inputs"][0]

    done = jvm.run("check_output.py", "--event", json.dumps(check_event))

    assert done.returncode == (1 if cause else 0), done.stderr
    assert cause in done.stderr
    assert not (tmp_path / "none").exists()


# wordcount


def test_words_are_counted_over_all_inputs(jvm: WarmJvm, tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("Über die Brücke, über den Fluss.\n\n  ", encoding="utf-8")
    (tmp_path / "2.txt").write_text("die Zahl 42: don't", encoding="utf-8")
    done = jvm.run("wordcount.py", "--input", tmp_path / "*.txt", "--output", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    counts = dict(rows_of(tmp_path / "out"))
    once = ("brücke", "den", "fluss", "zahl", "42", "don", "t")
    assert counts == {"über": 2, "die": 2, **dict.fromkeys(once, 1)}
    assert reported(done.stderr)["rows"] == len(counts)


# compact


def test_small_files_become_one_with_the_same_rows(jvm: WarmJvm, tmp_path: Path) -> None:
    shards_of(tmp_path / "in", "(1, 'Ada')", "(2, NULL)")

    done = jvm.run("compact.py", "--input", tmp_path / "in" / "*" / "*.parquet", "--output", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out") == [(1, "Ada"), (2, None)]
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


# Hudi's defaults


@pytest.mark.hudi
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("sparklet", marks=pytest.mark.nightly), "a space, 100 %"])
def test_hudi_finds_the_workers_defaults_wherever_they_are(
    jars: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(spark_options, "HUDI_DEFAULTS", shutil.copytree(spark_options.HUDI_DEFAULTS, tmp_path / name))
    monkeypatch.setenv("HUDI_CONF_DIR", process_env(spark_settings({}), {})["HUDI_CONF_DIR"])
    script = tmp_path / "script.py"
    script.write_text(
        "from pyspark.java_gateway import launch_gateway\n"
        "read = launch_gateway().jvm.org.apache.hudi.common.config.DFSPropertiesConfiguration.getGlobalProps()\n"
        "print(read.getString('hoodie.embed.timeline.server'), read.getString('hoodie.write.markers.type'))\n"
    )

    # A JVM for this test alone: Hudi reads its defaults only once.
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
        done = jvm.run(str(script))

    assert done.stdout == "false DIRECT\n", done.stderr


# Deequ's checks


@pytest.fixture(scope="module")
def deequ_jvm() -> Iterator[WarmJvm]:
    """A JVM with Deequ's jars, which no other script needs."""
    deequ = ensure_jars(STACK, jar_cache(), ["deequ"], progress=print)
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, deequ))) as jvm:
        yield jvm


@pytest.mark.deequ
@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"required": "id", "unique": "id", "satisfies": "id > 0; name IS NULL OR id < 3"}, ""),
        ({"required": "id, name"}, "Completeness"),
        pytest.param({"unique": "name"}, "Uniqueness", marks=pytest.mark.nightly),
        pytest.param({"satisfies": "id > 0; id < 3"}, "id < 3", marks=pytest.mark.nightly),
    ],
)
def test_deequ_judges_the_output(deequ_jvm: WarmJvm, tmp_path: Path, params: dict[str, str], why: str) -> None:
    output = shards_of(tmp_path / "out", "(1, 'Ada'), (2, 'Ada')", "(3, NULL)")
    words = [word for name, value in params.items() for word in ("--param", f"{name}={value}")]

    done = deequ_jvm.run(str(DEEQU), "--input", figures_of(tmp_path, output, rows=3), *words)

    assert done.returncode == (1 if why else 0), done.stderr
    assert ("ExpectationError" in done.stderr) == bool(why)
    assert why in done.stderr
