"""A notifier in memory, and helpers that make a port fail or let another process act before or after a call."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparklet.ports.deployment import Deployment
from tests.stand_ins.memory import MemoryNotifier
from tests.world import World


@pytest.fixture
def notifier() -> MemoryNotifier:
    return MemoryNotifier()


@pytest.fixture
def deployment(world: World, notifier: MemoryNotifier) -> Deployment:
    return replace(world.deployment, notifier=notifier)


def once(
    monkeypatch: pytest.MonkeyPatch,
    port: object,
    name: str,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Let another process act (``before``, ``after``) just before or just after the next call of a port's method."""
    method = getattr(port, name)

    def called(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        before()
        answer = method(*args, **options)
        after()
        return answer

    monkeypatch.setattr(port, name, called)


def refuse(monkeypatch: pytest.MonkeyPatch, port: object, name: str, refused: object, error: Exception) -> None:
    """Let a port's method raise ``error`` if ``refused`` is among its arguments; other calls work."""
    method = getattr(port, name)

    def called(*args: Any, **options: Any) -> Any:
        if refused in args:
            raise error
        return method(*args, **options)

    monkeypatch.setattr(port, name, called)
