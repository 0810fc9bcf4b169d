"""Figures of a shard's attempt from Spark's event logs, even if the logs are cut off."""

import gzip
import json
from typing import Any

import pytest

from sparklet.app.report.events import logs_of, spark_figures
from sparklet.app.stack import StackSelection
from sparklet.cli.console import Screen
from sparklet.model import EVENTS
from tests.unit.cli.conftest import RUN, Terminal


def task_end(**changes: Any) -> dict[str, Any]:
    metrics = {
        "JVM GC Time": 500,
        "Executor CPU Time": 2_000_000_000,
        "Memory Bytes Spilled": 10,
        "Disk Bytes Spilled": 4,
        "Peak Execution Memory": 64,
        "Input Metrics": {"Bytes Read": 100, "Records Read": 7},
        "Output Metrics": {"Bytes Written": 50, "Records Written": 6},
    }
    return {"Event": "SparkListenerTaskEnd", "Task Metrics": {**metrics, **changes}}


def put(terminal: Terminal, shard: int, attempt_id: str, *events: Any, place: int = 0, end: bytes = b"") -> None:
    body = b"".join(json.dumps(event).encode() + b"\n" for event in events) + end
    uri = terminal.world.deployment.run_uri(RUN, f"{EVENTS}{shard:09d}-{attempt_id}-{place}.gz")
    terminal.world.store.put(uri, gzip.compress(body))


def found(terminal: Terminal, attempts: dict[int, str]) -> list[dict[str, Any]]:
    with terminal.environment(StackSelection(), Screen()) as stack:
        return spark_figures(stack, logs_of(stack, RUN), attempts)


def test_tasks_are_added_up_over_all_sessions_of_the_attempt(terminal: Terminal) -> None:
    stage = {"Event": "SparkListenerStageCompleted"}
    put(terminal, 3, "a1", {"Event": "SparkListenerLogStart"}, task_end(), stage, task_end(**{"JVM GC Time": 250}))
    put(terminal, 3, "a1", task_end(**{"Peak Execution Memory": 900}), place=1)
    put(terminal, 3, "a0", task_end(), task_end(), task_end())  # an earlier attempt

    assert found(terminal, {3: "a1", 4: "b1"}) == [
        {
            "shard": 3,
            "tasks": 3,
            "stages": 1,
            "gc_s": 1.25,
            "cpu_s": 6.0,
            "memory_spilled_bytes": 30,
            "disk_spilled_bytes": 12,
            "records_read": 21,
            "records_written": 18,
            "peak_task_memory_bytes": 900,
        }
    ]


@pytest.mark.parametrize(
    "end", [b'{"Event": "SparkListenerTaskE', b'{"Event": "SparkListenerTaskEnd", "Task Metrics": null}\n']
)
def test_a_log_that_is_cut_off_or_lacks_metrics_is_read(terminal: Terminal, end: bytes) -> None:
    put(terminal, 0, "a1", task_end(), end=end)

    (only,) = found(terminal, {0: "a1"})

    assert only["tasks"] == 1 and only["records_read"] == 7
