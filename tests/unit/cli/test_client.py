"""Runs and scripts started from Python, over ports in memory: the same runs as on the command line."""

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparklet
from sparklet import RunFailedError, Stack, client
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.errors import EventError, NothingNewError, PlanError, RemoteFailureError, RunNotFoundError
from sparklet.model import Failure, ShardResult
from tests.stand_ins.memory import MemoryCompute
from tests.unit.cli.conftest import RUN, Terminal
from tests.waiting import deadline_s
from tests.world import SCRIPT, SOURCE


@pytest.fixture
def client_terminal(terminal: Terminal, tmp_path: Path) -> Terminal:
    """A terminal with three files in S3, and a script in the current folder."""
    for number in range(3):
        terminal.world.store.put(f"{SOURCE}{number}.csv", b"x" * 100)
    (tmp_path / "job.py").write_text("print('job')\n")
    return terminal


def fails_on(*numbers: int) -> Any:
    failure = Failure("KeyError", "'day' of 17.csv (exit code 1)")
    return lambda number: failure if number in numbers else ShardResult(rows=7)


def test_a_run_has_a_status_and_a_result(client_terminal: Terminal, tmp_path: Path) -> None:
    run = sparklet.run(
        tmp_path / "job.py", SOURCE, "s3://out/daily/", run_id=RUN, max_objects=1, params={"day": "1"}, quiet=True
    )
    before = run.status()
    result = run.result()

    assert run.run_id == RUN
    assert (before["state"], before["shards"]["total"], before["shards"]["succeeded"]) == ("RUNNING", 3, 0)
    assert (result["state"], result["rows"], result["shards"]["succeeded"]) == ("SUCCEEDED", 3, 3)
    assert client_terminal.world.ledger.runs.get(RUN).params == {"day": "1"}
    assert client_terminal.types("status", RUN, "--json").document["shards"] == result["shards"]
    assert run.failures() == []


