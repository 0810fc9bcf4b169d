"""Glue's transforms: ``ApplyMapping.apply(frame=…, mappings=…)`` and the like."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from . import lacking, missing
from .dynamicframe import DynamicFrame

__all__ = [
    *("ApplyMapping", "DropFields", "DropNullFields", "Filter", "Join", "Map", "RenameField", "SelectFields"),
    *("Coalesce", "ErrorsAsDynamicFrame", "FlatMap", "MapToCollection", "Relationalize", "Repartition"),  # raise
    *("ResolveChoice", "SelectFromCollection", "Spigot", "SplitFields", "SplitRows", "Unbox", "Union", "UnnestFrame"),
]
RENAMED = {"old_name": "oldName", "new_name": "newName", "keys1": "paths1", "keys2": "paths2"}


def __getattr__(name: str) -> Any:
    return SimpleNamespace(apply=partial(_apply, name)) if name in __all__ else missing(name)


def _apply(transform: str, /, *args: Any, **kwargs: Any) -> Any:
    method = re.sub(r"\B(?=[A-Z])", "_", transform).lower()
    if not hasattr(DynamicFrame, method):
        raise lacking(transform)
    named = {RENAMED.get(key, key): value for key, value in kwargs.items()}
    if transform == "Join" and len(args) > 1:  # frame1, frame2, keys1, keys2
        named["frame2"], args = args[1], (args[0], *args[2:])
    frame, *others = args or (named.pop("frame1" if transform == "Join" else "frame"),)
    return getattr(frame, method)(*others, **named)
