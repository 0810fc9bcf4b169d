"""Makes commits with Spark, and tells what it was told of each and what the tables then hold.

As a script it has the steps as JSON in its argument, and prints the answers as JSON. The steps:
``["commit", commit]``, ``["race", commit]`` with another committer that is faster, ``["stopped", method, commit]`` with
a Hudi committer that is stopped before a method of its own (after it, if ``method`` ends with ``!``; ``"files"``: once
its instant has begun, before it writes files) until another has committed,
``["hudi", place, folder, options, times]`` for commits of another writer,
``["savepoint", place, restored]`` to make one or to go back to it, ``["checkpoint", place]`` as Spark makes Delta's,
``["read", format, place, condition, column, …]``, ``["append", table, folder]`` as a script outside of runs does.
"""

import fcntl
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.job.errors import SparkletError
from sparklet.job.fields import Table
from sparklet.tables import commit as committer
from sparklet.tables.declaration import Commit, StagedWrite
from tests.waiting import eventually


def commit_of(document: dict[str, Any]) -> Commit:
    """A commit, from ``dataclasses.asdict``."""
    writes, earlier = (
        tuple(StagedWrite(one["shard"], one["folder"], tuple(map(tuple, one["files"]))) for one in document[name])
        for name in ("writes", "earlier")
    )
    table, keys = Table(**document["table"]), tuple(document["keys"])
    return Commit(**{**document, "table": table, "keys": keys, "writes": writes, "earlier": earlier})


def raced(planned: Commit, spark: SparkSession) -> Any:
    """Another committer makes the same commit after this one has loaded the table."""
    load, waiting = committer.open_table, [True]

    def load_and_be_late(*args: Any) -> Any:
        table = load(*args)
        if waiting and waiting.pop():
            committer.commit(planned, lambda: spark)
        return table

    setattr(committer, "open_table", load_and_be_late)  # noqa: B010 - as a test's monkeypatch does
    try:
        return committer.commit(planned, lambda: spark)
    finally:
        setattr(committer, "open_table", load)  # noqa: B010


def stopped(method: str, planned: Commit, spark: SparkSession) -> Any:
    """Another committer makes the same commit while this one is stopped, in the middle of its write."""
    from sparklet.tables import hudi

    name, waiting = method.rstrip("!"), [True]
    go_on, lease = getattr(hudi.HudiTable, name), getattr(hudi, "lease")  # noqa: B009

    def commit_at_once() -> None:
        setattr(hudi, "lease", lambda _uri: nullcontext())  # noqa: B010 - the other's has expired
        try:
            committer.commit(planned, lambda: spark)
        finally:
            setattr(hudi, "lease", lease)  # noqa: B010

    def be_stopped(*args: Any) -> Any:
        found = go_on(*args) if method != name else None
        if waiting and waiting.pop():
            commit_at_once()
        return found if method != name else go_on(*args)

    setattr(hudi.HudiTable, name, be_stopped)
    try:
        return committer.commit(planned, lambda: spark)
    finally:
        setattr(hudi.HudiTable, name, go_on)


def stopped_in_spark(planned: Commit, spark: SparkSession) -> Any:
    """The same, while its Spark job reads the rows that it is to write."""
    from sparklet.tables import hudi

    read, folder, waiting = hudi.HudiTable.new_rows, tempfile.mkdtemp(), [True]
    begun, go_on = f"{folder}/begun", f"{folder}/go-on"

    def wait(batches: Iterator[Any]) -> Iterator[Any]:
        Path(begun).touch()
        with open(go_on) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield from batches

    def read_slowly(*args: Any) -> Any:
        rows = read(*args)
        if not waiting or not waiting.pop():
            return rows
        other.start()
        return rows.mapInPandas(wait, rows.schema)

    def commit_at_once() -> None:
        with held:
            eventually(Path(begun).exists)
            lease = getattr(hudi, "lease")  # noqa: B009
            setattr(hudi, "lease", lambda _uri: nullcontext())  # noqa: B010 - the other's has expired
            committer.commit(planned, lambda: spark)
            setattr(hudi, "lease", lease)  # noqa: B010

    held = open(go_on, "w")  # noqa: SIM115 - closed by the other
    fcntl.flock(held, fcntl.LOCK_EX)
    other = threading.Thread(target=commit_at_once)
    setattr(hudi.HudiTable, "new_rows", read_slowly)  # noqa: B010
    try:
        return committer.commit(planned, lambda: spark)
    finally:
        setattr(hudi.HudiTable, "new_rows", read)  # noqa: B010


def tell(job: Job, spark: SparkSession, steps: list[Any]) -> list[Any]:
    """Do the steps; the answers."""
    told: list[Any] = []
    for kind, *arguments in steps:
        if kind == "read":
            format_, place, condition, *columns = arguments
            rows = spark.read.format(format_).load(place).where(condition).select(*columns).collect()
            told.append([list(row) for row in rows])
            continue
        if kind == "savepoint":
            place, restored = arguments
            instants = committer.open_table(Table("hudi", place), lambda: spark, None)
            newest = instants.made("run/commit-0")
            at = f"path => '{place}', {'instant_time' if restored else 'commit_time'} => '{newest and newest[0]}'"
            spark.sql(f"CALL {'rollback_to' if restored else 'create'}_savepoint({at})").collect()
            told.append(at)
            continue
        if kind == "checkpoint":
            (place,) = arguments
            log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, place)
            told.append(log.checkpoint())
            continue
        if kind == "append":
            table, folder = arguments
            told.append(job.append(spark.read.parquet(folder), table))
            continue
        if kind == "hudi":
            place, folder, options, times = arguments
            for _ in range(times):
                spark.read.parquet(folder).write.format("hudi").options(**options).mode("append").save(place)
            continue
        planned = commit_of(arguments[-1])
        try:
            if kind == "stopped":
                one = (
                    stopped_in_spark(planned, spark)
                    if arguments[0] == "files"
                    else stopped(arguments[0], planned, spark)
                )
                told.append(asdict(one))
                continue
            done = raced(planned, spark) if kind == "race" else committer.commit(planned, lambda: spark)
            told.append(asdict(done))
        except SparkletError as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


def main() -> None:
    """Do the steps of the argument."""
    job = Job.from_args([])
    spark = job.spark()
    print(json.dumps(tell(job, spark, json.loads(sys.argv[1]))))
    spark.stop()


if __name__ == "__main__":
    main()
