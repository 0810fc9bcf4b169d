"""Sparklet: ordinary PySpark scripts inside AWS Lambda containers, fanned out over small files.

The public names are what scripts import (``sparklet.job``), what runs Python functions in parallel
(``sparklet.functions``), and what starts runs from Python programs (``sparklet.client``). They are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparklet.client import Run, Stack, run
    from sparklet.errors import RemoteTaskError, RunFailedError
    from sparklet.functions.executor import LambdaExecutor
    from sparklet.functions.remote import Invocation, gather, progress, remote
    from sparklet.job import EventError, ExpectationError, Job, SparkletError, expect, stored_bytes

__version__ = "0.2.0"

__all__ = [
    "EventError",
    "ExpectationError",
    "Invocation",
    "Job",
    "LambdaExecutor",
    "RemoteTaskError",
    "Run",
    "RunFailedError",
    "SparkletError",
    "Stack",
    "__version__",
    "expect",
    "gather",
    "progress",
    "remote",
    "run",
    "stored_bytes",
]

_MODULES = {
    **dict.fromkeys(("Run", "Stack", "run"), "client"),
    **dict.fromkeys(("RemoteTaskError", "RunFailedError"), "errors"),
    **dict.fromkeys(("Invocation", "gather", "progress", "remote"), "functions.remote"),
    "LambdaExecutor": "functions.executor",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sparklet' has no attribute {name!r}")
    return getattr(import_module(f"sparklet.{_MODULES.get(name, 'job')}"), name)
