"""Published figures: every cost of a run counts, wrong output is no result, page and README show the results."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from benchmarks import process_tree
from benchmarks.chaos.plans import KINDS
from benchmarks.comparison import ROUNDS, SPARKLET, Case, Run, as_text, document
from benchmarks.facts import ROOT
from benchmarks.map import overheads_ms
from benchmarks.process_tree import MemoryPeak
from benchmarks.readme import with_speed
from benchmarks.reliability import GROUPS, with_tables
from benchmarks.report import CAMPAIGNS, ORDER, PAGE, README, committed, page
from benchmarks.rivals import SparkSubmit, parameters
from benchmarks.workload import NAMES, ROWS, Job, WrongOutputError, check_groups, jobs, sales, visits
from sparklet.worker.priming import SCRIPT

BURN = "import time\nwhile time.process_time() < 0.4: pass"


# --- the document ---


def test_a_ratio_is_the_rivals_median_over_ours() -> None:
    found = Case("hello", ["plain"])
    found.add(SPARKLET, Run(1, 1, 1), Run(2, 2, 1), Run(30, 3, 1))  # one run that the machine held up
    found.add("plain", Run(9, 20, 1), Run(11, 20, 1))

    told = found.document()

    assert told["ratios"] == {"wall": 5.0, "cpu": 10.0}
    assert told[SPARKLET]["wall_s"] == 2
    assert len(told[SPARKLET]["runs"]) == 3


def test_a_document_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    command = [str(tmp_path / "bin" / "java"), "-cp", f"{tmp_path}/jars/*", "-Xmx1g", "SparkSubmit"]
    rival = SparkSubmit("tuned", command, {}, tmp_path)

    found = Case("hello", ["tuned"])
    for side in (SPARKLET, "tuned"):
        found.add(side, Run(1, 1, 1))

    text = as_text(document("cold", "How long?", {"rivals": parameters([rival])}, [found]))

    assert "java -Xmx1g SparkSubmit" in text
    assert not [folder for folder in (str(tmp_path), str(ROOT), str(Path.home())) if folder in text]


# --- what a run cost ---


def test_cpu_time_of_a_child_that_has_ended_counts() -> None:
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        used_s = process_tree.cpu_s(process.pid)
        process.stdin.close()

    assert used_s >= 0.35  # of 0.4: it is counted in hundredths, each rounded down


def test_a_grandchilds_memory_counts_and_a_hung_tree_is_ended() -> None:
    hungry = "import time; held = b'x' * 100_000_000; time.sleep(60)"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hungry!r}])\nimport time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code])
    with MemoryPeak().sampled(process.pid, limit_s=1.0) as peak:
        process.wait(20)

    assert process.returncode < 0
    assert peak.mb > 100


def test_frequent_samples_see_a_short_peak_of_memory() -> None:
    hungry = "import time; held = b'x' * 100_000_000; time.sleep(0.15)"
    process = subprocess.Popen([sys.executable, "-c", hungry])
    with MemoryPeak(every_s=0.02).sampled(process.pid, limit_s=20) as peak:
        process.wait(20)

    assert peak.mb > 100


# --- maps of Python functions ---


def test_the_overhead_of_a_call_is_without_its_own_work() -> None:
    found = Case("nap", ["lithops"])
    found.add(SPARKLET, Run(5.1, 1, 0), Run(5.2, 1, 0), Run(90.0, 1, 0))  # one map that the machine held up
    found.add("lithops", Run(6.0, 1, 0))

    assert overheads_ms(found, 20, 0.5) == {SPARKLET: 10.0, "lithops": 50.0}


@pytest.mark.parametrize("side", [SPARKLET, "process_pool"])
def test_a_sides_turn_times_every_case(side: str) -> None:
    command = [sys.executable, "benchmarks/jobs/map_calls.py", side, "2", "no_op=20", "nap=2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)

    found = json.loads(done.stdout)
    assert set(found) == {"no_op", "nap"}
    assert found["nap"]["wall_s"] >= 0.5


# --- a primed worker ---


def test_the_priming_script_has_no_column_of_the_jobs() -> None:
    """Else a first event might find code that was generated for it."""
    primed = re.findall(r"\bAS (\w+)", SCRIPT.read_text())

    assert len(primed) >= 5
    assert set(primed).isdisjoint([*sales().splitlines()[0].split(","), *json.loads(visits().splitlines()[0])])


# --- wrong output is no result ---


def groups(path: Path, names: int = NAMES, rows: int = ROWS, marker: bool = True) -> Path:
    path.mkdir(parents=True)
    counts = [rows - names + 1, *[1] * (names - 1)]
    parquet.write_table(arrow.table({"name": list(range(names)), "sales": counts}), path / "part-0.parquet")
    if marker:
        (path / "_SUCCESS").touch()
    return path


def test_the_right_groups_pass(tmp_path: Path) -> None:
    check_groups(groups(tmp_path / "out"))


@pytest.mark.parametrize("wrong", [{"names": NAMES - 1}, {"rows": ROWS - 1}, {"rows": 2 * ROWS}, {"marker": False}])
def test_groups_that_are_lost_doubled_or_unfinished_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongOutputError):
        check_groups(groups(tmp_path / "out", **wrong))


def append_to_hudi(table: Path, instant: str, rows: int, committed: bool = True) -> None:
    """The one file group of a table grows, as an upsert writes it anew."""
    timeline = table / ".hoodie" / "timeline"
    timeline.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({"id": list(range(rows))}), table / f"group_0-1-2_{instant}.parquet")
    if committed:
        (timeline / f"{instant}_{instant}9.commit").touch()


def append_to_iceberg(table: Path, instant: str, rows: int, committed: bool = True) -> None:
    folder = table / "db" / "sales" / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    snapshots = [{"snapshot-id": int(instant), "summary": {"total-records": str(rows)}}] if committed else []
    before = folder / "v1.metadata.json"
    if before.exists():
        snapshots = [*json.loads(before.read_text())["snapshots"], *snapshots]
    before.write_text(json.dumps({"snapshots": snapshots, "current-snapshot-id": int(instant)}))
    (folder / "version-hint.text").write_text("1")


@pytest.fixture(
    params=[("hudi_append", append_to_hudi), ("iceberg_append", append_to_iceberg)], ids=["hudi", "iceberg"]
)
def appended(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Job, Callable[..., None]]:
    name, append = request.param
    [job] = [job for job in jobs(tmp_path) if job.name == name]
    path = Path(job.event(SPARKLET)["output"])
    append(path, "1", ROWS)
    job.verify(SPARKLET)
    return job, lambda *arguments: append(path, *arguments)


def test_another_append_passes_for_either_side(appended: tuple[Job, Callable[..., None]]) -> None:
    job, append = appended
    append("2", 2 * ROWS)

    job.verify("plain")


@pytest.mark.parametrize("wrong", [("2", ROWS), ("2", 3 * ROWS), ("2", 2 * ROWS, False)])
def test_a_lost_doubled_or_uncommitted_append_is_refused(
    appended: tuple[Job, Callable[..., None]], wrong: tuple[Any, ...]
) -> None:
    job, append = appended
    append(*wrong)

    with pytest.raises(WrongOutputError):
        job.verify("plain")


def test_a_renewed_table_is_another_and_empty(tmp_path: Path) -> None:
    [job] = [job for job in jobs(tmp_path) if job.name == "delta_append"]
    job.appends = 3
    before = job.event(SPARKLET)

    job.renew()

    after = job.event(SPARKLET)
    assert before["output"] != after["output"]
    assert (before["first_id"], after["first_id"]) == (3 * ROWS, 0)
    assert after == job.event("plain")  # all sides append to it


# --- what is published ---


def test_the_page_is_generated_from_the_results() -> None:
    def drawn(found: Any, path: Path) -> bool:
        return path.exists()

    assert PAGE.read_text() == page(committed(), drawn)


def test_the_readmes_figures_are_those_of_the_results() -> None:
    text = README.read_text()

    assert with_speed(text, committed()) == text


def test_every_kind_of_fault_has_its_sums() -> None:
    assert set(KINDS) <= {name for group in GROUPS for name in group}


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_the_tables_of_campaigns_are_those_of_their_results(path: Path) -> None:
    text = path.read_text()

    assert with_tables(text) == text


def test_all_figures_are_of_one_machine_and_clean_commits() -> None:
    facts = [found["facts"] for found in committed()]

    assert sorted(found["name"] for found in committed()) == sorted(ORDER)
    assert len({(each["machine"]["cpu"], each["machine"]["cores"]) for each in facts}) == 1
    assert not [each["commit"] for each in facts if each["commit"].endswith("+") or not each["commit"]]


@pytest.mark.parametrize("found", committed(), ids=lambda found: str(found["name"]))
def test_a_figure_is_a_median_of_five_runs_of_each_side(found: dict[str, Any]) -> None:
    sides = [side for case in found["cases"] for side in case.values() if isinstance(side, dict) and "runs" in side]

    assert sides
    assert min(len(side["runs"]) for side in sides) >= ROUNDS
