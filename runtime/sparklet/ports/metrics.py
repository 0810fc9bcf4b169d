"""A deployment's metrics: their names and units; docs/guide/operating.md explains each.

An invocation writes its metrics to standard output, as one JSON line in CloudWatch's embedded metric format, without
a call to AWS. All metrics of a stack are in one namespace and have no dimensions: each is one series, and an alarm
needs only the metric's name. The line also has properties of the invocation (its request id), for queries.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

MARK = "sparklet_metrics"  # the first member of each line, by which readers of logs can skip the line
MAX_VALUES = 100  # of one metric in one line


class Emitter(StrEnum):
    """The functions that write metrics."""

    WORKER = "worker"
    CHECKER = "checker"
    DLQ_CONSUMER = "dlq-consumer"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its name and unit, and the functions that write it."""

    name: str
    unit: Literal["Count", "Seconds", "Bytes", "Megabytes"]  # as CloudWatch spells them
    emitters: tuple[Emitter, ...]
    statistic: str = "Sum"  # for graphs and alarms: Sum of events, Maximum of a state


_WORKER, _CHECKER, _CONSUMER = (Emitter.WORKER,), (Emitter.CHECKER,), (Emitter.DLQ_CONSUMER,)

SHARDS_SUCCEEDED: Final = Metric("ShardsSucceeded", "Count", _WORKER)
SHARDS_FAILED: Final = Metric("ShardsFailed", "Count", tuple(Emitter))
SHARDS_RETRIED: Final = Metric("ShardsRetried", "Count", _WORKER)
SHARDS_REJECTED: Final = Metric("ShardsTurnedAway", "Count", _WORKER)
ATTEMPT_SECONDS: Final = Metric("AttemptSeconds", "Seconds", _WORKER, "p90")
ROWS_WRITTEN: Final = Metric("RowsWritten", "Count", _WORKER)
BYTES_READ: Final = Metric("BytesRead", "Bytes", _WORKER)
BYTES_WRITTEN: Final = Metric("BytesWritten", "Bytes", _WORKER)
TASKS_SUCCEEDED: Final = Metric("TasksSucceeded", "Count", _WORKER)
TASKS_FAILED: Final = Metric("TasksFailed", "Count", _WORKER)
COLD_STARTS: Final = Metric("ColdStarts", "Count", _WORKER)
JVM_RESTARTS: Final = Metric("JvmRestarts", "Count", _WORKER)
MEMORY_PEAK: Final = Metric("MemoryPeak", "Megabytes", _WORKER, "Maximum")

RUNS_OPEN: Final = Metric("RunsOpen", "Count", _CHECKER, "Maximum")
RUNS_SUCCEEDED: Final = Metric("RunsSucceeded", "Count", _CHECKER)
RUNS_FAILED: Final = Metric("RunsFailed", "Count", _CHECKER)
RUNS_UNCHECKED: Final = Metric("RunsUnchecked", "Count", _CHECKER)
SHARDS_PENDING: Final = Metric("ShardsPending", "Count", _CHECKER, "Maximum")
SHARDS_RUNNING: Final = Metric("ShardsRunning", "Count", _CHECKER, "Maximum")
OLDEST_OPEN_SHARD: Final = Metric("OldestOpenShardSeconds", "Seconds", _CHECKER, "Maximum")
LEASES_EXPIRED: Final = Metric("LeasesLapsed", "Count", _CHECKER)
MESSAGES_REQUEUED: Final = Metric("MessagesRequeued", "Count", _CHECKER)
SHARDS_ABANDONED: Final = Metric("ShardsAbandoned", "Count", _CHECKER)
DEAD_LETTERS_STORED: Final = Metric("DeadLettersStored", "Count", _CHECKER, "Maximum")

DEAD_LETTERS_RESENT: Final = Metric("DeadLettersResent", "Count", _CONSUMER)
DEAD_LETTERS_DROPPED: Final = Metric("DeadLettersDropped", "Count", _CONSUMER)
DEAD_LETTERS_FAILED: Final = Metric("DeadLettersFailed", "Count", _CONSUMER)
DEAD_LETTERS_KEPT: Final = Metric("DeadLettersKept", "Count", _CONSUMER)


class Meter:
    """Collects the metrics of one invocation and writes them as one line; writes nothing if ``namespace`` is ""."""

    def __init__(self, namespace: str, emitter: Emitter, write: Callable[[str], None]) -> None:
        self._namespace, self._emitter, self._write = namespace, emitter, write
        self._values: dict[Metric, list[float]] = {}

    @property
    def on(self) -> bool:
        """Whether metrics are written: if not, callers skip what is costly to measure."""
        return bool(self._namespace)

    def add(self, metric: Metric, value: float = 1) -> None:
        """Add a value. An invocation's values are summed up; only for a metric in seconds each value is kept."""
        assert self._emitter in metric.emitters, f"{metric.name} is not declared for the {self._emitter}"
        values = self._values.setdefault(metric, [])
        # Percentiles of times need each value; for events the sum is enough.
        if metric.unit == "Seconds" or not values:
            values.append(value + 0)  # True becomes 1: CloudWatch accepts only numbers
        else:
            values[0] += value

    def emit(self, **properties: str) -> None:
        """Write what was measured since the last call, if anything, with ``properties`` in the same line."""
        values, self._values = self._values, {}
        if not self._namespace:
            return
        while values:
            self._write(_line(self._namespace, self._emitter, values, properties))
            values = {metric: rest for metric, series in values.items() if (rest := series[MAX_VALUES:])}


def is_metrics_line(text: str) -> bool:
    """Whether a line of a log was written by a ``Meter``."""
    return text.startswith(f'{{"{MARK}":')


def _line(namespace: str, emitter: Emitter, values: Mapping[Metric, list[float]], properties: Mapping[str, str]) -> str:
    directive = {
        "Namespace": namespace,
        "Dimensions": [[]],
        "Metrics": [{"Name": metric.name, "Unit": metric.unit} for metric in values],
    }
    document = {
        MARK: emitter,
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
        **properties,
        **{metric.name: series[0] if len(series) == 1 else series[:MAX_VALUES] for metric, series in values.items()},
    }
    return json.dumps(document, separators=(",", ":"))
