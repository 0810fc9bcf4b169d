"""ministack as a child of the test process: all of AWS that Sparklet uses, in memory."""

import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparklet.local.emulator_packages import emulator_python, ensure_emulator
from tests.waiting import deadline_s, eventually

CONDITIONED = """\
from ministack.app import main
from sparklet.local.ministack_patches import condition_copies
condition_copies()
main()
"""


@contextmanager
def ministack(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Run an empty stand-in for AWS, with its log in ``folder``; yield its endpoint."""
    command = emulator_python(ensure_emulator(print), CONDITIONED)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "BIND_HOST": address, "GATEWAY_PORT": str(port), "TMPDIR": str(folder)}
    environment.pop("AWS_ENDPOINT_URL", None)
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(endpoint, process, folder / "ministack.log")
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(deadline_s())
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=deadline_s()).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    eventually(answers, f"ministack answers, whose log is {log}")
