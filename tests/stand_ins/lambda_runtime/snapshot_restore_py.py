"""AWS's package of this name, which comes with awslambdaric, as its documentation describes it."""

from collections.abc import Callable
from typing import Any

Hook = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]
_after_restore: list[Hook] = []


def register_after_restore(hook: Callable[..., object], *args: Any, **kwargs: Any) -> Callable[..., object]:
    """Register a hook; hooks are called after each restore, in the order of registration."""
    _after_restore.append((hook, args, kwargs))
    return hook


def get_after_restore() -> list[Hook]:
    """The registered hooks, each with its arguments."""
    return _after_restore
