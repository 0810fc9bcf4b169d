"""Glue's transforms: ``ApplyMapping.apply(frame=…, mappings=…)`` and the like."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from . import lacking, missing
from .dynamicframe import DynamicFrame, DynamicFrameCollection

__all__ = [
    *("ApplyMapping", "DropFields", "DropNullFields", "Filter", "Join", "Map", "RenameField", "SelectFields"),
    *("Coalesce", "Relationalize", "Repartition", "ResolveChoice", "SelectFromCollection", "Union", "UnnestFrame"),
    *("ErrorsAsDynamicFrame", "FlatMap", "MapToCollection", "Spigot", "SplitFields", "SplitRows", "Unbox"),  # raise
]
METHODS = {"ResolveChoice": "resolveChoice", "SelectFromCollection": "select", "UnnestFrame": "unnest"}
ORDERS = {"Join": ("frame1", "frame2", "keys1", "keys2"), "Relationalize": ("frame", "staging_path", "name")}
RENAMED = {"old_name": "oldName", "new_name": "newName", "keys1": "paths1", "keys2": "paths2"}
OF_ONE = {"Union": {"frame2": "other_frame"}, "Relationalize": {"name": "root_table_name"}}


def __getattr__(name: str) -> Any:
    return SimpleNamespace(apply=partial(_apply, name)) if name in __all__ else missing(name)


def _apply(transform: str, /, *args: Any, **kwargs: Any) -> Any:
    method = METHODS.get(transform, re.sub(r"\B(?=[A-Z])", "_", transform).lower())
    if not hasattr(DynamicFrame, method) and not hasattr(DynamicFrameCollection, method):
        raise lacking(transform)
    if order := ORDERS.get(transform):  # Glue's, where it is not the method's
        kwargs, args = {**dict(zip(order, args, strict=False)), **kwargs}, args[len(order) :]
    named = {{**RENAMED, **OF_ONE.get(transform, {})}.get(key, key): value for key, value in kwargs.items()}
    if transform == "Relationalize":
        named.setdefault("root_table_name", "roottable")
    frames = (named.pop(name) for name in ("frame", "frame1", "dfc") if name in named)
    frame, *others = args if args and not order else (next(frames), *args)
    return getattr(frame, method)(*others, **named)
