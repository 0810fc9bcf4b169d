"""What is told of figures: the page, its plots and the README say what was measured, and all that was measured."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fan_out, planning_memory, planning_rate, size, stage
from benchmarks.comparison import SPARKLET, Case, Run, document
from benchmarks.facts import ROOT
from benchmarks.palette import COLOURS
from benchmarks.readme import BEGIN, END, with_speed
from benchmarks.report import ORDER, PAGE, PLOTS, README, committed, page
from benchmarks.run import BENCHMARKS

SIDES = (
    {SPARKLET, *stage.RIVALS},
    {SPARKLET, *size.RIVALS},
    {SPARKLET, fan_out.ONE_JOB},
    {SPARKLET, planning_rate.RAW},
    {SPARKLET, planning_memory.RAW},
)
"""Who meets whom on a plot."""


def measured(name: str, case: str, ours_s: float = 1.0, theirs_s: float = 8.0, rival: str = "plain") -> dict[str, Any]:
    found = Case(case, [rival])
    found.add(SPARKLET, Run(ours_s, ours_s, 100.0))
    found.add(rival, Run(theirs_s, 2 * theirs_s, 200.0))
    return document(name, "How long?", {}, [found])


def table(*results: dict[str, Any]) -> list[str]:
    lines = with_speed(f"a\n{BEGIN}\nold\n{END}\nz\n", results).splitlines()
    assert (lines[0], lines[-1]) == ("a", "z")
    assert "old" not in lines
    return lines


# --- what is committed ---


def test_the_page_is_that_of_the_results() -> None:
    def drawn(found: Any, path: Path) -> bool:
        return path.exists()

    assert PAGE.read_text() == page(committed(), drawn)


def test_the_readme_has_its_marks_and_the_figures_of_the_results() -> None:
    text = README.read_text()

    assert with_speed(text, committed()) == text


def test_every_result_has_a_plot_in_the_colours_of_its_sides() -> None:
    for found in committed():
        plot = (PLOTS / f"{found['name']}.svg").read_text()
        sides = {side for case in found["cases"] for side in COLOURS if side in case}

        assert SPARKLET in sides
        assert not [side for side in sides if COLOURS[side] not in plot], found["name"]


def test_no_plot_is_left_of_what_has_no_result() -> None:
    assert {plot.stem for plot in PLOTS.iterdir()} == {found["name"] for found in committed()}


# --- all of them take part ---


def test_every_benchmark_that_is_run_has_a_script_and_its_place_on_the_page() -> None:
    names = [each.name for each in BENCHMARKS]

    assert "fan_out" in names
    assert [name for name in ORDER if name != "quick"] == names
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in names)


def test_all_together_are_to_take_less_than_a_quarter_of_an_hour() -> None:
    assert sum(each.idle_s for each in BENCHMARKS) < 0.95 * 15 * 60


@pytest.mark.parametrize("sides", SIDES, ids=lambda sides: " ".join(sorted(sides)))
def test_sides_that_meet_on_a_plot_have_colours_of_their_own(sides: set[str]) -> None:
    assert not [pair for pair in combinations(sides, 2) if COLOURS[pair[0]] == COLOURS[pair[1]]]


# --- the README's table ---


def test_a_line_has_both_medians_and_both_ratios() -> None:
    told = table(measured("starts", "warm, delta_append", ours_s=0.5, theirs_s=6.25))

    assert "| further event: append to a Delta table | 0.5 s | 6.25 s | 12.5× | 25.0× |" in told


def test_what_was_not_measured_has_no_line() -> None:
    told = table(measured("starts", "warm, delta_append"))

    assert [line for line in told if "event" in line] == [line for line in told if "Delta" in line]
    assert "Nothing was measured yet." in table()


def test_the_quick_run_speaks_where_the_long_one_was_not_made() -> None:
    quick, warm = measured("quick", "warm", ours_s=2), measured("starts", "warm, csv_to_parquet", ours_s=1)

    assert [line for line in table(quick) if "4.0×" in line]
    assert not [line for line in table(quick, warm) if "4.0×" in line]


def test_it_says_what_the_same_takes_without_spark() -> None:
    without = measured("size", "csv, 128 MB", ours_s=2, theirs_s=0.25, rival="duckdb")
    told = table(measured("starts", "cold, hello"), without)

    assert [line for line in told if "2 s in a warm worker, 0.25 s in DuckDB" in line]


@pytest.mark.parametrize("text", ["no mark", f"{BEGIN}\n", f"{END}\n"])
def test_a_readme_without_marks_is_not_written_over(text: str) -> None:
    with pytest.raises(ValueError, match="lacks the mark"):
        with_speed(text, [])


# --- a fan-out's shards ---


def test_where_the_time_of_shards_went_is_on_the_page() -> None:
    found = measured("fan_out", "90 files")
    shares = fan_out.Shares(0.8, {"script": [0.1, 0.2, 0.3], "overhead": [0.01, 0.012, 0.011]})
    found["cases"][0]["shards"] = [shares.document()]

    told = page([found], lambda found, path: False)

    assert "Of 3 shards; 80% of workers × wall time was spent in the script." in told
    assert "| script | 200 | 360 |" in told
    assert "| overhead | 11 | 13 |" in told
