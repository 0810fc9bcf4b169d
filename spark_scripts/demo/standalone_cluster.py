"""A real Spark standalone cluster on this machine: a master and workers, from the installed pyspark."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

from sparklet.local.java import find_java

START_LIMIT_S = 60
HOME = Path(pyspark.__file__).parent
MASTER, WORKER = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"


@contextmanager
def standalone_cluster(folder: Path, workers: int = 2) -> Iterator[str]:
    """Start a cluster for the block, and yield its master's address, ``spark://…``; stop all its processes after it."""
    with ExitStack() as stack:
        common = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        log = stack.enter_context(_daemon(folder, "master", [MASTER, *common]))
        address = _wait_for(log, r"Starting Spark master at (spark://\S+)")
        for number in range(workers):
            size = ["--cores", "1", "--memory", "2g", "--work-dir", str(folder / f"work-{number}")]
            stack.enter_context(_daemon(folder, f"worker-{number}", [WORKER, *common, *size, address]))
        for number in range(workers):
            _wait_for(folder / f"worker-{number}.log", "(Successfully registered with master)")
        yield address


@contextmanager
def _daemon(folder: Path, name: str, command: list[str]) -> Iterator[Path]:
    """Start a Spark daemon for the block, and yield its log; SIGTERM then lets a worker stop its executors first."""
    environment = {
        **os.environ,
        "JAVA_HOME": str(find_java().parent.parent),
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_DAEMON_MEMORY": "128m",
        "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "PYSPARK_PYTHON": sys.executable,
    }
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [HOME / "bin" / "spark-class", *command], env=environment, cwd=folder, stdout=output, stderr=output
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(log: Path, pattern: str) -> str:
    """Wait until a log matches a pattern; return the pattern's first group."""
    end_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end_s:
        if match := re.search(pattern, log.read_text(errors="replace")):
            return match[1]
        time.sleep(0.05)
    raise RuntimeError(f"{log.stem} did not start:\n{log.read_text()[-2000:]}")
