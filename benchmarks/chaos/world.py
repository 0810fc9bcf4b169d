"""Where trials take place: a local stack of their own, the ports on it, and the environment of its workers."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sparklet.local.environment import host_env
from sparklet.local.spark_installation import worker_environment
from sparklet.local.stack import LocalStack, StackInfo, StackOptions, stop
from sparklet.ports.deployment import Deployment
from tests.stand_ins.read_queues import ReadSqsQueue

DATA = "chaos-data"  # inputs and tables
HEAP_MB = 512
TIMEOUT_S = 900  # of the worker function, as users have it locally


@dataclass(frozen=True)
class World:
    """A running stack."""

    folder: Path
    deployment: Deployment
    info: StackInfo
    worker_env: Mapping[str, str]

    def environment(self, endpoint: str, scratch: Path, *, in_lambda: bool = True) -> dict[str, str]:
        """The variables of a worker that reaches AWS at ``endpoint``."""
        return {
            **host_env(),
            **self.info.env,
            "AWS_ENDPOINT_URL": endpoint,
            **({"AWS_LAMBDA_FUNCTION_NAME": "chaos"} if in_lambda else {}),
            "SPARKLET_LEDGER_TABLE": self.info.ledger_table,
            "SPARKLET_BUCKET": self.info.bucket,
            "SPARKLET_QUEUE_URL": endpoint + self.info.queue_url.removeprefix(self.info.endpoint_url),
            "SPARKLET_SCRATCH": str(scratch),
            "SPARKLET_METRICS_NAMESPACE": "",
            "SPARKLET_HEAP_MB": str(HEAP_MB),
            **self.worker_env,
        }


@contextmanager
def world(folder: Path, workers: int) -> Iterator[World]:
    """Start a stack whose queue nobody but the trials reads."""
    env = worker_environment(workers, say)
    options = StackOptions(state_dir=folder / "state", workers=workers, timeout_s=TIMEOUT_S, processing=False)
    try:
        with LocalStack.attach(options, say) as stack:
            stack.clients.s3.create_bucket(Bucket=DATA)
            queue = ReadSqsQueue(stack.clients, stack.info.queue_url)
            yield World(folder, replace(stack.deployment(), queue=queue), stack.info, env)
    finally:
        stop(options.state_dir)


def say(text: str) -> None:
    """Progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


def free_of_aws() -> None:
    """Nothing of the caller's own account."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SPARKLET_STACK"))]:
        del os.environ[name]
