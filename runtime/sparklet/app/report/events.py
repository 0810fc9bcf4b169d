"""Reads Spark's event logs of a run with ``--event-log``: figures of shards, and Spark's own History Server."""

import gzip
import json
import os
import re
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from sparklet.app.stack import OpenStack
from sparklet.errors import LocalStackError, ObjectStoreError, PlanError
from sparklet.local.environment import free_port
from sparklet.local.spark_installation import worker_environment
from sparklet.model import EVENTS
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import class_path, java_path

HOST = "127.0.0.1"
STARTS_WITHIN_S = 60.0
_NAME = re.compile(r"(\d{9})-(\w+?)-(\d+)\.gz$")  # of an event log: shard, attempt id, index
# For each figure Spark's name (docs/monitoring.html#executor-task-metrics) and the factor to the figure's unit.
_SUMS = {
    "gc_s": ("JVM GC Time", 1e-3),
    "cpu_s": ("Executor CPU Time", 1e-9),
    "memory_spilled_bytes": ("Memory Bytes Spilled", 1),
    "disk_spilled_bytes": ("Disk Bytes Spilled", 1),
}


def logs_of(stack: OpenStack, run_id: str) -> dict[int, list[str]]:
    """Return the URIs of a run's event logs by shard; the logs of a shard are in the order of their names."""
    uris_by_shard: dict[int, list[str]] = {}
    for info in stack.deployment.store.list(stack.deployment.run_uri(run_id, EVENTS)):
        if match := _NAME.search(info.uri):
            uris_by_shard.setdefault(int(match[1]), []).append(info.uri)
    return uris_by_shard


def spark_figures(
    stack: OpenStack, logs: Mapping[int, Collection[str]], attempts: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return for each shard what Spark measured in one attempt: sums over the tasks, and the peak memory of one task.

    ``logs`` holds the URIs of the event logs by shard, ``attempts`` the attempt's id by shard. A shard without logs of
    its attempt is left out.
    """
    documents = []
    for shard, attempt_id in attempts.items():
        figures: dict[str, Any] = {}
        for uri in logs.get(shard, ()):
            if f"-{attempt_id}-" in uri:
                with suppress(ObjectStoreError, OSError):  # the log was deleted meanwhile
                    _add_events(figures, _events(stack.deployment.store.get(uri)))
        if figures:
            documents.append({"shard": shard, **{name: round(value, 3) for name, value in figures.items()}})
    return documents


def _add_events(total: dict[str, Any], events: Iterator[dict[str, Any]]) -> None:
    """Add Spark's metrics of all events to ``total``."""
    for event in events:
        if event["Event"] == "SparkListenerStageCompleted":
            total["stages"] = total.get("stages", 0) + 1
        # A failed task can be without metrics.
        if event["Event"] != "SparkListenerTaskEnd" or not (metrics := event.get("Task Metrics")):
            continue
        task = {"tasks": 1, **{name: metrics[key] * factor for name, (key, factor) in _SUMS.items()}}
        task |= {"records_read": metrics["Input Metrics"]["Records Read"]}
        task |= {"records_written": metrics["Output Metrics"]["Records Written"]}
        for name, value in task.items():
            total[name] = total.get(name, 0) + value
        total["peak_task_memory_bytes"] = max(total.get("peak_task_memory_bytes", 0), metrics["Peak Execution Memory"])


def _events(zipped_log: bytes) -> Iterator[dict[str, Any]]:
    for line in gzip.decompress(zipped_log).splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the attempt was killed while Spark wrote this line
            return


@contextmanager
def history_server(stack: OpenStack, run_id: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run Spark's History Server over a run's event logs; yield the address on localhost, and the server's process.

    Raises
    ------
    PlanError
        If the run has no event logs.
    LocalStackError
        If Spark is not installed on this machine, or the server ends at once.
    """
    with TemporaryDirectory(prefix="sparklet-history-") as folder:
        for uris in (uris_by_shard := logs_of(stack, run_id)).values():
            _unpack_logs(stack, uris, Path(folder))
        count = sum(map(len, uris_by_shard.values()))
        if not count:
            raise PlanError(f"{run_id} has no event logs; to keep them, start a run with --event-log")
        settings = spark_settings(env := worker_environment(1, lambda text: None))
        port = port or free_port()
        address = f"http://{HOST}:{port}/"
        options = {"fs.logDirectory": folder, "ui.port": str(port), "fs.update.interval": "10s"}
        properties = (f"-Dspark.history.{name}={value}" for name, value in options.items())
        command = [java_path(settings), *properties, "-cp", os.pathsep.join(class_path(settings))]
        log = Path(folder, ".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "org.apache.spark.deploy.history.HistoryServer"],
                env={**os.environ, **env, "SPARK_LOCAL_IP": HOST},
                stdout=output,
                stderr=output,
            )
        try:
            _wait_until_listed(process, address, count, log)
            yield address, process
        finally:
            process.terminate()
            process.wait()


def _unpack_logs(stack: OpenStack, uris: Collection[str], folder: Path) -> None:
    """Unpack a shard's logs into a folder; applications, whose ids can be equal, get ids of shard and attempt."""
    for uri in uris:
        number, attempt_id, index = _NAME.search(uri).groups()  # type: ignore[union-attr]
        name = f"shard-{int(number)}-{attempt_id[:8]}" + (f"-{index}" if index != "0" else "")
        with Path(folder, name).open("w", encoding="utf-8") as file:
            for event in _events(stack.deployment.store.get(uri)):
                if event["Event"] == "SparkListenerApplicationStart":
                    event |= {"App ID": name, "App Name": f"shard {int(number)}: {event['App Name']}"}
                # Without spaces, since Spark recognizes an event by the first characters of its line.
                file.write(json.dumps(event, separators=(",", ":")) + "\n")


def _wait_until_listed(process: subprocess.Popen[bytes], address: str, count: int, log: Path) -> None:
    """Wait until the server lists ``count`` logs, since its page is empty until then.

    The server leaves out truncated logs, so after a minute it is taken as it is. LocalStackError if it has ended.
    """
    until_s = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until_s:
        url = f"{address}api/v1/applications"
        with suppress(OSError), urlopen(url, timeout=10) as response:  # noqa: S310 - the address is our own
            if len(json.load(response)) >= count:
                return
        time.sleep(0.2)
    if process.poll() is not None:
        raise LocalStackError(f"Spark's History Server has ended: {log.read_text(errors='replace')[-500:].strip()}")
