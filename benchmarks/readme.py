"""The README's table of speed, from the results: what it says is what was measured, or it is not said."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BEGIN, END = "<!-- speed: written by benchmarks.report -->", "<!-- speed: end -->"
SPARKLET, PLAIN, WITHOUT_SPARK = "sparklet", "plain", "duckdb"
Key = tuple[str, str]
"""A benchmark and a case of it."""

EVENTS: Mapping[str, Sequence[Key]] = {
    "first event of a worker: ten numbers summed up": [("starts", "cold, hello")],
    "first event of a worker: CSV → Parquet": [("starts", "cold, csv_to_parquet"), ("quick", "cold")],
    "first event of a rehearsed worker, stopped and gone on: CSV → Parquet": [("restored", "restored, csv_to_parquet")],
    "further event: CSV → Parquet": [("starts", "warm, csv_to_parquet"), ("quick", "warm")],
    "further event: append to a Delta table": [("starts", "warm, delta_append")],
    "further event: append to an Iceberg table": [("starts", "warm, iceberg_append")],
    "further event: append to a Hudi table": [("starts", "warm, hudi_append")],
}
"""Lines of the table; of several places the first that was measured."""
SIZED = ("size", "csv, 128 MB")


def with_speed(readme: str, results: Iterable[Mapping[str, Any]]) -> str:
    """The README with what is between its two marks written anew.

    Raises
    ------
    ValueError
        If a mark is not there.
    """
    before, begin, rest = readme.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise ValueError(f"the README lacks the mark {END if begin else BEGIN}")
    return f"{before}{begin}\n{speed(results)}\n{end}{after}"


def speed(results: Iterable[Mapping[str, Any]]) -> str:
    """The table, where and when it was measured, and how far one comes without Spark."""
    known = {(found["name"], case["case"]): (found["facts"], case) for found in results for case in found["cases"]}
    lines, facts = list[str](), list[Mapping[str, Any]]()
    for event, places in EVENTS.items():
        for place in places:
            if place in known:
                fact, case = known[place]
                lines.append(f"| {event} | {_cells(case)} |")
                facts.append(fact)
                break
    if not lines:
        return "Nothing was measured yet.\n"
    told = ["| | Sparklet | `spark-submit` | less time | less CPU |", "|---|---|---|---|---|", *lines, ""]
    told += [_circumstances(facts)]
    if SIZED in known:
        told += _without_spark(known[SIZED][1])
    return "\n".join(told) + "\n"


def _cells(case: Mapping[str, Any]) -> str:
    ours, theirs = case[SPARKLET], case[PLAIN]
    return " | ".join(
        [
            *(f"{each['wall_s']:.3g} s" for each in (ours, theirs)),
            *(f"{theirs[key] / ours[key]:.1f}×" for key in ("wall_s", "cpu_s")),
        ]
    )


def _circumstances(facts: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({fact["measured"][:10] for fact in facts})
    machines = sorted({f"{fact['machine']['cores']} cores of an {fact['machine']['cpu']}" for fact in facts})
    return f"Medians; {', '.join(machines)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}."


def _without_spark(case: Mapping[str, Any]) -> list[str]:
    """What the same query takes where there is no Spark at all; nothing if that was not measured."""
    if WITHOUT_SPARK not in case:
        return []
    ours_s, theirs_s = (case[side]["wall_s"] for side in (SPARKLET, WITHOUT_SPARK))
    return [f"A CSV of 128 MB filtered and grouped: {ours_s:.3g} s in a warm worker, {theirs_s:.3g} s in DuckDB."]
