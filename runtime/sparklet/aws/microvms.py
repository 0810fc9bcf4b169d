"""Lambda MicroVMs as an engine: machines restored from the snapshot of a warm worker (``worker.microvm``)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.aws.clients import client_token, error_code
from sparklet.aws.spark_jobs import NEEDS_JARS, Job, Platform
from sparklet.errors import RemoteTaskError

LIFE_S = 8 * 3600  # of a machine, at most
GIVES_BACK_S = 120  # of it, for a worker whose time is over


@dataclass(frozen=True, kw_only=True)
class MicroVms(Platform):
    """Machines of one image, each for shards of one run. What they log is in the image's group, named by token."""

    image: str  # its ARN
    role: str
    connector: str = ""  # to a network of one's own; "": to the internet
    workers: int = 10  # of a run at a time

    def start(self, token: str, command: Sequence[str]) -> str:
        """Run a machine; the service knows the token."""
        managed = f"{':'.join(self.image.split(':')[:4])}:aws:network-connector:aws-network-connector"
        command = (*command, "--timeout", str(LIFE_S - GIVES_BACK_S))
        machine = {
            "imageIdentifier": self.image,
            "executionRoleArn": self.role,
            "ingressNetworkConnectors": [f"{managed}:NO_INGRESS"],
            "egressNetworkConnectors": [self.connector or f"{managed}:INTERNET_EGRESS"],
            "logging": {"cloudWatch": {"logGroup": log_group(self.image), "logStream": token}},
            "maximumDurationInSeconds": LIFE_S,
            "runHookPayload": json.dumps({"env": dict(self.env), "command": command, "log_stream": token}),
        }
        answer = self._ask(self.clients.microvms.run_microvm, clientToken=client_token(token, machine), **machine)
        return str(answer["microvmId"])

    def stop(self, task_id: str) -> None:
        """Terminate a machine; its worker has a minute to give back the shard."""
        self._ask(self.clients.microvms.terminate_microvm, microvmIdentifier=task_id)

    def most_workers(self) -> int:
        """Each goes on with the run's other shards."""
        return int(self.workers)

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        """The image is Sparklet's own."""
        return "0.0", (0, 0), ("the image's jars", ", ".join(NEEDS_JARS))

    def _job(self, task_id: str) -> Job:
        try:
            found = self._ask(self.clients.microvms.get_microvm, microvmIdentifier=task_id)
        except RemoteTaskError as error:
            if isinstance(cause := error.__cause__, Exception) and error_code(cause) == "ResourceNotFoundException":
                return Job("TERMINATED", "the machine is no longer known", None, "")
            raise
        return Job(found["state"], found.get("stateReason", ""), found["startedAt"], "")


def log_group(image: str) -> str:
    """The group that Lambda, too, would choose for the machines of an image."""
    return f"/aws/lambda/microvms/{image.rpartition(':')[2]}"
