"""What starts workers for single shards, beside the functions: in memory, as a local process, and in ECS Fargate."""

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.containers import tasks_of_shards
from sparklet.errors import RemoteTaskError
from sparklet.local.state import StateDir
from sparklet.local.tasks import LocalTasks, TaskRunner
from sparklet.ports import Engine
from tests.functional.local.conftest import eventually
from tests.stand_ins.memory import MemoryEngine

COMMAND = ("shard", "--run", "no-such-run", "--shard", "0", "--generation", "0")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[TaskRunner]:
    """The host's part, which looks as the host does."""
    state, ended = StateDir(tmp_path / "state"), threading.Event()
    state.create()
    runner = TaskRunner(state, dict(os.environ))

    def look() -> None:
        while not ended.wait(0.05):
            runner.look()

    thread = threading.Thread(target=look)
    thread.start()
    yield runner
    eventually(lambda: not runner.look())
    ended.set()
    thread.join()


@pytest.fixture(params=["memory", "process", pytest.param("fargate", marks=pytest.mark.stack)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "memory":
        return MemoryEngine()
    if request.param == "process":
        request.getfixturevalue("runner")
        return LocalTasks(tmp_path / "state" / "tasks")
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    cluster = f"shards-{uuid.uuid4().hex[:8]}"
    clients.ecs.create_cluster(clusterName=cluster)
    clients.ecs.register_task_definition(
        family="sparklet-shard",
        containerDefinitions=[{"name": "sparklet-shard", "image": "local"}],
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="1024",
        memory="2048",
    )
    network = {"subnets": "subnet-1,subnet-2", "securityGroups": "sg-1", "assignPublicIp": "DISABLED"}
    return tasks_of_shards(clients, {"cluster": cluster, "taskDefinition": "sparklet-shard", **network})


def test_a_worker_that_is_stopped_has_stopped_with_a_cause(engine: Engine) -> None:
    task_id = engine.start("token-1", COMMAND)

    engine.stop(task_id)

    cause = eventually(lambda: engine.stopped([task_id]).get(task_id))
    assert cause.error_class
    assert cause.message


def test_nothing_is_said_of_workers_that_were_not_asked_for(engine: Engine) -> None:
    engine.stop(engine.start("token-1", COMMAND))

    assert engine.stopped([]) == {}


def test_the_same_token_is_the_same_local_worker(runner: TaskRunner, tmp_path: Path) -> None:
    """Of Fargate's it is the token that ECS is asked with; its stand-in does not look at it."""
    engine = LocalTasks(tmp_path / "state" / "tasks")

    task_id = engine.start("token-1", COMMAND)
    eventually(lambda: engine.stopped([task_id]))

    assert engine.start("token-1", COMMAND) == task_id
    assert "exit status 2" in engine.stopped([task_id])[task_id].message  # it is done once, and ended by itself
    assert len(list((tmp_path / "state" / "log").glob("worker-*.log"))) == 1


def test_a_second_local_worker_has_no_room(tmp_path: Path) -> None:
    engine = LocalTasks(tmp_path)
    engine.start("token-1", COMMAND)

    with pytest.raises(RemoteTaskError) as raised:
        engine.start("token-2", COMMAND)

    assert raised.value.reason == "throttled"
    assert engine.start("token-1", COMMAND)


def test_a_worker_of_an_earlier_local_stack_has_stopped(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    task_id = LocalTasks(state.tasks).start("token-1", COMMAND)

    state.sweep()

    assert task_id in LocalTasks(state.tasks).stopped([task_id])
