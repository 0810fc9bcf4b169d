import pytest

from sparklet.functions import executor
from tests.stand_ins.function_backend import HandTimer, MemoryBackend


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> HandTimer:
    """The timer of all executors of a test; the test moves it by hand."""
    timer = HandTimer()
    monkeypatch.setattr(executor, "Timer", lambda: timer)
    return timer


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()
