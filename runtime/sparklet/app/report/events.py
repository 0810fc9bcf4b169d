"""Spark's event logs of a run with ``--event-log``: a shard's figures, and Spark's own History Server over them."""

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
LISTS_WITHIN_S = 60.0
_NAME = re.compile(r"(\d{9})-(\w+?)-(\d+)\.gz$")
_SUMS = {  # Spark's names, docs/monitoring.html#executor-task-metrics
    "gc_s": ("JVM GC Time", 1e-3),
    "cpu_s": ("Executor CPU Time", 1e-9),
    "memory_spilled_bytes": ("Memory Bytes Spilled", 1),
    "disk_spilled_bytes": ("Disk Bytes Spilled", 1),
}


def logs_of(stack: OpenStack, run_id: str) -> dict[int, list[str]]:
    """The event logs of a run by shard, each shard's in the order of their names."""
    uris_by_shard: dict[int, list[str]] = {}
    for info in stack.deployment.store.list(stack.deployment.run_uri(run_id, EVENTS)):
        if match := _NAME.search(info.uri):
            uris_by_shard.setdefault(int(match[1]), []).append(info.uri)
    return uris_by_shard


def figures(stack: OpenStack, logs: Mapping[int, Collection[str]], attempts: Mapping[int, str]) -> list[dict[str, Any]]:
    """What Spark measured in these attempts of shards: sums over their tasks, the peak of memory of one task."""
    documents = []
    for shard, attempt_id in attempts.items():
        total: dict[str, Any] = {}
        for uri in logs.get(shard, ()):
            if f"-{attempt_id}-" in uri:
                with suppress(ObjectStoreError, OSError):  # it is gone
                    _add(total, _events(stack.deployment.store.get(uri)))
        if total:
            documents.append({"shard": shard, **{name: round(value, 3) for name, value in total.items()}})
    return documents


def _add(total: dict[str, Any], events: Iterator[dict[str, Any]]) -> None:
    for event in events:
        if event["Event"] == "SparkListenerStageCompleted":
            total["stages"] = total.get("stages", 0) + 1
        # A task that has failed may have no metrics.
        if event["Event"] != "SparkListenerTaskEnd" or not (metrics := event.get("Task Metrics")):
            continue
        more = {"tasks": 1, **{name: metrics[key] * factor for name, (key, factor) in _SUMS.items()}}
        more |= {"records_read": metrics["Input Metrics"]["Records Read"]}
        more |= {"records_written": metrics["Output Metrics"]["Records Written"]}
        for name, value in more.items():
            total[name] = total.get(name, 0) + value
        total["peak_task_memory_bytes"] = max(total.get("peak_task_memory_bytes", 0), metrics["Peak Execution Memory"])


def _events(packed: bytes) -> Iterator[dict[str, Any]]:
    for line in gzip.decompress(packed).splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the attempt was killed while Spark wrote it
            return


@contextmanager
def history_server(stack: OpenStack, run_id: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Spark's History Server over a run's event logs: its address on localhost, and the process.

    Raises
    ------
    PlanError
        The run has no event logs.
    LocalStackError
        Spark is not installed here, or the server ends at once.
    """
    with TemporaryDirectory(prefix="sparklet-history-") as folder:
        count = sum(_unpacked(stack, uris, Path(folder)) for uris in logs_of(stack, run_id).values())
        if not count:
            raise PlanError(f"{run_id} has no event logs; sparklet run … --event-log keeps them")
        settings = spark_settings(env := worker_environment(1, lambda text: None))
        port = port or free_port()
        address = f"http://{HOST}:{port}/"
        options = {"fs.logDirectory": folder, "ui.port": str(port), "fs.update.interval": "10s"}
        words = (f"-Dspark.history.{name}={value}" for name, value in options.items())
        command = [java_path(settings), *words, "-cp", os.pathsep.join(class_path(settings))]
        log = Path(folder, ".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "org.apache.spark.deploy.history.HistoryServer"],
                env={**os.environ, **env, "SPARK_LOCAL_IP": HOST},
                stdout=output,
                stderr=output,
            )
        try:
            _wait(process, address, count, log)
            yield address, process
        finally:
            process.terminate()
            process.wait()


def _unpacked(stack: OpenStack, uris: Collection[str], folder: Path) -> int:
    """Unpack a shard's logs; applications get the name of shard and attempt, for their ids may be equal."""
    for uri in uris:
        number, attempt_id, index = _NAME.search(uri).groups()  # type: ignore[union-attr]
        name = f"shard-{int(number)}-{attempt_id[:8]}" + (f"-{index}" if index != "0" else "")
        with Path(folder, name).open("w", encoding="utf-8") as file:
            for event in _events(stack.deployment.store.get(uri)):
                if event["Event"] == "SparkListenerApplicationStart":
                    event |= {"App ID": name, "App Name": f"shard {int(number)}: {event['App Name']}"}
                file.write(json.dumps(event, separators=(",", ":")) + "\n")  # Spark looks for events by prefix
    return len(uris)


def _wait(process: subprocess.Popen[bytes], address: str, count: int, log: Path) -> None:
    """Wait until the server has read that many logs: its page is empty before. It may leave out a truncated one."""
    until_s = time.monotonic() + LISTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until_s:
        with suppress(OSError), urlopen(f"{address}api/v1/applications", timeout=10) as answer:  # noqa: S310 - its own
            if len(json.load(answer)) >= count:
                return
        time.sleep(0.2)
    if process.poll() is not None:
        raise LocalStackError(f"Spark's History Server has ended: {log.read_text(errors='replace')[-500:].strip()}")
