"""A script that answers with its surroundings: its user, where it can write, and which hosts it can reach."""

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
    network = network_facts(job.params["neighbour"])
    job.answer({**process_facts(), **network, "hadoop_user": str(hadoop.getUserName())})
    job.report(rows=spark.range(10).count())


def outcome(call: Callable[[], Any]) -> str:
    """Make a call; return its result as text, or the error's class and message."""
    try:
        return str(call())
    except Exception as error:  # noqa: BLE001 - any error is a result
        return f"{type(error).__name__}: {error}"


def process_facts() -> dict[str, Any]:
    """The user and the rights of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {
        "ids": [os.getuid(), os.getgid()],
        "user": outcome(lambda: pwd.getpwuid(os.getuid()).pw_name),
        "home": os.environ.get("HOME"),
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "scratch_mb": shutil.disk_usage("/tmp").total >> 20,
        "writable": [folder for folder in FOLDERS if outcome(partial(write, folder)) == "written"],
        "lock": outcome(lock),
    }


def write(folder: str) -> str:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
    return "written"


def lock() -> object:
    """Make a lock between processes, which needs /dev/shm."""
    import multiprocessing

    return multiprocessing.Lock()


def network_facts(neighbour: str) -> dict[str, Any]:
    """The interfaces and the hosts that this process can reach; on the port ``neighbour`` this machine listens."""
    health = os.environ["AWS_ENDPOINT_URL"] + "/_ministack/health"
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "internet": outcome(lambda: connect("1.1.1.1", 443)),
        "name": outcome(lambda: socket.getaddrinfo("aws.amazon.com", 443)),
        "neighbour": outcome(lambda: connect("127.0.0.1", int(neighbour))),
        "stand_in": outcome(lambda: urllib.request.urlopen(health, timeout=10).status),
    }


def connect(host: str, port: int) -> str:
    socket.create_connection((host, port), timeout=5).close()
    return "connected"


if __name__ == "__main__":
    main()
