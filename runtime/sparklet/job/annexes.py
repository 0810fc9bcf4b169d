"""Modules outside of this package that implement methods of ``Job``. Each is imported when a script first needs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

TABLES = "sparklet.tables.staging"  # append, upsert, overwrite_partitions, records(table=…)
STREAMS = "sparklet.streams.records"  # records
DATABASES = "sparklet.databases.jdbc"  # jdbc_read, jdbc_write


def annex(name: str) -> Any:
    """Import one of the modules above."""
    return import_module(name)
