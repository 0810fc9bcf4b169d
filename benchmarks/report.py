"""Write docs/benchmarks.md, its plots and the figures of README and of the campaigns' pages.

    .venv-bench/bin/python -m benchmarks.report

All from benchmarks/results: nothing is measured here, and nothing of the page is written by hand. Only the standard
library, and matplotlib for new plots.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.comparison import SPARKLET
from benchmarks.readme import figure, spread, with_speed
from benchmarks.reliability import with_tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
CAMPAIGNS = tuple(
    ROOT / "docs" / name
    for name in (
        "reliability.md",
        "scaling.md",
        "tables.md",
        "startup.md",
    )
)
"""Pages with tables of ``reliability``."""
Draw = Callable[[Mapping[str, Any], Path], bool]
"""Draws a benchmark's cases into a file; whether there was anything to draw."""
ORDER = (
    *("starts", "restored", "image", "size", "fan_out", "per_input", "planning_rate", "planning_memory"),
    *("batch", "map", "warm_share", "lost_worker"),
)

AIMED = ("starts", "restored")
TARGETS: Mapping[str, Mapping[str, float]] = {
    "cold, hello": {"wall": 4.5},
    "cold, csv_to_parquet": {"wall": 4.5},
    "warm, csv_to_parquet": {"wall": 25, "cpu": 12},
    "warm, delta_append": {"wall": 25, "cpu": 12},
    "warm, iceberg_append": {"wall": 25, "cpu": 12},
    "warm, hudi_append": {"wall": 7},
    "restored, csv_to_parquet": {"wall": 15},
    "restored, delta_append": {"wall": 12},
    "restored, iceberg_append": {"wall": 12},
    "restored, hudi_append": {"wall": 4},
}
"""By case of ``AIMED``: how many times less than plain spark-submit is aimed at, in wall time and in CPU time."""

USUAL: Mapping[str, object] = {
    "function_memory_mb": 3008,
    "class_data_archive": True,
    "memory": "resident memory of all processes, looked at five times a second; shared pages count in each",
    "rivals": {"plain": "spark-submit"},
}
"""Parameters that the page's head names once."""

UNITS: Mapping[str, str] = {"wall_s": "s", "cpu_s": "CPU s", "peak_memory_mb": "MB"}
"""What a cell of a table says, in this order."""
RATED = ("wall_s", "cpu_s")

HEAD = """# Benchmarks

`make bench` measures everything and writes this page from `benchmarks/results/*.json`. Figures are medians of at least
five runs of each side (*runs*), which take turns on one machine. In brackets is the range of the seconds; 99 % is their
99th percentile. After a colon are ratios: the side's seconds and CPU seconds divided by Sparklet's.

Both sides of a start have the same jars, Java, Python, script and data, all in the page cache. A rival is a fresh
process for each event. The worker is behind AWS's runtime interface emulator and an emulator of S3. Its time begins
with the event, or for a first event with the worker's start, and ends with the answer. *plain* is pyspark's
`spark-submit` as it is; *tuned* leaves its launcher out and has the options that are known to help. Unless a section
says otherwise, the function has 3,008 MB and a class-data archive, and the rival is *plain*. CPU time and resident
memory are sums over all processes of a side. Other software reads each output; a wrong one ends the benchmark.
"""


def main() -> None:
    """Read all results, write what shows them."""
    PLOTS.mkdir(exist_ok=True)
    results = committed()
    PAGE.write_text(page(results, drawing()))
    README.write_text(with_speed(README.read_text(), results))
    for path in CAMPAIGNS:
        path.write_text(with_tables(path.read_text()))


def drawing() -> Draw:
    """What draws the plots; without matplotlib, which only .venv-bench has, those that are there stay."""
    try:
        from benchmarks.plots import draw
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing, so the plots stay as they are; make bench-venv installs it")
        return lambda _, path: path.exists()
    return draw


def committed() -> list[dict[str, Any]]:
    """The documents of benchmarks/results."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def page(results: Iterable[dict[str, Any]], draw: Draw) -> str:
    """The page of these documents, its plots drawn on the way."""
    found = sorted(results, key=_place)
    labels = _labels(found)
    machines = [_prose(f"- **{label}**: {machine}.", indent="  ") for machine, label in labels.items()]
    parts = [HEAD, "\n".join(["Machines and versions:", "", *machines]), _goals(found)]
    parts += ["\n".join(_section(each, draw, labels)) for each in found]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _labels(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """A short name for each machine with its versions, by its processor's maker."""
    labels = dict[str, str]()
    for facts in (each["facts"] for each in found):
        maker = facts["machine"]["cpu"].partition("(")[0].split()[0]
        known = sum(label.split()[0] == maker for label in labels.values())
        labels.setdefault(_machine(facts), f"{maker} {known + 1}" if known else maker)
    return labels


