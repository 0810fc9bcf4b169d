"""A deployment's metrics: their names and units; docs/guide/operating.md says what each means.

A metric leaves as one JSON line on standard output, in CloudWatch's embedded metric format, one line an invocation;
nothing is called or waited for. All metrics of a stack lie in one namespace and have no dimensions: each is one series,
and an alarm needs only its name. Properties of one invocation (its request id) are in the same line, for queries.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MARK = "sparklet_metrics"  # the first member of each line, so that readers of logs can leave the line out
MAX_VALUES = 100  # of one metric in one line


class Unit(StrEnum):
    """Units as CloudWatch spells them."""

    COUNT = "Count"
    SECONDS = "Seconds"
    BYTES = "Bytes"
    MEGABYTES = "Megabytes"


class Emitter(StrEnum):
    """The functions that write metrics."""

    WORKER = "worker"
    CHECKER = "checker"
    DLQ_CONSUMER = "dlq-consumer"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric."""

    name: str
    unit: Unit
    emitters: tuple[Emitter, ...]
    statistic: str = "Sum"  # for graphs and alarms: Sum of events, Maximum of a state


_WORKER, _CHECKER, _CONSUMER = (Emitter.WORKER,), (Emitter.CHECKER,), (Emitter.DLQ_CONSUMER,)

SHARDS_SUCCEEDED: Final = Metric("ShardsSucceeded", Unit.COUNT, _WORKER)
SHARDS_FAILED: Final = Metric("ShardsFailed", Unit.COUNT, tuple(Emitter))
SHARDS_RETRIED: Final = Metric("ShardsRetried", Unit.COUNT, _WORKER)
SHARDS_TURNED_AWAY: Final = Metric("ShardsTurnedAway", Unit.COUNT, _WORKER)
ATTEMPT_SECONDS: Final = Metric("AttemptSeconds", Unit.SECONDS, _WORKER, "p90")
ROWS_WRITTEN: Final = Metric("RowsWritten", Unit.COUNT, _WORKER)
BYTES_READ: Final = Metric("BytesRead", Unit.BYTES, _WORKER)
BYTES_WRITTEN: Final = Metric("BytesWritten", Unit.BYTES, _WORKER)
TASKS_SUCCEEDED: Final = Metric("TasksSucceeded", Unit.COUNT, _WORKER)
TASKS_FAILED: Final = Metric("TasksFailed", Unit.COUNT, _WORKER)
COLD_STARTS: Final = Metric("ColdStarts", Unit.COUNT, _WORKER)
JVM_RESTARTS: Final = Metric("JvmRestarts", Unit.COUNT, _WORKER)
MEMORY_PEAK: Final = Metric("MemoryPeak", Unit.MEGABYTES, _WORKER, "Maximum")

RUNS_OPEN: Final = Metric("RunsOpen", Unit.COUNT, _CHECKER, "Maximum")
RUNS_SUCCEEDED: Final = Metric("RunsSucceeded", Unit.COUNT, _CHECKER)
RUNS_FAILED: Final = Metric("RunsFailed", Unit.COUNT, _CHECKER)
RUNS_UNCHECKED: Final = Metric("RunsUnchecked", Unit.COUNT, _CHECKER)
SHARDS_PENDING: Final = Metric("ShardsPending", Unit.COUNT, _CHECKER, "Maximum")
SHARDS_RUNNING: Final = Metric("ShardsRunning", Unit.COUNT, _CHECKER, "Maximum")
OLDEST_OPEN_SHARD: Final = Metric("OldestOpenShardSeconds", Unit.SECONDS, _CHECKER, "Maximum")
LEASES_LAPSED: Final = Metric("LeasesLapsed", Unit.COUNT, _CHECKER)
MESSAGES_REQUEUED: Final = Metric("MessagesRequeued", Unit.COUNT, _CHECKER)
SHARDS_ABANDONED: Final = Metric("ShardsAbandoned", Unit.COUNT, _CHECKER)
DIFFERENCES: Final = Metric("Differences", Unit.COUNT, _CHECKER, "Maximum")
DEAD_LETTERS_STORED: Final = Metric("DeadLettersStored", Unit.COUNT, _CHECKER, "Maximum")

DEAD_LETTERS_RESENT: Final = Metric("DeadLettersResent", Unit.COUNT, _CONSUMER)
DEAD_LETTERS_DROPPED: Final = Metric("DeadLettersDropped", Unit.COUNT, _CONSUMER)
DEAD_LETTERS_FAILED: Final = Metric("DeadLettersFailed", Unit.COUNT, _CONSUMER)
DEAD_LETTERS_KEPT: Final = Metric("DeadLettersKept", Unit.COUNT, _CONSUMER)


class Meter:
    """Collects what one invocation measures and writes it as one line; nothing if the ``namespace`` is ""."""

    def __init__(self, namespace: str, emitter: Emitter, write: Callable[[str], None]) -> None:
        self._namespace, self._emitter, self._write = namespace, emitter, write
        self._values: dict[Metric, list[float]] = {}

    @property
    def on(self) -> bool:
        """Whether anything is written: if not, skip what is costly to measure."""
        return bool(self._namespace)

    def add(self, metric: Metric, value: float = 1) -> None:
        """Measure something: values of one invocation are added up, but of seconds each is kept."""
        assert self._emitter in metric.emitters, f"{metric.name} is not declared for the {self._emitter}"
        values = self._values.setdefault(metric, [])
        if metric.unit is Unit.SECONDS or not values:
            values.append(value + 0)  # True is no number to CloudWatch
        else:
            values[0] += value

    def emit(self, **properties: str) -> None:
        """Write what was measured since the last time, with ``properties`` beside it; nothing if there is nothing."""
        values, self._values = self._values, {}
        if not self._namespace:
            return
        while values:
            self._write(_line(self._namespace, self._emitter, values, properties))
            values = {metric: rest for metric, found in values.items() if (rest := found[MAX_VALUES:])}


def is_metrics_line(text: str) -> bool:
    """Whether a line of a log is one of these."""
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
        **{metric.name: found[0] if len(found) == 1 else found[:MAX_VALUES] for metric, found in values.items()},
    }
    return json.dumps(document, separators=(",", ":"))
