"""The timer of deadlines and next tries, on the real clock; tests block its thread until they are ready."""

import threading
import time

import pytest

from sparklet.errors import RemoteTaskError
from sparklet.functions import executor as module
from sparklet.functions.executor import LambdaExecutor, Timer
from tests.stand_ins import called
from tests.stand_ins.function_backend import MemoryBackend
from tests.waiting import deadline_s

PAST_S = 0.0  # of the monotonic clock


def test_actions_happen_in_order_unless_they_are_cancelled() -> None:
    timer, happened, ready, over = Timer(), list[str](), threading.Event(), threading.Event()
    timer.at(PAST_S, ready.wait)  # type: ignore[arg-type]
    timer.at(time.monotonic() + 0.1, over.set)
    timer.at(PAST_S + 2, lambda: happened.append("second"))
    timer.at(PAST_S + 1, lambda: happened.append("first"))
    cancelled = timer.at(PAST_S + 3, lambda: happened.append("third"))
    timer.cancel(cancelled)
    timer.cancel(cancelled)
    ready.set()

    assert over.wait(deadline_s())
    assert happened == ["first", "second"]
    timer.stop()


def test_a_nearer_time_is_kept_while_a_later_one_is_awaited() -> None:
    timer, nearer = Timer(), threading.Event()
    timer.at(time.monotonic() + 3600, timer.stop)
    timer.at(time.monotonic() + 0.05, nearer.set)

    assert nearer.wait(deadline_s())
    timer.stop()
    assert timer._thread
    timer._thread.join(deadline_s())
    assert not timer._thread.is_alive()


def test_throttled_calls_are_answered_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", 0.001)
    backend = MemoryBackend(at_once=True)
    backend.refusals = [RemoteTaskError("no", "throttled") for _ in range(5)]
    with LambdaExecutor(backend) as executor:
        found = executor.map(called.double, range(10), timeout=deadline_s())
        assert list(found) == [2 * number for number in range(10)]
        assert executor.stats()["retried"] == 5