def test_local_inputs_and_outputs_are_copied(client_terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1\n")

    result = sparklet.run(tmp_path / "job.py", tmp_path / "in", tmp_path / "out", run_id=RUN).result()

    assert (result["state"], result["output"]) == ("SUCCEEDED", str(tmp_path / "out"))
    assert (tmp_path / "out").is_dir()


def test_items_are_given_as_a_list(client_terminal: Terminal) -> None:
    items = [{"city": "Rome"}, {"city": "Oslo"}]
    run = sparklet.run(SCRIPT, output="s3://out/items/", items=items, max_objects=1, name=None)

    assert run.status()["shards"]["total"] == 2


def test_a_failed_run_is_raised_explained_and_redriven(client_terminal: Terminal) -> None:
    client_terminal.do = fails_on(1)
    run = sparklet.run(SCRIPT, [SOURCE], "s3://out/daily/", run_id=RUN, max_objects=1)

    with pytest.raises(RunFailedError, match=r"1 of 3 shards failed.*KeyError") as failed:
        run.result()
    (cause,) = run.failures()
    client_terminal.do = fails_on()
    again = run.redrive(cause="KeyError").result()

    assert failed.value.document["state"] == "FAILED"
    assert (cause["error_class"], cause["count"], cause["example_shard"]) == ("KeyError", 1, 1)
    assert cause["message"] == "'day' of 17.csv (exit code 1)"  # the message, not its pattern with placeholders
    assert (again["state"], again["generation"], again["shards"]["succeeded"]) == ("SUCCEEDED", 1, 3)


def test_a_run_is_cancelled(client_terminal: Terminal) -> None:
    client_terminal.work_from_s = float("inf")
    run = sparklet.run(SCRIPT, SOURCE, "s3://out/daily/", run_id=RUN, max_objects=1)

    run.cancel()

    with pytest.raises(RunFailedError, match="CANCELLED"):
        run.result()


def test_the_same_request_finds_the_same_run(client_terminal: Terminal) -> None:
    with Stack() as stack:
        first = stack.run(SCRIPT, SOURCE, "s3://out/daily/", idempotency_key="monday")
        second = stack.run(SCRIPT, SOURCE, "s3://out/daily/", idempotency_key="monday")

        assert first.run_id == second.run_id == stack.find(first.run_id).run_id
        with pytest.raises(RunNotFoundError):
            stack.find("no-such-run")


def test_a_wrong_request_is_refused(client_terminal: Terminal) -> None:
    with Stack(quiet=True) as stack:
        with pytest.raises(EventError, match="max_objects"):
            stack.run(SCRIPT, SOURCE, "s3://out/", max_object=1)
        with pytest.raises(PlanError, match="input"):
            stack.run(SCRIPT, output="s3://out/")
        stack.run(SCRIPT, SOURCE, "s3://out/", name="daily", incremental=True).result()
        with pytest.raises(NothingNewError):
            stack.run(SCRIPT, SOURCE, "s3://out/2/", name="daily", incremental=True)


def test_a_refused_run_closes_its_stack(client_terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Stack] = []
    monkeypatch.setattr(Stack, "close", lambda stack: closed.append(stack))

    with pytest.raises(PlanError):
        sparklet.run(SCRIPT, SOURCE)
    held = sparklet.run(SCRIPT, SOURCE, "s3://out/")

    assert len(closed) == 1 and held.stack not in closed


@pytest.fixture
def held(client_terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list that is not empty while a stack is open."""
    held: list[bool] = []

    @contextmanager
    def watched(*given: Any) -> Iterator[OpenStack]:
        with client_terminal.environment(*given) as env:
            held.append(True)
            try:
                yield env
            finally:
                held.clear()

    monkeypatch.setattr(client, "open_stack", watched)
    return held


def test_a_stack_stays_open_as_long_as_its_run_object(held: list[bool]) -> None:
    run = sparklet.run(SCRIPT, SOURCE, "s3://out/")
    gc.collect()
    assert held and run.status()["state"] == "RUNNING"

    del run
    gc.collect()
    assert not held


def test_a_stack_stays_open_while_pages_of_inputs_are_read(held: list[bool]) -> None:
    pages = sparklet.run(SCRIPT, SOURCE, "s3://out/").inputs(2)
    gc.collect()

    assert held and [len(page) for page in pages] == [2, 1]

    del pages
    gc.collect()
    assert not held


def test_a_stack_is_opened_with_its_options(client_terminal: Terminal, tmp_path: Path) -> None:
    sparklet.run(SCRIPT, SOURCE, "s3://out/", stack="prod")
    sparklet.run(SCRIPT, SOURCE, "s3://other/", state_dir=tmp_path, workers=3, timeout=60, memory=2048)

    local_selection = StackSelection("", tmp_path, workers=3, timeout_s=60, memory_mb=2048)
    assert client_terminal.selections == [StackSelection("prod"), local_selection]


def test_an_interrupted_start_prints_no_command(client_terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    client_terminal.world.store.get = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sparklet.run(SCRIPT, SOURCE, "s3://out/")

    assert "sparklet" not in capsys.readouterr().err


def test_submitted_scripts_are_futures_of_the_workers_answers(client_terminal: Terminal, tmp_path: Path) -> None:
    def worker(event: Any) -> Any:
        if event["sparklet"]["event"] == "poison":
            raise ValueError("poison")
        return {"got": event["sparklet"]["event"], "args": event["sparklet"]["args"]}

    client_terminal.change = lambda env: replace(env, compute=MemoryCompute({"worker": worker}))
    with Stack(quiet=True) as stack:
        futures = [stack.submit_script(tmp_path / "job.py", number, args=["--x"]) for number in range(20)]
        bad = stack.submit_script(tmp_path / "job.py", "poison")
        missing = stack.submit_script(tmp_path / "no.py", 1)

        answers = [future.result(deadline_s()) for future in futures]
        assert answers == [{"got": number, "args": ["--x"]} for number in range(20)]
        assert isinstance(bad.exception(deadline_s()), RemoteFailureError)
        assert isinstance(missing.exception(deadline_s()), PlanError)


def test_no_more_scripts_run_than_there_are_workers(client_terminal: Terminal) -> None:
    running: list[int] = []
    most: list[int] = []
    lock, let_go = threading.Lock(), threading.Event()

    def worker(event: Any) -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        let_go.wait(deadline_s())
        with lock:
            running.pop()

    client_terminal.change = lambda env: replace(
        env, compute=MemoryCompute({"worker": worker}), size=replace(env.size, concurrency=2)
    )
    with Stack(quiet=True) as stack:
        futures: list[Future[Any]] = [stack.submit_script(SCRIPT, number) for number in range(6)]
        cancelled = [future for future in futures if future.cancel()]
        let_go.set()
        ended = [future.result(deadline_s()) for future in futures if future not in cancelled]

    assert len(cancelled) >= 4 and len(ended) <= 2 and max(most, default=0) <= 2
