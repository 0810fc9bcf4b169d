"""A bar while calls are under way."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, as_completed
from typing import Any


def progress(results: Iterable[Any], total: float | None = None, description: str = "") -> Iterable[Any]:
    """The same results, with a bar on a terminal or in a notebook; elsewhere without.

    Futures come as they are done (``progress(futures)``); results of ``map`` need their ``total``.
    """
    from rich.console import Console
    from rich.progress import track

    if isinstance(results, Sequence) and all(isinstance(each, Future) for each in results):
        total, results = len(results), as_completed(results)
    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    return track(results, description, total, console=console, disable=not shown)
