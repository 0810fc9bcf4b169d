"""The figures of the run that a check script reads, and ``expect``, with which it fails the run."""

import json
from pathlib import Path

import pytest

from sparklet.job import EventError, ExpectationError, Job, expect


def test_only_failed_expectations_are_reported() -> None:
    expect(True, "3 rows, 3 were expected")
    with pytest.raises(ExpectationError, match="3 rows, 4 were expected"):
        expect(False, "3 rows, 4 were expected")


def test_figures_are_read_from_the_file_that_the_worker_fetched(tmp_path: Path) -> None:
    file = tmp_path / "a b%20[c].json"
    file.write_text(json.dumps({"id": "run-1", "output": "s3://b/o/", "counts": {}}))
    event = json.dumps({"inputs": [f"file://{file}"], "input_path": f"file://{file}"})

    for argv in (["--event", event], ["--input", str(file)]):
        assert Job.from_args(argv, {}).figures()["output"] == "s3://b/o/"


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff", b'{"id": 1}'])
def test_invalid_figures_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "figures.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EventError, match=r"figures.json holds no statistics of a run"):
        Job.from_args(["--input", str(file)], {}).figures()


def test_a_script_without_figures_gets_an_explanation() -> None:
    with pytest.raises(EventError, match=r"a check script \(--check\) gets them"):
        Job.from_args([], {}).figures()


def test_figures_in_s3_need_the_session() -> None:
    with pytest.raises(EventError, match=r"s3://b/_summary-0.json is not on this machine: pass the session"):
        Job.from_args(["--input", "s3://b/_summary-0.json"], {}).figures()
