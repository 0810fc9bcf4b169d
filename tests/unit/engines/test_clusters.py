"""Spark clusters as engines: a worker in another process that gets the cluster's address."""

from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import clusters_of, engines_of
from sparklet.errors import SettingsError
from sparklet.settings import engines
from tests.stand_ins.memory import MemoryEngine

STANDALONE: dict[str, Any] = {"master": "spark://10.0.0.7:7077", "conf": {"spark.cores.max": "8"}}
CONNECT = {"remote": "sc://10.0.0.7:15002"}
FARGATE = {"cluster": "c", "taskDefinition": "d:1", "subnets": "s", "securityGroups": "g", "assignPublicIp": "DISABLED"}
COMMAND = ("shard", "--run", "run-1", "--shard", "7", "--generation", "0")


def test_a_worker_gets_the_address_of_its_cluster() -> None:
    tasks = MemoryEngine()
    made = clusters_of({"standalone": STANDALONE, "connect": CONNECT, "fargate": FARGATE}, tasks)

    made["standalone"].start("token-1", COMMAND)
    made["connect"].start("token-2", COMMAND)

    master = ("--conf", "spark.master=spark://10.0.0.7:7077", "--conf", "spark.cores.max=8")
    assert tasks.commands == {
        "token-1": (*COMMAND, *master),
        "token-2": (*COMMAND, "--conf", "spark.remote=sc://10.0.0.7:15002"),
    }


def test_a_cluster_stops_and_watches_its_workers() -> None:
    tasks = MemoryEngine()
    cluster = clusters_of({"standalone": STANDALONE}, tasks)["standalone"]
    task_id = cluster.start("token-1", COMMAND)
    assert cluster.stopped([task_id]) == {}

    cluster.stop(task_id)

    assert list(cluster.stopped([task_id])) == [task_id]


def test_only_a_session_with_a_jvm_writes_to_tables() -> None:
    made = clusters_of({"standalone": STANDALONE, "connect": CONNECT}, MemoryEngine())

    assert "JVM" in made["connect"].unfit("iceberg")
    assert [made["connect"].unfit(""), made["standalone"].unfit("iceberg")] == ["", ""]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"standalone": {"master": "yarn"}}, "spark://HOST:PORT"),
        ({"connect": {"master": "spark://10.0.0.7:7077"}}, "sc://HOST:PORT"),
        ({"connect": {"remote": "sc://10.0.0.7:443/;token=secret"}}, "without a token"),
    ],
)
def test_a_wrong_address_is_refused(named: dict[str, dict[str, str]], told: str) -> None:
    [cluster] = clusters_of(named, MemoryEngine()).values()

    assert told in cluster.unfit("")
    assert "secret" not in cluster.unfit("")
    with pytest.raises(SettingsError, match=told):
        cluster.start("token-1", COMMAND)


def test_on_aws_the_workers_are_tasks_of_fargate() -> None:
    clients = AwsClients()
    assert "needs fargate" in engines_of(clients, {"standalone": STANDALONE}, {})["standalone"].unfit("")

    named = {"standalone": STANDALONE, "fargate": FARGATE}
    assert list(engines_of(clients, named, {})) == ["fargate", "standalone"]  # the order of auto


def test_an_engine_without_an_address_is_left_out() -> None:
    text = '{"standalone": {"master": "", "conf": {}}, "connect": {"remote": "sc://h:1", "conf": {}}}'
    assert list(engines({"SPARKLET_ENGINES": text})) == ["connect"]


def test_an_incomplete_engine_does_not_affect_others() -> None:
    made = engines_of(AwsClients(), {"glue": {"name": "shards"}, "new": {"a": "b"}, "fargate": FARGATE}, {})

    assert [name for name, engine in made.items() if engine.unfit("")] == ["glue", "new"]


def test_spark_connect_is_refused_if_writes_need_encryption() -> None:
    given = {"SPARKLET_WRITE_ENCRYPTION": "AES256"}
    made = clusters_of({"standalone": STANDALONE, "connect": CONNECT}, MemoryEngine(), lambda: given)

    assert "WriteEncryption" in made["connect"].unfit("")
    assert made["standalone"].unfit("") == ""  # its worker sets S3A's options