def _place(found: Mapping[str, Any]) -> tuple[int, str]:
    name = found["name"]
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _goals(results: list[dict[str, Any]]) -> str:
    """The targets, and what was reached."""
    cases = {case["case"]: case for found in results if found["name"] in AIMED for case in found["cases"]}
    lines = [
        "## Targets and what was reached",
        "",
        "| | time: target | reached | CPU: target | reached |",
        "|---|---|---|---|---|",
    ]
    for name, target in TARGETS.items():
        cells = [cell for what in ("wall", "cpu") for cell in _goal(target.get(what), cases[name]["ratios"][what])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _goal(target: float | None, reached: float) -> tuple[str, str]:
    if not target:
        return "", f"{reached:.1f}×"
    return f"≥ {target:g}×", f"{reached:.1f}×" if reached >= target else f"**{reached:.1f}×, missed**"


def _section(found: Mapping[str, Any], draw: Draw, labels: Mapping[str, str]) -> Iterator[str]:
    """Question, circumstances, plot and table of one benchmark."""
    yield f"## {found['name']}\n\n{found['question']}\n"
    yield _prose(_circumstances(found["facts"], labels)) + "\n"
    told = {key: value for key, value in found["parameters"].items() if value not in ([], USUAL.get(key))}
    yield from (_prose(f"- {key}: {_shown(value)}", indent="  ") for key, value in told.items())
    if draw(found, PLOTS / f"{found['name']}.svg"):
        yield f"\n![{found['name']}](benchmarks/{found['name']}.svg)"
    yield from ("", *_table(found["cases"]))
    for case in found["cases"]:
        if "shards" in case:
            yield from _shares(case["shards"])
    yield ""


def _shares(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where the time of a fan-out's shards went: the medians of its runs, and their range."""
    efficiency = spread([{"share": 100 * run["efficiency"]} for run in runs], "share")
    yield f"\nOf workers × wall time {efficiency} % were spent in the script. Of {runs[0]['shards']} shards a run:\n"
    yield "| of a shard | median ms | 90 % |\n|---|---|---|"
    for name in (name for name, found in runs[0].items() if isinstance(found, Mapping)):
        told = [spread([{key: 1000 * run[name][key]} for run in runs], key) for key in ("median", "p90")]
        yield f"| {name.removesuffix('_s')} | " + " | ".join(told) + " |"


def sides(case: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Who took part in a case, Sparklet first."""
    found = {key: value for key, value in case.items() if isinstance(value, dict) and "runs" in value}
    return {SPARKLET: found.pop(SPARKLET), **found}


def _table(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each case, a column for each side."""
    names = list(dict.fromkeys(side for case in cases for side in sides(case)))
    kept = [key for key in UNITS if any(figures.get(key) for case in cases for figures in sides(case).values())]
    units = ", ".join(UNITS[key] for key in kept)
    yield "| case | " + " | ".join([f"{names[0]}: {units}", *names[1:]]) + " | runs |"
    yield "|---|" + "---|" * (len(names) + 1)
    for case in cases:
        took_part = sides(case)
        cells = [_cell(took_part[name], case[SPARKLET], kept) if name in took_part else "–" for name in names]
        runs = [str(len(figures["runs"])) for figures in took_part.values()]
        shown = runs[0] if len(set(runs)) == 1 else ", ".join(runs)
        yield f"| {case['case']} | " + " | ".join(cells) + f" | {shown} |"


def _cell(figures: Mapping[str, Any], ours: Mapping[str, Any], kept: Sequence[str]) -> str:
    """What a side needed, and how many times what Sparklet needed."""
    cell = ", ".join([spread(figures["runs"], "wall_s"), *(_figure(figures.get(key)) for key in kept[1:])])
    if figures.get("wall_p99_s"):
        cell += f"; 99 %: {_figure(figures['wall_p99_s'])}"
    found = [f"{figures[key] / ours[key]:.1f}×" for key in RATED if figures.get(key) and ours.get(key)]
    return cell if figures is ours else f"{cell}: {', '.join(found)}"


def _figure(value: float | None) -> str:
    return figure(value) if value else "–"  # no memory: it had ended before it was looked at


def _circumstances(facts: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """When and where, at which commit and load."""
    machine = facts["machine"]
    busy = machine["load_1m"] > 2 * machine["cores"]
    warning = " **The machine was busy with other work: look at CPU time.**" if busy else ""
    where = f"{labels[_machine(facts)]}, commit {facts['commit']}, load {machine['load_1m']} at the end."
    return f"{facts['measured'][:10]}, {where}{warning}"


def _machine(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    size = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb'] / 1024:.0f} GiB"
    return f"{size}; Python {facts['python']}, {versions}"


def _prose(text: str, indent: str = "") -> str:
    return fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: `{inner}`" for key, inner in value.items())
    if isinstance(value, list) and all(isinstance(inner, str) for inner in value):
        return ", ".join(f"`{inner}`" for inner in value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
