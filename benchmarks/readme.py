"""README's section of speed, from the results: it says what was measured, or it cannot be written."""

import statistics
from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any

from benchmarks.comparison import SPARKLET

PLAIN = "plain"
IMAGE = "1.7 vCPUs, 3,008 MB"
EVENTS: Mapping[str, tuple[str, str]] = {
    "first event of a worker: ten numbers summed up": ("starts", "cold, hello"),
    "first event of a worker: CSV → Parquet": ("starts", "cold, csv_to_parquet"),
    "first event of a primed worker after a stop: CSV → Parquet, as primed": ("restored", "restored, csv_to_parquet"),
    "the same, a job unlike what was primed: JSON → join → window → Delta": ("restored", "restored, json_to_delta"),
    "further event: CSV → Parquet": ("starts", "warm, csv_to_parquet"),
    "further event: append to a Delta table": ("starts", "warm, delta_append"),
    "further event: append to an Iceberg table": ("starts", "warm, iceberg_append"),
    "further event: append to a Hudi table": ("starts", "warm, hudi_append"),
}
"""Rows of the table of speed."""


def with_speed(readme: str, results: Iterable[Mapping[str, Any]]) -> str:
    """The README with its section of speed written anew; KeyError if a figure was not measured."""
    return marked(readme, "speed", speed(results))


def marked(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its two marks of this name; ValueError if a mark is not there."""
    begin, end = f"<!-- {name}: written by benchmarks.report -->\n", f"<!-- {name}: end -->\n"
    before, found, rest = page.partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        raise ValueError(f"the page lacks the mark {(end if found else begin).strip()}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def speed(results: Iterable[Mapping[str, Any]]) -> str:
    """The table, where and when it was measured, and what else README says of speed."""
    found = list(results)
    cases = {(each["name"], case["case"]): case for each in found for case in each["cases"]}
    facts = [each["facts"] for each in found if each["name"] in dict(EVENTS.values())]
    days = sorted({fact["measured"][:10] for fact in facts})
    named = [*dict.fromkeys(fact["commit"] for fact in sorted(facts, key=lambda fact: fact["measured"]))]
    commits = f"commit {named[0]}" if len(named) == 1 else f"the commits {' and '.join(named)}"
    machine = facts[0]["machine"]
    circumstances = (
        f"Seconds are medians of at least five runs of each side, with their range, at {commits}: "
        f"{machine['cores']} cores of {machine['cpu']}, {' to '.join(dict.fromkeys((days[0], days[-1])))}. These are "
        "figures of a worker process, not of Lambda; the primed worker's time does not contain AWS's restore. In the "
        f"real image, with 1.7 vCPUs, a further CSV event took {_times_less(cases['image', f'warm, {IMAGE}'])} times "
        f"less than `spark-submit` and a first one {_times_less(cases['image', f'cold, {IMAGE}'])} times less."
    )
    overhead = (
        "**Each shard has an overhead.** The 365 files of the demo, one a shard, took two workers "
        f"{1 / cases['fan_out', '365 files']['ratios']['wall']:.0f} times as long as one `spark-submit` over all of "
        "them. So Sparklet packs up to 1,000 files or 128 MiB into a shard by default, and warns where packing would "
        "cost a fraction. Packed, also with an output for each file (`--output-per input`), they took the same two "
        f"workers {1 / cases['per_input', '365 files']['ratios']['wall']:.2f} times as long as that `spark-submit`, "
        f"whose start is included, and {1 / cases['per_input', '365 files']['ratios']['cpu']:.2f} times its CPU time. "
        f"Without Spark there is less to wait for: {_without_spark(cases['size', 'csv, 128 MB'])}."
    )
    rows = [f"| {event} | {_cells(cases[place])} |" for event, place in EVENTS.items()]
    table = ["| | Sparklet | `spark-submit` | less time | less CPU |", f"|{'---|' * 5}", *rows]
    prose = (fill(text, 120, break_on_hyphens=False) for text in (circumstances, overhead))
    return "\n\n".join(["\n".join(table), *prose])


def _cells(case: Mapping[str, Any]) -> str:
    seconds = [f"{spread(case[side]['runs'], 'wall_s')} s" for side in (SPARKLET, PLAIN)]
    return " | ".join([*seconds, *(f"{case['ratios'][what]:.1f}×" for what in ("wall", "cpu"))])


def spread(runs: Iterable[Mapping[str, float]], what: str) -> str:
    """The median of runs, and from where to where they reach."""
    values = [run[what] for run in runs]
    return f"{figure(statistics.median(values))} ({figure(min(values))} to {figure(max(values))})"


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _times_less(case: Mapping[str, Any]) -> str:
    return f"{case['ratios']['wall']:.1f}"


def _without_spark(case: Mapping[str, Any]) -> str:
    ours, theirs = (figure(case[side]["wall_s"]) for side in (SPARKLET, "duckdb"))
    return f"a CSV of 128 MB was filtered and grouped in {ours} s by a warm worker, in {theirs} s by DuckDB"
