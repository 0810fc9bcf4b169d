"""Ratios of a case that was measured in several runs: their range says more than the last of them, or the best.

``benchmarks/results/repeats.jsonl`` has a line for each document that measured it: how many times less than plain
spark-submit, in wall time (of each run) and in CPU time. A case that is not there was measured in one run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("results") / "repeats.jsonl"


@dataclass(frozen=True)
class Ratios:
    """Of a case, in wall or CPU time, in all of its runs."""

    what: str
    found: Sequence[float]

    @property
    def least(self) -> float:
        """What every run reached."""
        return min(self.found)

    @property
    def most(self) -> float:
        """What the best one reached."""
        return max(self.found)

    def __str__(self) -> str:
        """The range, if there is one, for wall time with the number of runs."""
        if len(self.found) == 1:
            return f"{self.most:.1f}×"
        runs = f", {len(self.found)} runs" if self.what == "wall" else ""
        return f"{self.least:.1f} to {self.most:.1f}×{runs}"


def ratios(case: Mapping[str, Any], what: str, name: str = "") -> Ratios:
    """Of a result's case, ``wall`` or ``cpu``, with those of its repeats."""
    known = [json.loads(line) for line in FILE.read_text().splitlines()]
    found = [ratio for each in known if each["case"] == (name or case["case"]) for ratio in each[what]]
    ours, theirs = (case[side][f"{what}_s"] for side in ("sparklet", "plain"))
    return Ratios(what, found or [theirs / ours])
