"""A ministack that enforces policies and records every decision; this process has the account's own credentials."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from sparklet.local.emulator_packages import emulator_python, ensure_emulator
from sparklet.local.environment import applied, client_env, host_env
from tests.stand_ins.ministack import free_port
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def enforcing_ministack(folder: Path, env: Mapping[str, str], *paths: Path) -> Iterator[tuple[str, Path]]:
    """Run a ministack that enforces policies; yield its endpoint, and the file of its records, one line per call.

    Parameters
    ----------
    env
        Further environment variables of the functions.
    paths
        The folders of the functions' modules.
    """
    port, records, log = free_port(), folder / "calls.jsonl", folder / "aws.log"
    endpoint = f"http://127.0.0.1:{port}"
    client = {**client_env(endpoint, ""), "AWS_ACCESS_KEY_ID": "test"}
    del client["AWS_SESSION_TOKEN"]
    own = {"AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0"}
    own |= {"TMPDIR": str(folder), "LOG_LEVEL": "WARNING"}
    server_env = {**host_env(), **client, **own, **env}
    python_path = [*map(str, paths), str(ROOT), server_env.get("PYTHONPATH")]
    server_env["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))
    program = "from tests.stand_ins.recording_ministack import main; main()"
    command = emulator_python(ensure_emulator(print), program, str(records))
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=server_env, cwd=folder, stdout=out, stderr=out)

    def answers() -> bool:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            boto3.Session().client("cloudformation").list_stacks()
        except (BotoCoreError, ClientError):
            return False
        return True

    try:
        with applied(client):
            eventually(answers)
            yield endpoint, records
    finally:
        server.terminate()
        server.wait()
