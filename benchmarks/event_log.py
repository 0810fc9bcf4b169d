"""What does Spark's event log of a shard cost: by a SparkContext of its own, or by a listener of the kept one?

One JVM, in which each round does the CSV job some times without a log in a kept context (``sparklet``), some times with
a listener that is attached to the kept context and removed after the job (``listener``), and some times in a context
that is started for the job, with a log, and stopped after it (``own context``). The kept context ends before the last
and begins anew after it; that is not counted. Stages that a log holds are counted, so none can be empty.

    python -m benchmarks.event_log [--rounds 5]
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish
from benchmarks.process_tree import cpu_s
from benchmarks.workload import Job, jobs

QUESTION = "What does Spark's event log of a shard cost, by a SparkContext of its own or by a listener?"
LISTENER, OWN = "listener", "own context"
JOBS, WARM_UPS = 10, 10  # of a kind and round; once
CONF = {"spark.master": "local[2]", "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2"}


def main() -> None:
    """Measure and print."""
    rounds = options(__doc__).parse_args().rounds
    case = Case("warm, csv_to_parquet", [LISTENER, OWN])
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        folder = Path(name)
        [job] = [each for each in jobs(folder / "data") if each.name == "csv_to_parquet"]
        (logs := folder / "logs").mkdir()
        for number in range(rounds):
            kept = _session()
            for _ in range(WARM_UPS if not number else 1):
                _do(kept, job)
            case.add(SPARKLET, *(_timed(job, lambda: _do(kept, job)) for _ in range(JOBS)))  # noqa: B023
            case.add(LISTENER, *(_timed(job, lambda: _listened(kept, job, logs)) for _ in range(JOBS)))  # noqa: B023
            kept.stop()
            case.add(OWN, *(_timed(job, lambda: _own(job, logs)) for _ in range(JOBS)))
        sizes = _checked(logs, 2 * JOBS * rounds)
        publish(document("event_log", QUESTION, {"kilobytes_a_log": round(sum(sizes) / len(sizes) / 1000)}, [case]))


def _session(conf: dict[str, str] | None = None) -> SparkSession:
    builder = SparkSession.builder
    for key, value in {**CONF, **(conf or {})}.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def _do(spark: SparkSession, job: Job) -> None:
    """What the job's script does, in a given session."""
    event = job.event(SPARKLET)
    sales = spark.read.csv(event["input"], header=True, inferSchema=True)
    groups = sales.groupBy("name").agg(F.count(F.lit(1)).alias("sales"), F.sum("amount").alias("amount"))
    groups.write.mode("overwrite").parquet(event["output"])


def _listened(spark: SparkSession, job: Job, logs: Path) -> None:
    """In the kept context, with Spark's own listener attached; its last events have come before it is removed."""
    jvm: Any = spark._jvm  # no public way to Spark's listener
    context = spark._jsc.sc()
    conf = context.conf().clone().set("spark.eventLog.rolling.enabled", "false").set("spark.eventLog.compress", "false")
    name = f"listened-{time.monotonic_ns()}"
    listener = jvm.org.apache.spark.scheduler.EventLoggingListener(
        name, jvm.scala.Option.empty(), jvm.java.net.URI(logs.as_uri()), conf
    )
    listener.start()
    context.addSparkListener(listener)
    try:
        _do(spark, job)
        context.listenerBus().waitUntilEmpty()
    finally:
        context.removeSparkListener(listener)
        listener.stop()


def _own(job: Job, logs: Path) -> None:
    """In a context of its own, which writes the log."""
    log = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": logs.as_uri(), "spark.eventLog.compress": "false"}
    spark = _session({**log, "spark.eventLog.rolling.enabled": "false"})
    _do(spark, job)
    spark.stop()


def _timed(job: Job, do: Callable[[], None]) -> Run:
    began_s, began_cpu_s = time.perf_counter(), cpu_s(os.getpid())
    do()
    took = Run(time.perf_counter() - began_s, cpu_s(os.getpid()) - began_cpu_s, 0.0)
    job.verify(SPARKLET)
    return took


def _checked(logs: Path, expected: int) -> list[int]:
    """The logs' sizes in bytes; SystemExit unless there are as many as jobs, each with its stages."""
    found = [path for path in logs.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in found:
        events = [json.loads(line)["Event"] for line in path.read_text().splitlines()]
        if "SparkListenerStageCompleted" not in events:
            raise SystemExit(f"the log {path.name} has no stage")
    if len(found) != expected:
        raise SystemExit(f"{len(found)} logs of {expected} jobs")
    return [path.stat().st_size for path in found]


if __name__ == "__main__":
    main()
