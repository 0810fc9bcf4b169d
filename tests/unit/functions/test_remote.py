"""``remote``, ``gather`` and the default executor, with threads; test_envelopes tests how calls are sent."""

import pickle
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from sparklet import Invocation, LambdaExecutor, RemoteTaskError, gather, progress, remote
from sparklet.errors import PayloadError
from sparklet.functions.backend import Options
from sparklet.functions.local import Threads
from tests.unit.functions import remote_functions as there
from tests.waiting import deadline_s


@pytest.fixture
def executor() -> Iterator[LambdaExecutor]:
    there.seen.clear()
    there.let_go.clear()
    with LambdaExecutor("threads", max_workers=2) as entered:
        yield entered
        there.let_go.set()


def test_a_function_is_called_in_place_remotely_and_mapped(executor: LambdaExecutor) -> None:
    assert there.double(2) == 4
    assert there.double.submit(3).result() == 6
    assert list(there.double.map(range(4), chunksize=3)) == [0, 2, 4, 6]
    assert executor.submit(there.double, 5).result() == 10
    assert executor.stats()["submitted"] == 4


def test_without_an_executor_only_calls_in_place_work() -> None:
    assert there.double(2) == 4
    with pytest.raises(RuntimeError, match="with LambdaExecutor"):
        there.double.submit(2)


def test_the_innermost_block_names_the_executor() -> None:
    with LambdaExecutor("threads") as outer:
        with LambdaExecutor("threads") as inner:
            there.double.submit(1).result()
        there.double.map([1, 2])

    assert (outer.stats()["succeeded"], inner.stats()["succeeded"]) == (2, 1)


def test_options_of_a_function_win_over_the_executors(executor: LambdaExecutor) -> None:
    assert there.shaky.submit(2).result() == 3
    assert there.seen == [2, 2, 2]

    own = Options(codec="cloudpickle", retries=7).for_function(there.shaky)
    assert (own.codec, own.timeout_s, own.retries, own.retry_on) == ("cloudpickle", 30, 3, (ConnectionError,))
    kept = Options(codec="cloudpickle", retries=7).for_function(there.pid)
    assert (kept.codec, kept.retries, kept.memory_mb) == ("cloudpickle", 7, 1024)
    assert Options().for_function(there.pid, memory_mb=9).memory_mb == 9


@pytest.mark.parametrize("wrong", [{"codec": "yaml"}, {"retries": -1}, {"timeout_s": 0}])
def test_wrong_options_are_reported_where_they_are_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        remote(**wrong)
    with pytest.raises(TypeError):
        remote(memory=1)


def test_a_size_that_no_worker_has_is_refused() -> None:
    with pytest.raises(PayloadError, match="64"):
        Options(sizes=[64]).sizes_of([128, 256])
    assert Options(memory_mb=200).sizes_of([128, 256, 512]) == [1, 2]
    assert Options(sizes=[128, 512]).sizes_of([128, 256, 512]) == [0, 2]


def test_a_remote_function_can_be_an_argument(executor: LambdaExecutor) -> None:
    assert executor.submit(there.apply, there.double, 4).result() == 8
    assert pickle.loads(pickle.dumps(there.double)) is there.double


def test_code_of_the_main_program_calls_itself_by_value() -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "remote": remote}
    exec(  # as a notebook's cell does
        "@remote\ndef countdown(n):\n    return [n, *countdown(n - 1)] if n else []\n", scope
    )

    with LambdaExecutor(Threads(1), codec="cloudpickle"):
        assert scope["countdown"].submit(3).result() == [3, 2, 1]
    copy = cloudpickle.loads(cloudpickle.dumps(scope["countdown"]))
    assert copy is not scope["countdown"] and copy(2) == [2, 1]


def test_gather_keeps_order_and_returns_errors_beside_results(executor: LambdaExecutor) -> None:
    other = LambdaExecutor("threads")
    found = gather(
        [
            Invocation(there.plain, (1,), {"second": 2}),
            Invocation(there.fail, ("no",)),
            Invocation(f"{there.__name__}:plain", [3], executor=other),
            Invocation(f"{there.__name__}.double", [4], options={"codec": "json"}),
            Invocation(there.leave),
            Invocation("no_such_module:f"),
            Invocation(there.double, [5], wait=False),
        ]
    )
    other.shutdown()

    first, failed, third, fourth, left, missing, unawaited = found
    assert (first, third, fourth, unawaited) == ((1, 2), (3, 0), 8, None)
    assert isinstance(failed, ValueError) and str(failed) == "no"
    assert isinstance(left, SystemExit) and left.code == 3
    assert isinstance(missing, RemoteTaskError) and missing.reason == "refused" and "no_such_module" in str(missing)
    assert other.stats()["succeeded"] == 1


def test_gather_waits_no_longer_than_its_timeout(executor: LambdaExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [Invocation(there.double, (1,)), Invocation(there.wait), Invocation(there.wait), Invocation(there.wait)]

    with monkeypatch.context() as patch:
        patch.setattr("sparklet.functions.remote.wait", lambda all_, _: wait(all_, deadline_s(), FIRST_COMPLETED))
        value, *late = gather(calls, timeout=0)
    with pytest.raises(TimeoutError, match="3 of 3"):
        gather([Invocation(there.double, (1,))] * 3, timeout=0.01, fail_on_timeout=True)  # the promise

    assert value == 2
    assert [type(each) for each in late] == [TimeoutError] * 3


def test_offloaded_arguments_and_results_go_through_the_folder(executor: LambdaExecutor) -> None:
    folder: Path = executor.backend.contents.folder  # type: ignore[attr-defined]
    offloaded = {"offload_arguments": True, "offload_result": True}

    assert gather([Invocation(there.double, (21,), options={"codec": "json"})]) == [42]
    assert not list(folder.glob("*"))
    assert gather([Invocation(there.double, (21,), options={"codec": "json", **offloaded})]) == [42]
    assert sorted(path.read_text() for path in folder.iterdir()) == ["42", "[[21],{}]"]


def test_a_progress_bar_changes_no_result(executor: LambdaExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    futures: list[Future[int]] = [there.double.submit(number) for number in range(5)]

    assert list(progress(there.double.map(range(5)), total=5)) == [0, 2, 4, 6, 8]
    assert sorted(future.result() for future in progress(futures)) == [0, 2, 4, 6, 8]
    assert capsys.readouterr() == ("", "")  # this is no terminal
    assert list(progress([])) == []


def test_a_terminal_shows_the_progress_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")

    assert list(progress(iter("ab"), total=2, description="letters")) == ["a", "b"]
    shown = capsys.readouterr()
    assert "letters" in shown.err and "100%" in shown.err and not shown.out
