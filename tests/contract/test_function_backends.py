"""What every ``Backend`` of functions promises, alone and below an executor."""

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.backend import Backend
from sparklet.functions.calls import Answer, Call, Content, Contents, RemoteTraceback, TryResult, encode_arguments, read
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.local import Processes, Threads
from sparklet.functions.performer import reference
from tests.stand_ins import called
from tests.waiting import deadline_s, eventually

MB = 1024 * 1024
END_S = deadline_s()  # every promised result has come within this time
_numbers = count()


@dataclass
class Try:
    """A call that was given to a backend."""

    backend: Backend
    call: Call
    ends: "queue.Queue[TryResult]" = field(default_factory=queue.Queue)

    def end(self) -> TryResult:
        return self.ends.get(timeout=END_S)

    def read(self) -> tuple[Any, Any]:
        return read(self.call, self.end(), self.backend.contents)

    def value(self) -> Any:
        value, error = self.read()
        assert error is None
        return value

    def error(self) -> Any:
        return self.read()[1]


def begin(backend: Backend, called_: Callable[..., Any], *args: Any, timeout_s: float = END_S, **changes: Any) -> Try:
    """Start a call of a function; ``changes`` replaces fields of the ``Call``."""
    encoded = encode_arguments("pickle", None, (args, {}), backend.contents)
    content = Content.of("pickle", encoded, backend.inline_bytes, backend.contents)
    task_id = f"contract-{os.getpid()}-{next(_numbers)}"
    timeout_s = min(timeout_s, backend.max_timeout_s)
    call = Call(task_id, reference(called_), content, timeout_s, time.time() + END_S, backend.inline_bytes)
    begun = Try(backend, replace(call, **changes))
    backend.start(begun.call, 0, begun.ends.put)
    return begun


# --- a call and its end ---


def test_a_value_comes_back(backend: Backend) -> None:
    assert begin(backend, called.double, 21).value() == 42


def test_an_answer_has_the_facts_of_its_worker(backend: Backend) -> None:
    answer = begin(backend, called.double, 21).end()

    assert isinstance(answer, Answer)
    assert answer.facts["started_s"] <= answer.facts["ended_s"]
    assert {"cold", "pid", "memory_mb"} <= set(answer.facts)


def test_calls_run_in_another_process(isolated: Backend) -> None:
    assert begin(isolated, called.pid).value() != os.getpid()


def test_an_exception_comes_back_with_its_frames(backend: Backend) -> None:
    error = begin(backend, called.refuse, "apple").error()

    assert type(error) is KeyError and error.args == ("apple",)
    assert type(error.__cause__) is RemoteTraceback
    assert "_refuse_deeper" in str(error.__cause__)
    frames = traceback.extract_tb(error.__cause__.__traceback__)
    assert [frame.name for frame in frames] == ["refuse", "_refuse_deeper"]


def test_a_sys_exit_in_a_task_is_the_tasks_error(backend: Backend) -> None:
    error = begin(backend, called.leave, 3).error()

    assert type(error) is SystemExit and error.code == 3
    assert begin(backend, called.double, 4).value() == 8


def test_a_result_that_does_not_pickle_is_an_error(backend: Backend) -> None:
    assert isinstance(begin(backend, called.lock).error(), PayloadError)


def test_a_result_that_does_not_unpickle_is_an_error(backend: Backend) -> None:
    assert isinstance(begin(backend, called.read_wrong).error(), RemoteTaskError)


@pytest.mark.parametrize(
    ("function", "words"),
    [(called.raise_unpicklable, "UnpicklableError: holds a lock"), (called.raise_one_way, "OneWayError: one way")],
)
def test_any_exception_is_reported_as_text(backend: Backend, function: Callable[[], None], words: str) -> None:
    error = begin(backend, function).error()

    assert isinstance(error, RemoteTaskError)
    assert words in str(error)
    assert function.__name__ in error.log_tail


