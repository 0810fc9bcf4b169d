"""The metrics of a worker's invocations, its peak of memory among them."""

import os
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass

from sparklet.events import Outcome
from sparklet.ports.metrics import (
    COLD_STARTS,
    JVM_RESTARTS,
    MEMORY_PEAK,
    SHARDS_FAILED,
    TASKS_FAILED,
    TASKS_SUCCEEDED,
    Meter,
)
from sparklet.spark.processes import descendants
from sparklet.spark.runner import Runner

_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass
class Measuring:
    """Measures each invocation of one environment."""

    meter: Meter
    _cold: bool = True
    _jvm_starts: int = 1  # the first one is no restart

    def invocation(self, outcomes: Iterable[Outcome], runner: Runner, request_id: str) -> None:
        """Emit the metrics of one invocation in one line; ``ShardClaims`` has added those of shards."""
        if not self.meter.on:
            return
        if self._cold:
            self.meter.add(COLD_STARTS)
        self._cold = False
        for outcome in outcomes:
            self._task(outcome)
        starts = getattr(runner, "jvm_starts", 0)  # only the warm runner counts them
        if starts > self._jvm_starts:
            self.meter.add(JVM_RESTARTS, starts - self._jvm_starts)
            self._jvm_starts = starts
        self.meter.add(MEMORY_PEAK, memory_peak_mb())
        self.meter.emit(request_id=request_id)

    def _task(self, outcome: Outcome) -> None:
        """Count a task that belongs to no run, unless it was skipped or another attempt has it."""
        if outcome.task.shard is not None:
            return
        if outcome.error is not None:
            self.meter.add(TASKS_FAILED)
            if outcome.task.request is not None and outcome.acknowledged:
                self.meter.add(SHARDS_FAILED)
        elif outcome.answer.get("state") == "SUCCEEDED" and "claim" not in outcome.answer:
            self.meter.add(TASKS_SUCCEEDED)


def memory_peak_mb() -> float:
    """The sum of the peaks of this process and its descendants, an upper bound; of ended ones only the largest."""
    ended_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    living_kb = sum(map(peak_kb, descendants(os.getpid())))
    return round((peak_kb(os.getpid()) + max(living_kb, ended_kb)) / 1024, 1)


def peak_kb(pid: int) -> int:
    """The peak of one process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            match = _PEAK.search(file.read())
    except OSError:  # it has ended
        return 0
    return int(match[1]) if match else 0  # a zombie has no memory
