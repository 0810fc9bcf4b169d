"""Scripts that write one Delta table plainly: no commit replaces another, whoever writes at the same moment."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sparklet.model import ShardState
from tests.contract.lossy_proxy import LossyProxy, lossy_proxy
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import BUCKET, Function, deployed

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

WRITERS, COMMITS = 8, 4
SMALL_PARTS = {f"spark.hadoop.fs.s3a.multipart.{name}": "5M" for name in ("size", "threshold")}  # S3's least
# Each writer has a scheme, and so an S3A, a lock and a cache of its own, as in a process of its own.
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


@dataclass(frozen=True)
class Lake:
    """A worker whose requests to S3 pass through a proxy, and tables."""

    function: Function
    proxy: LossyProxy

    def committed(self, folder: str, writers: int, commits: int, filler: int = 0) -> tuple[list[str], list[str]]:
        """The ids of commits that writers were told are made, and those in the log."""
        terms = f"folder, writers, commits, filler = {folder!r}, {writers}, {commits}, {filler}"
        ref = self.function.plan(terms.encode() + LOG_STORES)
        assert self.function.deliver(ref) == [], self.function.said().decode()[-3000:]
        record = self.function.shard(ref)
        assert record.state is ShardState.SUCCEEDED, record.error_message
        answer = json.loads(self.function.store.get(self.function.at.run_uri(ref.run_id, record.answer_file)))["answer"]
        assert answer["failed"] == []
        log = self.function.store.list(f"s3://{BUCKET}/{folder}/_delta_log/")
        bodies = [self.function.store.get(info.uri) for info in log if info.uri.endswith(".json")]
        return sorted(answer["acknowledged"]), sorted(json.loads(body)["id"] for body in bodies)


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
    acknowledged, in_log = lake.committed("eight", writers=WRITERS, commits=COMMITS)

    assert len(acknowledged) == WRITERS * COMMITS
    assert in_log == acknowledged


def test_a_lost_answer_neither_loses_nor_doubles_a_commit(lake: Lake) -> None:
    lake.proxy.lose("PUT", answers=10)

    acknowledged, in_log = lake.committed("lossy", writers=2, commits=5)

    assert lake.proxy.lost == 10
    assert (len(acknowledged), in_log) == (10, acknowledged)


def test_a_commit_of_several_blocks_replaces_none(lake: Lake) -> None:
    acknowledged, in_log = lake.committed("large", writers=3, commits=2, filler=6_000_000)

    assert (len(acknowledged), in_log) == (6, acknowledged)
