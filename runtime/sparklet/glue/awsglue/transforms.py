"""Glue's transforms: ``ApplyMapping.apply(frame=…, mappings=…)`` and the like."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from . import lacking, missing
from .dynamicframe import DynamicFrame

__all__ = [
    *("ApplyMapping", "DropFields", "Filter", "RenameField", "SelectFields"),  # the others raise what to use
    *("DropNullFields", "ErrorsAsDynamicFrame", "FlatMap", "Join", "Map", "MapToCollection", "Relationalize"),
    *("ResolveChoice", "SelectFromCollection", "Spigot", "SplitFields", "SplitRows", "Unbox", "UnnestFrame"),
]


def __getattr__(name: str) -> Any:
    return SimpleNamespace(apply=partial(_apply, name)) if name in __all__ else missing(name)


def _apply(transform: str, /, *args: Any, **kwargs: Any) -> Any:
    method = re.sub(r"\B(?=[A-Z])", "_", transform).lower()
    if not hasattr(DynamicFrame, method):
        raise lacking(transform)
    frame, *others = args or (kwargs.pop("frame"),)
    named = {{"old_name": "oldName", "new_name": "newName"}.get(key, key): value for key, value in kwargs.items()}
    return getattr(frame, method)(*others, **named)
