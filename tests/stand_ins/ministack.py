"""ministack as a child of the test process: all of AWS that Sparklet uses, in memory."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_TIMEOUT_S = 30.0


@contextmanager
def ministack(folder: Path) -> Iterator[str]:
    """A stand-in with nothing in it, its log in ``folder``; its endpoint."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": str(folder)}
    environment.pop("AWS_ENDPOINT_URL", None)
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"], env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(endpoint, process, folder / "ministack.log")
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2).close()
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"ministack did not start:\n{log.read_text()[-2000:]}")
