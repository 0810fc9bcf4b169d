"""ECS Fargate tasks: their start, and the causes of tasks that stopped or could not be started."""

from dataclasses import replace
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from sparklet.aws.clients import AwsClients
from sparklet.engines.fargate import FargateTasks
from sparklet.errors import RemoteTaskError


@pytest.fixture
def tasks(clients: AwsClients) -> FargateTasks:
    network = {"subnets": ["subnet-1"]}
    return FargateTasks(clients=clients, cluster="cluster", task_definition="definition:1", network=network)


def test_each_request_has_its_own_client_token(clients: AwsClients, tasks: FargateTasks) -> None:
    """ECS refuses a token that it knows of another request, as one to an upgraded definition is."""
    tokens: list[str] = []
    clients.ecs.meta.events.register_first(
        "before-parameter-build.ecs.RunTask", lambda params, **_: tokens.append(params["clientToken"])
    )
    with Stubber(clients.ecs) as ecs:
        for engine, token in ((tasks, "a"), (tasks, "a"), (tasks, "b"), (replace(tasks, task_definition="d:2"), "a")):
            ecs.add_response("run_task", {"tasks": [{"taskArn": "arn:1"}], "failures": []})
            engine.start(token, ["python"])

    assert tokens[0] == tokens[1]
    assert len(set(tokens)) == 3


def test_tasks_have_the_tags_of_their_definition(clients: AwsClients, tasks: FargateTasks) -> None:
    asked: list[str] = []
    clients.ecs.meta.events.register_first(
        "before-parameter-build.ecs.RunTask", lambda params, **_: asked.append(params["propagateTags"])
    )
    with Stubber(clients.ecs) as ecs:
        ecs.add_response("run_task", {"tasks": [{"taskArn": "arn:1"}], "failures": []})
        tasks.start("a", ["python"])

    assert asked == ["TASK_DEFINITION"]


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        ("ClientException", "Capacity is unavailable at this time. Please try again later", "throttled"),
        ("ClientException", "You've reached the limit on the number of vCPUs you can run concurrently", "throttled"),
        ("ThrottlingException", "Rate exceeded", "throttled"),
        ("InvalidParameterException", "No Container Instances were found in your cluster.", ""),
    ],
)
def test_only_a_lack_of_capacity_is_retried(
    clients: AwsClients, tasks: FargateTasks, code: str, message: str, reason: str
) -> None:
    with Stubber(clients.ecs) as ecs:
        ecs.add_client_error("run_task", code, message)

        with pytest.raises(RemoteTaskError, match=message[:20]) as raised:
            tasks.start("abc-1.1", ["python"])

    assert raised.value.reason == reason


def test_a_failure_without_an_exception_is_an_error(clients: AwsClients, tasks: FargateTasks) -> None:
    with Stubber(clients.ecs) as ecs:
        ecs.add_response("run_task", {"tasks": [], "failures": [{"reason": "RESOURCE:MEMORY"}]})

        with pytest.raises(RemoteTaskError, match="RESOURCE:MEMORY") as raised:
            tasks.start("abc-1.1", ["python"])

    assert raised.value.reason == "throttled"


def test_all_tasks_are_described_a_hundred_a_request(clients: AwsClients, tasks: FargateTasks) -> None:
    arns = [f"arn:{n}" for n in range(150)]
    with Stubber(clients.ecs) as ecs:
        for some in (arns[:100], arns[100:]):
            states = [{"taskArn": arn, "lastStatus": "STOPPED" if arn == "arn:120" else "RUNNING"} for arn in some]
            ecs.add_response("describe_tasks", {"tasks": states}, {"cluster": "cluster", "tasks": some})

        assert set(tasks.stopped(arns)) == {"arn:120"}


@pytest.mark.parametrize(
    ("task", "causes"),
    [
        ({"stopCode": "EssentialContainerExited", "containers": [{"exitCode": 137, "reason": "OutOfMemoryError"}]}, 2),
        ({"stopCode": "TaskFailedToStart", "stoppedReason": "CannotPullContainerError: no such image"}, 1),
        ({}, 0),
    ],
)
def test_a_stop_has_ecs_reasons(clients: AwsClients, tasks: FargateTasks, task: dict[str, Any], causes: int) -> None:
    with Stubber(clients.ecs) as ecs:
        ecs.add_response("describe_tasks", {"tasks": [{"taskArn": "arn:1", "lastStatus": "STOPPED", **task}]})
        cause = tasks.stopped(["arn:1"])["arn:1"]

    assert task.get("stopCode", "Stopped") in cause.error_class
    parts = ("OutOfMemoryError", "exit status 137", "CannotPullContainerError: no such image")
    assert sum(part in cause.message for part in parts) == causes


def test_a_task_is_stopped(clients: AwsClients, tasks: FargateTasks) -> None:
    with Stubber(clients.ecs) as ecs:
        ecs.add_response("stop_task", {}, {"cluster": "cluster", "task": "arn:1", "reason": ANY})

        tasks.stop("arn:1")

        ecs.assert_no_pending_responses()


def test_a_stop_that_is_refused_is_an_error(clients: AwsClients, tasks: FargateTasks) -> None:
    with Stubber(clients.ecs) as ecs:
        ecs.add_client_error("stop_task", "AccessDeniedException", "not authorized")

        with pytest.raises(RemoteTaskError, match="arn:1"):
            tasks.stop("arn:1")
