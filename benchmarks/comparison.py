"""The document that each benchmark prints: runs, their medians, and the ratios between the sides.

A figure is a median of at least ``ROUNDS`` runs of each side, which take turns.

::

    {"name", "question", "facts", "parameters",
     "cases": [{"case", "sparklet": {"wall_s", "cpu_s", "peak_memory_mb", "runs": […]}, "<rival>": {…},
                "ratios": {"wall", "cpu"}, "further_ratios": {"<second rival>": {…}}}]}

A ratio is the rival's median over Sparklet's: how many times less Sparklet needs.
"""

import argparse
import json
import re
import statistics
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.facts import facts

SPARKLET = "sparklet"
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One event on one side."""

    wall_s: float
    cpu_s: float
    peak_memory_mb: float


@dataclass
class Case:
    """One job on all sides, in the order in which rivals are compared; the first is what ``ratios`` are about."""

    name: str
    rivals: Sequence[str]
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def add(self, side: str, *runs: Run) -> None:
        """Take runs in, and say so on standard error."""
        self.runs.setdefault(side, []).extend(runs)
        wall_s, cpu_s = (statistics.median(getattr(run, name) for run in runs) for name in ("wall_s", "cpu_s"))
        say(f"{self.name}: {side} {wall_s:.2f} s, {cpu_s:.2f} s of CPU" + (f" × {len(runs)}" if len(runs) > 1 else ""))

    def ratios(self, rival: str) -> dict[str, float]:
        """Of wall and CPU time."""
        ours, theirs = self._medians(SPARKLET), self._medians(rival)
        return {name: round(theirs[f"{name}_s"] / max(ours[f"{name}_s"], 1e-9), 2) for name in ("wall", "cpu")}

    def document(self) -> dict[str, Any]:
        """The case as the document has it."""
        first, *further = self.rivals or ("",)
        sides = {
            side: {**self._medians(side), **self._tail(side), "runs": [_rounded(asdict(run)) for run in runs]}
            for side in (SPARKLET, *self.rivals)
            if (runs := self.runs.get(side))
        }
        more = {"further_ratios": {rival: self.ratios(rival) for rival in further}} if further else {}
        ratios = {"ratios": self.ratios(first)} if first else {}
        return {"case": self.name, **sides, **ratios, **more}

    def say(self) -> None:
        """Medians and ratios as a line on standard error."""
        told = [f"sparklet {self._medians(SPARKLET)['wall_s']:.2f} s"]
        for rival in self.rivals:
            ratios = self.ratios(rival)
            told.append(
                f"{rival} {self._medians(rival)['wall_s']:.2f} s ({ratios['wall']:.1f}×, CPU {ratios['cpu']:.1f}×)"
            )
        say(f"{self.name}: {', '.join(told)}; medians")

    def _medians(self, side: str) -> dict[str, float]:
        names = ("wall_s", "cpu_s", "peak_memory_mb")
        return _rounded({name: statistics.median(getattr(run, name) for run in self.runs[side]) for name in names})

    def _tail(self, side: str) -> dict[str, float]:
        """The 99th percentile, where there are enough runs for one."""
        walls = [run.wall_s for run in self.runs[side]]
        return {"wall_p99_s": round(statistics.quantiles(walls, n=100)[-1], 3)} if len(walls) >= 20 else {}


def options(about: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser, with the number of its rounds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each side")
    return parser


def document(name: str, question: str, parameters: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """What a benchmark found."""
    for case in cases:
        case.say()
    return {
        "name": name,
        "question": question,
        "facts": facts(),
        "parameters": dict(parameters),
        "cases": [case.document() for case in cases],
    }


def publish(found: Mapping[str, Any]) -> None:
    """One JSON document to standard output."""
    print(as_text(found))


def as_text(found: Mapping[str, Any]) -> str:
    """The document as JSON, indented, but each run on a line."""
    mark, lines = uuid.uuid4().hex, list[str]()

    def marked(value: Any) -> Any:
        match value:
            case {"runs": [*runs], **others}:
                return {**marked(others), "runs": [kept(run) for run in runs]}
            case dict():
                return {key: marked(inner) for key, inner in value.items()}
            case list():
                return [marked(inner) for inner in value]
        return value

    def kept(run: Any) -> str:
        lines.append(json.dumps(run))
        return f"{mark}{len(lines) - 1}"

    text = json.dumps(marked(found), indent=2)
    return re.sub(f'"{mark}(\\d+)"', lambda place: lines[int(place[1])], text)


def say(what: str) -> None:
    """Progress, for who watches."""
    print(what, file=sys.stderr, flush=True)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1 if name.endswith("_mb") else 3) for name, value in figures.items()}
