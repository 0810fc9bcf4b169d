"""Scripts that write one Delta table with plain Spark at the same time: no commit replaces another."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from deltalake import DeltaTable

from sparklet.model import ShardRecord, ShardState
from tests.contract.lossy_proxy import LossyProxy, lossy_proxy
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import BUCKET, Function, deployed

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

WRITERS, COMMITS = 8, 4
SMALL_PARTS = {f"spark.hadoop.fs.s3a.multipart.{name}": "5M" for name in ("size", "threshold")}  # the minimum in S3
# Each writer has its own URI scheme, and so its own S3A, lock and cache, as in a separate process.
LOG_STORES = f"""
import json, threading
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
jvm, conf = spark._jvm, spark._jsc.hadoopConfiguration()
for n in range(writers):
    conf.set(f"fs.w{{n}}.impl", conf.get("fs.s3a.impl"))
acknowledged, failed = [], []


def write(n):
    log = jvm.org.apache.hadoop.fs.Path(f"w{{n}}://{BUCKET}/{{folder}}/_delta_log")
    log.getFileSystem(conf).mkdirs(log)
    store = jvm.io.delta.storage.S3SingleDriverLogStore(conf)
    version = 0
    gate.wait()
    for k in range(commits):
        while True:
            path = jvm.org.apache.hadoop.fs.Path(log, f"{{version:020d}}.json")
            lines = jvm.java.util.ArrayList()
            lines.add(json.dumps({{"id": f"{{n}}-{{k}}", "filler": "x" * filler}}))
            version = max(version + 1, len(acknowledged))
            try:
                store.write(path, lines.iterator(), False, conf)
                acknowledged.append(f"{{n}}-{{k}}")
                break
            except Exception as error:
                if "FileAlreadyExistsException" not in str(error):
                    failed.append(str(error)[:500])
                    break


gate = threading.Barrier(writers)
threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
job.answer({{"acknowledged": acknowledged, "failed": failed}})
""".encode()

PLAIN = """
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.sql(f"CREATE TABLE IF NOT EXISTS delta.`{table}` (id LONG) USING delta")
for mode in modes:
    spark.range(10).coalesce(1).write.format("delta").mode(mode).save(table)
if fails_once and not job.previous_attempt:
    raise OSError("after its commits")
"""


@dataclass(frozen=True)
class Lake:
    """A worker whose requests to S3 pass through a proxy, and methods that let it write tables."""

    function: Function
    proxy: LossyProxy

    def commit(self, folder: str, writers: int, commits: int, filler: int = 0) -> tuple[list[str], list[str]]:
        """Let writers commit at once; return the ids of the acknowledged commits, and of those in the table's log."""
        terms = f"folder, writers, commits, filler = {folder!r}, {writers}, {commits}, {filler}"
        ref = self.function.plan(terms.encode() + LOG_STORES)
        assert self.function.deliver(ref) == [], self.function.new_log().decode()[-3000:]
        record = self.function.shard(ref)
        assert record.state is ShardState.SUCCEEDED, record.error_message
        answer = json.loads(self.function.store.get(self.function.deployment.run_uri(ref.run_id, record.answer_file)))[
            "answer"
        ]
        assert answer["failed"] == []
        log = self.function.store.list(f"s3://{BUCKET}/{folder}/_delta_log/")
        bodies = [self.function.store.get(info.uri) for info in log if info.uri.endswith(".json")]
        return sorted(answer["acknowledged"]), sorted(json.loads(body)["id"] for body in bodies)

    def fail_once(self, name: str, *modes: str) -> tuple[ShardRecord, list[int]]:
        """Run a shard whose first attempt fails after its writes; return the record after the second, and the ids."""
        table = f"s3://{BUCKET}/{name}"
        ref = self.function.plan(f"table, modes, fails_once = {table!r}, {modes!r}, True\n{PLAIN}".encode())
        assert self.function.deliver(ref) != []
        assert "after its commits" in self.function.shard(ref).error_message
        self.function.deliver(ref)
        return self.function.shard(ref), self.ids(name)

    def ids(self, name: str) -> list[int]:
        endpoint = self.function.clients.s3.meta.endpoint_url
        options = {"aws_endpoint_url": endpoint, "aws_allow_http": "true", "aws_region": "us-east-1"}
        options |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        found = DeltaTable(f"s3://{BUCKET}/{name}", storage_options=options).to_pyarrow_table()
        return sorted(found.column("id").to_pylist())


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder, scratch = tmp_path_factory.mktemp("function"), tmp_path_factory.mktemp("scratch")
    with (
        lossy_proxy("") as (proxy, endpoint),
        deployed(
            folder, scratch, AWS_ENDPOINT_URL_S3=endpoint, SPARKLET_SPARK_CONF=json.dumps(SMALL_PARTS), **local_jars()
        ) as function,
    ):
        proxy.backend = function.clients.s3.meta.endpoint_url
        yield Lake(function, proxy)


def test_no_commit_of_eight_writers_is_lost(lake: Lake) -> None:
    acknowledged, in_log = lake.commit("eight", writers=WRITERS, commits=COMMITS)

    assert len(acknowledged) == WRITERS * COMMITS
    assert in_log == acknowledged


def test_a_lost_response_neither_loses_nor_doubles_a_commit(lake: Lake) -> None:
    lake.proxy.lose("PUT", answers=10)

    acknowledged, in_log = lake.commit("lossy", writers=2, commits=5)

    assert lake.proxy.lost == 10
    assert (len(acknowledged), in_log) == (10, acknowledged)


def test_a_commit_of_several_blocks_replaces_no_other(lake: Lake) -> None:
    acknowledged, in_log = lake.commit("large", writers=3, commits=2, filler=6_000_000)

    assert (len(acknowledged), in_log) == (6, acknowledged)


def test_a_later_attempt_that_would_append_again_fails(lake: Lake) -> None:
    record, ids = lake.fail_once("appended", "append", "append")

    assert (record.state, record.attempts) == (ShardState.FAILED, 2)
    assert record.error_class.endswith("CommittedBeforeException")
    assert f"made version 1 of s3://{BUCKET}/appended" in record.error_message
    assert ids == sorted([*range(10)] * 2)
    again = lake.function.redrive(record)  # by an operator who has read the error
    lake.function.deliver(again)
    assert lake.function.shard(again).state is ShardState.SUCCEEDED
    assert len(lake.ids("appended")) == 40


def test_a_later_attempt_can_overwrite_again(lake: Lake) -> None:
    record, ids = lake.fail_once("overwritten", "overwrite")

    assert (record.state, record.attempts) == (ShardState.SUCCEEDED, 2)
    assert ids == [*range(10)]
