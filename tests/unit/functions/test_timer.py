"""The timer of deadlines and next tries, on the real clock; its thread is held up until all is as a test wants it."""

import threading
import time
import tracemalloc

import pytest

from sparklet.errors import RemoteTaskError
from sparklet.functions import executor as module
from sparklet.functions.executor import LambdaExecutor
from sparklet.functions.threads import Timer
from tests.stand_ins import called
from tests.stand_ins.function_backend import MemoryBackend
from tests.waiting import deadline_s

PAST_S = 0.0  # of the monotonic clock


def test_actions_happen_in_the_order_of_their_times() -> None:
    timer, happened, ready, over = Timer(), list[str](), threading.Event(), threading.Event()
    timer.at(PAST_S, ready.wait)  # type: ignore[arg-type]
    timer.at(time.monotonic() + 0.1, over.set)
    timer.at(PAST_S + 2, lambda: happened.append("second"))
    timer.at(PAST_S + 1, lambda: happened.append("first"))
    ready.set()

    assert over.wait(deadline_s())
    assert happened == ["first", "second"]
    timer.stop()


def test_a_cancelled_action_does_not_happen() -> None:
    timer, happened, ready, over = Timer(), list[int](), threading.Event(), threading.Event()
    timer.at(PAST_S, ready.wait)  # type: ignore[arg-type]
    entries = [timer.at(PAST_S + 1, lambda number=number: happened.append(number)) for number in range(1000)]  # type: ignore[misc]
    timer.at(PAST_S + 2, over.set)
    for entry in entries[1:]:
        timer.cancel(entry)
    ready.set()

    assert over.wait(deadline_s())
    assert happened == [0]
    timer.stop()


def test_cancelled_actions_are_forgotten() -> None:
    timer = Timer()
    tracemalloc.start()
    for _ in range(10_000):
        timer.cancel(timer.at(time.monotonic() + 3600, timer.stop))

    assert tracemalloc.get_traced_memory()[0] < 300_000
    tracemalloc.stop()
    timer.stop()


def test_a_stopped_timer_does_nothing_more() -> None:
    timer, happened, ready = Timer(), list[int](), threading.Event()
    timer.at(PAST_S, ready.wait)  # type: ignore[arg-type]
    timer.at(PAST_S + 1, lambda: happened.append(1))
    timer.stop()
    timer.at(PAST_S + 1, lambda: happened.append(2))
    ready.set()

    assert timer._thread
    timer._thread.join(deadline_s())
    assert not timer._thread.is_alive() and not happened


def test_a_lost_answer_ends_by_the_clock() -> None:
    backend = MemoryBackend(wait_s=0.05, sizes=(128,))
    with LambdaExecutor(backend) as executor:
        error = executor.submit(called.double, 1).exception(deadline_s())

    assert isinstance(error, RemoteTaskError) and error.reason == "timeout"
    assert len(backend.given_up) == 1


def test_throttled_calls_are_answered_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", 0.001)
    backend = MemoryBackend(at_once=True)
    backend.refusals = [RemoteTaskError("no", "throttled") for _ in range(5)]
    with LambdaExecutor(backend) as executor:
        assert list(executor.map(called.double, range(10), timeout=deadline_s())) == [
            2 * number for number in range(10)
        ]
        assert executor.stats()["retried"] == 5
