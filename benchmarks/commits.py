"""What one commit costs: an append of many files, or an upsert into a table of many files.

    python -m benchmarks.commits append --files 10 1000 10000 [--formats delta iceberg] [--rounds 5]
    python -m benchmarks.commits upsert --rows 1000 100000 --keys near apart --size-mb 1000 [--table-files 1000]

Tables and staged files lie in a local folder, so no request is measured. Each trial is a process of its own, whose JVM
has the heap of a function of 3,008 MB. Of two checkouts run them in turn: ``PYTHONPATH=OTHER/runtime:OTHER python
benchmarks/commits.py`` measures the other's code. ``near``: keys side by side, in few files of the table; ``apart``:
keys all over it. The last line is one JSON document of medians with their ranges.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

HEAP = "1955m"  # of 3,008 MB
ROW_BYTES = 100  # in Parquet with zstd or Snappy, about
GROUPS = {"delta": ("delta",), "iceberg": ("iceberg", "sqlite")}
OPTIONS = {
    "spark.master": "local[2]",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.autoBroadcastJoinThreshold": "10485760",
}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["append", "upsert"])
    parser.add_argument("--files", type=int, nargs="+", default=[10, 1000, 10_000], help="of the append")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000], help="of the upsert")
    parser.add_argument("--keys", nargs="+", default=["near", "apart"])
    parser.add_argument("--size-mb", type=int, default=1000, help="of the table that is upserted")
    parser.add_argument("--kept", help="folder of the tables that are upserted, made by the first trial of each format")
    parser.add_argument("--table-files", type=int, default=1000)
    parser.add_argument("--formats", nargs="+", default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(trial(json.loads(options.trial))))
        return
    figures: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for given in plans(options):
            if not (figure := in_process(options.what, given))["seconds"]:  # it has made the table
                figure = in_process(options.what, given)
            figures.setdefault(json.dumps(given), []).append(figure)
            print(given, figures[json.dumps(given)][-1], flush=True)
    print(json.dumps([{**json.loads(given), **summed(found)} for given, found in figures.items()]))


def in_process(what: str, given: dict[str, Any]) -> dict[str, float]:
    """A trial in a process of its own."""
    words = [sys.executable, __file__, what, "--trial", json.dumps(given)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{given}: {done.stderr[-3000:]}")
    figure: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figure


def plans(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The trials of a round."""
    for form in options.formats:
        if options.what == "append":
            yield from ({"what": "append", "format": form, "files": files} for files in options.files)
            continue
        of_table = {"size_mb": options.size_mb, "table_files": options.table_files}
        for rows in options.rows:
            for keys in options.keys:
                kept = {"kept": f"{options.kept}/{form}"} if options.kept else {}
                yield {"what": "upsert", "format": form, "rows": rows, "keys": keys, **of_table, **kept}


def summed(found: list[dict[str, float]]) -> dict[str, list[float]]:
    """Median, least and greatest of each figure."""
    return {
        name: [statistics.median(values), min(values), max(values)]
        for name in found[0]
        if (values := [each[name] for each in found])
    }


