"""Scripts that write one Iceberg or Hudi table without Sparklet at the same time: no commit replaces another."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sparklet.model import ShardState
from tests.functional.worker.ledgered import BUCKET
from tests.functional.worker.test_delta_commits import Lake, lake

__all__ = ["lake"]  # the fixture

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

TOGETHER = """
import json, threading
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
for n in range(writers):
    conf.set(f"fs.w{n}.impl", conf.get("fs.s3a.impl"))
acknowledged, failed = [], []


def at_once(write):
    def all_of(n):
        gate.wait()
        for k in range(commits):
            try:
                write(n, k)
                acknowledged.append(f"{n}-{k}")
            except Exception as error:
                failed.append(str(error)[:500])

    gate = threading.Barrier(writers)
    threads = [threading.Thread(target=all_of, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
# Each writer has its own URI scheme, and so its own S3A and Iceberg lock, as in a separate process.
ICEBERG = f"""
iceberg = jvm.org.apache.iceberg
types, tables = iceberg.types.Types, iceberg.hadoop.HadoopTables(conf)
columns = iceberg.Schema([types.NestedField.optional(1, "id", types.IntegerType.get())])
spec = iceberg.PartitionSpec.unpartitioned()
never = {{"commit.retry.num-retries": "0"}}  # else Iceberg waits, for longer each time
tables.create(columns, spec, never, f"w0://{BUCKET}/{{folder}}")


def append(n, k):
    data = iceberg.DataFiles.builder(spec).withPath(f"s3://{BUCKET}/{{folder}}/{{n}}-{{k}}.parquet")
    file = data.withFileSizeInBytes(1).withRecordCount(1).build()
    while True:
        try:
            table = tables.load(f"w{{n}}://{BUCKET}/{{folder}}")
            return table.newAppend().set("writer", f"{{n}}-{{k}}").appendFile(file).commit()
        except Exception as error:
            if "CommitFailedException" not in str(error):
                raise


at_once(append)
snapshots = tables.load(f"w0://{BUCKET}/{{folder}}").snapshots()
made = [snapshot.summary()["writer"] for snapshot in snapshots]
job.answer({{"acknowledged": acknowledged, "failed": failed, "made": made}})
"""
HUDI = """
options = {"hoodie.table.name": "t", "hoodie.datasource.write.recordkey.field": "id"}
options["hoodie.datasource.write.precombine.field"] = "id"


def upsert(n, k):
    rows = spark.createDataFrame([(10 * n + k, f"{n}-{k}")], "id int, name string")
    rows.write.format("hudi").options(**options).mode("append").save(table)


at_once(upsert)
made = [row["name"] for row in spark.read.format("hudi").load(table).collect()]
job.answer({"acknowledged": acknowledged, "failed": failed, "made": made})
"""
HUDI_LOCK = """
hudi, seconds = jvm.org.apache.hudi, jvm.java.util.concurrent.TimeUnit.SECONDS
properties = hudi.common.config.TypedProperties()
properties.setProperty("hoodie.base.path", table)
options, storage = hudi.common.config.LockConfiguration(properties), hudi.hadoop.fs.HadoopFSUtils.getStorageConf(conf)
inside, made, begun_ms = [], [], []


def take_a_turn(n, k):
    lock = hudi.client.transaction.lock.HudiLock(options, storage)
    try:
        assert lock.tryLock(60, seconds)
        begun_ms.append(jvm.System.currentTimeMillis())
        inside.append(n)
        made.append(f"{n}-{k}" if inside == [n] else f"{inside} at once")
        inside.remove(n)
        lock.unlock()
    finally:
        lock.close()


at_once(take_a_turn)
job.answer({"acknowledged": acknowledged, "failed": failed, "made": made, "begun_ms": min(begun_ms)})
"""


def run(lake: Lake, script: str, *, writers: int, commits: int, **names: str) -> Any:
    """Run a script whose writers each make so many commits at the same time; return what the script answers."""
    terms = {"writers": writers, "commits": commits, **names}
    head = "".join(f"{name} = {value!r}\n" for name, value in terms.items())
    ref = lake.function.plan((head + TOGETHER + script).encode())
    assert lake.function.deliver(ref) == [], lake.function.new_log().decode()[-3000:]
    record = lake.function.shard(ref)
    assert record.state is ShardState.SUCCEEDED, record.error_message
    answer = json.loads(lake.function.store.get(lake.function.deployment.run_uri(ref.run_id, record.answer_file)))[
        "answer"
    ]
    assert answer["failed"] == []
    assert len(answer["acknowledged"]) == writers * commits
    return answer


def test_iceberg_without_a_catalog_loses_no_commit(lake: Lake) -> None:
    lake.proxy.lose("PUT", answers=4)

    answer = run(lake, ICEBERG, writers=4, commits=2, folder="iceberg")

    assert lake.proxy.lost == 4
    assert sorted(answer["made"]) == sorted(answer["acknowledged"])


@pytest.mark.nightly
@pytest.mark.hudi
def test_plain_writes_to_hudi_lose_no_row(lake: Lake) -> None:
    answer = run(lake, HUDI, writers=3, commits=2, table=f"s3://{BUCKET}/plain-hudi")

    assert sorted(answer["made"]) == sorted(answer["acknowledged"])


@pytest.mark.hudi
def test_hudi_writers_take_turns_although_responses_are_lost(lake: Lake) -> None:
    lake.proxy.lose("PUT", answers=10)

    answer = run(lake, HUDI_LOCK, writers=8, commits=2, table=f"s3://{BUCKET}/hudi")

    assert lake.proxy.lost == 10
    assert sorted(answer["made"]) == sorted(answer["acknowledged"])


@pytest.mark.hudi
def test_hudi_writers_of_a_local_folder_take_turns(lake: Lake, tmp_path: Path) -> None:
    answer = run(lake, HUDI_LOCK, writers=8, commits=2, table=f"file://{tmp_path}/a b")

    assert sorted(answer["made"]) == sorted(answer["acknowledged"])


@pytest.mark.hudi
def test_the_hudi_lock_of_a_dead_writer_expires(lake: Lake) -> None:
    until_ms = int(time.time() * 1000) + 3000
    lock = {"expired": False, "validUntil": until_ms, "owner": "a writer that was killed"}
    lake.function.store.put(f"s3://{BUCKET}/dead/.hoodie/.locks/table_lock.json", json.dumps(lock).encode())

    answer = run(lake, HUDI_LOCK, writers=2, commits=1, table=f"s3://{BUCKET}/dead")

    assert answer["begun_ms"] > until_ms
    assert sorted(answer["made"]) == sorted(answer["acknowledged"])
