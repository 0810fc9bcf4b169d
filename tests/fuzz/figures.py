"""What a campaign counted, measured and says in the end."""

import gc
import json
import os
import platform
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis

MEASURED_EACH = 10  # memory is traced for one input in ten: tracing takes three times as long
LEAST_INPUTS = 100_000  # of a whole campaign
TARGET = Path("build") / "fuzz.json"


@dataclass
class Count:
    """One kind of input."""

    inputs: int = 0
    refused: int = 0  # by an EventError or a SettingsError
    tasks: int = 0
    problems: int = 0  # tasks that say what is wrong with their record
    slowest_s: float = 0.0
    peak_bytes: int = 0
    peak_per_input_byte: float = 0.0  # of inputs of 10 kB and more
    seen: set[Any] = field(default_factory=set, repr=False)

    def told(self) -> dict[str, Any]:
        """As the report has it."""
        numbers = {key: value for key, value in vars(self).items() if key != "seen"}
        return {**numbers, "distinct": len(self.seen)}


@dataclass
class Figures:
    """All of a session."""

    counts: dict[str, Count] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    def of(self, kind: str) -> Count:
        """The count of one kind."""
        return self.counts.setdefault(kind, Count())

    def measured(self, kind: str, identity: Any, size_bytes: int, work: Callable[[], None], *, trace: bool) -> int:
        """Do the work on one input; the peak of memory it took if that was traced, else 0."""
        count = self.of(kind)
        count.inputs += 1
        count.seen.add(identity)
        begin_s = time.process_time()  # of this process: others have the machine too
        if not trace:
            gc.disable()  # it goes through all that Hypothesis and this campaign hold, at any input's cost
            try:
                work()
            finally:
                gc.enable()
            count.slowest_s = max(count.slowest_s, time.process_time() - begin_s)
            return 0
        tracemalloc.start()
        try:
            work()
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        count.peak_bytes = max(count.peak_bytes, peak_bytes)
        if size_bytes >= 10_000:
            count.peak_per_input_byte = max(count.peak_per_input_byte, round(peak_bytes / size_bytes, 2))
        return peak_bytes

    def total(self) -> dict[str, Any]:
        """Over all kinds."""
        counts = list(self.counts.values())
        return {
            "inputs": sum(count.inputs for count in counts),
            "distinct": sum(len(count.seen) for count in counts),
            "kinds": len(counts),
            "refused": sum(count.refused for count in counts),
            "tasks": sum(count.tasks for count in counts),
            "problems": sum(count.problems for count in counts),
            "seconds": round(time.monotonic() - self.started_s, 1),
            "slowest_s": round(max(count.slowest_s for count in counts), 4),
            "peak_bytes": max(count.peak_bytes for count in counts),
            "peak_per_input_byte": max(count.peak_per_input_byte for count in counts),
        }

    def write(self) -> Path:
        """Keep it all, with where it came from."""
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        document = {
            "command": "make fuzz",
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit.stdout.strip(),
            "python": platform.python_version(),
            "hypothesis": hypothesis.__version__,
            "cpus": os.cpu_count(),
            "total": self.total(),
            "kinds": {kind: count.told() for kind, count in sorted(self.counts.items())},
        }
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(json.dumps(document, indent=1) + "\n")
        return TARGET


FIGURES = Figures()
