"""Sparklet: ordinary PySpark scripts inside AWS Lambda containers, fanned out over small files.

The public names are those of ``sparklet.job``, which scripts import, and ``__version__``. They load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparklet.job import EventError, ExpectationError, Job, SparkletError, expect, stored_bytes

__version__ = "0.1.0"

__all__ = ["EventError", "ExpectationError", "Job", "SparkletError", "__version__", "expect", "stored_bytes"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sparklet' has no attribute {name!r}")
    import sparklet.job

    return getattr(sparklet.job, name)
