"""A script's reports, answers and writes are in the outcome file that the worker reads."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest

from sparklet.job import OUTCOME_FILE, EventError, Job


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "outcome.json"


@pytest.fixture
def job(file: Path) -> Job:
    return Job.from_args([], {OUTCOME_FILE: str(file)})


def read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


NOTHING: dict[str, Any] = {"rows": None, "output_bytes": None, "outputs": []}


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([{"outputs": ["x"]}], {**NOTHING, "outputs": ["x"]}, id="an unreported value is null"),
        pytest.param([{"rows": 0, "output_bytes": 0}], {**NOTHING, "rows": 0, "output_bytes": 0}, id="zero is a value"),
        pytest.param(
            [{"rows": 842, "output_bytes": 51200, "outputs": ["s3://b/out/shard=000007", "s3://b/ä"]}],
            {"rows": 842, "output_bytes": 51200, "outputs": ["s3://b/out/shard=000007", "s3://b/ä"]},
            id="all",
        ),
        pytest.param(
            [{"rows": 1, "outputs": ["a"]}, {"rows": 2, "output_bytes": 5, "outputs": ["b", "a"]}, {}],
            {"rows": 3, "output_bytes": 5, "outputs": ["a", "b"]},
            id="they add up",
        ),
        pytest.param([{"rows": numpy.int64(4)}], {**NOTHING, "rows": 4}, id="counts of other libraries"),
    ],
)
def test_reports_are_one_document_of_three_keys(job: Job, file: Path, reports: Any, expected: Any) -> None:
    for report in reports:
        job.report(**report)

    assert read(file) == expected
    assert list(file.parent.iterdir()) == [file]  # no temporary file remains


def test_reports_of_several_threads_add_up(job: Job, file: Path) -> None:
    def report(number: int) -> None:
        for _ in range(50):
            job.report(rows=1, outputs=[f"part-{number}"])

    threads = [threading.Thread(target=report, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read(file)["rows"] == 200
    assert sorted(read(file)["outputs"]) == ["part-0", "part-1", "part-2", "part-3"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "nowhere"  # a link, so that a fault could damage only the link
    link.symlink_to(os.devnull)

    Job.from_args([], {OUTCOME_FILE: str(link)}).report(rows=3)

    assert link.is_symlink()
    assert link.is_char_device()


def test_without_a_worker_the_report_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Job.from_args([], {}).report(rows=3)

    assert capsys.readouterr().err == 'sparklet.job report: {"rows": 3, "output_bytes": null, "outputs": []}\n'


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"output_bytes": -5}])
def test_a_negative_count_is_refused_and_changes_nothing(job: Job, file: Path, wrong: dict) -> None:
    job.report(rows=1)
    with pytest.raises(ValueError, match="must not be negative"):
        job.report(**wrong)

    assert read(file) == {**NOTHING, "rows": 1}


@pytest.mark.parametrize("wrong", [{"rows": 1.5}, {"rows": "7"}, {"outputs": "s3://b/one"}])
def test_an_invalid_count_or_list_is_refused(job: Job, file: Path, wrong: dict) -> None:
    with pytest.raises(TypeError):
        job.report(**wrong)

    assert not file.exists()


# --- answers and states ---


def test_answer_and_state_are_beside_the_totals(job: Job, file: Path) -> None:
    answer = {"ä": [1, None]}
    job.answer(answer)
    answer["ä"] = [2]  # a later change does not change the answer
    job.report(rows=1)
    job.keep_state({"n": 2})

    assert read(file) == {**NOTHING, "rows": 1, "answer": {"ä": [1, None]}, "state": {"n": 2}}


def test_the_last_answer_counts_even_if_it_is_null(job: Job, file: Path) -> None:
    job.answer(1)
    job.answer(None)

    assert read(file) == {**NOTHING, "answer": None}


@pytest.mark.parametrize("wrong", [float("nan"), "\ud800", "x" * 6 * 1024 * 1024])
def test_an_answer_that_lambda_could_not_return_is_refused(job: Job, file: Path, wrong: object) -> None:
    with pytest.raises(ValueError):
        job.answer(wrong)

    assert not file.exists()


def test_the_error_names_the_largest_answer(job: Job) -> None:
    with pytest.raises(ValueError, match="an answer has 7000002 bytes as JSON; at most 6225920 can be returned"):
        job.answer("x" * 7_000_000)
    with pytest.raises(ValueError, match=r"a window's state has .* at most 1000000"):
        job.keep_state({"x": "y" * 1_000_000})


def test_values_outside_json_are_refused(job: Job, file: Path) -> None:
    with pytest.raises(TypeError):
        job.answer({1, 2})
    with pytest.raises(TypeError):
        job.keep_state(5)  # type: ignore[arg-type]

    assert not file.exists()


@pytest.mark.parametrize(
    ("event", "state"),
    [({"window": {}, "state": {"n": 1}}, {"n": 1}), ({"state": None}, {}), ({"state": "x"}, {}), ({}, {}), ([1], {})],
)
def test_a_script_reads_the_state_that_was_kept(event: object, state: object) -> None:
    assert Job(event=event).state == state


# --- writes to tables ---


def test_declared_writes_are_beside_the_totals_in_order(job: Job, file: Path) -> None:
    job.outcome.declare({"label": "1"})
    job.report(rows=1)
    job.outcome.declare({"label": "2"})

    assert read(file) == {**NOTHING, "rows": 1, "writes": [{"label": "1"}, {"label": "2"}]}


def test_a_second_job_of_a_script_loses_no_write(job: Job, file: Path) -> None:
    job.outcome.declare({"label": "1"})
    Job.from_args([], {OUTCOME_FILE: str(file)}).outcome.declare({"label": "2"})

    assert len(read(file)["writes"]) == 2


@pytest.mark.parametrize("label", ["", "a/b", "..", "x" * 65, "ä"])
def test_a_label_is_part_of_a_folders_name(job: Job, label: str) -> None:
    with pytest.raises(ValueError, match="must be up to 64 letters"):
        job.append(None, "delta:/data/t", label=label)


def test_a_write_needs_a_table_and_a_way_to_commit(job: Job) -> None:
    with pytest.raises(EventError, match="no table: name one"):
        job.append(None)
    with pytest.raises(EventError, match="names no table"):
        job.append(None, "s3://b/t")
    with pytest.raises(ValueError, match="commit is 'later'"):
        job.append(None, "delta:/data/t", commit="later")
