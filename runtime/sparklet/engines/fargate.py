"""Tasks of ECS Fargate, each a container of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparklet.aws.clients import AwsClients, client_token, explained, failing_as
from sparklet.errors import RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine

MAX_DESCRIBED = 100  # tasks a request
NO_ROOM = ("Capacity is unavailable", "reached the limit", "RESOURCE:", "Throttling", "ServerException")
NOT_STARTED = "TaskFailedToStart"
CONTAINER = "sparklet-shard"  # of its task definition


@dataclass(frozen=True)
class FargateTasks(Engine):
    """Starts, watches and stops tasks of a definition."""

    clients: AwsClients
    cluster: str
    task_definition: str
    network: Mapping[str, Any]  # ECS's awsvpcConfiguration: subnets, securityGroups, assignPublicIp
    env: Callable[[], Mapping[str, str]] = dict  # beside the definition's

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a task, once for each ``token``; its ARN. RemoteTaskError, ``throttled`` if there is no room now."""
        from botocore.exceptions import BotoCoreError, ClientError

        env = [{"name": name, "value": value} for name, value in self.env().items()]
        container = {"name": CONTAINER, "command": list(command), **({"environment": env} if env else {})}
        task: Any = {
            "cluster": self.cluster,
            "taskDefinition": self.task_definition,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": self.network},
            "overrides": {"containerOverrides": [container]},
        }
        try:
            answer = self.clients.ecs.run_task(**task, clientToken=client_token(token, task))
            if answer["tasks"]:
                return str(answer["tasks"][0]["taskArn"])
            why = "; ".join(each.get("reason", "") for each in answer["failures"])
        except (BotoCoreError, ClientError) as error:
            why = explained(error)
        reason = "throttled" if any(words in why for words in NO_ROOM) else ""
        raise RemoteTaskError(f"no task of {self.task_definition} could be started: {why}", reason)

    def stopped(self, arns: Sequence[str]) -> Mapping[str, Failure]:
        """Those of these tasks that have stopped, and why. RemoteTaskError if they cannot be described."""
        tasks = []
        with failing_as(RemoteTaskError, "the tasks cannot be described"):
            for first in range(0, len(arns), MAX_DESCRIBED):
                some = arns[first : first + MAX_DESCRIBED]
                tasks += self.clients.ecs.describe_tasks(cluster=self.cluster, tasks=some)["tasks"]
        return {task["taskArn"]: stop_cause(task) for task in tasks if task["lastStatus"] == "STOPPED"}

    def stop(self, arn: str) -> None:
        """Stop a task. RemoteTaskError if that cannot be asked for."""
        with failing_as(RemoteTaskError, f"{arn} cannot be stopped"):
            self.clients.ecs.stop_task(cluster=self.cluster, task=arn, reason="its caller waits no more")


def tasks_of_shards(
    clients: AwsClients, named: Mapping[str, Any], env: Callable[[], Mapping[str, str]]
) -> FargateTasks:
    """The tasks of sam/fargate.yaml, as SPARKLET_ENGINES names them."""
    network: dict[str, Any] = {name: named[name].split(",") for name in ("subnets", "securityGroups")}
    network["assignPublicIp"] = named["assignPublicIp"]
    return FargateTasks(clients, named["cluster"], named["taskDefinition"], network, env)


def stop_cause(task: Mapping[str, Any]) -> Failure:
    """Why a task has stopped: ECS's code and reason, those of its containers, the exit status at the end."""
    code, containers = task.get("stopCode") or "Stopped", task.get("containers", ())
    words = [task.get("stoppedReason"), *(container.get("reason") for container in containers)]
    words += [f"exit status {found['exitCode']}" for found in containers if found.get("exitCode") is not None]
    kind = code if code == NOT_STARTED else f"Stopped.{code}"
    return Failure(kind, "; ".join(filter(None, words)), retryable=False)