def test_a_call_that_prints_much_is_answered(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    assert begin(backend, called.chatter, 20_000).value() == 20_000


# --- workers that end ---


def test_a_killed_worker_is_an_error(isolated: Backend) -> None:
    error = begin(isolated, called.vanish).error()

    assert isinstance(error, RemoteTaskError) and error.reason == "killed"
    assert any(error.facts.get(name) for name in ("pid", "request_id", "log_stream"))
    assert begin(isolated, called.double, 4).value() == 8


def test_a_call_that_takes_too_long_is_ended(isolated: Backend, tmp_path: Path) -> None:
    error = begin(isolated, called.meet, str(tmp_path / "begun"), "never", END_S, timeout_s=0.5).error()

    assert isinstance(error, RemoteTaskError) and error.reason == "timeout"
    assert begin(isolated, called.double, 4).value() == 8


def test_a_close_ends_the_calls_under_way(tmp_path: Path) -> None:
    backend = Processes(2)
    hanging = begin(backend, called.meet, str(tmp_path / "begun"), "never", END_S)
    eventually((tmp_path / "begun").exists)

    backend.close()

    end = hanging.end()
    assert isinstance(end, RemoteTaskError) and end.reason == "killed"
    assert "SIGKILL" in str(end)


def test_a_close_leaves_no_thread_of_a_pool() -> None:
    backend, before = Processes(2), {*threading.enumerate()}
    assert begin(backend, called.double, 1).value() == 2
    (thread,) = [each for each in {*threading.enumerate()} - before if "ExecutorManager" in type(each).__name__]

    backend.close()

    assert not thread.is_alive()


def test_nothing_starts_after_a_close(backend: Backend) -> None:
    assert begin(backend, called.double, 1).value() == 2

    backend.close()
    backend.close()

    with pytest.raises(RemoteTaskError):
        begin(backend, called.double, 1)


# --- many, and large ones ---


def test_as_many_as_slots_run_at_a_time(backend: Backend, tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")

    met = [begin(backend, called.meet, one, other, END_S), begin(backend, called.meet, other, one, END_S)]

    assert [each.value() for each in met] == [True, True]


def test_each_call_gets_its_own_answer(backend: Backend) -> None:
    begun = [begin(backend, called.double, number) for number in range(20)]

    assert [each.value() for each in begun] == [2 * number for number in range(20)]


@pytest.mark.slow
def test_a_result_of_200_mb_comes_back(backend: Backend) -> None:
    value = begin(backend, called.large, 200 * MB).value()

    assert len(value) == 200 * MB
    assert value.count(1) == len(value)


@dataclass
class Counted:
    """Contents that note the names of what is stored."""

    inner: Contents
    names: list[str] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        self.names.append(name)
        return self.inner.put(name, content)

    def get(self, uri: str) -> bytes:
        return self.inner.get(uri)


def test_an_argument_of_many_calls_is_stored_once(backend: Backend) -> None:
    backend.contents = counted = Counted(backend.contents)
    shared = os.urandom(20 * MB)

    with LambdaExecutor(backend) as executor:
        sizes = [executor.submit(called.size, shared, number) for number in range(10)]

        assert [each.result(END_S) for each in sizes] == [20 * MB] * 10
    assert len(set(counted.names)) == 1  # the argument; the calls themselves were small


@pytest.mark.slow
def test_ten_thousand_tasks_are_answered(backend: Backend) -> None:
    chunksize = 1 if isinstance(backend, Processes | Threads) else 100  # the stand-in for Lambda takes 20 ms a call
    with LambdaExecutor(backend) as executor:
        results = executor.map(called.double, range(10_000), timeout=deadline_s(100), chunksize=chunksize)
        assert sum(results) == 2 * sum(range(10_000))

        stats = executor.stats()
    assert stats["submitted"] == stats["succeeded"] == stats["tries"] == 10_000 / chunksize


# --- below an executor ---
