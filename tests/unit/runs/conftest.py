"""Somebody who listens, and ports that do something else than they should, or at another time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparklet.ports.deployment import Deployment
from tests.stand_ins.memory import MemoryNotifier
from tests.world import World


@pytest.fixture
def ear() -> MemoryNotifier:
    return MemoryNotifier()


@pytest.fixture
def deployment(world: World, ear: MemoryNotifier) -> Deployment:
    return replace(world.deployment, notifier=ear)


def once(
    monkeypatch: pytest.MonkeyPatch,
    port: object,
    name: str,
    *,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Something happens just before or just after the next call, as if another process had done it."""
    method = getattr(port, name)

    def called(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        before()
        answer = method(*args, **options)
        after()
        return answer

    monkeypatch.setattr(port, name, called)


def refuse(monkeypatch: pytest.MonkeyPatch, port: object, name: str, refused: object, error: Exception) -> None:
    """A method raises an error for some first (or any) argument, and works for all others."""
    method = getattr(port, name)

    def called(*args: Any, **options: Any) -> Any:
        if refused in args:
            raise error
        return method(*args, **options)

    monkeypatch.setattr(port, name, called)
