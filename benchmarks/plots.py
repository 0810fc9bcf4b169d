"""Bars for a benchmark's cases: seconds on each side. The same file for the same figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

COLOURS = ("#1b6ca8", "#c9792b", "#8c8c8c", "#5b8c5a", "#8a5a83")
BAR_INCHES = 0.24


def draw(found: Mapping[str, Any], path: Path) -> bool:
    """Draw the cases of a benchmark into an SVG file; False, and none is drawn, if they have no seconds."""
    cases = [(case["case"], seconds) for case in found["cases"] if (seconds := _seconds(case))]
    if not cases:
        path.unlink(missing_ok=True)
        return False
    names = list(dict.fromkeys(side for _, seconds in cases for side in seconds))
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "sparklet", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, axes = pyplot.subplots(figsize=(8, 0.9 + BAR_INCHES * len(names) * len(cases) * 1.25), layout="constrained")
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        drawn = [(row, seconds[name]) for row, (_, seconds) in enumerate(cases) if name in seconds]
        bars = axes.barh(
            [row + place * height for row, _ in drawn],
            [value for _, value in drawn],
            height,
            label=name,
            color=COLOURS[place % len(COLOURS)],
        )
        axes.bar_label(bars, [f"{value:.3g}" for _, value in drawn], padding=3, fontsize=8)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(cases))], [name for name, _ in cases])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _seconds(case: Mapping[str, Any]) -> dict[str, float]:
    return {
        side: figures["wall_s"]
        for side, figures in case.items()
        if isinstance(figures, dict) and figures.get("wall_s") and "runs" in figures
    }
