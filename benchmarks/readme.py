"""The README's table of speed, from the results: what it says is what was measured, or it is not said."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.repeats import ratios

BEGIN, END = "<!-- speed: written by benchmarks.report -->", "<!-- speed: end -->"
SPARKLET, PLAIN, WITHOUT_SPARK = "sparklet", "plain", "duckdb"
Key = tuple[str, str]
"""A benchmark and a case of it."""

EVENTS: Mapping[str, Sequence[Key]] = {
    "first event of a worker: ten numbers summed up": [("starts", "cold, hello")],
    "first event of a worker: CSV → Parquet": [("starts", "cold, csv_to_parquet"), ("quick", "cold")],
    "first event of a primed worker after a stop: CSV → Parquet": [("restored", "restored, csv_to_parquet")],
    "further event: CSV → Parquet": [("warm_share", "warm, csv_to_parquet"), ("quick", "warm")],
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
                lines.append(f"| {event} | {_maker(fact)} | {_cells(case, place[1])} |")
                facts.append(fact)
                break
    if not lines:
        return "Nothing was measured yet.\n"
    told = ["| | on | Sparklet | `spark-submit` | less time | less CPU |", f"|{'---|' * 6}", *lines, ""]
    told += [_circumstances(facts)]
    if SIZED in known:
        told += _without_spark(known[SIZED][1])
    return "\n".join(told) + "\n"


def _cells(case: Mapping[str, Any], name: str) -> str:
    seconds = (f"{case[side]['wall_s']:.3g} s" for side in (SPARKLET, PLAIN))
    return " | ".join([*seconds, *(str(ratios(case, what, name)) for what in ("wall", "cpu"))])


def _maker(facts: Mapping[str, Any]) -> str:
    """AMD or Intel."""
    return str(facts["machine"]["cpu"].partition("(")[0].split()[0])


def _circumstances(facts: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({fact["measured"][:10] for fact in facts})
    machines = sorted({f"{fact['machine']['cores']} cores of {fact['machine']['cpu']}" for fact in facts})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    return fill(f"Seconds, and ratios without a range, are medians of one run: {' or '.join(machines)}, {when}.", 120)


def _without_spark(case: Mapping[str, Any]) -> list[str]:
    """What the same query takes where there is no Spark at all; nothing if that was not measured."""
    if WITHOUT_SPARK not in case:
        return []
    ours_s, theirs_s = (case[side]["wall_s"] for side in (SPARKLET, WITHOUT_SPARK))
    return [
        f"A CSV of 128 MB filtered and grouped, one run: {ours_s:.3g} s in a warm worker, {theirs_s:.3g} s in DuckDB."
    ]
