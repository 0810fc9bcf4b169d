"""Published figures: a run with wrong output does not count; page and README show the stored results."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from deltalake import write_deltalake

from benchmarks.comparison import ROUNDS, SPARKLET, Case, Run, as_text, document
from benchmarks.facts import ROOT
from benchmarks.readme import with_speed
from benchmarks.reliability import with_tables
from benchmarks.report import CAMPAIGNS, ORDER, PAGE, README, committed, page
from benchmarks.rivals import SparkSubmit, parameters
from benchmarks.workload import NAMES, ROWS, WrongOutputError, check_groups, jobs, sales, visits
from sparklet.worker.priming import SCRIPT

# --- the document ---


def test_a_document_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    command = [str(tmp_path / "bin" / "java"), "-cp", f"{tmp_path}/jars/*", "-Xmx1g", "SparkSubmit"]
    rival = SparkSubmit("tuned", command, {}, tmp_path)

    found = Case("hello", ["tuned"])
    for side in (SPARKLET, "tuned"):
        found.add(side, Run(1, 1, 1))

    text = as_text(document("cold", "How long?", {"rivals": parameters([rival])}, [found]))

    assert "java -Xmx1g SparkSubmit" in text
    assert not [folder for folder in (str(tmp_path), str(ROOT), str(Path.home())) if folder in text]


def test_the_priming_script_has_no_column_of_the_jobs() -> None:
    """Otherwise a first event could use code that priming generated for it."""
    primed = re.findall(r"\bAS (\w+)", SCRIPT.read_text())

    assert len(primed) >= 5
    assert set(primed).isdisjoint([*sales().splitlines()[0].split(","), *json.loads(visits().splitlines()[0])])


# --- whether a run counts ---


@pytest.mark.parametrize(
    ("names", "rows", "marker"),
    [
        (NAMES, ROWS, True),
        (NAMES - 1, ROWS, True),
        (NAMES, ROWS - 1, True),
        (NAMES, 2 * ROWS, True),
        (NAMES, ROWS, False),
    ],
)
def test_groups_that_are_lost_doubled_or_unfinished_are_refused(
    tmp_path: Path, names: int, rows: int, marker: bool
) -> None:
    counts = [rows - names + 1, *[1] * (names - 1)]
    parquet.write_table(arrow.table({"name": list(range(names)), "sales": counts}), tmp_path / "part-0.parquet")
    if marker:
        (tmp_path / "_SUCCESS").touch()

    if (names, rows, marker) == (NAMES, ROWS, True):
        check_groups(tmp_path)
    else:
        with pytest.raises(WrongOutputError):
            check_groups(tmp_path)


@pytest.mark.parametrize("rows", [0, ROWS - 1, 2 * ROWS])
def test_a_lost_or_doubled_append_is_refused(tmp_path: Path, rows: int) -> None:
    [job] = [job for job in jobs(tmp_path) if job.name == "delta_append"]
    table = job.event(SPARKLET)["output"]
    write_deltalake(table, arrow.table({"id": list(range(ROWS))}))
    job.verify(SPARKLET)
    if rows:
        write_deltalake(table, arrow.table({"id": list(range(rows))}), mode="append")

    with pytest.raises(WrongOutputError):
        job.verify("plain")


# --- published figures ---


def test_the_page_is_generated_from_the_results() -> None:
    def drawn(found: Any, path: Path) -> bool:
        return path.exists()

    assert PAGE.read_text() == page(committed(), drawn)


def test_the_readmes_figures_equal_the_results() -> None:
    text = README.read_text()

    assert with_speed(text, committed()) == text


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_the_tables_of_campaigns_equal_their_results(path: Path) -> None:
    text = path.read_text()

    assert with_tables(text) == text


def test_all_figures_were_measured_on_clean_commits() -> None:
    facts = [found["facts"] for found in committed()]

    assert sorted(found["name"] for found in committed()) == sorted(ORDER)
    assert not [each["commit"] for each in facts if each["commit"].endswith("+") or not each["commit"]]


@pytest.mark.parametrize("found", committed(), ids=lambda found: str(found["name"]))
def test_a_figure_is_a_median_of_five_runs_of_each_side(found: dict[str, Any]) -> None:
    sides = [side for case in found["cases"] for side in case.values() if isinstance(side, dict) and "runs" in side]

    assert sides
    assert min(len(side["runs"]) for side in sides) >= ROUNDS
