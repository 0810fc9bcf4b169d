"""A topic of a real Kafka broker through the real handler into a Delta table, by a script's one line."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from sparklet.aws.object_store import S3ObjectStore
from tests.functional.job.warm_jvm import SCRIPTS
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.worker_process import WorkerProcess, stand_in, worker_process
from tests.stand_ins.kafka import Kafka, batch, kafka

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow, pytest.mark.kafka]
RECORDS, PARTITIONS = 40, 2


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake") / "readings"


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Iterator[WorkerProcess]:
    """A worker function whose script is the example."""
    folder = tmp_path_factory.mktemp("function")
    own = {**local_jars(), "SCRIPT_LOCATION": "s3://scripts/stream.py", "output_path": str(table)}
    own["SPARKLET_SCRIPT_PREFIXES"] = "s3://scripts/"
    with stand_in(folder) as (endpoint, clients):
        clients.s3.create_bucket(Bucket="scripts")
        S3ObjectStore(clients).put("s3://scripts/stream.py", (SCRIPTS / "stream_to_table.py").read_bytes())
        scratch = folder / "scratch"
        scratch.mkdir()
        with worker_process(folder, endpoint, scratch, **own) as worker:
            yield worker


def test_a_topics_records_are_in_the_table_once(function: WorkerProcess, broker: Kafka, table: Path) -> None:
    """A consumer that starts again begins at its last offset, and polls more or less than before."""
    broker.create("readings", PARTITIONS)
    values = [f'{{"sensor": "{number}", "celsius": {number / 2}}}'.encode() for number in range(RECORDS - 1)]
    broker.produce("readings", ((number % PARTITIONS, value) for number, value in enumerate([*values, b"{"])))
    one, two = (broker.consume("readings", partition, RECORDS // PARTITIONS) for partition in range(PARTITIONS))
    cuts = [(one[:8], two[:3]), (one[:8], two[:3]), (one[5:12], two[:9]), ([], two[9:]), (one[10:], two[2:])]

    for of_one, of_two in cuts:
        told = function.invoke(batch(*of_one, *of_two))
        assert told.get("answer") == {"batchItemFailures": []}, (told, function.log.read_text()[-3000:])

    found = DeltaTable(str(table)).to_pyarrow_table()  # noqa: F841 - duckdb finds it by its name
    rows = duckdb.sql("SELECT sensor, celsius FROM found ORDER BY celsius").fetchall()
    assert rows == [(str(number), number / 2) for number in range(RECORDS - 1)]
    (dead,) = DeltaTable(f"{table}_dead_letters").to_pyarrow_table().to_pylist()
    assert (dead["cause"], dead["value"]) == ("it is not one JSON document", b"{")
