"""ECS Fargate as an engine: a task for each shard, whose container runs the image's command ``shard``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sparklet.aws.clients import AwsClients, client_token, explain_error, failing_as
from sparklet.engines import Asked, Kind
from sparklet.errors import RemoteTaskError
from sparklet.model import Failure
from sparklet.model.quantities import Figure
from sparklet.ports import Engine

MAX_DESCRIBED = 100  # tasks in one request
NO_CAPACITY = ("Capacity is unavailable", "reached the limit", "RESOURCE:", "Throttling", "ServerException")
NOT_STARTED = "TaskFailedToStart"
CONTAINER = "sparklet-shard"  # of the task definition in sam/fargate.yaml


@dataclass(frozen=True, kw_only=True)
class FargateTasks(Engine):
    """Starts, watches and stops tasks of one task definition."""

    clients: AwsClients
    cluster: str
    task_definition: str
    network: Mapping[str, Any]  # ECS's awsvpcConfiguration: subnets, securityGroups, assignPublicIp
    script_settings: Callable[[], Mapping[str, str]] = dict  # the functions'; added to the definition's environment
    traces_inputs: bool = True

    @classmethod
    def from_settings(
        cls, *, clients: AwsClients, env: object, script_settings: Callable[[], Mapping[str, str]], **settings: Any
    ) -> Self:
        """Create the engine by its entry in SPARKLET_ENGINES. ``env`` is not used: the task definition has it."""
        network: dict[str, Any] = {name: settings[name].split(",") for name in ("subnets", "securityGroups")}
        network["assignPublicIp"] = settings["assignPublicIp"]
        return cls(
            clients=clients,
            cluster=settings["cluster"],
            task_definition=settings["taskDefinition"],
            network=network,
            script_settings=script_settings,
        )

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a task, once for each ``token``; return its ARN.

        RemoteTaskError if ECS starts none; its reason is ``throttled`` if ECS only lacks capacity.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        # Without the function's name the worker does not read the settings, which it gets here.
        variables = {"SPARKLET_WORKER_FUNCTION": "", **self.script_settings()}
        env = [{"name": name, "value": value} for name, value in variables.items()]
        container = {"name": CONTAINER, "command": list(command), "environment": env}
        task: Any = {
            "cluster": self.cluster,
            "taskDefinition": self.task_definition,
            "launchType": "FARGATE",
            "propagateTags": "TASK_DEFINITION",
            "networkConfiguration": {"awsvpcConfiguration": self.network},
            "overrides": {"containerOverrides": [container]},
        }
        try:
            # The client token includes the request, since ECS refuses a known token with another request: an upgrade,
            # for example, changes the task definition.
            response = self.clients.ecs.run_task(**task, clientToken=client_token(token, task))
            # ECS reports a lack of capacity in a response, not as an error.
            if response["tasks"]:
                return str(response["tasks"][0]["taskArn"])
            why = "; ".join(failure.get("reason", "") for failure in response["failures"])
        except (BotoCoreError, ClientError) as error:
            why = explain_error(error)
        reason = "throttled" if any(words in why for words in NO_CAPACITY) else ""
        raise RemoteTaskError(f"no task of {self.task_definition} could be started: {why}", reason)

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The tasks that have stopped, with the causes. RemoteTaskError if ECS cannot describe them."""
        tasks = []
        with failing_as(RemoteTaskError, "the tasks cannot be described"):
            for first in range(0, len(task_ids), MAX_DESCRIBED):
                batch = task_ids[first : first + MAX_DESCRIBED]
                tasks += self.clients.ecs.describe_tasks(cluster=self.cluster, tasks=batch)["tasks"]
        return {task["taskArn"]: _stop_cause(task) for task in tasks if task["lastStatus"] == "STOPPED"}

    def stop(self, task_id: str) -> None:
        """Stop a task. RemoteTaskError if ECS refuses the request."""
        with failing_as(RemoteTaskError, f"{task_id} cannot be stopped"):
            self.clients.ecs.stop_task(cluster=self.cluster, task=task_id, reason="its shard needs it no more")


def _stop_cause(task: Mapping[str, Any]) -> Failure:
    """Why a task has stopped: ECS's code, its reasons, and the containers' exit statuses."""
    code, containers = task.get("stopCode") or "Stopped", task.get("containers", ())
    reasons = [task.get("stoppedReason"), *(container.get("reason") for container in containers)]
    reasons += [
        f"exit status {container['exitCode']}" for container in containers if container.get("exitCode") is not None
    ]
    error_class = code if code == NOT_STARTED else f"Stopped.{code}"
    return Failure(error_class, "; ".join(filter(None, reasons)), retryable=False)


TASK, CLUSTER = "{fargate_task}", {"ecs:cluster": "{FargateCluster}"}
SOURCE = "Fargate price list, secondary: 4 vCPU at 0.04048 and 16 GB at 0.004445, as in sam/fargate.yaml"
SOURCE_ARM64 = "Fargate price list, secondary: the same at 0.03238 and 0.00356"
KIND = Kind(
    make=FargateTasks.from_settings,
    about="a task of [another template](image.md#shards-that-need-more-than-15-minutes-ecs-fargate)",
    hours={"": Figure(0.23304, "2026-11", SOURCE), "_arm64": Figure(0.18648, "2026-11", SOURCE_ARM64)},
    to_work=[
        Asked("ecs.run_task", ["{FargateTaskDefinition}"], CLUSTER),
        Asked("ecs:TagResource", [TASK], {"ecs:CreateAction": "RunTask"}),
        Asked("ecs.describe_tasks ecs.stop_task", [TASK], CLUSTER),
        Asked("iam:PassRole", ["{FargateRoleArns}"], {"iam:PassedToService": "ecs-tasks.amazonaws.com"}),
    ],
)
