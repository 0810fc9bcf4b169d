"""A script that tells what it meets: who it is, what it may write, whom it can reach."""

import os
import pwd
import resource
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sparklet.job import Job

FOLDERS = ("/", "/etc", "/opt/sparklet", "/opt/spark", "/opt/java", "/usr/local", "/var/tmp", "/dev/shm", "/tmp")


def main() -> None:
    job = Job.from_args()
    spark: Any = job.spark()
    hadoop = spark._jvm.org.apache.hadoop.security.UserGroupInformation.getCurrentUser()
    of_network = reached(job.params["neighbour"])
    job.answer({**of_process(), **of_network, "hadoop_user": str(hadoop.getUserName())})
    job.report(rows=spark.range(10).count())


def told(do: Callable[[], Any]) -> str:
    """What came of it."""
    try:
        return str(do())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"


def of_process() -> dict[str, Any]:
    """Who it is and what it may."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {
        "ids": [os.getuid(), os.getgid()],
        "user": told(lambda: pwd.getpwuid(os.getuid()).pw_name),
        "home": os.environ.get("HOME"),
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "scratch_mb": shutil.disk_usage("/tmp").total >> 20,
        "writable": [folder for folder in FOLDERS if told(partial(written, folder)) == "written"],
        "lock": told(lock),
    }


def written(folder: str) -> str:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
    return "written"


def lock() -> object:
    """A lock between processes, which needs /dev/shm."""
    import multiprocessing

    return multiprocessing.Lock()


def reached(neighbour: str) -> dict[str, Any]:
    """Whom it can reach; ``neighbour`` is a port that somebody listens on outside."""
    health = os.environ["AWS_ENDPOINT_URL"] + "/_ministack/health"
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "internet": told(lambda: connected("1.1.1.1", 443)),
        "name": told(lambda: socket.getaddrinfo("aws.amazon.com", 443)),
        "neighbour": told(lambda: connected("127.0.0.1", int(neighbour))),
        "stand_in": told(lambda: urllib.request.urlopen(health, timeout=10).status),
    }


def connected(host: str, port: int) -> str:
    socket.create_connection((host, port), timeout=5).close()
    return "connected"


if __name__ == "__main__":
    main()
