"""A plot of each benchmark: bars of its cases, or lines where cases are sizes. The same file for the same figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.palette import COLOURS

OTHERS = "#000000"
MARKERS = dict(zip(COLOURS, "osDv^PoD", strict=True))
SIZES = ("size",)
"""Their cases are named ``kind, N MB``: a panel for each kind, a line for each side."""
SHOWN = {"planning_memory": ("peak_memory_mb", "MB, peak of resident memory")}
SECONDS = ("wall_s", "seconds, median")
WIDTH_INCHES = 8.0  # 576 points: read at a page's width as it is
BAR_INCHES, PANEL_INCHES = 0.2, 3.6
Cases = Sequence[tuple[str, Mapping[str, float]]]
"""Name, and the figure of each side."""


def draw(found: Mapping[str, Any], path: Path) -> bool:
    """Draw the cases of a benchmark into an SVG file; False, and none is drawn, if they have no figures."""
    key, label = SHOWN.get(found["name"], SECONDS)
    cases = [(case["case"], figures) for case in found["cases"] if (figures := _figures(case, key))]
    if not cases:
        path.unlink(missing_ok=True)
        return False
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "sparklet", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure = _lines(cases, label) if found["name"] in SIZES else _bars(cases, label)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _figures(case: Mapping[str, Any], key: str) -> dict[str, float]:
    return {
        side: figures[key]
        for side, figures in case.items()
        if isinstance(figures, dict) and figures.get(key) and "runs" in figures
    }


def _bars(cases: Cases, label: str) -> Figure:
    """A group of bars for each case."""
    names = _sides(cases)
    height = 0.8 / len(names)
    inches = 0.9 + len(cases) * len(names) * BAR_INCHES / 0.8
    figure, axes = pyplot.subplots(figsize=(WIDTH_INCHES, inches), layout="constrained")
    for place, name in enumerate(names):
        drawn = [(row, figures[name]) for row, (_, figures) in enumerate(cases) if name in figures]
        rows = [row + (place - (len(names) - 1) / 2) * height for row, _ in drawn]
        bars = axes.barh(rows, [value for _, value in drawn], height, label=name, color=COLOURS.get(name, OTHERS))
        axes.bar_label(bars, [short(value) for _, value in drawn], padding=3, fontsize=8)
    axes.set_yticks(range(len(cases)), [name for name, _ in cases])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.margins(x=0.08)  # for the longest bar's figure
    axes.set_xlabel(label)
    _legend(figure, axes)
    return figure


def _lines(cases: Cases, label: str) -> Figure:
    """Size against time, both in powers."""
    sized = [(*_kind_and_size(name), figures) for name, figures in cases]
    kinds = list(dict.fromkeys(kind for kind, _, _ in sized))
    figure, grid = pyplot.subplots(
        1,
        len(kinds),
        figsize=(WIDTH_INCHES, PANEL_INCHES),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, kind in zip(grid[0], kinds, strict=True):
        for name in _sides(cases):
            points = [(size, figures[name]) for each, size, figures in sized if each == kind and name in figures]
            style = {"color": COLOURS.get(name, OTHERS), "marker": MARKERS.get(name, "o"), "markersize": 4}
            axes.loglog(*zip(*points, strict=True), label=name, **style)
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("MB")
        axes.set_xticks(sorted({size for _, size, _ in sized}))
        axes.set_yticks([value for value in (0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if _is_within(value, cases)])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.set_minor_locator(NullLocator())
        axes.grid(color="#dddddd", linewidth=0.6)
    grid[0][0].set_ylabel(f"{label}, logarithmic")
    _legend(figure, grid[0][0])
    return figure


def _kind_and_size(name: str) -> tuple[str, float]:
    kind, _, size = name.partition(", ")
    return kind, float(size.removesuffix(" MB"))


def _is_within(value: float, cases: Cases) -> bool:
    """Whether it is among the figures, or a little beside."""
    values = [each for _, figures in cases for each in figures.values()]
    return min(values) / 3 < value < max(values) * 3


def _sides(cases: Cases) -> list[str]:
    return list(dict.fromkeys(side for _, figures in cases for side in figures))


def _legend(figure: Figure, axes: Axes) -> None:
    """All sides in a line above the plot."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside upper left", ncols=len(names))


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