def trial(given: dict[str, Any]) -> dict[str, float]:
    """One commit, in this process."""
    kept = given.get("kept")
    with tempfile.TemporaryDirectory(prefix="commits-") if not kept else nullcontext(kept) as folder:
        is_new = not kept or renewed(Path(folder))
        spark = session(Path(folder), given["format"])
        table = f"delta:file://{folder}/table" if given["format"] == "delta" else "iceberg:db.t"
        if given["what"] == "upsert" and is_new:
            create(spark, Path(folder), table, given["size_mb"] * 1024 * 1024 // ROW_BYTES, given["table_files"])
        seconds = 0.0
        if not kept or not is_new:
            seconds = (append if given["what"] == "append" else upsert)(spark, Path(folder), table, given)
        pid = spark.sparkContext._gateway.proc.pid  # bin/spark-submit has become the JVM
        memory_mb = sum(peak_mb(each) for each in (str(pid), "self"))
        spark.stop()
    return {"seconds": round(seconds, 2), "memory_mb": memory_mb}


def renewed(folder: Path) -> bool:
    """Whether a kept table is to be made; else it is as it was made, from a copy beside it by links of its files."""
    copy = folder.with_name(f"{folder.name}-made")
    made, there = (copy, folder) if copy.exists() else (folder, copy)
    if not made.exists():
        made.mkdir(parents=True)
        return True
    shutil.rmtree(there, ignore_errors=True)
    shutil.copytree(made, there, copy_function=lambda *names: (shutil.copy if ".db" in names[0] else os.link)(*names))
    return False


def peak_mb(process: str) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def session(folder: Path, form: str) -> Any:
    """A session as a commit run has it, with this format's jars alone."""
    from sparklet.job import Job
    from sparklet.local.jars import ensure_jars
    from sparklet.local.spark_installation import jar_cache, stack_file

    os.environ["PYICEBERG_CATALOG__ICEBERG__TYPE"] = "sql"
    os.environ["PYICEBERG_CATALOG__ICEBERG__URI"] = f"sqlite:///{folder}/catalog.db"
    os.environ["PYICEBERG_CATALOG__ICEBERG__WAREHOUSE"] = f"file://{folder}/warehouse"
    jars = map(str, ensure_jars(stack_file(), jar_cache(), GROUPS[form], lambda *_: None))
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--driver-memory {HEAP} --driver-class-path {':'.join(jars)} pyspark-shell"
    return Job().spark("commits", OPTIONS)


def append(spark: Any, folder: Path, table: str, given: dict[str, Any]) -> float:
    """The commit of copies of one staged file, as so many shards would have staged it."""
    from sparklet.connectors.tables.commit import commit, plan
    from sparklet.connectors.tables.declaration import Declaration
    from sparklet.job import Job

    create(spark, folder, table, 10, 1)
    outcome = folder / "outcome.json"
    of_run = {"run": "r", "identity": "r_1", "shard": 0, "attempt": "a", "generation": 0}
    event = {"sparklet": of_run, "inputs": [], "params": {}, "output_path": f"file://{folder}/staged/000000-a"}
    of_worker = {"SPARKLET_OUTCOME_FILE": str(outcome), "SPARKLET_CLAIMED": "1"}
    job = Job.from_args(["--event", json.dumps(event)], of_worker)
    job.append(rows_of(spark, 0, 100, 1), table)
    document = json.loads(outcome.read_text())["writes"][0]
    name = document["files"][0][0]
    place = Path(document["folder"].removeprefix("file://").removeprefix("file:")) / name
    stem, text = Path(name).name.partition(".")[0], json.dumps(document)
    declared = []
    for shard in range(given["files"]):
        new = f"{stem}-{shard}"
        shutil.copy(place, place.parent / place.name.replace(stem, new))
        declared.append(Declaration.from_document(json.loads(text.replace(stem, new)), shard))
    planned = plan({"identity": "r_1", "commit": 0}, [declared])
    start_s = time.monotonic()
    for each in planned:
        assert commit(each, spark).files == given["files"]
    return time.monotonic() - start_s


def upsert(spark: Any, folder: Path, table: str, given: dict[str, Any]) -> float:
    """An upsert that the script commits itself: staging of the rows, and the commit."""
    from sparklet.job import Job

    count = given["size_mb"] * 1024 * 1024 // ROW_BYTES
    step = 1 if given["keys"] == "near" else count // given["rows"]
    changes = rows_of(spark, 0, given["rows"] * step, 1, step)
    start_s = time.monotonic()
    assert Job().upsert(changes, table, keys="id", label=uuid.uuid4().hex) == given["rows"]
    return time.monotonic() - start_s


def rows_of(spark: Any, first: int, end: int, files: int, step: int = 1) -> Any:
    """Rows of some 100 bytes that cannot be compressed, in so many files."""
    return spark.range(first, end, step, files).selectExpr("id", "sha2(CAST(id AS STRING), 512) AS text")


def create(spark: Any, folder: Path, table: str, count: int, files: int) -> None:
    """A table of so many rows, sorted by their ids over so many files, by Spark alone."""
    rows = rows_of(spark, 0, count, files)
    if table.startswith("delta:"):
        rows.write.format("delta").save(table.partition(":")[2])
        return
    spark.sql("CREATE NAMESPACE IF NOT EXISTS iceberg.db")
    rows.writeTo("iceberg.db.t").create()


if __name__ == "__main__":
    main()
