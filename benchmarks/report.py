"""Write docs/benchmarks.md, its plots and the README's table: ``.venv-bench/bin/python -m benchmarks.report``.

All from benchmarks/results: nothing is measured here, and nothing of the page is written by hand. Only the standard
library and matplotlib.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.readme import with_speed

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
SPARKLET = "sparklet"
Draw = Callable[[Mapping[str, Any], Path], bool]
"""Draws a benchmark's cases into a file; whether there was anything to draw."""
ORDER = ("starts", "image", "size", "fan_out", "planning_rate", "planning_memory", "quick")

AIMED = "starts"
TARGETS: Mapping[str, Mapping[str, float]] = {
    "cold, hello": {"wall": 4.5},
    "cold, csv_to_parquet": {"wall": 4.5},
    "warm, csv_to_parquet": {"wall": 25, "cpu": 12},
    "warm, delta_append": {"wall": 25, "cpu": 12},
    "warm, iceberg_append": {"wall": 25, "cpu": 12},
    "warm, hudi_append": {"wall": 7},
}
"""By case of ``AIMED``: how many times less than plain spark-submit is aimed at, in wall time and in CPU time."""

COLUMNS = "| case | side | s | 99 % | CPU s | peak MB | runs | times Sparklet's s | CPU |"

HEAD = """# Benchmarks

Written by `python -m benchmarks.report` from `benchmarks/results/*.json`, which hold every run; `make bench` measures
all anew. A script answers one question and compares two things or more in one interleaved run, on one machine. Figures
are medians; a ratio is the rival's median over Sparklet's: how many times less Sparklet needs. Seconds are those of
that machine at that moment, ratios carry further, and of them those of CPU time are the steadier.

How the starts are measured: both sides have the same jars, Java, Python, script and data, all in the page cache. A
rival is a fresh process for each event, its script on disk. The worker is behind AWS's runtime interface emulator and
fetches its script from a stand-in for S3; its time is that from the event to the answer, with the first event that of
its own start. *plain* is pyspark's `spark-submit` as it is, with its launcher (spark-on-aws-lambda starts Java
without it); *tuned* leaves the launcher out and has what is known to help. CPU time is that of all processes of a
side, and so is memory. After each run its output is read by other software (Arrow, delta-rs, metadata files): what is
wrong ends the benchmark. Tables are shared, so that all sides append to the same history. The warm worker does half of
a turn's events before the first event of a fresh one and the rivals, and half after them; its CPU time is the mean of
such a half. The rivals' runs are compared with first and with further events.
"""


def main() -> None:
    """Read all results, write the page and the README's table."""
    from benchmarks.plots import draw  # what is in .venv-bench only

    PLOTS.mkdir(exist_ok=True)
    results = committed()
    PAGE.write_text(page(results, draw))
    README.write_text(with_speed(README.read_text(), results))


def committed() -> list[dict[str, Any]]:
    """The documents of benchmarks/results."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def page(results: Iterable[dict[str, Any]], draw: Draw) -> str:
    """The page of these documents, its plots drawn on the way."""
    found = sorted(results, key=_place)
    parts = [HEAD, _goals(found), *("\n".join(_section(each, draw)) for each in found)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _place(found: Mapping[str, Any]) -> tuple[int, str]:
    name = found["name"]
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _goals(results: list[dict[str, Any]]) -> str:
    """The targets, and what was reached."""
    cases = {case["case"]: case for found in results if found["name"] == AIMED for case in found["cases"]}
    lines = [
        "## Targets and what was reached",
        "",
        "| | time: target | reached | CPU: target | reached |",
        "|---|---|---|---|---|",
    ]
    for name, target in TARGETS.items():
        ratios = cases.get(name, {}).get("ratios", {})
        cells = [cell for what in ("wall", "cpu") for cell in _goal(target.get(what), ratios.get(what))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _goal(target: float | None, reached: float | None) -> tuple[str, str]:
    aim = f"≥ {target:g}×" if target else ""
    if reached is None:
        return aim, "not measured"
    return aim, f"{reached:.1f}×" if reached >= (target or 0) else f"**{reached:.1f}×, missed**"


def _section(found: Mapping[str, Any], draw: Draw) -> Iterator[str]:
    """Question, circumstances, plot and table of one benchmark."""
    yield f"## {found['name']}\n\n{found['question']}\n"
    yield f"{_circumstances(found['facts'])}\n"
    yield from (f"- {key}: {_shown(value)}" for key, value in found["parameters"].items())
    if draw(found, PLOTS / f"{found['name']}.svg"):
        yield f"\n![{found['question']}](benchmarks/{found['name']}.svg)"
    yield f"\n{COLUMNS}\n|---|---|---|---|---|---|---|---|---|"
    for case in found["cases"]:
        for side, figures in sides(case).items():
            yield _row(case["case"] if side == SPARKLET else "", side, figures, case[SPARKLET])
        for shares in case.get("shards", ()):
            yield from _shares(shares)
    yield ""


def _shares(shares: Mapping[str, Any]) -> Iterator[str]:
    """Where the time of a fan-out's shards went."""
    share = f"{shares['efficiency']:.0%} of workers × wall time was spent in the script"
    yield f"\nOf {shares['shards']} shards; {share}.\n"
    yield "| of a shard | median ms | 90 % |\n|---|---|---|"
    for name, found in shares.items():
        if isinstance(found, Mapping):
            told = [f"{1000 * found[key]:.0f}" for key in ("median", "p90")]
            yield f"| {name.removesuffix('_s')} | " + " | ".join(told) + " |"


def sides(case: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Who took part in a case, Sparklet first."""
    found = {key: value for key, value in case.items() if isinstance(value, dict) and "runs" in value}
    return {SPARKLET: found.pop(SPARKLET), **found}


def _row(case: str, side: str, figures: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    ratios = ["", ""]
    if side != SPARKLET:
        ratios = [
            f"{figures[key] / ours[key]:.1f}" if ours.get(key) and figures.get(key) else "–"
            for key in ("wall_s", "cpu_s")
        ]
    cells = [_figure(figures.get(key)) for key in ("wall_s", "wall_p99_s", "cpu_s", "peak_memory_mb")]
    return "| " + " | ".join([case, side, *cells, str(len(figures["runs"])), *ratios]) + " |"


def _figure(value: float | None) -> str:
    if not value:  # no memory: it had ended before it was looked at
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _circumstances(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    busy = machine["load_1m"] > 2 * machine["cores"]
    warning = " **The machine was busy with other work: look at CPU time.**" if busy else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['measured'][:10]}, commit {facts['commit']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_mb'] / 1024:.0f} GiB, load {machine['load_1m']} at the end. "
        f"Python {facts['python']}, {versions}.{warning}"
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: `{inner}`" for key, inner in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
