"""Calls in containers of their own: started by ECS, ended with an answer, or with what ECS knows."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines.fargate import FargateTasks
from sparklet.errors import RemoteTaskError
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.fargate import LambdaAndFargate
from tests.functional.functions import called
from tests.functional.functions.conftest import STACK, TIMEOUT_S, Functions
from tests.functional.functions.ecs_agent import EcsAgent, ecs_agent
from tests.functional.local.conftest import eventually

pytestmark = pytest.mark.stack
FAMILY, CONTAINER = "sparklet-function", "function"
NETWORK = {"subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED"}
SIZES_MB = (16384, 30720)


@pytest.fixture
def agent(functions: Functions) -> Iterator[EcsAgent]:
    """A definition with the workers' settings, and an agent for its tasks."""
    clients = AwsClients()
    cluster = f"functions-{uuid.uuid4().hex[:8]}"  # no other test's tasks
    clients.ecs.create_cluster(clusterName=cluster)
    settings = {
        "SPARKLET_BUCKET": functions.outputs["BucketName"],
        "SPARKLET_LEDGER_TABLE": functions.outputs["LedgerTable"],
        "SPARKLET_FUNCTION_SECRET": functions.outputs["SecretArn"],
        "SPARKLET_FUNCTION_CODEC": "pickle",
        "SPARKLET_FUNCTION_MODULES": "tests.functional.functions.*",
    }
    environment = [{"name": name, "value": value} for name, value in settings.items()]
    container = {"name": CONTAINER, "image": "local", "essential": True, "environment": environment}
    clients.ecs.register_task_definition(
        family=FAMILY,
        containerDefinitions=[container],
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="1024",
        memory="2048",
    )
    with ecs_agent(clients, cluster) as found:
        yield found


@pytest.fixture
def pool(agent: EcsAgent) -> Iterator[LambdaExecutor]:
    with LambdaExecutor(both(agent), sizes=SIZES_MB) as found:
        yield found


def both(agent: EcsAgent, definition: str = FAMILY, **options: Any) -> LambdaAndFargate:
    containers = FargateTasks(agent.clients, agent.cluster, definition, CONTAINER, NETWORK)
    return LambdaAndFargate(containers, SIZES_MB, stack=STACK, **options)


def test_a_container_performs_a_call_and_its_answer_comes(pool: LambdaExecutor, agent: EcsAgent) -> None:
    content = os.urandom(300_000)  # larger than what a record or a task's overrides hold

    assert pool.submit(called.tail, content).result() == (len(content), content[-10:])

    [task] = agent.described
    assert task["overrides"]["memory"] == "16384"
    assert agent.processes[task["taskArn"]].wait(20) == 0


def test_what_a_function_raises_in_a_container_is_raised(pool: LambdaExecutor) -> None:
    with pytest.raises(ValueError, match="no such thing") as raised:
        pool.submit(called.fail, "no such thing").result()

    assert "called.py" in str(raised.value.__cause__)


def test_a_killed_container_is_an_error_with_what_ecs_says(pool: LambdaExecutor) -> None:
    with pytest.raises(RemoteTaskError, match="exit status -9") as raised:
        pool.submit(called.die).result()

    assert raised.value.reason == "killed"


def test_a_call_that_takes_too_long_goes_on_to_the_next_size(agent: EcsAgent) -> None:
    """Its first container ends itself; the second is larger."""
    with LambdaExecutor(both(agent), sizes=SIZES_MB, timeout_s=2) as pool, pytest.raises(RemoteTaskError) as raised:
        pool.submit(called.sleep, 60).result()

    assert raised.value.reason == "timeout"
    assert [task["overrides"]["memory"] for task in agent.described] == ["16384", "30720"]


def test_a_call_beyond_a_functions_time_goes_to_a_container(agent: EcsAgent) -> None:
    with LambdaExecutor(both(agent), timeout_s=TIMEOUT_S * 10) as pool:
        assert pool.submit(called.echo, 1).result() == 1

    assert len(agent.described) == 1


def test_a_short_call_stays_in_lambda(agent: EcsAgent) -> None:
    with LambdaExecutor(both(agent)) as pool:
        assert pool.submit(called.echo, 1).result() == 1

    assert not agent.described


def test_a_container_is_started_whatever_the_functions_transport(agent: EcsAgent) -> None:
    with LambdaExecutor(both(agent, transport="invoke"), sizes=SIZES_MB) as pool:
        assert pool.submit(called.echo, 1).result() == 1

    assert len(agent.described) == 1


def test_aborting_stops_the_containers(pool: LambdaExecutor, agent: EcsAgent, tmp_path: Path) -> None:
    pool.submit(called.count, str(tmp_path), "begun", 60.0)
    eventually((tmp_path / "begun").exists)
    began_s = time.monotonic()

    pool.abort()

    [process] = agent.processes.values()
    assert process.wait(20) == 128 + 15
    assert time.monotonic() - began_s < 30


def test_a_task_that_cannot_be_started_is_an_error(agent: EcsAgent) -> None:
    backend = both(agent, "no-such-definition")
    with LambdaExecutor(backend, sizes=SIZES_MB) as pool, pytest.raises(RemoteTaskError, match="no-such-definition"):
        pool.submit(called.echo, 1).result()
