"""Start the real handler in a separate process with a new AWS stand-in, for all tests of the handler."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from tests.functional.worker.conftest import small_env
from tests.stand_ins.ministack import ministack
from tests.waiting import deadline_s

PROCESS = Path(__file__).with_name("handler_process.py")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class WorkerProcess:
    """A deployed worker function."""

    process: "subprocess.Popen[str]"
    log: Path

    def invoke(self, event: Any) -> Any:
        """Return the response that Lambda would get: ``answer``, or ``error`` and ``message``."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"event": event, "timeout_s": deadline_s(60)}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextmanager
def stand_in(folder: Path) -> Iterator[tuple[str, AwsClients]]:
    """Start a stand-in with credentials in the environment of this process; yield its address and clients for it."""
    with ministack(folder) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield endpoint, AwsClients(endpoint_url=endpoint, region="us-east-1")


@contextmanager
def worker_process(folder: Path, endpoint: str, scratch: Path, **env: str) -> Iterator[WorkerProcess]:
    """Start the handler without the AWS settings of the developer."""
    foreign = ("AWS_", "SPARKLET_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {"AWS_ENDPOINT_URL": endpoint, "AWS_LAMBDA_FUNCTION_NAME": "worker", "SPARKLET_SCRATCH": str(scratch)}
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environ, **CREDENTIALS, **small_env(**own, **env)},
        )
    try:
        yield WorkerProcess(process, log)
    finally:
        try:
            process.communicate(timeout=deadline_s())
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
