"""Several jobs in one process: on a command line, and handed over by a worker."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.job import OUTCOME_FILE, EventError, Job, NotReportedError
from sparklet.job.turns import ASK, NEXT, NO_MORE, TELL, TURN, TURN_MARK, TURNS

ADDRESSES = st.lists(st.text("abc/", min_size=1, max_size=5), min_size=2, max_size=5, unique=True)


def each(arguments: Sequence[str]) -> list[Job]:
    """The jobs of a script that reports each."""
    jobs = []
    for job in Job.each(arguments):
        job.report()
        jobs.append(job)
    return jobs


def test_a_command_line_of_one_job_gives_that_job() -> None:
    arguments = ["--input", "a", "--input", "b", "--output", "c", "--param", "k=v", "--mine"]

    assert list(Job.each(arguments)) == [Job.from_args(arguments)]


@given(ADDRESSES, ADDRESSES)
def test_as_many_outputs_as_inputs_are_so_many_jobs(inputs: list[str], outputs: list[str]) -> None:
    pairs = list(zip(inputs, outputs, strict=False))
    arguments = ["--param", "k=v", "mine"]
    for read, written in pairs:
        arguments += ["--input", read, "--output", written]

    jobs = each(arguments)

    assert [(job.inputs, job.output) for job in jobs] == [((read,), written) for read, written in pairs]
    assert all(job.params == {"k": "v"} and job.args == ("mine",) for job in jobs)


def test_several_events_are_several_jobs(tmp_path: Path) -> None:
    (tmp_path / "second.json").write_text('{"inputs": ["b"], "output_path": "y"}')
    arguments = ["--event", '{"inputs": ["a"], "output_path": "x"}', "--event", f"@{tmp_path}/second.json", "mine"]

    jobs = each(arguments)

    assert [(job.inputs, job.output, job.args) for job in jobs] == [(("a",), "x", ("mine",)), (("b",), "y", ("mine",))]


@pytest.mark.parametrize(
    "arguments",
    [
        "--input a --output x --output y",
        "--input a --input b --output x --output x",
        "--event {} --event {} --output x",
        "--event {} --event {} --input a",
        "--event {} --input a --input b --output x --output y",
    ],
)
def test_jobs_that_would_share_an_output_are_refused(arguments: str) -> None:
    with pytest.raises(EventError, match="its own"):
        each(arguments.split())


def test_jobs_that_are_read_ahead_would_be_recorded_as_done() -> None:
    with pytest.raises(NotReportedError, match=r"job\.report"):
        list(Job.each(["--event", "{}", "--event", "{}"]))


def test_a_worker_is_not_asked_for_more_before_the_job_at_hand_has_reported(folder: Path) -> None:
    done: list[int] = []
    hand_over(folder, ["{}"], done)

    with pytest.raises(NotReportedError):
        list(Job.each())
    assert done == []


def test_from_args_reads_the_job_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["job.py", "--event", '{"n": 1}', "--event", '{"n": 2}'])

    seen = []
    for job in Job.each():
        Job.from_args().report()
        job.report()
        seen.append((job.event["n"], Job.from_args().event["n"]))

    assert seen == [(1, 1), (2, 2)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a worker left its pipes."""
    for name in (ASK, TELL):
        os.mkfifo(tmp_path / name)
    monkeypatch.setenv(TURNS, str(tmp_path))
    monkeypatch.setenv(OUTCOME_FILE, str(tmp_path / "outcome-1"))
    monkeypatch.setattr(sys, "argv", ["job.py", "--event", '{"n": 1}'])
    return tmp_path


def hand_over(folder: Path, events: Sequence[str], done: list[int]) -> threading.Thread:
    """A worker's part: one turn for each event, then no more."""

    def work() -> None:
        with (folder / ASK).open("rb") as asks, (folder / TELL).open("wb", buffering=0) as tells:
            for number, event in enumerate(events, start=2):
                if asks.readline() != NEXT:
                    return
                done.append(number - 1)
                turn = {"args": ["--event", event], "env": {OUTCOME_FILE: str(folder / f"outcome-{number}")}}
                (folder / TURN).write_text(json.dumps(turn))
                tells.write(NEXT)
            if asks.readline():
                tells.write(NO_MORE)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_worker_hands_over_one_job_after_the_other(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []
    worker = hand_over(folder, ['{"n": 2}', '{"n": 3}'], done)

    for job in Job.each():
        number = job.event["n"]
        assert done == list(range(1, number))  # nothing is done before it is asked for
        job.report(rows=number)
        print("did", number, file=sys.stderr)

    worker.join(5)
    reports = [json.loads((folder / f"outcome-{number}").read_text())["rows"] for number in (1, 2, 3)]
    assert reports == [1, 2, 3]
    assert capfd.readouterr().err == TURN_MARK.decode().join(f"did {number}\n" for number in (1, 2, 3))


def test_a_script_that_fails_asks_for_nothing_more(folder: Path) -> None:
    done: list[int] = []
    hand_over(folder, ['{"n": 2}'], done)

    def loop() -> None:
        for job in Job.each():
            _ = 1 // (job.event["n"] - 2)
            Job.from_args().report()  # in whichever way it is done

    with pytest.raises(ZeroDivisionError):
        loop()

    assert done == [1]


def test_an_event_that_cannot_be_read_is_the_failure_of_its_own_turn(folder: Path) -> None:
    done: list[int] = []
    hand_over(folder, ["no JSON"], done)
    jobs = Job.each()
    next(jobs).report()

    with pytest.raises(EventError, match="no JSON"):
        next(jobs)
    assert done == [1]
