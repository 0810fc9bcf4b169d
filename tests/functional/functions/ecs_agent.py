"""What ECS's agent does, for tasks that the stand-in's ECS has accepted: it runs their commands as processes."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparklet.aws.clients import AwsClients

LOOK_EVERY_S = 0.2


class EcsAgent(threading.Thread):
    """Runs the containers of a cluster; a process that has ended stops its task, and the reverse.

    The stand-in's StopTask knows no exit codes; the reason tells them.
    """

    def __init__(self, clients: AwsClients, cluster: str) -> None:
        super().__init__(daemon=True)
        self.clients, self.cluster = clients, cluster
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.described: list[dict[str, Any]] = []  # tasks as they were when they were started
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(LOOK_EVERY_S):
            for status in ("RUNNING", "STOPPED"):
                arns = self.clients.ecs.list_tasks(cluster=self.cluster, desiredStatus=status)["taskArns"]
                for arn in arns:
                    self._look(arn, running=status == "RUNNING")

    def _look(self, arn: str, running: bool) -> None:
        process = self.processes.get(arn)
        if running and process is None:
            self.processes[arn] = self._launched(arn)
        elif running and process and process.poll() is not None:
            reason = f"Essential container in task exited; exit status {process.returncode}"
            self.clients.ecs.stop_task(cluster=self.cluster, task=arn, reason=reason)
        elif process and not running:
            process.terminate()

    def _launched(self, arn: str) -> "subprocess.Popen[bytes]":
        [task] = self.clients.ecs.describe_tasks(cluster=self.cluster, tasks=[arn])["tasks"]
        self.described.append(task)
        found = self.clients.ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])
        [container] = found["taskDefinition"]["containerDefinitions"]
        [override] = task["overrides"]["containerOverrides"]
        assert override["name"] == container["name"]
        environment = {each["name"]: each["value"] for each in container["environment"]}
        python, *arguments = override["command"]
        assert python == "python"
        return subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment})


@contextmanager
def ecs_agent(clients: AwsClients, cluster: str) -> Iterator[EcsAgent]:
    """An agent at work."""
    agent = EcsAgent(clients, cluster)
    agent.start()
    try:
        yield agent
    finally:
        agent.ended.set()
        agent.join()
        for process in agent.processes.values():
            process.kill()
            process.wait()
