"""Glue's transforms: ``ApplyMapping.apply(frame=…, mappings=…)`` and the like."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from . import lack_error, refuse_import
from .dynamicframe import DynamicFrame, DynamicFrameCollection

__all__ = [
    *("ApplyMapping", "DropFields", "DropNullFields", "Filter", "Join", "Map", "RenameField", "SelectFields"),
    *("Coalesce", "Relationalize", "Repartition", "ResolveChoice", "SelectFromCollection", "Union", "UnnestFrame"),
    *("ErrorsAsDynamicFrame", "FlatMap", "MapToCollection", "Spigot", "SplitFields", "SplitRows", "Unbox"),  # raise
]
# Methods whose names are not the transform's name with underscores.
METHODS = {"ResolveChoice": "resolveChoice", "SelectFromCollection": "select", "UnnestFrame": "unnest"}
# The arguments of transforms that have another order than the method's.
ORDERS = {"Join": ("frame1", "frame2", "keys1", "keys2"), "Relationalize": ("frame", "staging_path", "name")}
# The methods' names of arguments: in all transforms, and in single ones.
RENAMED = {"old_name": "oldName", "new_name": "newName", "keys1": "paths1", "keys2": "paths2"}
RENAMED_IN = {"Union": {"frame2": "other_frame"}, "Relationalize": {"name": "root_table_name"}}


def __getattr__(name: str) -> Any:
    return SimpleNamespace(apply=partial(_apply, name)) if name in __all__ else refuse_import(name)


def _apply(transform: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call the frame's or the collection's method for a transform, with the transform's arguments."""
    method = METHODS.get(transform, re.sub(r"\B(?=[A-Z])", "_", transform).lower())
    if not hasattr(DynamicFrame, method) and not hasattr(DynamicFrameCollection, method):
        raise lack_error(transform)
    if order := ORDERS.get(transform):
        kwargs, args = {**dict(zip(order, args, strict=False)), **kwargs}, args[len(order) :]
    new_names = {**RENAMED, **RENAMED_IN.get(transform, {})}
    arguments = {new_names.get(key, key): value for key, value in kwargs.items()}
    if transform == "Relationalize":
        arguments.setdefault("root_table_name", "roottable")
    frames = (arguments.pop(name) for name in ("frame", "frame1", "dfc") if name in arguments)
    frame, *method_args = args if args and not order else (next(frames), *args)
    return getattr(frame, method)(*method_args, **arguments)
